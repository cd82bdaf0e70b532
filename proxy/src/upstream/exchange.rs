//! One request and its response with a backend, over whichever HTTP version.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};

use super::endpoint::Endpoint;
use super::http1::{Http1Exchange, Http1Response, Http1Sink};
use super::http2::{self, Http2Exchange};
use crate::access::identity_headers::Introduction;
use crate::exchange::{BodyLength, Broken, Frame, ResponseHead, Sink, Source};

/// A request as it goes to a backend; it can be sent more than once.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) method: &'a Method,
    /// The client's host with its explicit port: `Host`, or `:authority`.
    pub(crate) host: &'a HeaderValue,
    pub(crate) target: &'a PathAndQuery,
    /// End-to-end fields, without those that frame the message.
    pub(crate) headers: &'a HeaderMap,
    /// What is told of the caller, under names that are not among the others.
    pub(crate) told: Option<&'a Introduction>,
    /// [`BodyLength::Tunnel`] asks for a WebSocket.
    pub(crate) body: BodyLength,
    pub(crate) expects_continue: bool,
}

/// A response's head.
#[derive(Debug)]
pub(crate) enum Head {
    /// A 1xx; another head follows.
    Interim(ResponseHead),
    Final(ResponseHead, BodyLength),
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// No connection could be made.
    #[error("no connection could be made")]
    Unconnected,
    /// The endpoint has as many connections as are allowed.
    #[error("the endpoint has as many connections as are allowed")]
    Full,
    /// The backend has not begun with the request and will not: it may be sent again elsewhere,
    /// whatever its method (RFC 9113 §8.7).
    #[error("the request was not processed")]
    NotSent,
    /// The connection ended before the first octet of a response. The backend may have begun with
    /// the request.
    #[error("the connection was closed without an answer")]
    Unanswered,
    /// The backend speaks HTTP/2 without extended CONNECT, so it takes no WebSocket.
    #[error("the backend takes no WebSocket")]
    NoWebSocket,
    /// It may have begun with it.
    #[error(transparent)]
    Broken(Broken),
}

/// An exchange under way. Dropped before it has ended, it is cancelled.
pub(crate) struct Exchange {
    kind: Kind,
    load: Load,
}

/// Counts one exchange as load of its endpoint for as long as it lives.
struct Load(Rc<Endpoint>);

pub(super) enum Kind {
    Http1(Http1Exchange),
    Http2(Http2Exchange),
}

/// The request's body on its way.
pub(crate) enum RequestSink<'a> {
    Http1(&'a mut Http1Sink),
    Http2(&'a mut http2::RequestBody),
}

/// The response on its way.
pub(crate) enum ResponseSource<'a> {
    Http1(&'a mut Http1Response),
    Http2(&'a mut http2::Response),
}

// === impl Message ===

impl Message<'_> {
    /// Whether nothing follows the head.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.body, BodyLength::None)
    }
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn new(kind: Kind, endpoint: Rc<Endpoint>) -> Self {
        endpoint.begin();
        Self { kind, load: Load(endpoint) }
    }

    /// Where it goes.
    pub(crate) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.load.0
    }

    /// Both halves, to be polled by one task.
    pub(crate) fn halves(&mut self) -> (RequestSink<'_>, ResponseSource<'_>) {
        match &mut self.kind {
            Kind::Http1(exchange) => (
                RequestSink::Http1(&mut exchange.request),
                ResponseSource::Http1(&mut exchange.response),
            ),
            Kind::Http2(exchange) => (
                RequestSink::Http2(&mut exchange.request),
                ResponseSource::Http2(&mut exchange.response),
            ),
        }
    }

    /// Ends an exchange: where both messages ended as they should, the connection is kept.
    pub(crate) fn finish(self, now: Instant) {
        if let Kind::Http1(exchange) = self.kind
            && let Some(idle) = exchange.into_idle(now)
        {
            self.load.0.keep(idle);
        }
    }
}

// === impl Load ===

impl Drop for Load {
    fn drop(&mut self) {
        self.0.end();
    }
}

// === impl RequestSink ===

impl Sink for RequestSink<'_> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Http1(sink) => sink.poll_ready(cx),
            Self::Http2(sink) => sink.poll_ready(cx),
        }
    }

    fn push(&mut self, frame: Frame) {
        match self {
            Self::Http1(sink) => sink.push(frame),
            Self::Http2(sink) => sink.push(frame),
        }
    }

    fn finish(&mut self) {
        match self {
            Self::Http1(sink) => sink.finish(),
            Self::Http2(sink) => sink.finish(),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Http1(sink) => sink.poll_flush(cx),
            Self::Http2(sink) => sink.poll_flush(cx),
        }
    }
}

// === impl ResponseSource ===

impl ResponseSource<'_> {
    /// The next head: interim ones, and then the final one.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failed>> {
        match self {
            Self::Http1(source) => source.poll_head(cx),
            Self::Http2(source) => source.poll_head(cx),
        }
    }
}

impl Source for ResponseSource<'_> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        match self {
            Self::Http1(source) => source.poll_frame(cx),
            Self::Http2(source) => source.poll_frame(cx),
        }
    }
}
