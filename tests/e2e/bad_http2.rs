//! Malformed or ambiguous raw HTTP/2: rejected alike for known
//! and unknown hosts, without reaching a backend. And floods: closed, bounded, without effect on
//! other clients.

mod cases;
mod floods;
mod frames;
mod memory;
mod peer;

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::cases::{Case, Expected};
use self::frames::*;
use self::peer::{Client, Outcome};
use crate::harness::{
    Gateway, Recording, Service, Step, WEB, World, client, echo, eventually, soon,
};

/// A host that was never configured.
const UNKNOWN: &str = "nothing--staging.apps.test";

// === impl Expected ===

impl Expected {
    fn closes(&self) -> bool {
        matches!(self, Self::Goaway(_) | Self::Closed)
    }

    fn allows(&self, outcome: Outcome) -> bool {
        match (self, outcome) {
            (Self::Status(statuses), Outcome::Status(status)) => statuses.contains(&status),
            (Self::Reset(code), Outcome::Reset(reset)) => *code == reset,
            (Self::Goaway(codes), Outcome::Goaway(code)) => codes.contains(&code),
            (Self::Closed, Outcome::Goaway(_) | Outcome::Closed) => true,
            _ => false,
        }
    }
}

async fn connect(gateway: &Gateway) -> Client<TcpStream> {
    Client::new(TcpStream::connect(gateway.http()).await.expect("the gateway accepts"))
}

async fn greet(gateway: &Gateway) -> Client<TcpStream> {
    let mut client = connect(gateway).await;
    client.send([PREFACE, &frame(SETTINGS, 0, 0, [])].concat()).await;
    client
}

/// The response to a case, and to a valid request after it if the connection should stay open.
async fn outcome(
    mut client: Client<TcpStream>,
    case: &Case,
    host: &str,
) -> (Outcome, Option<Outcome>) {
    client.send(&case.octets).await;
    let closes = case.expected.closes();
    let first = soon(case.name, client.outcome(1, closes)).await;
    if closes || matches!(first, Outcome::Goaway(_) | Outcome::Closed) {
        return (first, None);
    }
    client.send(cases::good(101, host)).await;
    (first, Some(soon(case.name, client.outcome(101, false)).await))
}

fn judge(
    case: &Case,
    (first, second): (Outcome, Option<Outcome>),
    good: u16,
) -> Result<(), String> {
    if !case.expected.allows(first) {
        return Err(format!("{}: {first:?} instead of {:?}", case.name, case.expected));
    }
    match second {
        Some(Outcome::Status(status)) if status == good => Ok(()),
        None => Ok(()),
        Some(outcome) => Err(format!("{}: a good request after it got {outcome:?}", case.name)),
    }
}

/// Runs the cases of one table for a host that exists and for one that does not.
async fn refused(table: fn(&str) -> Vec<Case>, at_least: usize) {
    let backend = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    let mut findings = Vec::new();
    for (host, good) in [(WEB, 200), (UNKNOWN, 404)] {
        let cases = table(host);
        assert!(cases.len() >= at_least, "{} cases", cases.len());
        for case in &cases {
            let outcomes = outcome(greet(&gateway).await, case, host).await;
            findings.extend(judge(case, outcomes, good).err());
            let bad =
                |octets: &Vec<u8>| !octets.is_empty() && !octets.starts_with(b"GET / HTTP/1.1\r\n");
            assert!(!backend.received().iter().any(bad), "{}: the backend saw it", case.name);
        }
    }
    assert!(findings.is_empty(), "{}:\n{}", findings.len(), findings.join("\n"));
}

#[tokio::test]
async fn ambiguous_pseudo_headers_are_rejected() {
    refused(cases::pseudo_headers, 40).await;
}

#[tokio::test]
async fn ambiguous_fields_are_rejected() {
    refused(cases::fields, 35).await;
}

#[tokio::test]
async fn frames_that_break_the_connection_close_it() {
    refused(cases::framing, 40).await;
}

#[tokio::test]
async fn bodies_that_contradict_their_content_length_are_reset() {
    let backend = Recording::script(vec![
        Step::Until(b"\r\n0\r\n\r\n"),
        Step::write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        Step::Restart,
    ]);
    let backend = backend.await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    for case in cases::bodies(WEB) {
        let mut client = greet(&gateway).await;
        client.send(&case.octets).await;
        let outcome = soon(case.name, client.outcome(1, case.expected.closes())).await;
        assert!(
            case.expected.allows(outcome),
            "{}: {outcome:?} instead of {:?}",
            case.name,
            case.expected
        );
        let whole = |octets: &Vec<u8>| {
            octets.ends_with(b"\r\n0\r\n\r\n")
                || octets.ends_with(b"\r\n\r\nabc")
                || octets.ends_with(b"abcd")
        };
        assert!(
            !backend.received().iter().any(whole),
            "{}: the backend saw a whole request",
            case.name
        );
    }
}

#[tokio::test]
async fn an_invalid_preface_closes_the_connection() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    for case in cases::prefaces() {
        let mut client = Client::new(client::tls(&gateway, WEB, &["h2"]).await.unwrap());
        client.send(&case.octets).await;
        let outcome = soon(case.name, client.outcome(1, true)).await;
        assert!(case.expected.allows(outcome), "{}: {outcome:?}", case.name);
    }
}

#[tokio::test]
async fn malformed_trailers_reset_a_stream_that_is_being_forwarded() {
    let backend = Recording::script(vec![Step::Until(b"abc\r\n"), Step::End]).await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    let mut client = greet(&gateway).await;
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", WEB), (":path", "/")];
    client.send(headers(END_HEADERS, 1, &fields)).await;
    client.send(frame(DATA, 0, 1, "abc")).await;
    let mut watch = backend.watch();
    let is_forwarded = |all: &Vec<Vec<u8>>| all.iter().any(|octets| octets.ends_with(b"abc\r\n"));
    soon("the body is forwarded", watch.wait_for(is_forwarded)).await.unwrap();
    client.send(headers(WHOLE, 1, &[(":path", "/smuggled"), ("x-checksum", "y")])).await;
    assert_eq!(soon("a reset", client.outcome(1, false)).await, Outcome::Reset(1));
    let seen = String::from_utf8(backend.received().concat()).unwrap();
    assert!(!seen.contains("smuggled") && seen.ends_with("abc\r\n"), "{seen}");
    client.send(cases::good(3, UNKNOWN)).await;
    assert_eq!(soon("a response", client.outcome(3, false)).await, Outcome::Status(404));
}

#[tokio::test]
async fn a_fragment_is_rejected_as_in_http1() {
    let backend = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    for host in [WEB, UNKNOWN] {
        for path in ["/path#fragment", "/#", "/?query#", "/a?b=/#c"] {
            let mut client = greet(&gateway).await;
            let fields =
                [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)];
            client.send(headers(WHOLE, 1, &fields)).await;
            let outcome = soon("a response", client.outcome(1, false)).await;
            assert_eq!(outcome, Outcome::Status(400), "{host}{path}");
        }
    }
    assert!(backend.received().is_empty());
}

/// Sends the flood until the gateway closes the connection or stops reading, at most
/// this much.
const FLOOD: usize = 8 << 20;

#[tokio::test]
async fn a_flood_is_stopped_and_affects_no_other_client() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 200);
    let before = gateway.memory();
    for flood in floods::all(WEB) {
        let mut client = greet(&gateway).await;
        client.send(&flood.first).await;
        let mut sent = 0;
        let mut closed = false;
        for round in 0.. {
            let octets = (flood.again)(round);
            sent += octets.len();
            match timeout(Duration::from_millis(500), client.send(octets)).await {
                Ok(true) if sent < FLOOD => {}
                Ok(taken) => {
                    closed = !taken;
                    break;
                }
                Err(_) => break,
            }
            if round % 100 == 0 {
                let other =
                    soon("another client is served", gateway.curl(WEB, "/whoami").run()).await;
                assert_eq!(other.status, 200, "{}", flood.name);
            }
        }
        assert!(closed || !flood.closes, "{}: {sent} octets, and not closed", flood.name);
        let grown = gateway.memory().saturating_sub(before);
        assert!(grown < 40 << 10, "{}: {grown} KiB more", flood.name);
        drop(client);
        assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 200, "{}", flood.name);
    }
    eventually("floods are counted", || async {
        gateway.metric(r#"portcullis_requests_refused_total{reason="http2_flood"}"#).await > 0.0
    })
    .await;
}

#[tokio::test]
async fn an_endless_head_is_closed_by_the_idle_timeout() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "timeouts": { "clientIdle": "300ms" } }))
        .start()
        .await;
    let mut client = greet(&gateway).await;
    client.send(cases::good(1, WEB)).await;
    assert_eq!(soon("an answer", client.outcome(1, false)).await, Outcome::Status(200));
    let begun = Instant::now();
    // Without END_HEADERS, and no CONTINUATION follows.
    client
        .send(headers(
            END_STREAM,
            3,
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", WEB)],
        ))
        .await;
    let outcome = soon("the connection is closed", client.outcome(3, true)).await;
    assert!(matches!(outcome, Outcome::Goaway(_) | Outcome::Closed), "{outcome:?}");
    assert!(begun.elapsed() >= Duration::from_millis(250), "it was not refused, but waited for");
}

#[tokio::test]
async fn a_small_header_block_that_decompresses_to_a_large_one_is_rejected() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let before = gateway.memory();
    for _ in 0..50 {
        let mut client = greet(&gateway).await;
        client.send(floods::bomb(WEB)).await;
        let outcome = soon("it is refused", client.outcome(1, true)).await;
        assert!(matches!(outcome, Outcome::Goaway(_)), "{outcome:?}");
    }
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 20 << 10, "{grown} KiB more");
}

#[tokio::test]
async fn streams_above_the_limit_are_refused_and_the_others_are_served() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "limits": { "http2Streams": 10 } }))
        .start()
        .await;
    let mut client = greet(&gateway).await;
    let open = |id| {
        headers(
            END_HEADERS,
            id,
            &[(":method", "POST"), (":scheme", "http"), (":authority", WEB), (":path", "/echo")],
        )
    };
    client.send((0..15).flat_map(|index| open(index * 2 + 1)).collect::<Vec<_>>()).await;
    for stream in (21..31).step_by(2) {
        assert_eq!(soon("it is refused", client.outcome(stream, false)).await, Outcome::Reset(7));
    }
    for stream in (1..21).step_by(2) {
        client.send(frame(DATA, END_STREAM, stream, "abc")).await;
        assert_eq!(soon("it is served", client.outcome(stream, false)).await, Outcome::Status(200));
    }
}

#[tokio::test]
async fn responses_that_a_client_does_not_read_are_bounded_and_reset() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "timeouts": { "streamIdle": "2s" } }))
        .start()
        .await;
    assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 200);
    let before = gateway.memory();
    // It opens no window at all.
    let mut client = connect(&gateway).await;
    client.send([PREFACE, &frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 0])].concat()).await;
    let get = |id| {
        headers(
            WHOLE,
            id,
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", WEB),
                (":path", "/bytes/10000000"),
            ],
        )
    };
    client.send((0..200).flat_map(|index| get(index * 2 + 1)).collect::<Vec<_>>()).await;
    let mut answered = 0;
    let mut given_up = 0;
    while given_up < 200 {
        let frame = soon("all are given up", client.frame()).await.expect("the connection goes on");
        answered += u32::from(frame.kind == HEADERS && frame.status() == Some(200));
        given_up += u32::from(frame.kind == RST_STREAM);
    }
    assert_eq!(answered, 200);
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 60 << 10, "{grown} KiB more");
}

#[tokio::test]
async fn an_early_response_is_followed_by_a_reset_without_error() {
    let response = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nearly";
    let hasty = Recording::script(vec![Step::head(), Step::write(response), Step::Restart]);
    let hasty = hasty.await.unwrap();
    let small = Service::new("small").annotation("max-body", "3").pod(&hasty);
    let gateway = Gateway::of(World::web(&hasty).with(small))
        .settings(json!({ "timeouts": { "unreadBody": "300ms" } }))
        .start()
        .await;
    for (host, expected) in [(WEB, 401), ("small--staging.apps.test", 413), (UNKNOWN, 404)] {
        let mut client = greet(&gateway).await;
        let fields =
            [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", "/")];
        client.send(headers(END_HEADERS, 1, &fields)).await;
        client.send(frame(DATA, 0, 1, "abcdefgh")).await;
        let (mut status, mut is_complete) = (None, false);
        let code = loop {
            let frame = soon("a reset", client.frame()).await.expect("the connection stays open");
            match frame.kind {
                HEADERS if frame.stream == 1 => status = frame.status(),
                RST_STREAM if frame.stream == 1 => break frame.code(),
                _ => {}
            }
            is_complete |= frame.stream == 1 && frame.flags & END_STREAM != 0;
        };
        assert_eq!((status, is_complete, code), (Some(expected), true, 0), "{host}");
        // What was in flight is ignored, and the connection can be used.
        client.send(frame(DATA, END_STREAM, 1, "late")).await;
        client.send(cases::good(3, UNKNOWN)).await;
        assert_eq!(soon("a response", client.outcome(3, false)).await, Outcome::Status(404));
    }
}
