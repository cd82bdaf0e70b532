//! Invariants of reading a client's request.

use std::num::NonZeroUsize;

use bytes::BytesMut;
use http::{HeaderValue, Version, header};

use super::flushed;
use crate::exchange::{BodyLength, RequestHead};
use crate::http1::head::{self, HeadLimits, HeadScanner};
use crate::http1::outbound::{Outbound, RequestLine};
use crate::normalize::{self, Kind, Request};

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, headers: 32 };
const MAX_HEADERS: NonZeroUsize = NonZeroUsize::new(LIMITS.headers).unwrap();
/// The limits for parsing serialized requests again.
const LARGER: HeadLimits = HeadLimits { bytes: 2 * LIMITS.bytes, headers: LIMITS.headers + 2 };
const MORE_HEADERS: NonZeroUsize = NonZeroUsize::new(LARGER.headers).unwrap();
/// Framing and hop-by-hop fields, which must not be forwarded.
const NOT_END_TO_END: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "expect",
    "te",
];

/// Checks [`normalize`](crate::normalize). The first octet determines the client's trust and the
/// HTTP version; the rest is the head in HTTP/1.1 syntax.
///
/// - Another parser (httparse) reads the same method, target and fields after serialization.
/// - The serialized request is accepted and equal.
/// - Framing and hop-by-hop fields are removed.
///
/// # Panics
/// Panics if an invariant is violated.
pub fn normalize(input: &[u8]) {
    let [flags, octets @ ..] = input else { return };
    let trusted = flags & 1 != 0;
    let Some(head) = read_head(octets) else { return };
    let head = if flags & 2 != 0 { as_http2(head, flags & 4 != 0) } else { head };
    let Ok(mut request) = normalize::request(head, trusted, MAX_HEADERS) else { return };
    if request.kind == Kind::WebSocket && request.version == Version::HTTP_2 {
        // RFC 8441 §5.1: HTTP/2 has none, HTTP/1.1 needs one.
        request.headers.insert(
            header::SEC_WEBSOCKET_KEY,
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
    }
    for name in NOT_END_TO_END {
        let removed =
            request.headers.get(name).is_none_or(|value| name == "te" && value == "trailers");
        assert!(removed, "{name} is in {request:?}");
    }
    let octets = serialize(&request);
    check_with_httparse(&request, &octets);
    // It may have an additional length of 0, and the host of `:authority`.
    let parsed = read_within(&octets, LARGER)
        .and_then(|head| normalize::request(head, trusted, MORE_HEADERS).ok());
    let Some(parsed) = parsed else {
        panic!(
            "{request:?} was serialized as {:?}, which is rejected",
            String::from_utf8_lossy(&octets)
        )
    };
    check_equal(&request, &parsed);
}

fn read_head(octets: &[u8]) -> Option<RequestHead> {
    read_within(octets, LIMITS)
}

fn read_within(octets: &[u8], limits: HeadLimits) -> Option<RequestHead> {
    let length = HeadScanner::default().scan(octets, limits.bytes).ok()??;
    let parsed = head::request(BytesMut::from(octets.get(..length)?), limits).ok()?;
    Some(parsed.head)
}

/// Converts a head to that of an HTTP/2 request.
fn as_http2(mut head: RequestHead, extended_connect: bool) -> RequestHead {
    head.version = Version::HTTP_2;
    head.scheme = Some("https".into());
    if head.authority.is_none() {
        head.authority =
            head.headers.remove(header::HOST).map(|value| value.as_bytes().to_vec().into());
    }
    if extended_connect {
        head.method = http::Method::CONNECT;
        head.protocol = Some("websocket".into());
    }
    head
}

/// Serializes a request for an HTTP/1.1 backend, without the gateway's headers.
fn serialize(request: &Request) -> Vec<u8> {
    let host = request.authority.to_value();
    let mut outbound = Outbound::new();
    outbound.request(RequestLine {
        method: &request.method,
        target: request.target.as_str(),
        host: &host,
        headers: &request.headers,
        put_added: |_: &mut BytesMut| {},
        body: if request.kind == Kind::WebSocket { BodyLength::Tunnel } else { request.body },
        expects_continue: request.expects_continue,
    });
    flushed(outbound)
}

fn check_with_httparse(request: &Request, octets: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = parsed.parse(octets).unwrap();
    assert_eq!(
        length,
        httparse::Status::Complete(octets.len()),
        "{:?}",
        String::from_utf8_lossy(octets)
    );
    assert_eq!(parsed.method, Some(request.method.as_str()));
    assert_eq!(parsed.path, Some(request.target.as_str()));
    for (name, value) in request.headers.iter().filter(|(name, _)| *name != header::TE) {
        let found = parsed.headers.iter().any(|field| {
            field.name == name.as_str() && field.value == value.as_bytes().trim_ascii()
        });
        assert!(found, "{name}: {value:?} is not in {:?}", String::from_utf8_lossy(octets));
    }
}

/// Returns the body's length. A POST without a body is sent with a length of 0 (RFC 9110 §8.6).
fn body(request: &Request) -> BodyLength {
    if request.body == BodyLength::None { BodyLength::Exact(0) } else { request.body }
}

/// Compares requests without `TE`, which is hop-by-hop in HTTP/1.1.
fn check_equal(one: &Request, other: &Request) {
    let end_to_end = |request: &Request| {
        let mut headers = request.headers.clone();
        headers.remove(header::TE);
        headers
    };
    assert_eq!(one.method, other.method);
    assert_eq!(one.authority, other.authority);
    assert_eq!(one.target, other.target);
    assert_eq!(one.reading, other.reading);
    assert_eq!(end_to_end(one), end_to_end(other));
    assert_eq!(body(one), body(other));
    assert_eq!(one.kind, other.kind);
}
