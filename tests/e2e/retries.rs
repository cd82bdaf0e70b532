//! Retries by status, and the budget of retries.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use serde_json::json;

use crate::harness::{Answer, Gateway, Raw, Recording, Service, Step, WEB, World};

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";

/// A pod that always responds with 503.
async fn busy() -> Recording {
    Recording::script(vec![Step::head(), Step::write(BUSY), Step::Restart]).await.unwrap()
}

/// A pod that speaks HTTP/2 and fails the first call with this gRPC status and push-back, without
/// a message. It responds to all others.
async fn unavailable_once(status: &'static str, pushback: Option<&'static str>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        let mut has_failed = false;
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut response = Response::new(());
                let headers: &mut HeaderMap = response.headers_mut();
                headers.insert("content-type", HeaderValue::from_static("application/grpc"));
                if std::mem::replace(&mut has_failed, true) {
                    let mut body = respond.send_response(response, false).expect("a stream");
                    body.send_data(Bytes::from_static(b"ok"), true).expect("a stream");
                } else {
                    headers.insert("grpc-status", HeaderValue::from_static(status));
                    if let Some(pushback) = pushback {
                        let value = HeaderValue::from_static(pushback);
                        headers.insert("grpc-retry-pushback-ms", value);
                    }
                    respond.send_response(response, true).expect("a stream");
                }
            }
        }
    });
    address
}

async fn call(status: &'static str, pushback: Option<&'static str>, retry_on: &str) -> Answer {
    let pod = unavailable_once(status, pushback).await;
    let service = Service::new("web")
        .port_name("grpc")
        .annotation("retry-on", retry_on)
        .annotation("retry-non-idempotent", "true")
        .pod(&pod);
    let gateway = Gateway::start(World::empty().with(service)).await;
    let post = gateway.curl(WEB, "/echo.Echo/Unary").args(["--data", "call"]);
    post.header("content-type: application/grpc").header("te: trailers").run().await
}

#[tokio::test]
async fn a_failing_backend_gets_little_more_than_its_load() {
    const REQUESTS: u32 = 300;
    let pods = [busy().await, busy().await];
    let service = Service::new("web").annotation("retries", "10").pod(&pods[0]).pod(&pods[1]);
    let gateway =
        Gateway::of(World::empty().with(service)).settings(json!({ "workers": 1 })).start().await;
    let mut client = Raw::connect(gateway.http()).await;
    for _ in 0..REQUESTS {
        client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (503, "busy"));
    }
    let retries = gateway.metric("portcullis_upstream_retries_total").await;
    let most = f64::from(REQUESTS / 5 + 30);
    assert!((30.0..=most).contains(&retries), "{retries} retries of {REQUESTS} requests");
    assert!(gateway.metric("portcullis_upstream_retries_denied_total").await >= 100.0);
}

#[tokio::test]
async fn a_failed_retry_does_not_replace_the_first_response() {
    let refused = Recording::script(vec![]).await.unwrap();
    let address = refused.address();
    drop(refused);
    // One that responds, and then never again; and one whose other pod is gone.
    let silent = Recording::scripts(vec![
        vec![Step::head(), Step::write(BUSY), Step::Until(b"nothing more")],
        vec![Step::head(), Step::Until(b"nothing more")],
    ]);
    let (silent, busy) = (silent.await.unwrap(), busy().await);
    let late = Service::new("late").annotation("retries", "1").annotation("timeout", "500ms");
    let gone = Service::new("gone").annotation("retries", "2");
    let world = World::empty().with(late.pod(&silent)).with(gone.pod(&busy).pod(&address));
    let gateway = Gateway::start(world).await;
    for host in ["late--staging.apps.test", "gone--staging.apps.test"] {
        let answer = gateway.curl(host, "/").run().await;
        assert_eq!((answer.status, answer.text().as_str()), (503, "busy"), "{host}");
    }
    assert_eq!(silent.received().len(), 2, "it was retried");
}

#[tokio::test]
async fn a_retry_does_not_wait_for_the_place_of_the_first_response() {
    let pod = busy().await;
    let world = World::empty().with(Service::new("web").annotation("retry-on", "503").pod(&pod));
    let settings =
        json!({ "limits": { "connectionsPerEndpoint": 1, "idleConnectionsPerEndpoint": 1 } });
    let gateway = Gateway::of(world).settings(settings).start().await;
    let answer = gateway.curl(WEB, "/").run().await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    assert_eq!(gateway.metric("portcullis_upstream_waits_total").await, 0.0);
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 503, "and the place is free again");
}

#[tokio::test]
async fn only_the_listed_statuses_are_retried() {
    let retries = async |retry_on: &str| {
        let pod = busy().await;
        let service = Service::new("web").annotation("retry-on", retry_on).pod(&pod);
        let gateway = Gateway::start(World::empty().with(service)).await;
        assert_eq!(gateway.curl(WEB, "/").run().await.status, 503);
        gateway.metric("portcullis_upstream_retries_total").await
    };
    assert_eq!(retries("503").await, 1.0);
    assert_eq!(retries("429, 502").await, 0.0);
}

#[tokio::test]
async fn a_call_is_retried_by_its_grpc_status_as_the_pod_allows() {
    let answer = call("14", None, "unavailable").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let answer = call("14", Some("20"), "unavailable").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let answer = call("14", Some("-1"), "unavailable").await;
    assert_eq!(answer.header("grpc-status"), Some("14"), "the pod forbids it");
    let answer = call("13", None, "unavailable").await;
    assert_eq!(answer.header("grpc-status"), Some("13"), "another status");
}
