//! Pods that are killed, and what is repeated where they do not respond.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use portcullis_echo::grpc::{Client, EchoRequest};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::harness::{
    Echo, Gateway, Options, Raw, Recording, Service, Step, WEB, World, client, echo, eventually,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// The variable that has this binary serve as a pod.
const POD_ADDRESS: &str = "PORTCULLIS_TEST_POD_ADDRESS";
/// How long requests are sent.
const DURATION: Duration = Duration::from_secs(12);

/// A pod in a process of its own.
struct Pod {
    address: SocketAddr,
    process: Child,
}

/// Counts the requests of a run.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    has_ended: AtomicBool,
}

// === impl Pod ===

impl Pod {
    async fn start(address: SocketAddr) -> Self {
        let process = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "failover::serve_as_a_pod", "--ignored", "--quiet"])
            .env(POD_ADDRESS, address.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("this binary starts");
        eventually("the pod listens", || async {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self { address, process }
    }

    /// Starts one on a free port.
    async fn new() -> Self {
        // Bound and released: nothing else takes it in the moment until the pod does.
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = free.local_addr().expect("its address");
        drop(free);
        Self::start(address).await
    }

    /// Ends it by SIGKILL.
    async fn kill(&mut self) {
        self.process.kill().await.expect("the pod was running");
    }
}

/// Not a test: the process that [`Pod`] starts and kills.
#[tokio::test]
#[ignore = "serves as a pod until it is killed, for other tests"]
async fn serve_as_a_pod() {
    let Ok(address) = std::env::var(POD_ADDRESS) else { return };
    let address: SocketAddr = address.parse().expect("an address");
    let options = Options { address, ..Options::loopback(&format!("pod-{}", address.port())) };
    let _echo = Echo::start(options).await.expect("the port is free");
    std::future::pending::<()>().await;
}

/// Kills the pods one after the other, 2.2 s apart, and starts each again after 1 s, while
/// requests are sent.
async fn kill_by_turns(pods: &mut [Pod], counts: &Counts) {
    let start = Instant::now();
    let mut due = start;
    let mut turn = 0;
    while start.elapsed() < DURATION {
        due += Duration::from_millis(2_200);
        sleep_until(due).await;
        let index = turn % pods.len();
        let pod = &mut pods[index];
        pod.kill().await;
        sleep(Duration::from_secs(1)).await;
        *pod = Pod::start(pod.address).await;
        turn += 1;
    }
    counts.has_ended.store(true, Ordering::Relaxed);
}

// === impl Counts ===

impl Counts {
    fn count(&self, result: Result<(), String>) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if let Err(reason) = result {
            self.failed.fetch_add(1, Ordering::Relaxed);
            println!("failed: {reason}");
        }
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }
}

async fn send_http1(gateway: SocketAddr, counts: Arc<Counts>) {
    let request = format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n");
    let mut connection = Raw::connect(gateway).await;
    while !counts.has_ended() {
        connection.send(&request).await;
        counts.count(match connection.response().await {
            Some(response) if response.status == 200 && response.text().starts_with("pod-") => {
                Ok(())
            }
            other => Err(format!("HTTP/1.1: {other:?}")),
        });
    }
}

async fn send_http2(mut sender: SendRequest<Bytes>, counts: Arc<Counts>) {
    while !counts.has_ended() {
        counts.count(get(&mut sender).await.map_err(|error| format!("HTTP/2: {error}")));
    }
}

/// One GET over HTTP/2, to its end.
async fn get(sender: &mut SendRequest<Bytes>) -> Result<(), String> {
    let request =
        Request::get("https://calls--staging.apps.test/whoami").body(()).expect("a request");
    let (response, _) = sender.send_request(request, true).map_err(|error| error.to_string())?;
    let response = response.await.map_err(|error| error.to_string())?;
    let status = response.status();
    let mut body = response.into_body();
    let mut octets = 0;
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| error.to_string())?;
        octets += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    if status == 200 && octets > 0 { Ok(()) } else { Err(format!("{status}, {octets} octets")) }
}

async fn send_grpc(mut client: Client<tonic::transport::Channel>, counts: Arc<Counts>) {
    while !counts.has_ended() {
        let result = client.unary(tonic::Request::new(EchoRequest::new("hello"))).await;
        counts.count(result.map(drop).map_err(|error| format!("gRPC: {error}")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_idempotent_request_fails_while_pods_are_killed() {
    let mut pods = [Pod::new().await, Pod::new().await, Pod::new().await];
    let service = |name| {
        let service = Service::new(name);
        pods.iter().fold(service, |service, pod| service.pod(&pod.address))
    };
    let world = World::empty().with(service("web")).with(
        service("calls")
            .app_protocol("kubernetes.io/h2c")
            .annotation("retry-non-idempotent", "true"),
    );
    let gateway = Gateway::start(world).await;
    let counts: [Arc<Counts>; 3] = Default::default();
    let [http1, http2, grpc] = &counts;
    let mut clients = JoinSet::new();
    for _ in 0..32 {
        clients.spawn(send_http1(gateway.http(), Arc::clone(http1)));
    }
    let sender = client::http2(&gateway, "calls--staging.apps.test").await;
    let channel = client::grpc(&gateway, "calls--staging.apps.test").await;
    for _ in 0..8 {
        clients.spawn(send_http2(sender.clone(), Arc::clone(http2)));
        clients.spawn(send_grpc(Client::new(channel.clone()), Arc::clone(grpc)));
    }
    kill_by_turns(&mut pods, http1).await;
    http2.has_ended.store(true, Ordering::Relaxed);
    grpc.has_ended.store(true, Ordering::Relaxed);
    clients.join_all().await;
    for (protocol, counts) in ["HTTP/1.1", "HTTP/2", "gRPC"].into_iter().zip(&counts) {
        let (sent, failed) =
            (counts.sent.load(Ordering::Relaxed), counts.failed.load(Ordering::Relaxed));
        println!("{protocol}: {failed} of {sent} failed");
        assert!(sent > 100, "{protocol}: {sent}");
        assert_eq!(failed, 0, "{protocol}: of {sent}");
    }
    assert!(gateway.metric("portcullis_upstream_ejections_total").await >= 3.0);
}

/// A pod that accepts connections and closes each once it has read a request.
async fn closing() -> Recording {
    Recording::script(vec![Step::head()]).await.expect("a free port")
}

/// An address where nothing listens.
async fn refusing() -> SocketAddr {
    let pod = closing().await;
    pod.address()
}

#[tokio::test]
async fn the_only_pod_that_responds_is_reached_from_the_first_request_on() {
    let alive = echo("alive").await;
    let mut closing_pods = Vec::new();
    let mut service = Service::new("web");
    for _ in 0..4 {
        let pod = closing().await;
        service = service.pod(&pod).pod(&refusing().await);
        closing_pods.push(pod);
    }
    let gateway = Gateway::start(World::empty().with(service.pod(&alive))).await;
    for _ in 0..50 {
        let answer = gateway.curl_plain(WEB, "/whoami").run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "alive\n"));
    }
}

#[tokio::test]
async fn a_post_is_never_executed_twice() {
    // Each pod reads the whole request, and dies in its own way before or within the response's
    // head.
    let ends = [
        vec![Step::Until(b"once"), Step::Reset],
        vec![Step::Until(b"once"), Step::Shutdown],
        vec![Step::Until(b"once"), Step::write("HTTP/1.1 200 OK\r\nContent-"), Step::Reset],
        vec![
            Step::Until(b"once"),
            Step::write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"),
            Step::Reset,
        ],
    ];
    for end in ends {
        // On new connections to three pods, and on a kept one to the only pod.
        let mut kept = vec![Step::head(), Step::write(OK)];
        kept.extend(end.clone());
        for (count, scripts) in [(3, vec![end.clone()]), (1, vec![kept, end.clone()])] {
            let mut pods = Vec::new();
            let mut service = Service::new("web");
            for _ in 0..count {
                let pod = Recording::scripts(scripts.clone()).await.expect("a free port");
                service = service.pod(&pod);
                pods.push(pod);
            }
            let gateway = Gateway::start(World::empty().with(service)).await;
            if count == 1 {
                assert_eq!(gateway.curl_plain(WEB, "/").run().await.text(), "ok");
            }
            for sent in 1..=3 {
                let answer = gateway.curl_plain(WEB, "/").args(["--data", "once"]).run().await;
                assert!(answer.status == 502 || answer.exit != 0, "{end:?}: {answer:?}");
                let received = pods.iter().flat_map(Recording::received);
                let executed = received.filter(|octets| octets.ends_with(b"once")).count();
                assert_eq!(executed, sent, "{end:?}, {count} pods");
            }
        }
    }
}

#[tokio::test]
async fn a_put_is_sent_again_with_its_body() {
    let crashing = Recording::script(vec![Step::Until(b"body"), Step::Reset]).await.unwrap();
    let alive = Recording::script(vec![Step::Until(b"body"), Step::write(OK), Step::Restart])
        .await
        .unwrap();
    let service = Service::new("web").pod(&crashing).pod(&alive);
    let gateway = Gateway::start(World::empty().with(service)).await;
    for _ in 0..20 {
        let answer =
            gateway.curl_plain(WEB, "/").args(["--request", "PUT", "--data", "body"]).run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    assert!(!crashing.received().is_empty(), "it was tried");
}

/// A pod that speaks HTTP/2. It reads the first request of all, refuses it, and echoes the others.
async fn refusing_once() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        let mut has_refused = false;
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let refuses = !std::mem::replace(&mut has_refused, true);
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    let mut octets = Vec::new();
                    while let Some(Ok(data)) = body.data().await {
                        octets.extend_from_slice(&data);
                    }
                    if refuses {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    } else {
                        let mut body = respond.send_response(http::Response::new(()), false)?;
                        body.send_data(octets.into(), true)?;
                    }
                    Ok::<(), h2::Error>(())
                });
            }
        }
    });
    address
}

#[tokio::test]
async fn a_post_that_was_refused_is_sent_again_with_its_body() {
    let pod = refusing_once().await;
    let service = Service::new("web").app_protocol("kubernetes.io/h2c").pod(&pod);
    let gateway = Gateway::start(World::empty().with(service)).await;
    let answer = gateway.curl_plain(WEB, "/").args(["--data", "the body"]).run().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "the body"));
    assert_eq!(gateway.metric("portcullis_upstream_retries_total").await, 1.0);
}

#[tokio::test]
async fn a_service_may_allow_posts_to_be_sent_again() {
    let crashing = Recording::script(vec![Step::Until(b"twice"), Step::Reset]).await.unwrap();
    let alive = Recording::script(vec![Step::Until(b"twice"), Step::write(OK), Step::Restart])
        .await
        .unwrap();
    let service =
        Service::new("web").annotation("retry-non-idempotent", "true").pod(&crashing).pod(&alive);
    let gateway = Gateway::start(World::empty().with(service)).await;
    for _ in 0..20 {
        let answer = gateway.curl_plain(WEB, "/").args(["--data", "twice"]).run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    assert!(!crashing.received().is_empty(), "it was tried");
}

#[tokio::test]
async fn a_small_response_that_breaks_off_is_requested_again() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n",
        "HTTP/1.1 200 OK\r\nConte",
    ] {
        let crashing = Recording::script(vec![Step::head(), Step::write(response), Step::Reset])
            .await
            .unwrap();
        let alive =
            Recording::script(vec![Step::head(), Step::write(OK), Step::Restart]).await.unwrap();
        let service = Service::new("web").pod(&crashing).pod(&alive);
        let gateway = Gateway::start(World::empty().with(service)).await;
        for _ in 0..10 {
            let answer = gateway.curl_plain(WEB, "/").run().await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{response}");
        }
        assert!(!crashing.received().is_empty(), "it was tried");
    }
}

#[tokio::test]
async fn a_response_that_comes_slowly_is_not_held() {
    let slow = Recording::script(vec![
        Step::head(),
        Step::write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npart"),
        Step::Until(b"go on"),
    ])
    .await
    .unwrap();
    let gateway = Gateway::start(World::web(&slow)).await;
    let mut client = Raw::connect(gateway.http()).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    assert!(client.until(b"\r\n\r\npart").await.is_some(), "the rest never comes");
}

#[tokio::test]
async fn a_pod_that_fails_fast_attracts_no_requests() {
    let failing = closing().await;
    let alive = [echo("pod-1").await, echo("pod-2").await];
    let service = Service::new("web").pod(&failing).pod(&alive[0]).pod(&alive[1]);
    let gateway = Gateway::start(World::empty().with(service)).await;
    let request = format!("GET /delay/20ms HTTP/1.1\r\nHost: {WEB}\r\n\r\n");
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        let (request, mut connection) = (request.clone(), Raw::connect(gateway.http()).await);
        clients.spawn(async move {
            for _ in 0..30 {
                connection.send(&request).await;
                assert_eq!(connection.response().await.unwrap().status, 200);
            }
        });
    }
    clients.join_all().await;
    let tried = failing.received().len();
    assert!(tried < 48, "{tried} of 480 requests were sent to the pod that fails");
    assert!(gateway.metric("portcullis_upstream_ejections_total").await >= 1.0);
}

#[tokio::test]
async fn a_pod_that_returns_is_found_by_a_probe() {
    let alive = echo("alive").await;
    let returning = echo("returning").await;
    let address = returning.address();
    let service = Service::new("web").pod(&alive).pod(&address);
    let gateway = Gateway::start(World::empty().with(service)).await;
    returning.stop().await;
    for _ in 0..20 {
        assert_eq!(gateway.curl_plain(WEB, "/whoami").run().await.text(), "alive\n");
    }
    let ejected = "portcullis_upstream_endpoints_ejected";
    assert_eq!(gateway.metric(ejected).await, 1.0);
    let options = Options { address, ..Options::loopback("returning") };
    let _returning = Echo::start(options).await.unwrap();
    // Without any request.
    eventually("a probe finds it", || async { gateway.metric(ejected).await == 0.0 }).await;
    eventually("it is used", || async {
        gateway.curl_plain(WEB, "/whoami").run().await.text() == "returning\n"
    })
    .await;
    let probes = gateway.metric("portcullis_upstream_probes_total{outcome=\"connected\"}").await;
    assert!(probes >= 1.0);
}
