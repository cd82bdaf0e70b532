//! Heads of responses: one filter for interim and final ones, framing fields that a status cannot
//! have, and what is accepted from backends only.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Gateway, Raw, Recording, Service, Step, WEB, World, client};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn pod(response: impl Into<String>) -> Recording {
    let steps = vec![Step::head(), Step::write(response.into()), Step::Restart];
    Recording::script(steps).await.unwrap()
}

#[tokio::test]
async fn interim_responses_pass_the_filter_of_final_ones() {
    let fields = "Link: </style.css>; rel=preload\r\nSet-Cookie: a=b\r\nSet-Cookie: \
                  __Host-portcullis=evil; Path=/; Secure\r\nStrict-Transport-Security: \
                  max-age=0\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: \
                  timeout=5\r\nX-Auth-Request-User: root\r\nX_Forwarded_For: \
                  1.2.3.4\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\nUpgrade: \
                  h2c\r\nProxy-Authenticate: Basic";
    let response = format!(
        "HTTP/1.1 102 Processing\r\n{fields}\r\n\r\nHTTP/1.1 103 Early Hints\r\n{fields}\r\n\r\n{OK}"
    );
    let pod = pod(response).await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let expected = [("link", "</style.css>; rel=preload"), ("set-cookie", "a=b")];

    let tls = client::tls(&gateway, WEB, &["http/1.1"]).await.unwrap();
    let mut client = Raw::over(tls);
    client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    for status in [102, 103] {
        let interim = client.response().await.unwrap();
        assert_eq!(interim.status, status);
        let mut fields: Vec<(String, &str)> = interim
            .head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value))
            .collect();
        fields.sort();
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value)), "{status}");
    }
    assert_eq!(client.response().await.unwrap().text(), "ok");

    let mut client = client::http2(&gateway, WEB).await;
    let request = http::Request::get(format!("https://{WEB}/")).body(()).unwrap();
    let (mut response, _) = client.send_request(request, true).unwrap();
    for status in [102, 103] {
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
        let interim = interim.await.unwrap().unwrap();
        assert_eq!(interim.status(), status);
        let mut fields: Vec<_> = interim.headers().iter().collect();
        fields.sort_by_key(|(name, _)| name.as_str());
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        assert_eq!(fields.collect::<Vec<_>>(), expected, "{status}");
    }
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test]
async fn number_and_size_of_interim_responses_are_limited() {
    let hints =
        |octets: usize| format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(octets));
    for (response, expected) in [
        (hints(1).repeat(32) + OK, 200),
        (hints(1).repeat(33) + OK, 502),
        (hints(20_000).repeat(3) + OK, 200),
        (hints(20_000).repeat(4) + OK, 502),
    ] {
        let pod = pod(response).await;
        let gateway = Gateway::start(World::web(&pod)).await;
        assert_eq!(gateway.curl(WEB, "/").run().await.status, expected);
    }
}

#[tokio::test]
async fn framing_fields_of_a_101_are_dropped() {
    for framing in ["Content-Length: 0", "Transfer-Encoding: chunked", "Content-Length: 7"] {
        let accept = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: \
             Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{framing}\r\n\r\nhello"
        );
        let steps = vec![Step::head(), Step::write(accept), Step::End];
        let pod = Recording::script(steps).await.unwrap();
        let gateway = Gateway::start(World::web(&pod)).await;
        let mut client = Raw::connect(gateway.http()).await;
        client
            .send(format!(
                "GET / HTTP/1.1\r\nHost: {WEB}\r\nConnection: upgrade\r\nUpgrade: \
                 websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
                 dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ))
            .await;
        let response = client.response().await.unwrap();
        assert_eq!(response.status, 101, "{framing}");
        for name in ["content-length", "transfer-encoding"] {
            assert_eq!(response.header(name), None, "{framing}: {response:?}");
        }
        assert_eq!(client.octets(5).await.unwrap(), b"hello", "{framing}");
    }
}

#[tokio::test]
async fn framing_fields_of_a_204_are_dropped_and_those_of_a_304_are_not_read() {
    for (status, kept) in [("204 No Content", None), ("304 Not Modified", Some("5"))] {
        for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
            let pod = pod(format!("HTTP/1.1 {status}\r\n{framing}\r\n\r\n")).await;
            let gateway = Gateway::start(World::web(&pod)).await;
            let mut client = Raw::connect(gateway.http()).await;
            for _ in 0..2 {
                client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
                let response = client.response().await.unwrap();
                assert_eq!(response.status.to_string(), status[..3], "{framing}");
                assert_eq!(response.header("transfer-encoding"), None, "{framing}");
                let kept = kept.filter(|_| framing.starts_with("Content"));
                assert_eq!(response.header("content-length"), kept, "{framing}");
            }
            assert_eq!(pod.received().len(), 1, "the connection is reused");
        }
    }
}

#[tokio::test]
async fn blanks_around_chunk_sizes_are_accepted_from_backends_and_not_from_clients() {
    let sizes = ["5  ", "  5", "\t5\t ", "5 ;name=value"];
    for size in sizes {
        let body = format!("{size}\r\nhello\r\n0  \r\n\r\n");
        let pod = pod(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        let gateway = Gateway::start(World::web(&pod)).await;
        let mut client = Raw::connect(gateway.http()).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        assert_eq!(client.response().await.unwrap().text(), "hello", "{size:?}");
        let head = format!("POST / HTTP/1.1\r\nHost: {WEB}\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(head + &body).await;
        assert_eq!(client.response().await.unwrap().status, 400, "{size:?}");
    }
    for size in ["5 0", "5\x0b", "0x5", "5 \r"] {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        let pod = pod(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        let gateway = Gateway::start(World::web(&pod)).await;
        let answer = gateway.curl(WEB, "/").run().await;
        assert!(answer.exit != 0 || answer.status == 502, "{size:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_connection_is_not_reused_in_the_last_second_that_its_backend_grants() {
    for (field, connections) in
        [("timeout=60", 1), ("timeout=60, max=100", 1), ("timeout=1", 3), ("timeout=60, max=0", 3)]
    {
        let pod =
            pod(format!("HTTP/1.1 200 OK\r\nKeep-Alive: {field}\r\nContent-Length: 2\r\n\r\nok"))
                .await;
        let gateway = Gateway::start(World::web(&pod)).await;
        let mut client = Raw::connect(gateway.http()).await;
        for _ in 0..3 {
            client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
            let response = client.response().await.unwrap();
            assert_eq!((response.status, response.header("keep-alive")), (200, None));
        }
        assert_eq!(pod.received().len(), connections, "{field}");
    }
    let pod = pod("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2\r\nContent-Length: 2\r\n\r\nok").await;
    let settings = json!({ "workers": 1 });
    let gateway =
        Gateway::of(World::empty().with(Service::new("web").pod(&pod))).settings(settings);
    let gateway = gateway.start().await;
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 200);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 200);
    assert_eq!(pod.received().len(), 2, "the second request came in the last second");
}
