//! The memory that a client can make the gateway use: heads of answered and
//! waiting requests, of any number and size.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::peer::Client;
use super::{UNKNOWN, connect, frames::*};
use crate::harness::{Echo, Gateway, Service, WEB, World, echo, eventually, soon};

/// The service of clients that do no harm.
const OTHER: &str = "other--staging.apps.test";
/// The maximum number of streams of one connection.
const STREAMS: u32 = 250;
/// The timeout for sending a response, in these tests.
const LOCAL_REPLY: Duration = Duration::from_secs(2);
/// The timeout for the head of a request, in these tests.
const HEAD: Duration = Duration::from_secs(2);
/// SETTINGS_INITIAL_WINDOW_SIZE = 0.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// A gateway of two services: that of `pod`, and one with a pod of its own.
async fn gateway(pod: &Echo) -> (Gateway, Echo) {
    // What the attackers do to their own pod is not what is tested.
    let other = echo("other").await;
    let world = World::web(pod).with(Service::new("other").pod(&other));
    let gateway = Gateway::of(world)
        .settings(
            json!({ "timeouts": { "localReply": "2s", "clientRead": "2s", "requestHead": "2s" } }),
        )
        .start()
        .await;
    // The baseline memory for requests.
    for host in [WEB, UNKNOWN] {
        gateway.curl(host, "/whoami").run().await;
    }
    (gateway, other)
}

/// A request's HEADERS, and CONTINUATIONs where they are large.
fn request(id: u32, host: &str, path: &str, more: &[u8]) -> Vec<u8> {
    let mut fields =
        block(&[(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)]);
    fields.extend(more);
    let pieces: Vec<&[u8]> = fields.chunks(16_000).collect();
    let frames = pieces.iter().enumerate().map(|(index, piece)| {
        let (kind, first) = if index == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        let last = if index + 1 == pieces.len() { END_HEADERS } else { 0 };
        frame(kind, first | last, id, piece)
    });
    frames.collect::<Vec<_>>().concat()
}

/// Some 60 KB in a few fields.
fn large() -> Vec<u8> {
    (0..8).flat_map(|index| raw_field(format!("x-{index}").as_bytes(), &[b'y'; 7_500])).collect()
}

/// As many fields as fit into a head.
fn many() -> Vec<u8> {
    (0..1_500).flat_map(|index| raw_field(format!("x-{index}").as_bytes(), b"")).collect()
}

/// A field of the dynamic table, referenced repeatedly by one octet (RFC 7541 §6.1).
fn indexed() -> Vec<u8> {
    // The first entry of the dynamic table, number 62.
    let mut fields = raw_field(b"x", b"");
    fields[0] = 0x40;
    fields.extend([0x80 | 62; 1_500]);
    fields
}

/// A connection with a window of 0 for responses.
async fn greet(gateway: &Gateway) -> Client<TcpStream> {
    let mut client = connect(gateway).await;
    client.send([PREFACE, &frame(SETTINGS, 0, 0, NO_WINDOW)].concat()).await;
    client
}

/// Sends the maximum number of concurrent requests.
async fn crowd(client: &mut Client<TcpStream>, host: &str, path: &str, more: &[u8]) {
    for stream in 0..STREAMS {
        client.send(request(stream * 2 + 1, host, path, more)).await;
    }
}

/// Reads until every stream has been reset, and answers PINGs.
async fn all_reset(client: &mut Client<TcpStream>) {
    let mut reset = 0;
    while reset < STREAMS {
        let frame = client.frame().await.expect("the connection goes on");
        reset += u32::from(frame.kind == RST_STREAM);
    }
}

/// Opens `connections` concurrently, and returns the peak memory of the gateway
/// in KiB, and the time until the last stream was closed. Another client is served
/// throughout.
async fn attack(
    gateway: &Gateway,
    connections: usize,
    host: &'static str,
    path: &'static str,
    more: &[u8],
) -> (u64, Duration) {
    let before = gateway.memory();
    let begun = Instant::now();
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (mut client, more) = (greet(gateway).await, more.to_vec());
        attackers.spawn(async move {
            crowd(&mut client, host, path, &more).await;
            all_reset(&mut client).await;
        });
    }
    let mut most = 0;
    while !attackers.is_empty() {
        most = most.max(gateway.memory().saturating_sub(before));
        let other = gateway.curl(OTHER, "/whoami");
        let other = soon("another client is served", other.run()).await;
        assert_eq!(other.status, 200, "{}", failures(gateway));
        let next = timeout(Duration::from_millis(50), attackers.join_next());
        if let Ok(Some(ended)) = next.await {
            ended.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{} are left", attackers.len());
    }
    (most, begun.elapsed())
}

/// The lines of the log about requests that failed at the gateway's end.
fn failures(gateway: &Gateway) -> String {
    let log = gateway.log();
    log.lines().filter(|line| line.contains(r#""status":50"#)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn local_replies_to_a_client_that_does_not_read_use_little_memory_and_are_reset() {
    let pod = echo("pod-1").await;
    let (gateway, _other) = gateway(&pod).await;
    for connections in [4, 10] {
        let (most, took) = attack(&gateway, connections, UNKNOWN, "/", &large()).await;
        assert!(most < 32 << 10, "{connections} connections: {most} KiB more");
        assert!(took < LOCAL_REPLY + Duration::from_secs(40), "{took:?}");
    }
    let reset = gateway.metric(r#"portcullis_requests_refused_total{reason="reply_late"}"#).await;
    assert!(reset > 0.0);
    assert_eq!(gateway.metric("portcullis_request_memory_bytes").await, 0.0);
}

#[tokio::test]
async fn heads_of_many_small_fields_use_little_memory() {
    let pod = echo("pod-1").await;
    let (gateway, _other) = gateway(&pod).await;
    for fields in [many(), indexed()] {
        let (most, _) = attack(&gateway, 4, UNKNOWN, "/", &fields).await;
        assert!(most < 48 << 10, "{most} KiB more");
    }
}

#[tokio::test]
async fn requests_that_wait_for_a_backend_stay_within_the_memory_limit_of_their_client() {
    let pod = echo("pod-1").await;
    let (gateway, _other) = gateway(&pod).await;
    let (most, _) = attack(&gateway, 10, WEB, "/delay/3s", &large()).await;
    assert!(most < 48 << 10, "{most} KiB more");
    let refused =
        gateway.metric(r#"portcullis_requests_refused_total{reason="request_memory"}"#).await;
    assert!(refused > 0.0);
    assert_eq!(gateway.metric("portcullis_request_memory_bytes").await, 0.0);
}

#[tokio::test]
async fn a_response_that_is_read_byte_by_byte_is_reset() {
    let pod = echo("pod-1").await;
    let (gateway, _other) = gateway(&pod).await;
    let mut client = greet(&gateway).await;
    client.send(request(1, UNKNOWN, "/", &large())).await;
    let begun = Instant::now();
    loop {
        // By the stream's own window, and by the setting.
        client.send(frame(WINDOW_UPDATE, 0, 1, [0, 0, 0, 1])).await;
        client.send(frame(SETTINGS, 0, 0, NO_WINDOW)).await;
        let reset = async {
            while client.frame().await.expect("the connection goes on").kind != RST_STREAM {}
        };
        if timeout(Duration::from_millis(200), reset).await.is_ok() {
            break;
        }
        assert!(begun.elapsed() < LOCAL_REPLY * 4, "the answer is still waiting");
    }
    assert!(begun.elapsed() >= LOCAL_REPLY / 2, "it was given some time");
}

#[tokio::test]
async fn a_head_sent_byte_by_byte_times_out_although_other_streams_are_open() {
    let pod = echo("pod-1").await;
    let (gateway, _other) = gateway(&pod).await;
    let mut client = greet(&gateway).await;
    let open = [(":method", "POST"), (":scheme", "http"), (":authority", WEB), (":path", "/echo")];
    client.send(headers(END_HEADERS, 1, &open)).await;
    // It has acknowledged the gateway's SETTINGS: no frame of its own comes in between.
    let is_settings = |frame: Frame| (frame.kind, frame.flags & ACK) == (SETTINGS, 0);
    while !is_settings(client.frame().await.expect("the connection goes on")) {}
    let begun = Instant::now();
    let head = request(3, WEB, "/", &large());
    let mut octets = head.iter();
    let closed = async {
        loop {
            let sent = client.send([*octets.next().expect("it is long")]).await;
            let ended = timeout(Duration::from_millis(50), client.frame()).await;
            if !sent || matches!(ended, Ok(None)) {
                break;
            }
        }
    };
    soon("the connection is closed", closed).await;
    assert!(begun.elapsed() >= HEAD, "{:?}", begun.elapsed());
    eventually("it is counted", || async {
        let name = r#"portcullis_requests_refused_total{reason="http2_head_late"}"#;
        gateway.metric(name).await > 0.0
    })
    .await;
}

/// Responses of a backend wait for their client for a limited time, and use little memory.
// The pod must accept connections while the attackers are busy, or they fail after a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn responses_to_a_client_that_does_not_read_use_little_memory_and_are_reset() {
    let pod = echo("pod-1").await;
    let (gateway, _other) = gateway(&pod).await;
    let (most, took) = attack(&gateway, 4, WEB, "/bytes/10000000", b"").await;
    assert!(most < 48 << 10, "{most} KiB more");
    assert!(took < HEAD + Duration::from_secs(40), "{took:?}");
}

#[tokio::test]
async fn a_response_without_a_body_needs_no_window() {
    let pod = echo("pod-1").await;
    let (gateway, _other) = gateway(&pod).await;
    let mut client = greet(&gateway).await;
    let grpc = [raw_field(b"content-type", b"application/grpc"), raw_field(b"te", b"trailers")];
    let call = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", UNKNOWN),
        (":path", "/service/method"),
    ];
    let call = [block(&call), grpc.concat()].concat();
    client.send(frame(HEADERS, WHOLE, 1, call)).await;
    let answer = async {
        loop {
            let frame = client.frame().await.expect("the connection goes on");
            if frame.kind == HEADERS {
                break frame;
            }
        }
    };
    assert_eq!(soon("it is answered", answer).await.flags & END_STREAM, END_STREAM);
}

#[tokio::test]
async fn an_http1_client_that_does_not_read_is_closed() {
    let pod = echo("pod-1").await;
    let (gateway, _other) = gateway(&pod).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut client = socket.connect(gateway.http()).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: {UNKNOWN}\r\nX: {}\r\n\r\n", "y".repeat(4_000));
    let many = head.repeat(100);
    let flooded = async { while client.write_all(many.as_bytes()).await.is_ok() {} };
    soon("the connection is cut", flooded).await;
    let late = gateway.metric(r#"portcullis_requests_refused_total{reason="reply_late"}"#).await;
    assert_eq!(late, 1.0);
}
