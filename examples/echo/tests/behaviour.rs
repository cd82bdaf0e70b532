//! Tests of the sample service over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by a panic"
)]

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use portcullis_echo::grpc::{Client, EchoRequest};
use portcullis_echo::{Echo, Options, Recording, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

async fn exchange(echo: &Echo, request: &str) -> String {
    let mut stream = TcpStream::connect(echo.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // An aborted response can end in a reset: ignore the error.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

async fn get(echo: &Echo, path: &str) -> String {
    exchange(
        echo,
        &format!("GET {path} HTTP/1.1\r\nHost: echo\r\nTE: trailers\r\nConnection: close\r\n\r\n"),
    )
    .await
}

#[tokio::test]
async fn the_path_selects_the_response() {
    let echo = Echo::start(Options::loopback("pod-1")).await.unwrap();
    for (path, expected) in [
        ("/", "Hello from pod-1\n"),
        ("/whoami", "\r\npod-1\n"),
        ("/status/503", "HTTP/1.1 503 "),
        ("/delay/1ms", "Hello from pod-1\n"),
        ("/bytes/3", "content-length: 3\r\n"),
        ("/break/3", "content-length: 6\r\n"),
        ("/stream/2?interval=1ms", "line 1\n"),
        ("/events/2?interval=1ms", "data: event 1\n\n"),
        ("/trailers", "x-checksum: 21\r\n"),
        ("/nothing", "HTTP/1.1 404 "),
    ] {
        let answer = get(&echo, path).await;
        assert!(answer.contains(expected), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_bad_version_fails_and_is_slow_and_its_probes_are_not() {
    let delay = Duration::from_millis(50);
    let options = Options { fail_every: 3, delay, ..Options::loopback("pod-1") };
    let echo = Echo::start(options).await.unwrap();
    let began = std::time::Instant::now();
    for expected in [200, 200, 500, 200, 200, 500] {
        let answer = get(&echo, "/whoami").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{answer}");
        assert!(get(&echo, "/ready").await.starts_with("HTTP/1.1 200 "));
    }
    assert!(began.elapsed() >= delay * 6);
}

#[tokio::test]
async fn echo_reports_the_request() {
    let echo = Echo::start(Options::loopback("pod-1")).await.unwrap();
    let answer = exchange(
        &echo,
        "POST /echo?a=1 HTTP/1.1\r\nHost: echo\r\nX-B: 2\r\nX-A: 1\r\nContent-Length: \
         3\r\nConnection: close\r\n\r\nabc",
    )
    .await;
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    let received: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(received["method"], "POST");
    assert_eq!(received["path"], "/echo?a=1");
    assert_eq!(received["octets"], 3);
    assert_eq!(received["sha1"], "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(received["headers"][1], serde_json::json!(["x-b", "2"]));
}

#[tokio::test]
async fn readiness_is_switchable() {
    let echo = Echo::start(Options::loopback("pod-1")).await.unwrap();
    assert!(get(&echo, "/ready").await.starts_with("HTTP/1.1 200 "));
    exchange(&echo, "POST /ready/off HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n").await;
    assert!(get(&echo, "/ready").await.starts_with("HTTP/1.1 503 "));
    assert_eq!(echo.counts().borrow().started, 0, "probes count as exchanges");
}

#[tokio::test]
async fn grpc_calls_of_each_kind() {
    let echo = Echo::start(Options::loopback("pod-1")).await.unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", echo.address()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = Client::new(channel);

    let answer =
        client.unary(tonic::Request::new(EchoRequest::new("hello"))).await.unwrap().into_inner();
    assert_eq!((answer.message.as_str(), answer.pod.as_str()), ("hello", "pod-1"));

    let failing = EchoRequest { status: 5, ..EchoRequest::new("nowhere") };
    let status = client.unary(tonic::Request::new(failing)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, "nowhere"));

    let request = EchoRequest { repeat: 3, ..EchoRequest::new("again") };
    let responses = client.server_stream(tonic::Request::new(request)).await.unwrap().into_inner();
    assert_eq!(
        responses.map(|response| response.unwrap().sequence).collect::<Vec<_>>().await,
        [0, 1, 2]
    );

    let requests = futures::stream::iter(["a", "b"].map(EchoRequest::new));
    assert_eq!(client.client_stream(requests.clone()).await.unwrap().into_inner().message, "a b");

    let responses = client.bidi_stream(requests).await.unwrap().into_inner();
    assert_eq!(
        responses.map(|response| response.unwrap().message).collect::<Vec<_>>().await,
        ["a", "b"]
    );
}

#[tokio::test]
async fn cancelled_requests_are_counted() {
    let echo = Echo::start(Options::loopback("pod-1")).await.unwrap();
    let mut stream = TcpStream::connect(echo.address()).await.unwrap();
    stream.write_all(b"GET /delay/1m HTTP/1.1\r\nHost: echo\r\n\r\n").await.unwrap();
    let mut counts = echo.counts();
    counts.wait_for(|counts| counts.started == 1).await.unwrap();
    drop(stream);
    counts.wait_for(|counts| counts.cancelled == 1).await.unwrap();
}

#[tokio::test]
async fn websocket_messages_are_echoed() {
    let echo = Echo::start(Options::loopback("pod-1")).await.unwrap();
    let stream = TcpStream::connect(echo.address()).await.unwrap();
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("ws://{}/", echo.address()), stream).await.unwrap();
    for (sent, expected) in [("hello", "hello"), ("whoami", "pod-1")] {
        socket.send(Message::text(sent)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(expected));
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
}

#[tokio::test]
async fn requests_in_progress_complete_on_shutdown() {
    let echo = Echo::start(Options::loopback("pod-1")).await.unwrap();
    let (address, mut counts) = (echo.address(), echo.counts());
    let request = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /delay/200ms HTTP/1.1\r\nHost: echo\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    counts.wait_for(|counts| counts.started == 1).await.unwrap();
    echo.stop().await;
    assert!(request.await.unwrap().ends_with("Hello from pod-1\n"));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_recording_follows_its_script() {
    let steps = vec![
        Step::head(),
        Step::write("garbage"),
        Step::Pause(Duration::from_millis(1)),
        Step::End,
    ];
    let recording = Recording::script(steps).await.unwrap();
    let mut stream = TcpStream::connect(recording.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\nmore").await.unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"garbage");
    recording
        .watch()
        .wait_for(|connections| connections[0] == b"GET / HTTP/1.1\r\n\r\nmore")
        .await
        .unwrap();
}
