//! The listeners for operators: what each of them serves and to whom, and that no client
//! blocks them.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::{Curl, Gateway, WEB, World, echo};

/// Longer than the idle timeout of a connection.
const PATIENCE: Duration = Duration::from_secs(20);

async fn gateway() -> Gateway {
    Gateway::start(World::web(&echo("pod-1").await)).await
}

async fn status(address: SocketAddr, path: &str) -> u16 {
    Curl::new(&format!("http://{address}{path}")).run().await.status
}

/// Each listener, with a page of it.
fn pages(gateway: &Gateway) -> [(SocketAddr, &'static str); 3] {
    [(gateway.probes(), "/livez"), (gateway.telemetry(), "/metrics"), (gateway.admin(), "/routes")]
}

/// Connections that have sent `octets` and no more.
async fn hold(address: SocketAddr, number: usize, octets: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..number {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        // The first ones may already be closed.
        let _ = stream.write_all(octets).await;
        held.push(stream);
    }
    held
}

async fn answer(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed");
    let _ = read;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn idle_connections_do_not_block_a_listener() {
    let gateway = gateway().await;
    for (address, path) in pages(&gateway) {
        for number in [70, 500] {
            for octets in [&b""[..], b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
                let held = hold(address, number, octets).await;
                for _ in 0..5 {
                    assert_eq!(status(address, path).await, 200, "{path}: {number} × {octets:?}");
                }
                drop(held);
            }
        }
    }
    assert!(gateway.metric("portcullis_connections_evicted_total{listener=\"probes\"}").await > 0.);
}

#[tokio::test]
async fn clients_that_do_not_read_responses_do_not_block_a_listener() {
    let gateway = gateway().await;
    for (address, path) in pages(&gateway) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let held = hold(address, 200, request.as_bytes()).await;
        assert_eq!(status(address, path).await, 200, "{path}");
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_reconnect_constantly_do_not_block_probes() {
    let gateway = gateway().await;
    let probes = gateway.probes();
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..64 {
        storm.spawn(async move {
            loop {
                let Ok(mut stream) = TcpStream::connect(probes).await else { continue };
                let _ = stream.write_all(b"GET /livez HTTP/1.1\r\n").await;
                let _ = timeout(Duration::from_millis(50), stream.read_u8()).await;
            }
        });
    }
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert_eq!(status(probes, "/livez").await, 200);
    }
    storm.shutdown().await;
}

#[tokio::test]
async fn a_connection_is_closed_when_idle_and_after_one_request() {
    let gateway = gateway().await;
    for (address, path) in pages(&gateway) {
        let one = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let pipelined = answer(address, &one.repeat(5)).await;
        assert_eq!(pipelined.matches("HTTP/1.1 200").count(), 1, "{pipelined}");
        assert!(pipelined.to_lowercase().contains("connection: close"), "{pipelined}");
        let long =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(40_000));
        assert!(!answer(address, &long).await.contains(" 200 "), "the head is too large");
        assert_eq!(status(address, path).await, 200);
    }
    let all = pages(&gateway).map(|(address, _)| answer(address, "GET /livez HTTP/1.1\r\n"));
    for answer in futures::future::join_all(all).await {
        assert!(!answer.contains(" 200 "), "{answer}");
    }
}

#[tokio::test]
async fn each_listener_serves_only_its_own_pages() {
    let gateway = gateway().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(status(gateway.probes(), path).await, 200, "{path}");
        assert_eq!(status(gateway.telemetry(), path).await, 404, "{path}");
        assert_eq!(status(gateway.admin(), path).await, 404, "{path}");
    }
    assert_eq!(status(gateway.telemetry(), "/metrics").await, 200);
    assert_eq!(status(gateway.telemetry(), "/v1/traffic").await, 200);
    assert_eq!(status(gateway.admin(), "/v1/traffic").await, 200);
    assert_eq!(status(gateway.probes(), "/v1/traffic").await, 404);
    assert_eq!(status(gateway.probes(), "/metrics").await, 404);
    assert_eq!(status(gateway.admin(), "/metrics").await, 404);
    let url = "/explain?url=https%3A%2F%2Fa.apps.test%2F";
    for path in ["/routes", "/certificates", url] {
        assert_eq!(status(gateway.admin(), path).await, 200, "{path}");
        for address in [gateway.probes(), gateway.telemetry()] {
            let found = Curl::new(&format!("http://{address}{path}")).run().await;
            assert_eq!(found.status, 404, "{path}");
            assert!(!found.text().contains(WEB), "{found:?}");
        }
    }
    for path in ["/certificates/renew?name=a", "/certificates/rollover", "/sessions/rotate"] {
        for address in [gateway.probes(), gateway.telemetry()] {
            let url = format!("http://{address}{path}");
            assert_eq!(Curl::new(&url).args(["--request", "POST"]).run().await.status, 405);
        }
    }
}

#[tokio::test]
async fn no_web_page_can_read_or_trigger_anything() {
    let gateway = gateway().await;
    let ask = async |address: SocketAddr, method: &str, path: &str, fields: &[&str]| {
        let curl = Curl::new(&format!("http://{address}{path}")).args(["--request", method]);
        let curl = fields.iter().fold(curl, |curl, field| curl.header(field));
        let answer = curl.run().await;
        assert!(answer.status == 200 || !answer.text().contains(WEB), "{answer:?}");
        answer.status
    };
    let port = gateway.admin().port();
    let rebound = format!("Host: evil.example:{port}");
    for (address, path) in [
        (gateway.admin(), "/routes"),
        (gateway.admin(), "/v1/traffic"),
        (gateway.telemetry(), "/metrics"),
        (gateway.telemetry(), "/v1/traffic"),
    ] {
        for host in [&*rebound, "Host: evil.example", "Host: localhost.evil.example", "Host:"] {
            assert_eq!(ask(address, "GET", path, &[host]).await, 421, "{path} {host}");
        }
        for field in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
            assert_eq!(ask(address, "GET", path, &[field]).await, 403, "{path} {field}");
        }
        for host in ["Host: localhost:80", "Host: [::1]:9901", "Host: 127.0.0.1"] {
            assert_eq!(ask(address, "GET", path, &[host]).await, 200, "{path} {host}");
        }
    }
    let (admin, order) = (gateway.admin(), "/sessions/rotate");
    assert_eq!(ask(admin, "POST", order, &[&rebound]).await, 421);
    for field in ["Origin: http://localhost:9901", "Sec-Fetch-Site: same-origin"] {
        assert_eq!(ask(admin, "POST", order, &[field]).await, 403, "{field}");
    }
    assert_eq!(ask(admin, "POST", order, &[]).await, 409, "it is taken: there are no keys");
    // No web page is allowed here, regardless of the preflight request.
    assert_eq!(ask(admin, "OPTIONS", order, &["Origin: http://evil.example"]).await, 403);
}

#[tokio::test]
async fn metrics_require_the_token_of_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    fs::write(&token, "first-token\n").expect("written");
    let gateway = Gateway::of(World::web(&echo("pod-1").await))
        .settings(json!({ "telemetry": { "require": "tokenFile", "tokenFile": token } }))
        .start()
        .await;
    let read = async |fields: &[&str]| {
        let curl = Curl::new(&format!("http://{}/metrics", gateway.telemetry()));
        fields.iter().fold(curl, |curl, field| curl.header(field)).run().await
    };
    let refused = read(&[]).await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    for field in [
        "Authorization: Bearer second-token",
        "Authorization: Bearer first-toke",
        "Authorization: Bearer",
        "Authorization: Basic first-token",
    ] {
        let refused = read(&[field]).await;
        assert_eq!(refused.status, 401, "{field}");
        assert!(!refused.text().contains("portcullis_"));
    }
    let first = "Authorization: Bearer first-token";
    assert_eq!(read(&[first, "Authorization: Bearer x"]).await.status, 401);
    assert_eq!(read(&[first]).await.status, 200);
    // A client with a token is not a web page: Prometheus may use any hostname for the gateway.
    assert_eq!(read(&[first, "Host: portcullis.example"]).await.status, 200);
    fs::write(&token, "second-token").expect("written");
    assert_eq!(read(&[first]).await.status, 401);
    assert_eq!(read(&["Authorization: Bearer second-token"]).await.status, 200);
    fs::remove_file(&token).expect("removed");
    assert_eq!(read(&["Authorization: Bearer second-token"]).await.status, 503);
    assert_eq!(status(gateway.probes(), "/livez").await, 200);
    assert!(!gateway.log().contains("second-token"));
}
