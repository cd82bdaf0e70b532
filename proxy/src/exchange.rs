//! One request and its response as every room of the request path sees them, whichever HTTP version
//! carries them.
//!
//! A message is a head and then frames. Frames are read from a [`Source`] and written to a
//! [`Sink`]; both are polled, never spawned, so that one task moves both directions of an exchange
//! and back-pressure is a `Poll::Pending`.

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Version};

use portcullis_identity::client_certificate::ClientCertificate;

/// A request's head as its codec read it: well-formed, but not yet judged by [`normalize`.
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

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A path with its query: origin-form and absolute-form.
    Path(PathAndQuery),
    /// `OPTIONS *`.
    Asterisk,
    /// `CONNECT host:port` without `:protocol`.
    Authority,
}

/// A response's head, from a backend or of our own.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

/// How long a body is, as its head said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is none, not even an empty one with trailers.
    None,
    /// That many octets (`Content-Length`).
    Exact(u64),
    /// Not known before its end: chunked, HTTP/2 without `content-length`, or until the connection
    /// closes.
    Unknown,
    /// No body but a tunnel of octets both ways: WebSocket.
    Tunnel,
}

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Frame {
    Data(Bytes),
    /// Always the last one.
    Trailers(HeaderMap),
}

/// Why a body or a connection ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// The peer closed or reset the connection or stream.
    #[error("the peer closed the connection or reset the stream")]
    Closed,
    /// The peer broke the protocol; the word is the reason in logs and metrics.
    #[error("the peer broke the protocol: {0}")]
    Malformed(&'static str),
    /// The peer stood still for too long.
    #[error("the peer stood still for too long")]
    TimedOut,
}

/// Where the frames of a body are read from.
pub(crate) trait Source {
    /// The next frame; `None` after the last one.
    ///
    /// For HTTP/2 a returned frame's octets count as read: the window is opened again by the *next*
    /// call, which comes when the sink has taken the frame.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>>;
}

/// Where the frames of a body are written to.
pub(crate) trait Sink {
    /// Ready when it may be given one more frame: what it holds is below its bound.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Takes a frame. Only after [`poll_ready`](Self::poll_ready) said so.
    fn push(&mut self, frame: Frame);

    /// Says that no frame follows. Trailers say so by themselves; both together are allowed.
    fn finish(&mut self);

    /// Ready when all that was pushed has gone to the transport.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
}

/// The client's end of an exchange, to answer on.
pub(crate) trait Respond: Sink {
    /// Sends an interim response (1xx other than 101). HTTP/1.0 clients get none (RFC 9110 §15.2).
    fn informational(&mut self, head: ResponseHead);

    /// Sends the final head; or 101 with [`BodyLength::Tunnel`], after which both directions carry
    /// raw octets. An HTTP/2 codec sends a tunnel's head as 200 (RFC 8441 §5).
    fn head(&mut self, head: ResponseHead, body: BodyLength);

    /// Says that the connection must end with this response, where the protocol has such a thing
    /// (HTTP/1). Before the head.
    fn close(&mut self) {}

    /// Breaks the response off so that the client can tell that it is incomplete: a closed
    /// connection, or `RST_STREAM`.
    fn abort(&mut self);

    /// Ready when the client will read nothing more: it reset the stream or the connection. A
    /// half-closed connection (FIN alone) is not gone: its client may be waiting for the
    /// answer.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// What is known of the client's connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The client's address; the one that the PROXY protocol told, where that is switched on.
    pub(crate) client: SocketAddr,
    /// Whether the connection is encrypted.
    pub(crate) tls: bool,
    /// Whether the client's address is in one of the trusted networks.
    pub(crate) trusted: bool,
    /// The name of the snapshot's listener.
    pub(crate) listener: &'static str,
    /// What it showed of itself in the handshake.
    pub(crate) certificate: Option<Rc<ClientCertificate>>,
}

/// Why a request was refused before it was routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// 400, 408, 413, 414, 417, 421, 431, 501, 503 or 505.
    pub(crate) status: StatusCode,
    /// One word with underscores, for metrics and logs.
    pub(crate) reason: &'static str,
    /// Whether the framing is in doubt, so that the connection must be closed after the answer.
    pub(crate) close: bool,
}

// === impl Refusal ===

impl Refusal {
    /// A 400 after which the connection is closed.
    pub(crate) const fn bad(reason: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason, close: true }
    }
}
