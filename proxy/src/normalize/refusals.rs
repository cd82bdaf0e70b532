//! Every reason for which a request is refused before it is routed, in one place:
//! `docs/requests.md` lists them, and a metric counts them by their word.

use http::StatusCode;

use crate::exchange::Refusal;

const fn bad(reason: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, reason, close: false }
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident = $refusal:expr;)+) => {
        $($(#[doc = $doc])+ pub(crate) const $name: Refusal = $refusal;)+

        /// All of them with what each means, as the documentation has them.
        #[cfg(test)]
        pub(crate) const ALL: &[(Refusal, &str)] = &[$(($name, concat!($($doc),+)),)+];
    };
}

refusals! {
    /// A method other than upper-case letters, digits, `-` and `_`, or longer than 32 octets; `TRACE`; `CONNECT` that opens no WebSocket.
    METHOD = Refusal { status: StatusCode::NOT_IMPLEMENTED, reason: "method", close: true };
    /// A version of HTTP other than 1.0, 1.1 and 2.
    VERSION = Refusal { status: StatusCode::HTTP_VERSION_NOT_SUPPORTED, reason: "version", close: true };
    /// A `:protocol` other than `websocket` (RFC 8441).
    PROTOCOL = Refusal { status: StatusCode::NOT_IMPLEMENTED, reason: "protocol", close: false };
    /// A scheme other than `http` and `https`.
    SCHEME = Refusal::bad("scheme");
    /// `*` with a method other than `OPTIONS`, or an extended CONNECT without a path.
    TARGET = Refusal::bad("target");
    /// Path and query longer than 16 KiB.
    TARGET_LONG = Refusal { status: StatusCode::URI_TOO_LONG, reason: "target_long", close: true };
    /// The heads of the connection's or of the client's requests hold as much memory as they may: `limits.requestMemoryPerConnection`, `limits.requestMemoryPerClient`. Over HTTP/2 the stream is reset (`REFUSED_STREAM`).
    REQUEST_MEMORY = Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason: "request_memory", close: true };
    /// No `Host` and no `:authority`, in HTTP/1.0 too: without a host there is no route.
    HOST_MISSING = Refusal::bad("host_missing");
    /// More than one `Host`.
    HOST_REPEATED = Refusal::bad("host_repeated");
    /// A `Host` that is no name or address with an optional port: user information, spaces, `%`, empty labels, a port that is no number from 1 to 65535.
    HOST_MALFORMED = Refusal::bad("host_malformed");
    /// A `Host` that says something else than the absolute-form target or `:authority`.
    HOST_MISMATCH = Refusal::bad("host_mismatch");
    /// A path that does not begin with `/`, or has a control character, a space, an octet beyond ASCII, or a `%` without two hexadecimal digits; a query with one of the first three.
    PATH_MALFORMED = bad("path_malformed");
    /// A backslash in the path.
    PATH_BACKSLASH = bad("path_backslash");
    /// An encoded control character in the path, `%00` among them.
    PATH_CONTROL = bad("path_control");
    /// A segment `.` or `..`, encoded too (`%2e`), between encoded separators too (`..%2f`), and with a parameter (`..;x`).
    PATH_DOTS = bad("path_dots");
    /// More header fields than the limit `limits.requestHeaders`.
    FIELDS_MANY = Refusal { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "fields_many", close: true };
    /// A field that may stand only once stands twice: `Content-Type`, `Authorization`, `Expect`, `Sec-WebSocket-Key`, `Sec-WebSocket-Version`.
    FIELD_REPEATED = Refusal::bad("field_repeated");
    /// Another spelling of a field that frames or routes the request, such as `Content_Length`.
    FIELD_SPELLING = Refusal::bad("field_spelling");
    /// A field that belongs to one connection in HTTP/2 (RFC 9113 §8.2.2).
    FIELD_OF_CONNECTION = Refusal::bad("field_of_connection");
    /// An `Expect` other than `100-continue`.
    EXPECT = Refusal { status: StatusCode::EXPECTATION_FAILED, reason: "expect", close: true };
    /// `Upgrade: h2c`, or an `HTTP2-Settings` field (RFC 9113 §3.1 has done away with both).
    UPGRADE_H2C = Refusal::bad("upgrade_h2c");
    /// A WebSocket handshake that is not as RFC 6455 §4.1 wants it: `GET`, no body, `Connection: upgrade`, `Upgrade: websocket` alone, version 13, a key of 16 octets.
    WEBSOCKET = Refusal::bad("websocket");
    /// In HTTP/2, a field whose value begins or ends with white space (RFC 9113 §8.2.1).
    FIELD_WHITESPACE = bad("field_whitespace");
    /// In HTTP/2, more than one `content-length`.
    LENGTH_REPEATED = bad("length_repeated");
    /// In HTTP/2, a `content-length` that is no number of 64 bits.
    LENGTH_MALFORMED = bad("length_malformed");
    /// In HTTP/2, no `:path` (RFC 9113 §8.3.1).
    PATH_MISSING = bad("path_missing");
}
