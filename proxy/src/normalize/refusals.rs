//! All reasons to reject a request before routing. `docs/requests.md` lists them, and a metric
//! counts them.

use http::StatusCode;

use crate::exchange::Refusal;

const fn bad(reason: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, reason, close: false }
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident = $refusal:expr;)+) => {
        $($(#[doc = $doc])+ pub(crate) const $name: Refusal = $refusal;)+

        /// All refusals with their descriptions, for the documentation.
        #[cfg(test)]
        pub(crate) const ALL: &[(Refusal, &str)] = &[$(($name, concat!($($doc),+)),)+];
    };
}

refusals! {
    /// A method other than upper-case letters, digits, `-` and `_`, or longer than 32 octets; `TRACE`; `CONNECT` without a WebSocket.
    METHOD = Refusal { status: StatusCode::NOT_IMPLEMENTED, reason: "method", close: true };
    /// An HTTP version other than 1.0, 1.1 and 2.
    VERSION = Refusal { status: StatusCode::HTTP_VERSION_NOT_SUPPORTED, reason: "version", close: true };
    /// A `:protocol` other than `websocket` (RFC 8441).
    PROTOCOL = Refusal { status: StatusCode::NOT_IMPLEMENTED, reason: "protocol", close: false };
    /// A scheme other than `http` and `https`.
    SCHEME = Refusal::bad("scheme");
    /// `*` with a method other than `OPTIONS`, or an extended CONNECT without a path.
    TARGET = Refusal::bad("target");
    /// Path and query longer than 16 KiB.
    TARGET_LONG = Refusal { status: StatusCode::URI_TOO_LONG, reason: "target_long", close: true };
    /// A client key in the path or the query: URLs are recorded in logs and histories, and a backend would receive it.
    TARGET_KEY = bad("target_key");
    /// The request heads of the connection or client exceed the memory limit: `limits.requestMemoryPerConnection`, `limits.requestMemoryPerClient`. Over HTTP/2 the stream is reset (`REFUSED_STREAM`).
    REQUEST_MEMORY = Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason: "request_memory", close: true };
    /// Neither `Host` nor `:authority`, even in HTTP/1.0: routing requires a host. In HTTP/1.1, no `Host`, even with an absolute-form target.
    HOST_MISSING = Refusal::bad("host_missing");
    /// More than one `Host`.
    HOST_REPEATED = Refusal::bad("host_repeated");
    /// A `Host` that is not a name or address with an optional port: user information, spaces, `%`, empty labels, a port outside of 1 to 65535.
    HOST_MALFORMED = Refusal::bad("host_malformed");
    /// In HTTP/2, a `host` that differs from `:authority` in more than the scheme's own port (RFC 9113 §8.3.1).
    HOST_MISMATCH = Refusal::bad("host_mismatch");
    /// A path that does not start with `/`, or contains a control character, a space, a non-ASCII octet, or a `%` without two hexadecimal digits; a query with a control character, a space or a non-ASCII octet; a fragment (`#`).
    PATH_MALFORMED = bad("path_malformed");
    /// A backslash in the path.
    PATH_BACKSLASH = bad("path_backslash");
    /// An encoded control character in the path, including `%00`.
    PATH_CONTROL = bad("path_control");
    /// A segment `.` or `..`, even if encoded (`%2e`), between encoded separators (`..%2f`) or with a parameter (`..;x`).
    PATH_DOTS = bad("path_dots");
    /// More header fields than `limits.requestHeaders`; `Cookie` counts as one field in any number of pieces.
    FIELDS_MANY = Refusal { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "fields_many", close: true };
    /// In HTTP/2, a head that exceeds `limits.requestHeadBytes` as HTTP/1.1 would write it, with its cookies in one field.
    HEAD_LARGE = Refusal { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "head_large", close: true };
    /// A field that must not be repeated is repeated: `Content-Type`, `Authorization`, `Expect`, `Sec-WebSocket-Key`, `Sec-WebSocket-Version`.
    FIELD_REPEATED = Refusal::bad("field_repeated");
    /// Another spelling of a field that frames or routes the request, such as `Content_Length`.
    FIELD_SPELLING = Refusal::bad("field_spelling");
    /// A hop-by-hop field in HTTP/2 (RFC 9113 §8.2.2).
    FIELD_OF_CONNECTION = Refusal::bad("field_of_connection");
    /// An `Expect` other than `100-continue`.
    EXPECT = Refusal { status: StatusCode::EXPECTATION_FAILED, reason: "expect", close: true };
    /// A WebSocket handshake that violates RFC 6455 §4.1, which requires `GET`, no body, `Connection: upgrade`, version 13, and a key of 16 octets.
    WEBSOCKET = Refusal::bad("websocket");
    /// In HTTP/2, a field whose value starts or ends with whitespace (RFC 9113 §8.2.1).
    FIELD_WHITESPACE = bad("field_whitespace");
    /// In HTTP/2, more than one `content-length`.
    LENGTH_REPEATED = bad("length_repeated");
    /// In HTTP/2, a `content-length` that is not a 64-bit number.
    LENGTH_MALFORMED = bad("length_malformed");
    /// In HTTP/2, no `:path` (RFC 9113 §8.3.1).
    PATH_MISSING = bad("path_missing");
}
