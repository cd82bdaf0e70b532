//! One client that floods a service does not exclude the others: places at endpoints are shared.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::client::http2;
use crate::harness::credentials::{client_key, client_key_secret};
use crate::harness::{Gateway, Service, WEB, World, echo, eventually, soon};

/// Requests in flight to one endpoint, in these tests.
const PLACES: usize = 64;
/// A lone client leaves a quarter of the places to others.
const LONE: usize = PLACES / 4 * 3;
/// The flood: connections, and requests of each.
const FLOOD: (usize, usize) = (5, 40);
/// Another client than that of `127.0.0.1`.
const OTHER: [&str; 2] = ["--interface", "127.0.0.2"];

async fn gateway(world: World) -> Gateway {
    let limits = json!({ "connectionsPerEndpoint": PLACES, "idleConnectionsPerEndpoint": 8 });
    let access = json!({ "credentialsNamespace": "portcullis" });
    Gateway::of(world).settings(json!({ "limits": limits, "access": access })).start().await
}

/// Sends slow requests with these headers, as many as [`FLOOD`] says, again after each response.
async fn flood(gateway: &Gateway, path: &'static str, header: Option<(&str, &str)>) -> JoinSet<()> {
    let mut flood = JoinSet::new();
    for _ in 0..FLOOD.0 {
        let client = http2(gateway, WEB).await;
        for _ in 0..FLOOD.1 {
            let mut request = http::Request::get(format!("https://{WEB}{path}"));
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            flood.spawn(repeat(client.clone(), request.body(()).expect("a request")));
        }
    }
    flood
}

async fn repeat(client: SendRequest<Bytes>, request: http::Request<()>) {
    while let Ok(mut client) = client.clone().ready().await
        && let Ok((response, _)) = client.send_request(request.clone(), true)
    {
        drop(response.await);
    }
}

#[tokio::test]
async fn a_client_that_floods_a_slow_service_excludes_no_other_client() {
    let pod = echo("pod-1").await;
    let gateway = gateway(World::web(&pod)).await;
    let flood = flood(&gateway, "/delay/1m", None).await;
    let mut counts = pod.counts();
    soon("it has all it gets", counts.wait_for(|counts| counts.started >= LONE as u64))
        .await
        .expect("the pod runs");
    for _ in 0..20 {
        let answer = gateway.curl(WEB, "/whoami").args(OTHER).run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "pod-1\n"));
    }
    let full = r#"portcullis_requests_failed_total{reason="upstream_full"}"#;
    eventually("the rest of the flood has waited in vain", || async {
        gateway.metric(full).await > 0.0
    })
    .await;
    assert!(gateway.metric("portcullis_upstream_waits_total").await > 0.0);
    drop(flood);
    eventually("nothing waits any more", || async {
        gateway.metric("portcullis_upstream_waiting").await == 0.0
    })
    .await;
    assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 200);
}

#[tokio::test]
async fn a_client_that_fills_a_canary_makes_it_no_failure() {
    let (stable, other) = (echo("stable").await, echo("canary").await);
    let canary = Service::new("web-canary")
        .annotation("canary-of", "web")
        .annotation("canary-weight", "100")
        .pod(&other);
    let web = Service::new("web").annotation("connect-timeout", "300ms").pod(&stable);
    let gateway = gateway(World::empty().with(web).with(canary)).await;
    let flood = flood(&gateway, "/delay/1m", None).await;
    let mut counts = stable.counts();
    soon("what waited in vain is answered", counts.wait_for(|counts| counts.started > 0))
        .await
        .expect("the pod runs");
    drop(flood);
    eventually("all have ended", || async {
        gateway.metric("portcullis_requests_in_flight").await == 0.0
    })
    .await;
    assert!(gateway.metric("portcullis_upstream_waits_total").await > 0.0, "at the canary");
    assert_eq!(gateway.metric("portcullis_variant_missed_requests_total").await, 0.0);
    let feed = gateway.admin_page("/v1/traffic?windows=false").await.json();
    let variant = &feed["services"][0]["variants"][1];
    assert_eq!((&variant["label"], &variant["missed"]), (&json!("web-canary"), &json!(0)));
    assert_eq!(variant["errors"], json!(0), "{variant}");
}

#[tokio::test]
async fn callers_with_credentials_are_clients_of_their_own_at_one_address() {
    let pod = echo("pod-1").await;
    let keys = ["greedy", "modest"].map(|application| {
        let key = client_key();
        let secret = client_key_secret(application, application, &key);
        (key, secret)
    });
    let [(greedy, first), (modest, second)] = &keys;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [first, second] });
    let world = World::web(&pod)
        .annotation("staging", "require", "app")
        .annotation("staging", "allow-apps", "greedy, modest")
        .with_file("keys.json", &list.to_string());
    let gateway = gateway(world).await;
    let flood = flood(&gateway, "/delay/1m", Some(("x-api-key", greedy.expose()))).await;
    let mut counts = pod.counts();
    soon("it has all it gets", counts.wait_for(|counts| counts.started >= LONE as u64))
        .await
        .expect("the pod runs");
    for _ in 0..20 {
        let key = format!("X-Api-Key: {}", modest.expose());
        assert_eq!(gateway.curl(WEB, "/whoami").header(&key).run().await.status, 200);
    }
    drop(flood);
}

/// A pod that speaks HTTP/2 with two streams on each connection. It never responds to requests for
/// `/slow`, whose number is returned.
async fn few_streams() -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let (slow, count) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let slow = slow.clone();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let handshake = builder.max_concurrent_streams(2).handshake::<_, Bytes>(stream);
                let mut connection = handshake.await.expect("HTTP/2");
                let mut held = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.uri().path() == "/slow" {
                        slow.send_modify(|count| *count += 1);
                        held.push(respond);
                    } else {
                        let sent = respond.send_response(http::Response::new(()), true);
                        sent.expect("the stream is open");
                    }
                }
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn streams_of_an_http2_pod_are_shared_as_connections_are() {
    let (pod, mut slow) = few_streams().await;
    let service = Service::new("web").app_protocol("kubernetes.io/h2c").pod(&pod);
    let gateway = gateway(World::empty().with(service)).await;
    // The limit of streams is known from the first connection on.
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 200);
    let flood = flood(&gateway, "/slow", None).await;
    soon("three quarters of 8 connections", slow.wait_for(|slow| *slow >= 12))
        .await
        .expect("the pod runs");
    for _ in 0..20 {
        let answer = soon("in no queue", gateway.curl(WEB, "/").args(OTHER).run()).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(*slow.borrow(), 12);
    drop(flood);
}
