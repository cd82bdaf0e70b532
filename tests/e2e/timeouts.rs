//! Timeouts of a Service, which replace the defaults.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::{Gateway, Recording, Service, Step, WEB, World, echo};

/// An address at which no connection is ever established: its queue is full.
struct Silent {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

// === impl Silent ===

impl Silent {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let listener = socket.listen(0).expect("a queue");
        let mut queued = Vec::new();
        let connect = || TcpStream::connect(listener.local_addr().expect("an address"));
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), connect()).await {
            queued.push(stream.expect("a place in the queue"));
        }
        Self { listener, _queued: queued }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }
}

/// A pod that speaks HTTP/2, and responds with the `grpc-timeout` that it receives.
async fn repeating_the_timeout() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let timeouts = request.headers().get_all("grpc-timeout").iter();
                    let timeouts: Vec<&[u8]> = timeouts.map(|value| value.as_bytes()).collect();
                    let octets = Bytes::from(timeouts.join(&b' '));
                    let mut body =
                        respond.send_response(Response::new(()), false).expect("a stream");
                    body.send_data(octets, true).expect("a stream");
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_service_can_have_a_shorter_timeout_for_connections() {
    let silent = Silent::new().await;
    let service = Service::new("web").annotation("connect-timeout", "200ms").pod(&silent.address());
    let gateway = Gateway::start(World::empty().with(service)).await;
    let begun = Instant::now();
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 502);
    assert!(begun.elapsed() < Duration::from_secs(4), "the default is 5 s");
}

#[tokio::test]
async fn what_cannot_be_connected_to_leaves_time_for_another_pod() {
    let (silent, alive) = (Silent::new().await, echo("pod-1").await);
    let pods = |service: Service| service.pod(&silent.address()).pod(&alive);
    let service = pods(Service::new("web").annotation("timeout", "2s"));
    let gateway = Gateway::start(World::empty().with(service)).await;
    for _ in 0..20 {
        let answer = gateway.curl(WEB, "/whoami").run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "pod-1\n"));
    }
}

#[tokio::test]
async fn the_whole_timeout_ends_an_attempt_to_connect() {
    let silent = Silent::new().await;
    let service = Service::new("web")
        .annotation("timeout", "300ms")
        .annotation("connect-timeout", "30s")
        .pod(&silent.address());
    let gateway = Gateway::start(World::empty().with(service)).await;
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 504);
    let call = gateway.curl(WEB, "/").header("content-type: application/grpc");
    assert_eq!(call.run().await.header("grpc-status"), Some("4"), "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn a_service_can_have_timeouts_for_the_first_byte_and_without_progress() {
    let late = Recording::script(vec![Step::head(), Step::Until(b"never")]).await.unwrap();
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let stalled = Recording::script(vec![Step::head(), Step::write(half), Step::Until(b"never")])
        .await
        .unwrap();
    let world = World::empty()
        .with(Service::new("late").annotation("first-byte-timeout", "200ms").pod(&late))
        .with(Service::new("stalled").annotation("idle-timeout", "200ms").pod(&stalled));
    let gateway = Gateway::start(world).await;
    assert_eq!(gateway.curl("late--staging.apps.test", "/").run().await.status, 504);
    let answer = gateway.curl("stalled--staging.apps.test", "/").run().await;
    assert_ne!(answer.exit, 0, "the response is aborted: {answer:?}");
}

#[tokio::test]
async fn a_pod_learns_what_is_left_of_the_time_of_a_call() {
    let pod = repeating_the_timeout().await;
    let calls = || Service::new("calls").port_name("grpc").pod(&pod);
    let limited = Service::new("limited").port_name("grpc").annotation("timeout", "2s").pod(&pod);
    let gateway = Gateway::start(World::empty().with(calls()).with(limited)).await;
    let left = async |host: &str, timeout: &str| {
        let call = gateway.curl(host, "/").header("content-type: application/grpc");
        call.header(timeout).run().await.text()
    };
    let micros = |text: String| -> u64 { text.strip_suffix('u').unwrap().parse().unwrap() };
    let left_of_5 = micros(left("calls--staging.apps.test", "grpc-timeout: 5S").await);
    assert!((1..5_000_000).contains(&left_of_5), "{left_of_5}");
    let left_of_2 = micros(left("limited--staging.apps.test", "grpc-timeout: 5S").await);
    assert!((1..2_000_000).contains(&left_of_2), "{left_of_2}");
    let left_of_2 = micros(left("limited--staging.apps.test", "x-none: 1").await);
    assert!((1..2_000_000).contains(&left_of_2), "{left_of_2}");
    assert_eq!(left("calls--staging.apps.test", "x-none: 1").await, "");
}
