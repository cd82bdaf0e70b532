//! Local replies: short, with the request's id, in the format that the client accepts.

mod accept;
mod body;

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use portcullis_identity::page::{content_security_policy, isolate};

use self::accept::Format;
use crate::exchange::{Refusal, RequestHead, ResponseHead};
use crate::limit::RateExceeded;
use crate::normalize::{Authority, Kind, kind_of};
use crate::proxy_headers::RequestId;

static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> =
    LazyLock::new(|| content_security_policy("'none'"));
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The properties of a request that determine the format of a local reply. Read before the request
/// is validated, so that rejections have a format, too.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientFormat {
    head: bool,
    kind: Kind,
    accept: Option<HeaderValue>,
}

/// The input of a local reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyContext<'a> {
    pub(crate) client: &'a ClientFormat,
    pub(crate) id: &'a RequestId,
    /// The value of `Date`.
    pub(crate) date: &'a HeaderValue,
}

// === impl ClientFormat ===

impl ClientFormat {
    /// Reads the format from `head`. Requests without a valid head use [`ClientFormat::default`].
    pub(crate) fn of(head: &RequestHead) -> Self {
        let kind = head.headers.get(header::CONTENT_TYPE).map(kind_of).unwrap_or_default();
        Self {
            head: head.method == Method::HEAD,
            kind,
            accept: head.headers.get(header::ACCEPT).cloned(),
        }
    }
}

/// Creates an error reply. Use [`hidden`](crate::hidden) for 404.
pub(crate) fn error(status: StatusCode, context: &ReplyContext<'_>) -> (ResponseHead, Bytes) {
    if context.client.kind == Kind::Grpc {
        return (grpc(status, context), Bytes::new());
    }
    let mut reply = page(status, context, None);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply.0.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}

/// Creates the reply to a request that exceeds a rate limit: when to come again (RFC 9110 §10.2.3),
/// and which limit it was (draft-ietf-httpapi-ratelimit-headers). gRPC clients that retry read the
/// time as push-back (gRFC A6).
pub(crate) fn rate_limited(
    exceeded: &RateExceeded,
    context: &ReplyContext<'_>,
) -> (ResponseHead, Bytes) {
    let mut reply = error(StatusCode::TOO_MANY_REQUESTS, context);
    let RateExceeded { limit, wait, .. } = exceeded;
    // Rounded up: who comes at that time is allowed.
    let milliseconds = wait.as_nanos().div_ceil(1_000_000);
    let mut insert = |name: &HeaderName, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            reply.0.headers.insert(name, value);
        }
    };
    if context.client.kind == Kind::Grpc {
        insert(&GRPC_RETRY_PUSHBACK, milliseconds.to_string());
        return reply;
    }
    let seconds = milliseconds.div_ceil(1_000);
    let (per, quota, window) = (limit.per, limit.requests, limit.window.duration().as_secs());
    insert(&header::RETRY_AFTER, seconds.to_string());
    insert(&RATE_LIMIT_POLICY, format!("\"{per}\";q={quota};w={window}"));
    insert(&RATE_LIMIT, format!("\"{per}\";r=0;t={seconds}"));
    reply
}

/// Creates the 404 for [`hidden`](crate::hidden). `return_to` is the path with its query, if users
/// can log in.
pub(crate) fn not_found(
    context: &ReplyContext<'_>,
    return_to: Option<&str>,
) -> (ResponseHead, Bytes) {
    match context.client.kind {
        Kind::Grpc => error(StatusCode::NOT_FOUND, context),
        _ => page(StatusCode::NOT_FOUND, context, return_to),
    }
}

/// Creates the reply to a request that was rejected before routing.
pub(crate) fn refusal(refusal: &Refusal, context: &ReplyContext<'_>) -> (ResponseHead, Bytes) {
    error(refusal.status, context)
}

/// Creates a redirect. The page that it leads to may see who opened it.
pub(crate) fn redirect(
    status: StatusCode,
    location: HeaderValue,
    context: &ReplyContext<'_>,
) -> (ResponseHead, Bytes) {
    let mut reply = unisolated_page(status, context, None);
    reply.0.headers.insert(header::LOCATION, location);
    reply
}

/// Creates a redirect in a login.
pub(crate) fn portal_redirect(
    location: HeaderValue,
    context: &ReplyContext<'_>,
) -> (ResponseHead, Bytes) {
    let mut reply = page(StatusCode::SEE_OTHER, context, None);
    reply.0.headers.insert(header::LOCATION, location);
    reply
}

/// Creates a reply without content, with these headers.
pub(crate) fn no_content(
    mut headers: HeaderMap,
    context: &ReplyContext<'_>,
) -> (ResponseHead, Bytes) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::DATE, context.date.clone());
    (ResponseHead { status: StatusCode::NO_CONTENT, headers }, Bytes::new())
}

/// Creates the response to an ACME `http-01` challenge (RFC 8555 §8.3).
pub(crate) fn challenge(page: Bytes, context: &ReplyContext<'_>) -> (ResponseHead, Bytes) {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::DATE, context.date.clone());
    (
        ResponseHead { status: StatusCode::OK, headers },
        if context.client.head { Bytes::new() } else { page },
    )
}

/// Returns the HTTPS location for a plain HTTP request: the same host, path and query on `port`,
/// whether or not the host exists.
pub(crate) fn https_location(authority: &Authority, target: &str, port: u16) -> HeaderValue {
    let target = if target.starts_with('/') { target } else { "/" };
    let location = match port {
        443 => format!("https://{}{target}", authority.host),
        port => format!("https://{}:{port}{target}", authority.host),
    };
    HeaderValue::try_from(location).unwrap_or(HeaderValue::from_static("/"))
}

/// Creates a public JSON response that may be cached for a minute.
pub(crate) fn document(json: Bytes, context: &ReplyContext<'_>) -> (ResponseHead, Bytes) {
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(json.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::DATE, context.date.clone());
    (
        ResponseHead { status: StatusCode::OK, headers },
        if context.client.head { Bytes::new() } else { json },
    )
}

/// Creates a page whose URL other pages do not learn, because it may have a code.
fn page(
    status: StatusCode,
    context: &ReplyContext<'_>,
    return_to: Option<&str>,
) -> (ResponseHead, Bytes) {
    let mut reply = unisolated_page(status, context, return_to);
    isolate(&mut reply.0.headers);
    reply
}

fn unisolated_page(
    status: StatusCode,
    context: &ReplyContext<'_>,
    return_to: Option<&str>,
) -> (ResponseHead, Bytes) {
    let format = context
        .client
        .accept
        .as_ref()
        .map_or(Format::Text, |accept| accept::format(accept.as_bytes()));
    let body = Bytes::from(body::render(status, format, context.id.as_str(), return_to));
    let mut headers = HeaderMap::with_capacity(10);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if format == Format::Html {
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone());
    }
    headers.insert(header::DATE, context.date.clone());
    (ResponseHead { status, headers }, if context.client.head { Bytes::new() } else { body })
}

/// Creates a Trailers-Only response (gRPC over HTTP/2, "Responses"): one header block, no body.
fn grpc(status: StatusCode, context: &ReplyContext<'_>) -> ResponseHead {
    let (transport, code) = grpc_status(status);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(&GRPC_STATUS, HeaderValue::from_static(code));
    if let Ok(message) =
        HeaderValue::try_from(format!("{} (request {})", body::sentence(status), context.id))
    {
        headers.insert(&GRPC_MESSAGE, message);
    }
    headers.insert(header::DATE, context.date.clone());
    ResponseHead { status: transport, headers }
}

/// Maps a status to that of the transport and that of gRPC. Failed calls have transport status 200;
/// requests that are invalid as HTTP and unknown methods keep their HTTP status.
fn grpc_status(status: StatusCode) -> (StatusCode, &'static str) {
    match status {
        StatusCode::NOT_FOUND => (status, "12"),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => (StatusCode::OK, "14"),
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => (StatusCode::OK, "4"),
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => (StatusCode::OK, "8"),
        StatusCode::NOT_IMPLEMENTED => (status, "12"),
        status => (status, "13"),
    }
}

#[cfg(test)]
mod tests;
