//! Shutdown without failed requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Gateway, Raw, WEB, World, client, echo, eventually};

#[derive(Default)]
struct Tally {
    good: AtomicU64,
    bad: AtomicU64,
    over: AtomicBool,
}

impl Tally {
    fn count(&self, good: bool) {
        if good { &self.good } else { &self.bad }.fetch_add(1, Ordering::Relaxed);
    }
}

/// Requests on successive kept-alive connections, as a load balancer sends them: while the
/// gateway reports that it is ready.
async fn http1_load(address: std::net::SocketAddr, tally: Arc<Tally>) {
    while !tally.over.load(Ordering::Relaxed) {
        let mut client = Raw::connect(address).await;
        loop {
            client.send(format!("GET /delay/5ms HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
            let Some(response) = client.response().await else {
                tally.count(false);
                return;
            };
            tally.count(response.status == 200);
            if tally.over.load(Ordering::Relaxed)
                || response.header("connection").is_some_and(|value| value == "close")
            {
                break;
            }
        }
    }
}

async fn http2_load(mut client: h2::client::SendRequest<bytes::Bytes>, tally: Arc<Tally>) {
    while !tally.over.load(Ordering::Relaxed) {
        let request = http::Request::get(format!("https://{WEB}/delay/5ms")).body(()).unwrap();
        let Ok(ready) = client.ready().await else { return };
        client = ready;
        // After a GOAWAY no stream can be opened: such a request was never sent, and would go over
        // a new connection.
        let Ok((response, _)) = client.send_request(request, true) else { return };
        match response.await {
            Ok(response) => tally.count(response.status() == 200),
            Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => {
                return;
            }
            Err(error)
                if error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) =>
            {
                return;
            }
            Err(_) => tally.count(false),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_fails_no_request() {
    let pod = echo("pod-1").await;
    let drain = json!({ "drain": { "delay": "1s", "deadline": "10s" }, "workers": 2 });
    let mut gateway = Gateway::of(World::web(&pod)).settings(drain).start().await;
    let tally = Arc::new(Tally::default());
    let mut load = Vec::new();
    for _ in 0..8 {
        load.push(tokio::spawn(http1_load(gateway.http(), Arc::clone(&tally))));
        load.push(tokio::spawn(http2_load(client::http2(&gateway, WEB).await, Arc::clone(&tally))));
    }
    eventually("the load is on", || async { tally.good.load(Ordering::Relaxed) > 200 }).await;
    gateway.terminate();
    eventually("it says that it is not ready", || async { !gateway.is_ready().await }).await;
    let before = tally.good.load(Ordering::Relaxed);
    eventually("it still serves", || async { tally.good.load(Ordering::Relaxed) > before }).await;
    // A load balancer that has noticed sends no new request.
    tally.over.store(true, Ordering::Relaxed);
    let status = gateway.ended().await;
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(status.code(), Some(0));
    assert_eq!(tally.bad.load(Ordering::Relaxed), 0, "of {}", tally.good.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_request_in_progress_completes() {
    let pod = echo("pod-1").await;
    let mut gateway = Gateway::start(World::web(&pod)).await;
    let slow: Vec<_> = ["--http1.1", "--http2"]
        .map(|option| tokio::spawn(gateway.curl(WEB, "/delay/1s").arg(option).run()))
        .into();
    pod.counts().wait_for(|counts| counts.started == 2).await.unwrap();
    gateway.terminate();
    let status = gateway.ended().await;
    for slow in slow {
        let answer = slow.await.unwrap();
        assert_eq!((answer.exit, answer.text().as_str()), (0, "Hello from pod-1\n"), "{answer:?}");
    }
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn requests_that_exceed_the_drain_deadline_are_aborted() {
    let pod = echo("pod-1").await;
    let settings = json!({ "drain": { "delay": "0s", "deadline": "500ms" } });
    let mut gateway = Gateway::of(World::web(&pod)).settings(settings).start().await;
    let slow = tokio::spawn(gateway.curl(WEB, "/delay/1m").run());
    pod.counts().wait_for(|counts| counts.started == 1).await.unwrap();
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_ne!(slow.await.unwrap().exit, 0);
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_shutdown() {
    let pod = echo("pod-1").await;
    let mut gateway = Gateway::start(World::web(&pod)).await;
    let mut idle = Raw::connect(gateway.http()).await;
    idle.send(format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    idle.response().await.unwrap();
    let _http2 = client::http2(&gateway, WEB).await;
    let _silent = Raw::connect(gateway.http()).await;
    gateway.terminate();
    let ended = tokio::time::timeout(Duration::from_secs(8), gateway.ended()).await;
    assert_eq!(ended.expect("it ends before its deadline of 10 s").code(), Some(0));
    assert!(idle.rest().await.is_empty());
}

#[tokio::test]
async fn a_second_sigterm_stops_the_gateway_immediately() {
    let pod = echo("pod-1").await;
    let settings = json!({ "drain": { "delay": "1h", "deadline": "1h" } });
    let mut gateway = Gateway::of(World::web(&pod)).settings(settings).start().await;
    let slow = tokio::spawn(gateway.curl(WEB, "/delay/1m").run());
    pod.counts().wait_for(|counts| counts.started == 1).await.unwrap();
    gateway.terminate();
    gateway.has_written("draining").await;
    gateway.terminate();
    assert_eq!(
        gateway.ended().await.code(),
        Some(1),
        "what was under way is lost, and whoever waits for it is reported"
    );
    assert_ne!(slow.await.unwrap().exit, 0);
}
