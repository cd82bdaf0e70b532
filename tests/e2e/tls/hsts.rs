//! `Strict-Transport-Security` (RFC 6797): on every response over TLS, or on none.

use futures::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Curl, Gateway, Raw, Recording, Service, Step, WEB, World, client, echo};

const TWO_YEARS: &str = "max-age=63072000";
/// A host that exists but is hidden, and an unknown name of the same length.
const CLOSED: &str = "web--closed.apps.test";
const ABSENT: &str = "web--absent.apps.test";
/// Has its own header.
const LOUD: &str = "loud--staging.apps.test";
const WITHOUT_PODS: &str = "down--staging.apps.test";
const PORTAL: &str = "login.apps.test";

/// A pod with its own HSTS header.
async fn loud() -> Recording {
    let answer = "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1; \
                  includeSubDomains\r\nContent-Length: 0\r\n\r\n";
    Recording::script(vec![Step::head(), Step::write(answer), Step::Restart])
        .await
        .expect("a free port")
}

/// Services: open, closed, without pods, with its own header.
async fn world(loud: &Recording) -> (World, portcullis_echo::Echo) {
    let pod = echo("pod-1").await;
    let closed = Service::new("web").environment("closed").pod(&pod);
    let world = World::web(&pod)
        .with(closed)
        .with(Service::new("down"))
        .with(Service::new("loud").pod(loud));
    (world, pod)
}

/// All header fields of a response by curl.
async fn reported(curl: Curl) -> (u16, Vec<String>) {
    let answer = curl.run().await;
    let of = |(name, value): &(String, String)| {
        (name == "strict-transport-security").then(|| value.clone())
    };
    (answer.status, answer.headers.iter().filter_map(of).collect())
}

#[tokio::test]
async fn every_response_over_tls_has_the_same_hsts_header() {
    let loud = loud().await;
    let (world, _pod) = world(&loud).await;
    let login = json!({ "access": { "login": { "issuer": "github", "clientId": "gateway" } } });
    let gateway = Gateway::of(world).settings(login).start().await;
    let pages = [
        (WEB, "/whoami", 200),
        (WEB, "/a%2fb%00", 400),
        (LOUD, "/", 200),
        (WITHOUT_PODS, "/", 503),
        (CLOSED, "/", 404),
        (ABSENT, "/", 404),
        (ABSENT, "/.well-known/portcullis/jwks.json", 200),
        (ABSENT, "/.well-known/portcullis/login?to=%2F", 303),
        (PORTAL, "/nothing", 404),
        ("apps.test", "/", 404),
    ];
    for (host, path, status) in pages {
        for version in ["--http1.0", "--http1.1", "--http2"] {
            let found = reported(gateway.curl(host, path).arg(version)).await;
            assert_eq!(found, (status, vec![TWO_YEARS.to_owned()]), "{host}{path} {version}");
        }
        let call = gateway.curl(host, "/a.B/c").args([
            "--header",
            "content-type: application/grpc",
            "--data-binary",
            "",
            "--http2",
        ]);
        let (status, fields) = reported(call.header("te: trailers")).await;
        assert_eq!(fields, [TWO_YEARS], "gRPC at {host}, status {status}");
    }
}

#[tokio::test]
async fn bad_requests_and_websockets_get_the_header_too() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let stream = client::tls(&gateway, WEB, &["http/1.1"]).await.expect("a connection");
    let mut raw = Raw::over(stream);
    raw.send("GET / HTTP/1.1\r\nno field\r\n\r\n").await;
    let refused = raw.response().await.expect("an answer");
    assert_eq!(
        (refused.status, refused.header("strict-transport-security")),
        (400, Some(TWO_YEARS))
    );

    let stream = client::tls(&gateway, WEB, &["http/1.1"]).await.expect("a connection");
    let (mut socket, response) =
        tokio_tungstenite::client_async(format!("wss://{WEB}/chat"), stream)
            .await
            .expect("a WebSocket");
    assert_eq!(response.headers()["strict-transport-security"], TWO_YEARS);
    socket.send(Message::text("hello")).await.expect("it goes on");
}

#[tokio::test]
async fn plain_http_never_gets_an_hsts_header() {
    let loud = loud().await;
    let (world, _pod) = world(&loud).await;
    let gateway = Gateway::start(world.clone()).await;
    for (host, status) in [(WEB, 200), (CLOSED, 404), (ABSENT, 404), (WITHOUT_PODS, 503)] {
        assert_eq!(reported(gateway.curl_plain(host, "/")).await, (status, vec![]), "{host}");
    }
    let redirecting = json!({ "listeners": { "http": { "mode": "redirect" } } });
    let gateway = Gateway::of(world).settings(redirecting).start().await;
    for host in [WEB, CLOSED, ABSENT, LOUD] {
        assert_eq!(reported(gateway.curl_plain(host, "/")).await, (308, vec![]), "{host}");
    }
}

#[tokio::test]
async fn without_hsts_only_headers_of_backends_are_forwarded() {
    let loud = loud().await;
    let (world, _pod) = world(&loud).await;
    let gateway = Gateway::of(world)
        .settings(json!({ "listeners": { "https": { "hsts": null } } }))
        .start()
        .await;
    for (host, status) in [(WEB, 200), (CLOSED, 404), (ABSENT, 404), (WITHOUT_PODS, 503)] {
        assert_eq!(reported(gateway.curl(host, "/")).await, (status, vec![]), "{host}");
    }
    assert_eq!(
        reported(gateway.curl(LOUD, "/")).await,
        (200, vec!["max-age=1; includeSubDomains".to_owned()])
    );
}
