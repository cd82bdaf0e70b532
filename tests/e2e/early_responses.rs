//! Responses that are sent before the request is complete: the client gets them, though it reads
//! only after it has sent everything.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{
    Gateway, Raw, Recording, Response, Service, Step, WEB, World, client, echo, eventually,
};

const SMALL: &str = "small--staging.apps.test";
const DOWN: &str = "down--staging.apps.test";
const UNKNOWN: &str = "nothing--staging.apps.test";
/// More than all kernel buffers between the client and the gateway.
const BODY: usize = 32 * 1024 * 1024;

/// A pod that responds to a head, and reads nothing of the body; `end` is what it does then.
async fn hasty(end: Vec<Step>) -> Recording {
    let response = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nearly";
    let steps = [vec![Step::head(), Step::write(response)], end].concat();
    Recording::script(steps).await.unwrap()
}

/// Sends a request and its whole body; only then reads the response.
async fn upload(mut client: Raw, host: &str, is_chunked: bool) -> Option<Response> {
    let framing = if is_chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {BODY}")
    };
    client.send(format!("POST / HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n")).await;
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..BODY / piece.len() {
        if is_chunked {
            client.send(format!("{:x}\r\n", piece.len())).await;
            client.send(&piece).await;
            client.send("\r\n").await;
        } else {
            client.send(&piece).await;
        }
    }
    if is_chunked {
        client.send("0\r\n\r\n").await;
    }
    client.response().await
}

#[tokio::test]
async fn early_responses_reach_a_client_that_sends_first() {
    let pod = echo("pod-1").await;
    let open = hasty(vec![Step::Pause(Duration::from_secs(60))]).await;
    let closed = hasty(vec![]).await;
    let world = World::empty()
        .with(Service::new("web").pod(&open))
        .with(Service::new("closed").pod(&closed))
        .with(Service::new("small").annotation("max-body", "1k").pod(&pod))
        .with(Service::new("down"));
    let gateway = Gateway::start(world).await;
    for (host, status) in
        [(WEB, 401), ("closed--staging.apps.test", 401), (SMALL, 413), (DOWN, 503), (UNKNOWN, 404)]
    {
        for is_chunked in [false, true] {
            let plain = Raw::connect(gateway.http()).await;
            let response = upload(plain, host, is_chunked).await.expect(host);
            assert_eq!(response.status, status, "{host}, chunked: {is_chunked}");
            let tls = client::tls(&gateway, host, &["http/1.1"]).await.unwrap();
            let response = upload(Raw::over(tls), host, is_chunked).await.expect(host);
            assert_eq!(response.status, status, "{host} over TLS, chunked: {is_chunked}");
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_on_sending_is_closed() {
    let pod = echo("pod-1").await;
    let small = Service::new("web").annotation("max-body", "1k").pod(&pod);
    for (settings, least) in [
        (json!({ "limits": { "unreadBodyBytes": 1 << 20 } }), 1 << 20),
        (json!({ "timeouts": { "unreadBody": "300ms" } }), 0),
    ] {
        let world = World::empty().with(small.clone());
        let gateway = Gateway::of(world).settings(settings).start().await;
        let mut client = TcpStream::connect(gateway.http()).await.unwrap();
        let head =
            format!("POST / HTTP/1.1\r\nHost: {WEB}\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
        client.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![b'x'; 64 * 1024];
        let (begun, mut sent) = (Instant::now(), 0_usize);
        while client.write_all(&piece).await.is_ok() {
            sent += piece.len();
            assert!(begun.elapsed() < Duration::from_secs(9), "{sent} octets, and not closed");
        }
        assert!(sent >= least, "{sent} octets");
        eventually("the cut is counted", || async {
            gateway.metric(r#"portcullis_requests_refused_total{reason="unread_body"}"#).await > 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn early_responses_reach_curl() {
    let open = hasty(vec![Step::Pause(Duration::from_secs(60))]).await;
    let pod = echo("pod-1").await;
    let h2c = Service::new("h2c").app_protocol("kubernetes.io/h2c").annotation("max-body", "1Mi");
    let world = World::empty()
        .with(Service::new("web").pod(&open))
        .with(Service::new("small").annotation("max-body", "1k").pod(&pod))
        .with(h2c.pod(&pod))
        .with(Service::new("down"));
    let gateway = Gateway::start(world).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(BODY as u64).unwrap();
    let upload = ["--upload-file", &file.path().to_string_lossy()];
    for (host, status) in
        [(WEB, 401), (SMALL, 413), ("h2c--staging.apps.test", 413), (DOWN, 503), (UNKNOWN, 404)]
    {
        for header in ["X-Framing: length", "Transfer-Encoding: chunked"] {
            // `Transfer-Encoding` is not sent over HTTP/2.
            for version in ["--http1.1", "--http2"] {
                let curl = gateway.curl(host, "/echo").arg(version).header(header).args(upload);
                let answer = curl.run().await;
                let case = format!("{host}, {version}, {header}: {answer:?}");
                assert_eq!((answer.status, answer.exit), (status, 0), "{case}");
            }
        }
    }
}
