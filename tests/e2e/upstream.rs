//! Backends that refuse, reset, stall or send invalid responses.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Echo, Gateway, Options, Raw, Recording, Service, Step, WEB, World, echo, eventually, soon,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn pod(steps: Vec<Step>) -> Recording {
    Recording::script(steps).await.unwrap()
}

/// Responses that must not be forwarded in any form.
fn garbage() -> Vec<(&'static str, &'static str)> {
    vec![
        ("no HTTP", "hello\r\n\r\n"),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("a status that is no number", "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok"),
        ("version 2", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
        ("a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        (
            "a length and a coding",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: \
             chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("a coding that nobody knows", "HTTP/1.1 200 OK\r\nTransfer-Encoding: tea\r\n\r\nok"),
        (
            "a coding in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("a NUL in a value", "HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nok"),
        ("a space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
        ("a field without a colon", "HTTP/1.1 200 OK\r\nContent-Length\r\n\r\nok"),
        (
            "an upgrade that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
    ]
}

#[tokio::test]
async fn a_malformed_response_is_502_once() {
    for (name, octets) in garbage() {
        let bad = Recording::scripts(vec![
            vec![Step::head(), Step::write(octets), Step::End],
            vec![Step::head(), Step::write(OK), Step::Restart],
        ]);
        let bad = bad.await.unwrap();
        let gateway = Gateway::start(World::web(&bad)).await;
        let mut client = Raw::connect(gateway.http()).await;
        let request = format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n");
        client.send(&request).await;
        let response = client.response().await.unwrap();
        assert_eq!(response.status, 502, "{name}: {response:?}");
        assert_eq!(bad.received().len(), 1, "{name}: the request was not repeated");
        client.send(&request).await;
        assert_eq!(
            client.response().await.map(|response| response.status),
            Some(200),
            "{name}: the client's connection lives on"
        );
        assert_eq!(bad.received().len(), 2, "{name}: the backend's connection was not used again");
    }
}

#[tokio::test]
async fn bytes_after_a_response_are_never_used_as_the_next_response() {
    let poisoned = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 \
                    OK\r\nContent-Length: 6\r\n\r\npoison";
    let backend = Recording::scripts(vec![
        vec![Step::head(), Step::write(poisoned), Step::End],
        vec![Step::head(), Step::write(OK), Step::Restart],
    ]);
    let backend = backend.await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    for _ in 0..3 {
        assert_eq!(gateway.curl_plain(WEB, "/").run().await.text(), "ok");
    }
}

#[tokio::test]
async fn a_refused_connection_is_502() {
    let backend = pod(vec![]).await;
    let address = backend.address();
    drop(backend);
    let gateway = Gateway::start(World::empty().with(Service::new("web").pod(&address))).await;
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 502);
}

#[tokio::test]
async fn a_refused_connection_is_retried_on_another_pod() {
    let gone = pod(vec![]).await;
    let address = gone.address();
    drop(gone);
    let alive = echo("pod-1").await;
    let gateway =
        Gateway::start(World::empty().with(Service::new("web").pod(&address).pod(&alive))).await;
    for _ in 0..20 {
        let answer = gateway.curl(WEB, "/whoami").run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "pod-1\n"));
    }
}

#[tokio::test]
async fn a_connection_reset_before_the_response_is_502() {
    for end in [Step::Reset, Step::Shutdown] {
        let backend =
            pod(vec![Step::head(), end.clone(), Step::Pause(Duration::from_millis(100))]).await;
        let gateway = Gateway::start(World::web(&backend)).await;
        let answer = gateway.curl(WEB, "/").args(["--data", "not to be sent twice"]).run().await;
        assert_eq!(answer.status, 502, "{end:?}");
        assert_eq!(
            backend.received().len(),
            1,
            "{end:?}: a request that the backend has seen is not repeated"
        );
    }
}

#[tokio::test]
async fn a_late_response_is_504() {
    let backend = pod(vec![Step::head(), Step::Pause(Duration::from_secs(60))]).await;
    let gateway = Gateway::of(World::web(&backend))
        .settings(json!({ "timeouts": { "responseHead": "200ms" } }))
        .start()
        .await;
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 504);
    let mut watch = backend.watch();
    soon(
        "the request reached the backend once",
        watch.wait_for(|connections| connections.len() == 1),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_service_can_have_a_shorter_timeout() {
    let backend = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("web").annotation("timeout", "200ms").pod(&backend)),
    )
    .await;
    assert_eq!(gateway.curl(WEB, "/delay/60s").run().await.status, 504);
    assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 200);
}

#[tokio::test]
async fn a_service_can_have_a_longer_timeout_than_the_defaults() {
    let chunk = |text: &str| Step::write(format!("{:x}\r\n{text}\r\n", text.len()));
    let backend = pod(vec![
        Step::head(),
        Step::Pause(Duration::from_millis(600)),
        Step::write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        chunk("one"),
        Step::Pause(Duration::from_millis(600)),
        chunk("two"),
        Step::write("0\r\n\r\n"),
        Step::Restart,
    ])
    .await;
    let defaults = json!({ "timeouts": { "responseHead": "200ms", "streamIdle": "200ms" } });
    let with_timeout = Service::new("web").annotation("timeout", "10m").pod(&backend);
    let without = Service::new("other").pod(&backend);
    let gateway = Gateway::of(World::empty().with(with_timeout).with(without))
        .settings(defaults)
        .start()
        .await;
    for option in ["--http1.1", "--http2"] {
        let answer = gateway.curl(WEB, "/").arg(option).run().await;
        assert_eq!((answer.status, answer.exit, answer.text().as_str()), (200, 0, "onetwo"));
        let answer = gateway.curl("other--staging.apps.test", "/").arg(option).run().await;
        assert_eq!(answer.status, 504, "the defaults hold for other services");
    }
}

#[tokio::test]
async fn an_incomplete_response_is_aborted_to_the_client() {
    let backend = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&backend)).await;
    for (option, code) in [("--http1.1", [18, 56]), ("--http2", [92, 18])] {
        let answer = gateway.curl(WEB, "/break/100000").arg(option).run().await;
        assert!(
            code.contains(&answer.exit),
            "{option}: curl took it for whole: {} {}",
            answer.exit,
            answer.complaint
        );
    }
    let cut = pod(vec![
        Step::head(),
        Step::write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        // At once, it would not be forwarded: a small response is waited for.
        Step::Pause(Duration::from_millis(100)),
        Step::Shutdown,
    ])
    .await;
    let gateway = Gateway::start(World::web(&cut)).await;
    let mut client = Raw::connect(gateway.http()).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    let octets = String::from_utf8(client.rest().await).unwrap();
    assert!(octets.contains("hello") && !octets.ends_with("0\r\n\r\n"), "{octets}");
}

#[tokio::test]
async fn one_broken_response_affects_no_other_client() {
    let backend = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("web").app_protocol("kubernetes.io/h2c").pod(&backend)),
    )
    .await;
    let slow = tokio::spawn(gateway.curl(WEB, "/delay/1s").run());
    backend.counts().wait_for(|counts| counts.started == 1).await.unwrap();
    for _ in 0..5 {
        gateway.curl(WEB, "/break/1000").run().await;
    }
    assert_eq!(slow.await.unwrap().text(), "Hello from pod-1\n");
}

#[tokio::test]
async fn connections_to_backends_are_pooled() {
    let backend = pod(vec![Step::head(), Step::write(OK), Step::Restart]).await;
    let gateway = Gateway::start(World::web(&backend)).await;
    for _ in 0..10 {
        assert_eq!(gateway.curl_plain(WEB, "/").run().await.text(), "ok");
    }
    assert_eq!(backend.received().len(), 1);
}

#[tokio::test]
async fn a_request_on_a_stale_connection_is_retried() {
    let close =
        vec![Step::head(), Step::write(OK), Step::Pause(Duration::from_millis(30)), Step::Shutdown];
    let backend = pod(close).await;
    let gateway = Gateway::start(World::web(&backend)).await;
    for number in 0..30 {
        // Before, after, or while the backend closes the connection: each time the response
        // must be complete.
        tokio::time::sleep(Duration::from_millis(20 + number)).await;
        let answer = gateway.curl_plain(WEB, "/").run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "request {number}");
    }
}

#[tokio::test]
async fn a_post_is_not_sent_on_a_closed_connection() {
    // A request that is not idempotent must not be sent twice (RFC 9110 §9.2.2).
    let backend = pod(vec![
        Step::head(),
        Step::write(OK),
        Step::Shutdown,
        Step::Pause(Duration::from_secs(60)),
    ])
    .await;
    let gateway = Gateway::start(World::web(&backend)).await;
    for number in 0..10 {
        let answer = gateway.curl_plain(WEB, "/").args(["--data", "once"]).run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "request {number}");
    }
}

#[tokio::test]
async fn a_request_on_a_pooled_connection_that_resets_is_retried_on_a_new_one() {
    let backend = Recording::scripts(vec![
        vec![Step::head(), Step::write(OK), Step::Until(b"GET "), Step::Reset],
        vec![Step::head(), Step::write(OK), Step::Restart],
    ]);
    let backend = backend.await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    for _ in 0..2 {
        assert_eq!(gateway.curl_plain(WEB, "/").run().await.text(), "ok");
    }
    assert_eq!(backend.received().len(), 2);
}

#[tokio::test]
async fn connection_close_of_a_backend_is_not_forwarded() {
    let backend = pod(vec![
        Step::head(),
        Step::write(
            "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: \
             5\r\nContent-Length: 2\r\n\r\nok",
        ),
    ])
    .await;
    let gateway = Gateway::start(World::web(&backend)).await;
    let mut client = Raw::connect(gateway.http()).await;
    for _ in 0..3 {
        client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        let response = client.response().await.expect("the client's connection lives on");
        assert_eq!(response.text(), "ok");
        for name in ["connection", "x-hop", "keep-alive"] {
            assert_eq!(response.header(name), None, "{response:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_forwarded_completely() {
    let backend =
        pod(vec![Step::head(), Step::write("HTTP/1.0 200 OK\r\n\r\nall of it"), Step::Shutdown])
            .await;
    let gateway = Gateway::start(World::web(&backend)).await;
    for option in ["--http1.1", "--http2"] {
        let answer = gateway.curl(WEB, "/").arg(option).run().await;
        assert_eq!((answer.exit, answer.text().as_str()), (0, "all of it"), "{answer:?}");
    }
}

#[tokio::test]
async fn an_early_response_does_not_wait_for_the_body() {
    let backend = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&backend)).await;
    let mut client = Raw::connect(gateway.http()).await;
    client
        .send(format!(
            "POST /status/403 HTTP/1.1\r\nHost: {WEB}\r\nContent-Length: 100000000\r\n\r\nonly \
             the beginning"
        ))
        .await;
    assert_eq!(client.response().await.unwrap().status, 403);
}

#[tokio::test]
async fn a_recovered_pod_is_used_again() {
    let backend = echo("pod-1").await;
    let address = backend.address();
    let gateway = Gateway::start(World::empty().with(Service::new("web").pod(&address))).await;
    assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 200);
    backend.stop().await;
    assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 502);
    let options = Options { address, ..Options::loopback("pod-2") };
    let _backend = Echo::start(options).await.unwrap();
    eventually("the pod is used again", || async {
        gateway.curl(WEB, "/whoami").run().await.text() == "pod-2\n"
    })
    .await;
}
