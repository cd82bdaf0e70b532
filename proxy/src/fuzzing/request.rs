//! The laws of reading a client's request.

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
/// For what is written again.
const LARGER: HeadLimits = HeadLimits { bytes: 2 * LIMITS.bytes, headers: LIMITS.headers + 2 };
const MORE_HEADERS: NonZeroUsize = NonZeroUsize::new(LARGER.headers).unwrap();
/// Fields that frame a message or belong to one connection: a backend gets ours or none.
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

/// A client's request, as [`normalize`](crate::normalize) reads it. The first octet says how much
/// the client is trusted and over what the head came; the rest is the head as HTTP/1.1 writes it.
///
/// - What was accepted, serialised for a backend, is read by another parser (httparse) as the same
///   method, target and fields.
/// - It is accepted again, as the same.
/// - No field that frames a message or belongs to a connection is left.
///
/// # Panics
/// Where one of these is broken.
pub fn normalize(input: &[u8]) {
    let [how, octets @ ..] = input else { return };
    let trusted = how & 1 != 0;
    let Some(head) = read_head(octets) else { return };
    let head = if how & 2 != 0 { as_http2(head, how & 4 != 0) } else { head };
    let Ok(mut request) = normalize::request(head, trusted, MAX_HEADERS) else { return };
    if request.kind == Kind::WebSocket && request.version == Version::HTTP_2 {
        // RFC 8441 §5.1: HTTP/2 has none, HTTP/1.1 needs one.
        request.headers.insert(
            header::SEC_WEBSOCKET_KEY,
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
    }
    for name in NOT_END_TO_END {
        let kept =
            request.headers.get(name).is_none_or(|value| name == "te" && value == "trailers");
        assert!(kept, "{name} is left in {request:?}");
    }
    let octets = serialise(&request);
    is_read_alike(&request, &octets);
    // A length of 0 may have come to it, and the host from where HTTP/2 had it.
    let again = read_within(&octets, LARGER)
        .and_then(|head| normalize::request(head, trusted, MORE_HEADERS).ok());
    let Some(again) = again else {
        panic!(
            "{request:?} was serialised as {:?}, which is refused",
            String::from_utf8_lossy(&octets)
        )
    };
    is_the_same(&request, &again);
}

fn read_head(octets: &[u8]) -> Option<RequestHead> {
    read_within(octets, LIMITS)
}

fn read_within(octets: &[u8], limits: HeadLimits) -> Option<RequestHead> {
    let length = HeadScanner::default().scan(octets, limits.bytes).ok()??;
    head::request(BytesMut::from(octets.get(..length)?), limits).ok()
}

/// The same as HTTP/2 would have carried it.
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

/// As it goes to a backend that speaks HTTP/1.1, but without what the gateway adds.
fn serialise(request: &Request) -> Vec<u8> {
    let host = request.authority.to_value();
    let mut outbound = Outbound::new();
    outbound.request(&RequestLine {
        method: &request.method,
        target: request.target.as_str(),
        host: &host,
        headers: &request.headers,
        told: &[],
        body: if request.kind == Kind::WebSocket { BodyLength::Tunnel } else { request.body },
        expects_continue: request.expects_continue,
    });
    flushed(outbound)
}

fn is_read_alike(request: &Request, octets: &[u8]) {
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

/// A POST without a body goes out with a length of 0 (RFC 9110 §8.6), which is the same.
fn body(request: &Request) -> BodyLength {
    if request.body == BodyLength::None { BodyLength::Exact(0) } else { request.body }
}

/// `TE` aside, which HTTP/1.1 has for one connection alone.
fn is_the_same(one: &Request, other: &Request) {
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
