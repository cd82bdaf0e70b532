//! Invariants of a connection, whatever its backend sends: for [`fuzzing`](crate::fuzzing).

use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method};

use super::connection::Connection;
use super::stream::Shared;
use super::*;
use crate::exchange::{BodyLength, PathAndQuery};
use crate::upstream::exchange::AddedFields;

const SETTINGS: ClientSettings = ClientSettings {
    stream_window: 1024,
    spare_window: 128 * 1024,
    head_bytes: 1024,
    streams: STREAMS_BEFORE_SETTINGS,
    idle: Duration::from_secs(1),
    ping_after: Duration::from_secs(1),
};
const REQUESTS: [(Method, BodyLength); 3] = [
    (Method::GET, BodyLength::None),
    (Method::HEAD, BodyLength::None),
    (Method::POST, BodyLength::Exact(9)),
];

/// The observable result of a run.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    /// The code of the fault that closed the connection.
    fault: Option<u32>,
    sent: Vec<u8>,
    /// Heads, body, trailers and result of each stream.
    streams: Vec<String>,
}

/// Feeds `pieces` to a connection with three requests.
///
/// # Panics
/// An invariant is violated.
pub(crate) fn check_invariants<'o>(pieces: impl Iterator<Item = &'o [u8]>) -> Outcome {
    let mut connection = Connection::new(SETTINGS);
    let streams = REQUESTS.map(|(method, body)| request(&mut connection, &method, body));
    let mut input = BytesMut::new();
    let mut fault = None;
    for piece in pieces {
        input.extend_from_slice(piece);
        if let Err(error) = connection.receive(&mut input) {
            fault = Some(error.0);
            break;
        }
        connection.assert_is_sound();
    }
    let sent = connection.out.clone();
    let streams = streams.iter().map(transcript).collect();
    Outcome { fault, sent, streams }
}

fn request(connection: &mut Connection, method: &Method, body: BodyLength) -> Shared {
    let (host, target, headers) =
        (HeaderValue::from_static("pod"), PathAndQuery::root(), HeaderMap::new());
    let message = Message {
        method,
        host: &host,
        target: &target,
        headers: &headers,
        added: AddedFields::default(),
        body,
        expects_continue: false,
        connect_timeout: std::time::Duration::from_secs(5),
        call_deadline: None,
        is_copy: false,
    };
    let stream = connection.request(&message, false).expect("a new connection accepts requests");
    if body != BodyLength::None {
        connection.send(&stream, Bytes::from_static(b"nine more"), true);
    }
    stream
}

/// Everything that an exchange would read.
fn transcript(stream: &Shared) -> String {
    let cx = &Context::from_waker(Waker::noop());
    let mut stream = stream.borrow_mut();
    let mut heads = Vec::new();
    let last = loop {
        match stream.poll_head(cx) {
            Poll::Ready(Ok(head @ Head::Interim(_))) => heads.push(head),
            other => break other,
        }
    };
    let mut body = Vec::new();
    let end = loop {
        match stream.poll_data(cx) {
            Poll::Ready(Ok(Some(data))) => body.extend_from_slice(&data),
            other => break other,
        }
    };
    assert!(body.len() <= SETTINGS.stream_window as usize, "more than the window");
    format!("{heads:?} {last:?} {body:?} {end:?} {:?}", stream.trailers)
}
