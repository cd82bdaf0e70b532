//! Limits of number, size and time: each has a defined response, and affects no other client.

use serde_json::json;

use crate::harness::{Gateway, Raw, Recording, Service, Step, WEB, World, echo, eventually, soon};

#[tokio::test]
async fn a_head_that_takes_too_long_is_408() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "timeouts": { "requestHead": "200ms" } }))
        .start()
        .await;
    let mut client = Raw::connect(gateway.http()).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n")).await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 408);
    assert!(client.rest().await.is_empty(), "and the connection is closed");
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_response() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "timeouts": { "clientIdle": "200ms" } }))
        .start()
        .await;
    let mut client = Raw::connect(gateway.http()).await;
    client.send(format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    assert_eq!(client.response().await.unwrap().status, 200);
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_slow_handshake_times_out() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "timeouts": { "handshake": "200ms" } }))
        .start()
        .await;
    let mut client = Raw::connect(gateway.https()).await;
    client.rest().await;
}

#[tokio::test]
async fn a_stalled_body_times_out() {
    let pod = Recording::script(vec![
        Step::head(),
        Step::write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        Step::End,
    ])
    .await
    .unwrap();
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "timeouts": { "streamIdle": "300ms" } }))
        .start()
        .await;
    let answer = gateway.curl(WEB, "/").run().await;
    assert_ne!(answer.exit, 0, "curl took it for whole: {answer:?}");
}

#[tokio::test]
async fn more_connections_of_one_client_than_the_limit_are_closed() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "limits": { "connectionsPerClient": 4 } }))
        .start()
        .await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut client = Raw::connect(gateway.http()).await;
        client.send(format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        assert_eq!(client.response().await.unwrap().status, 200);
        kept.push(client);
    }
    let mut fifth = Raw::connect(gateway.http()).await;
    fifth.send(format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    assert!(
        fifth.response().await.is_none_or(|response| response.status == 503),
        "a fifth connection was served"
    );
    kept.pop();
    eventually("a place is free again", || async {
        let mut client = Raw::connect(gateway.http()).await;
        client.send(format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        client.response().await.is_some_and(|response| response.status == 200)
    })
    .await;
}

#[tokio::test]
async fn requests_above_the_limit_of_an_endpoint_wait_and_are_503_if_that_is_too_long() {
    let pod = echo("pod-1").await;
    let world = |pod| {
        let patient = Service::new("patient").annotation("connect-timeout", "1m").pod(pod);
        World::web(pod).with(patient)
    };
    let gateway = Gateway::of(world(&pod))
        .settings(json!({
            "limits": { "connectionsPerEndpoint": 2, "idleConnectionsPerEndpoint": 2 },
            "timeouts": { "connect": "200ms" },
        }))
        .start()
        .await;
    let mut started = 0;
    for (host, status) in [(WEB, 503), ("patient--staging.apps.test", 200)] {
        let slow = || tokio::spawn(gateway.curl(host, "/delay/2s").run());
        let slow = [slow(), slow()];
        started += 2;
        let mut counts = pod.counts();
        soon("both are under way", counts.wait_for(|counts| counts.started == started))
            .await
            .unwrap();
        let third = gateway.curl(host, "/whoami").run().await;
        assert_eq!(third.status, status);
        assert_eq!(third.header("retry-after").is_some(), status == 503);
        for slow in slow {
            assert_eq!(slow.await.unwrap().status, 200);
        }
        assert_eq!(gateway.curl(host, "/whoami").run().await.status, 200);
        started = pod.counts().borrow().started;
    }
    assert_eq!(gateway.metric("portcullis_upstream_waits_total").await, 2.0);
}

#[tokio::test]
async fn a_body_larger_than_its_service_allows_is_413() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("web").annotation("max-body", "1000").pod(&pod)),
    )
    .await;
    let upload = |size: usize| gateway.curl(WEB, "/echo").args(["--data", &"x".repeat(size)]).run();
    assert_eq!(upload(1_000).await.status, 200);
    assert_eq!(upload(1_001).await.status, 413);
    // Without a known length, the limit is detected while forwarding.
    let mut client = Raw::connect(gateway.http()).await;
    client
        .send(format!("POST /echo HTTP/1.1\r\nHost: {WEB}\r\nTransfer-Encoding: chunked\r\n\r\n"))
        .await;
    client.send(format!("7D0\r\n{}\r\n0\r\n\r\n", "x".repeat(2_000))).await;
    assert_eq!(client.response().await.unwrap().status, 413);
}

#[tokio::test]
async fn a_response_head_larger_than_the_limit_is_502() {
    let head =
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(100_000));
    let pod = Recording::script(vec![Step::head(), Step::write(head), Step::End]).await.unwrap();
    let gateway = Gateway::start(World::web(&pod)).await;
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 502);
}

#[tokio::test]
async fn running_out_of_descriptors_is_survived() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let request = format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n");
    let mut before = Raw::connect(gateway.http()).await;
    before.send(&request).await;
    assert_eq!(before.response().await.unwrap().text(), "pod-1\n");
    let limited = std::process::Command::new("prlimit")
        .args([&format!("--pid={}", gateway.id()), "--nofile=48:48"])
        .status()
        .unwrap();
    assert!(limited.success());
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Raw::connect(gateway.http()).await);
    }
    gateway.has_written("failed to accept a connection").await;
    before.send(&request).await;
    assert_eq!(before.response().await.unwrap().text(), "pod-1\n", "who is connected is served");
    let mut waiting = clients.pop().unwrap();
    waiting.send(&request).await;
    drop(clients);
    assert_eq!(
        waiting.response().await.unwrap().text(),
        "pod-1\n",
        "who waited in the kernel's queue is served once there is room"
    );
    assert_eq!(
        gateway.curl(WEB, "/whoami").run().await.text(),
        "pod-1\n",
        "and so is everyone later, at the other listener too"
    );
    assert!(
        gateway
            .metric("portcullis_accept_errors_total{listener=\"http\",reason=\"exhausted\"}")
            .await
            >= 1.0
    );
}
