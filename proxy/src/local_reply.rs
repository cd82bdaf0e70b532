//! Our own answers: short, with the request's id, in the form that the client reads.

mod accept;
mod body;

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use portcullis_identity::page::content_security_policy;

use self::accept::Format;
use crate::exchange::{Refusal, RequestHead, ResponseHead};
use crate::normalize::{Authority, Kind, kind_of};
use crate::proxy_headers::RequestId;

static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> =
    LazyLock::new(|| content_security_policy("'none'"));
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What of a request decides the form of an answer. Taken from the head before it is judged, so
/// that a refusal has a form too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    head: bool,
    kind: Kind,
    accept: Option<HeaderValue>,
}

/// All that an answer of our own is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) asker: &'a Asker,
    pub(crate) id: &'a RequestId,
    /// The `Date`.
    pub(crate) date: &'a HeaderValue,
}

// === impl Asker ===

impl Asker {
    /// What `head` says. What cannot be read (a head that the codec refused) is answered as
    /// [`Asker::default`].
    pub(crate) fn of(head: &RequestHead) -> Self {
        let kind = head.headers.get(header::CONTENT_TYPE).map(kind_of).unwrap_or_default();
        Self {
            head: head.method == Method::HEAD,
            kind,
            accept: head.headers.get(header::ACCEPT).cloned(),
        }
    }
}

/// An error that is no secret. 404 comes from [`hidden`](crate::hidden) alone.
pub(crate) fn error(status: StatusCode, facts: &Facts<'_>) -> (ResponseHead, Bytes) {
    if facts.asker.kind == Kind::Grpc {
        return (grpc(status, facts), Bytes::new());
    }
    let mut answer = page(status, facts, None);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.0.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

/// The 404, for [`hidden`](crate::hidden) alone. `asked` is the path with its query, where people
/// can log in.
pub(crate) fn not_found(facts: &Facts<'_>, asked: Option<&str>) -> (ResponseHead, Bytes) {
    match facts.asker.kind {
        Kind::Grpc => error(StatusCode::NOT_FOUND, facts),
        _ => page(StatusCode::NOT_FOUND, facts, asked),
    }
}

/// The answer to a request that was refused before it was routed.
pub(crate) fn refusal(refusal: &Refusal, facts: &Facts<'_>) -> (ResponseHead, Bytes) {
    error(refusal.status, facts)
}

/// A redirect.
pub(crate) fn redirect(
    status: StatusCode,
    location: HeaderValue,
    facts: &Facts<'_>,
) -> (ResponseHead, Bytes) {
    let mut answer = page(status, facts, None);
    answer.0.headers.insert(header::LOCATION, location);
    answer
}

/// What an authority that issues certificates looks for (RFC 8555 §8.3).
pub(crate) fn challenge(page: Bytes, facts: &Facts<'_>) -> (ResponseHead, Bytes) {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::DATE, facts.date.clone());
    (
        ResponseHead { status: StatusCode::OK, headers },
        if facts.asker.head { Bytes::new() } else { page },
    )
}

/// Where plain HTTP is sent to: the same host, path and query with HTTPS on `port`, for every name
/// alike.
pub(crate) fn https_location(authority: &Authority, target: &str, port: u16) -> HeaderValue {
    let target = if target.starts_with('/') { target } else { "/" };
    let location = match port {
        443 => format!("https://{}{target}", authority.host),
        port => format!("https://{}:{port}{target}", authority.host),
    };
    HeaderValue::try_from(location).unwrap_or(HeaderValue::from_static("/"))
}

/// A JSON document for everybody, which may be kept for a minute.
pub(crate) fn document(json: Bytes, facts: &Facts<'_>) -> (ResponseHead, Bytes) {
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(json.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::DATE, facts.date.clone());
    (
        ResponseHead { status: StatusCode::OK, headers },
        if facts.asker.head { Bytes::new() } else { json },
    )
}

fn page(status: StatusCode, facts: &Facts<'_>, asked: Option<&str>) -> (ResponseHead, Bytes) {
    let format = facts
        .asker
        .accept
        .as_ref()
        .map_or(Format::Text, |accept| accept::format(accept.as_bytes()));
    let body = Bytes::from(body::render(status, format, facts.id.as_str(), asked));
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if format == Format::Html {
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone());
    }
    headers.insert(header::DATE, facts.date.clone());
    (ResponseHead { status, headers }, if facts.asker.head { Bytes::new() } else { body })
}

/// Trailers-Only (gRPC over HTTP/2, "Responses"): the status in one header block, no body.
fn grpc(status: StatusCode, facts: &Facts<'_>) -> ResponseHead {
    let (transport, code) = grpc_status(status);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(&GRPC_STATUS, HeaderValue::from_static(code));
    if let Ok(message) =
        HeaderValue::try_from(format!("{} (request {})", body::sentence(status), facts.id))
    {
        headers.insert(&GRPC_MESSAGE, message);
    }
    headers.insert(header::DATE, facts.date.clone());
    ResponseHead { status: transport, headers }
}

/// The status of the transport, and gRPC's own. What an HTTP client would get as 5xx is a call that
/// failed, on a transport that works; a request that makes no sense as HTTP, or a method that is
/// not there, stays what it is.
fn grpc_status(status: StatusCode) -> (StatusCode, &'static str) {
    match status {
        StatusCode::NOT_FOUND => (status, "12"),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => (StatusCode::OK, "14"),
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => (StatusCode::OK, "4"),
        StatusCode::PAYLOAD_TOO_LARGE => (StatusCode::OK, "8"),
        StatusCode::NOT_IMPLEMENTED => (status, "12"),
        status => (status, "13"),
    }
}

#[cfg(test)]
mod tests;
