//! One request to a backend and its response, independent of the HTTP version.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::endpoint::Endpoint;
use super::http1::{Http1Exchange, Http1Response, Http1Sink};
use super::http2::{self, Http2Exchange};
use super::places::Place;
use crate::access::identity_headers::IdentityHeaders;
use crate::balance::answer::Answer;
use crate::balance::health::{Era, Failure};
use crate::exchange::{BodyLength, Broken, Frame, PathAndQuery, ResponseHead, Sink, Source};
use crate::http2::hpack;
use crate::proxy_headers::prepared::ProxyHeaders;

/// A request to a backend; it can be sent more than once.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) method: &'a Method,
    /// The client's host with its explicit port: `Host`, or `:authority`.
    pub(crate) host: &'a HeaderValue,
    pub(crate) target: &'a PathAndQuery,
    /// End-to-end fields, without those that frame the body.
    pub(crate) headers: &'a HeaderMap,
    /// Fields of the gateway's own, under names that `headers` does not contain.
    pub(crate) added: AddedFields<'a>,
    /// [`BodyLength::Tunnel`] requests a WebSocket.
    pub(crate) body: BodyLength,
    pub(crate) expects_continue: bool,
    /// How long connecting to an endpoint may take.
    pub(crate) connect_timeout: Duration,
    /// For gRPC: by when the caller wants the response. The backend gets what is left of it.
    pub(crate) call_deadline: Option<Instant>,
    /// Whether it is a copy for a shadow, which ejects no endpoint.
    pub(crate) is_copy: bool,
}

/// Fields that the gateway adds to those of a request. They are serialized already, because many
/// requests have them in common.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AddedFields<'a> {
    /// Those that describe the client and the request.
    pub(crate) proxy: Option<ProxyHeaders<'a>>,
    /// The caller's identity.
    pub(crate) identity: Option<&'a IdentityHeaders>,
}

/// A response's head.
#[derive(Debug)]
pub(crate) enum Head {
    /// A 1xx response; another head follows.
    Interim(ResponseHead),
    Final(ResponseHead, BodyLength),
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    /// The connection could not be established.
    #[error("failed to connect to the endpoint")]
    Connect,
    /// The endpoint has no place for the request.
    #[error("the endpoint is full")]
    Full,
    /// The backend has not processed the request and will not: it may be retried, whatever its
    /// method (RFC 9113 §8.7).
    #[error("the backend did not process the request")]
    NotSent,
    /// The connection was closed before the first octet of a response. The backend may have
    /// processed the request.
    #[error("the connection was closed without a response")]
    NoResponse,
    /// The backend supports HTTP/2 without extended CONNECT, which WebSocket requires.
    #[error("the backend does not support WebSocket over HTTP/2")]
    NoWebSocket,
    /// The exchange failed; the backend may have processed the request.
    #[error(transparent)]
    Broken(Broken),
}

/// An exchange in flight. Dropping it before it completes cancels it.
pub(crate) struct Exchange {
    kind: Kind,
    load: Load,
}

/// One attempt's place at its endpoint, which it loads until this is dropped.
pub(crate) struct Load {
    endpoint: Rc<Endpoint>,
    place: Place,
    /// When it began, relative to ejections of the endpoint.
    era: Era,
    /// When the request was sent in whole, while there is no response.
    sent: Cell<Option<Instant>>,
}

pub(super) enum Kind {
    Http1(Http1Exchange),
    Http2(Http2Exchange),
}

/// The sink for the request's body.
pub(crate) enum RequestSink<'a> {
    Http1(&'a mut Http1Sink),
    Http2(&'a mut http2::RequestBody),
}

/// The source of the response.
pub(crate) enum ResponseSource<'a> {
    Http1(&'a mut Http1Response),
    Http2(&'a mut http2::Response),
}

// === impl Message ===

impl Message<'_> {
    /// Whether the request has no body.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.body, BodyLength::None)
    }
}

// === impl AddedFields ===

impl AddedFields<'_> {
    /// Writes them as lines of HTTP/1.1.
    pub(crate) fn put_lines(&self, out: &mut BytesMut) {
        if let Some(proxy) = &self.proxy {
            proxy.put_lines(out);
        }
        if let Some(identity) = self.identity {
            out.put_slice(identity.lines());
        }
    }

    /// Writes them as fields of HTTP/2.
    pub(super) fn put_block(&self, out: &mut Vec<u8>) {
        if let Some(proxy) = &self.proxy {
            proxy.put_block(out);
        }
        for (name, value) in self.identity.into_iter().flat_map(IdentityHeaders::fields) {
            hpack::field(name, value, out);
        }
    }
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn new(kind: Kind, mut load: Load) -> Self {
        // Whatever happened to the endpoint until now was not due to this request.
        load.era = load.endpoint.health().era();
        Self { kind, load }
    }

    /// Whether its connection was used before.
    pub(crate) fn is_kept(&self) -> bool {
        match &self.kind {
            Kind::Http1(exchange) => exchange.is_kept,
            Kind::Http2(exchange) => exchange.is_kept,
        }
    }

    /// Records that the request was sent in whole: from now on, the endpoint's latency counts. How
    /// long the client takes for its body is not a matter of the endpoint.
    pub(crate) fn sent(&self, now: Instant) {
        let sent = &self.load.sent;
        sent.set(sent.get().or(Some(now)));
    }

    /// Records that the endpoint responded at `now`, with this status and, if the head has one, with
    /// this status of gRPC.
    pub(crate) fn responded(&self, status: StatusCode, grpc_status: Option<u16>, now: Instant) {
        let Load { endpoint, era, sent, .. } = &self.load;
        let answer = Answer::of(status, grpc_status);
        match sent.take().map(|sent| now.saturating_duration_since(sent)) {
            Some(taken) if answer == Answer::Success => endpoint.responded_in(taken, now),
            Some(taken) => endpoint.unanswered(taken, now),
            None => {}
        }
        if answer == Answer::ServerError {
            endpoint.failed(*era, Failure::ServerError);
        } else {
            endpoint.responded(*era);
        }
    }

    /// Records that the endpoint failed to respond.
    pub(crate) fn failed(&self, failed: Failed) {
        let Load { endpoint, era, .. } = &self.load;
        match failed {
            // An old connection, or this request alone, is no sign of the endpoint's state.
            Failed::NoResponse if self.is_kept() => {}
            Failed::Full | Failed::NotSent | Failed::NoWebSocket => {}
            Failed::NoResponse | Failed::Broken(Broken::Closed | Broken::Malformed(_)) => {
                endpoint.failed(*era, Failure::Closed);
            }
            Failed::Connect | Failed::Broken(Broken::TimedOut) => {
                endpoint.failed(*era, Failure::Unreachable);
            }
        }
    }

    /// Returns both halves, to be polled by one task.
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

    /// Completes the exchange, and keeps its connection if both messages are complete.
    pub(crate) fn finish(self, now: Instant) {
        if let Kind::Http1(exchange) = self.kind
            && let Some(idle) = exchange.into_idle(now)
        {
            self.load.endpoint.keep(idle);
        }
    }
}

// === impl Load ===

impl Load {
    pub(super) fn new(endpoint: &Rc<Endpoint>, place: Place) -> Self {
        endpoint.begin();
        let era = endpoint.health().era();
        Self { endpoint: Rc::clone(endpoint), place, era, sent: Cell::new(None) }
    }

    pub(crate) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(sent) = self.sent.take() {
            let now = Instant::now();
            self.endpoint.unanswered(now.saturating_duration_since(sent), now);
        }
        self.endpoint.release(&self.place);
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
    /// Returns the next head: interim ones first, then the final one.
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
