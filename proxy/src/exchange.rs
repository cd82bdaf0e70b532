//! A request and its response, independent of the HTTP version.
//!
//! A message is a head followed by frames. Frames are read from a [`Source`] and written to a
//! [`Sink`]; both are polled, never spawned, so that one task drives both directions of an exchange
//! and backpressure is `Poll::Pending`.

pub(crate) mod cookies;
pub(crate) mod grpc_status;
pub(crate) mod grpc_timeout;
mod path_and_query;

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};
use portcullis_identity::client_certificate::ClientCertificate;

pub(crate) use self::path_and_query::PathAndQuery;

/// A request's head as the codec parsed it: well-formed, but not yet normalized.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// The authority of an absolute-form target (RFC 9112 §3.2.2) or the `:authority`
    /// pseudo-header (RFC 9113 §8.3.1), as written.
    pub(crate) authority: Option<Bytes>,
    /// The scheme of an absolute-form target or `:scheme`, as written.
    pub(crate) scheme: Option<Bytes>,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: BodyLength,
    /// The `:protocol` of an extended CONNECT (RFC 8441).
    pub(crate) protocol: Option<Bytes>,
}

/// The target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A path with its query: origin-form and absolute-form.
    Path(PathAndQuery),
    /// `OPTIONS *`.
    Asterisk,
    /// `CONNECT host:port` without `:protocol`.
    Authority,
}

/// The head of a response, from a backend or of a local reply.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

/// The length of a body, as declared in the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// No body, not even an empty one with trailers.
    None,
    /// This number of octets (`Content-Length`).
    Exact(u64),
    /// Unknown until the end: chunked, HTTP/2 without `content-length`, or delimited by the end of
    /// the connection.
    Unknown,
    /// A bidirectional tunnel instead of a body: WebSocket.
    Tunnel,
}

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Frame {
    Data(Bytes),
    /// Always the last one.
    Trailers(HeaderMap),
}

/// Why a body or connection ended prematurely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// The peer closed or reset the connection or stream.
    #[error("the peer closed the connection or reset the stream")]
    Closed,
    /// The peer violated the protocol; the string is the reason in logs and metrics.
    #[error("the peer violated the protocol: {0}")]
    Malformed(&'static str),
    /// The peer made no progress in time.
    #[error("the peer made no progress in time")]
    TimedOut,
}

/// A body to read frames from.
pub(crate) trait Source {
    /// Returns the next frame; `None` after the last one.
    ///
    /// For HTTP/2, the *next* call releases the flow-control window of the returned frame: callers
    /// make it when the sink has accepted the frame.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>>;
}

/// A body to write frames to.
pub(crate) trait Sink {
    /// Ready when it accepts another frame: its buffer is below the limit.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Writes a frame. Call only after [`poll_ready`](Self::poll_ready) returned ready.
    fn push(&mut self, frame: Frame);

    /// Ends the body. Optional after trailers.
    fn finish(&mut self);

    /// Ready when all frames are written to the transport.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
}

/// The client side of an exchange, to respond to.
pub(crate) trait Respond: Sink {
    /// Sends an interim response (1xx other than 101). HTTP/1.0 clients get none (RFC 9110 §15.2).
    fn informational(&mut self, head: ResponseHead);

    /// Sends the final head; or 101 with [`BodyLength::Tunnel`], after which both directions carry
    /// raw octets. An HTTP/2 codec sends a tunnel's head as 200 (RFC 8441 §5).
    fn head(&mut self, head: ResponseHead, body: BodyLength);

    /// Closes the connection after this response, for HTTP/1. Call before [`head`](Self::head).
    fn close(&mut self) {}

    /// Aborts the response such that the client detects that it is incomplete: closes the
    /// connection, or sends `RST_STREAM`.
    fn abort(&mut self);

    /// Ready when the client has reset the stream or connection, and will not read more. Not ready
    /// for a half-closed connection (FIN only), whose client may wait for the response.
    fn poll_client_closed(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Properties of the client connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The client's address; that of the PROXY protocol if it is enabled.
    pub(crate) client: SocketAddr,
    /// Whether the connection is encrypted.
    pub(crate) tls: bool,
    /// Whether the client's address is in one of the trusted networks.
    pub(crate) trusted: bool,
    /// The name of the snapshot's listener.
    pub(crate) listener: &'static str,
    /// The client certificate of the TLS handshake.
    pub(crate) certificate: Option<Rc<ClientCertificate>>,
}

/// Why a request was rejected before routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// 400, 408, 413, 414, 417, 421, 431, 501, 503 or 505.
    pub(crate) status: StatusCode,
    /// The reason in snake case, for metrics and logs.
    pub(crate) reason: &'static str,
    /// Whether the framing is unreliable, so that the connection must close after the response.
    pub(crate) close: bool,
}

// === impl Refusal ===

impl Refusal {
    /// Creates a 400 that closes the connection.
    pub(crate) const fn bad(reason: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason, close: true }
    }
}
