//! HTTP/1.1 to backends: one exchange on one connection.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::Method;

use super::connect::Transport;
use super::exchange::{Failed, Head, Message};
use super::keep_alive::{self, Reuse};
use crate::exchange::{BodyLength, Broken, Frame, Sink, Source};
use crate::http1::body::{Blanks, Decoder, Encoder};
use crate::http1::connection::Shared;
use crate::http1::head::{self, HeadLimits, ResponseBody, ResponseContext};
use crate::http1::inbound::HeadError;
use crate::http1::outbound::RequestLine;

/// An idle connection.
pub(super) struct Idle {
    connection: Shared<Transport>,
    since: Instant,
    /// Until when the backend permits its reuse.
    until: Option<Instant>,
    was_used: bool,
}

/// One request and its response over HTTP/1.1.
pub(crate) struct Http1Exchange {
    /// Whether the connection was used before.
    pub(super) is_kept: bool,
    pub(crate) request: Http1Sink,
    pub(crate) response: Http1Response,
}

pub(crate) struct Http1Sink(Shared<Transport>);

pub(crate) struct Http1Response {
    connection: Shared<Transport>,
    context: ResponseContext,
    limits: HeadLimits,
    reuse: Reuse,
}

// === impl Idle ===

impl Idle {
    /// Whether the connection may be reused: it is idle for less than `timeout`, and the backend
    /// permits it.
    pub(super) fn is_fresh(&self, now: Instant, timeout: Duration) -> bool {
        now.duration_since(self.since) < timeout && self.until.is_none_or(|until| now < until)
    }

    /// A connection that was not used yet.
    pub(super) fn unused(transport: Transport, now: Instant) -> Self {
        Self { connection: Shared::new(transport), since: now, until: None, was_used: false }
    }

    /// Whether the peer has neither closed the connection nor sent anything. Costs no system call
    /// if nothing has arrived.
    pub(super) fn is_alive(&self) -> bool {
        let mut connection = self.connection.borrow();
        let connection = &mut *connection;
        connection.inbound.is_empty()
            && connection
                .inbound
                .poll_fill(&mut connection.io, &mut Context::from_waker(std::task::Waker::noop()))
                .is_pending()
    }
}

// === impl Http1Exchange ===

impl Http1Exchange {
    /// Starts a request on a new connection.
    pub(super) fn on_new(transport: Transport, message: &Message<'_>, limits: HeadLimits) -> Self {
        Self::begin(Shared::new(transport), false, message, limits)
    }

    /// Starts a request on an idle connection.
    pub(super) fn on_idle(idle: Idle, message: &Message<'_>, limits: HeadLimits) -> Self {
        Self::begin(idle.connection, idle.was_used, message, limits)
    }

    fn begin(
        connection: Shared<Transport>,
        is_kept: bool,
        message: &Message<'_>,
        limits: HeadLimits,
    ) -> Self {
        connection.borrow().outbound.request(RequestLine {
            method: message.method,
            target: message.target.as_str(),
            host: message.host,
            headers: message.headers,
            put_added: |out: &mut BytesMut| message.added.put_lines(out),
            body: message.body,
            expects_continue: message.expects_continue,
        });
        let context = ResponseContext {
            head: *message.method == Method::HEAD,
            upgrade: message.body == BodyLength::Tunnel,
        };
        let response =
            Http1Response { connection: connection.clone(), context, limits, reuse: Reuse::Never };
        Self { is_kept, request: Http1Sink(connection), response }
    }

    /// Returns the connection for reuse, if both messages are complete and nothing followed them.
    pub(super) fn into_idle(self, now: Instant) -> Option<Idle> {
        let Self { request: Http1Sink(connection), response, .. } = self;
        let is_clean = {
            let connection = connection.borrow();
            !connection.outbound.is_incomplete()
                && connection.outbound.is_flushed()
                && connection.inbound.is_body_done()
                && connection.inbound.is_empty()
                && !connection.inbound.is_eof()
        };
        let until = match response.reuse {
            Reuse::Never => return None,
            Reuse::For(time) => now.checked_add(time),
            Reuse::Unlimited => None,
        };
        is_clean.then_some(Idle { connection, since: now, until, was_used: true })
    }
}

// === impl Http1Sink ===

impl Sink for Http1Sink {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let connection = &mut *self.0.borrow();
        connection.outbound.poll_ready(&mut connection.io, cx)
    }

    fn push(&mut self, frame: Frame) {
        self.0.borrow().outbound.push(frame);
    }

    fn finish(&mut self) {
        self.0.borrow().outbound.finish();
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let connection = &mut *self.0.borrow();
        connection.outbound.poll_flush(&mut connection.io, cx)
    }
}

// === impl Http1Response ===

impl Http1Response {
    /// Returns the next head: interim ones first, then the final one.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failed>> {
        let connection = &mut *self.connection.borrow();
        let octets =
            ready!(connection.inbound.poll_head(&mut connection.io, self.limits.bytes, cx))
                .map_err(|error| match error {
                    // A failed write of TLS may have sent some records.
                    HeadError::Closed
                        if connection.outbound.is_unwritten() && connection.io.is_plain() =>
                    {
                        Failed::NotSent
                    }
                    HeadError::Closed => Failed::NoResponse,
                    HeadError::Truncated => Failed::Broken(Broken::Closed),
                    HeadError::Fault(fault) => Failed::Broken(fault.broken()),
                })?;
        let parsed = head::response(octets, self.limits, self.context).map_err(Failed::Broken)?;
        if parsed.head.status.is_informational() && parsed.body != ResponseBody::Tunnel {
            return Poll::Ready(Ok(Head::Interim(parsed.head)));
        }
        if parsed.keep_alive {
            self.reuse = if parsed.has_keep_alive {
                keep_alive::reuse(&parsed.head.headers)
            } else {
                Reuse::Unlimited
            };
        }
        let (length, decoder) = match parsed.body {
            ResponseBody::None => (BodyLength::None, Decoder::Done),
            ResponseBody::Exact(length) => (BodyLength::Exact(length), Decoder::exact(length)),
            ResponseBody::Chunked => (BodyLength::Unknown, Decoder::chunked(Blanks::Accepted)),
            ResponseBody::UntilClose => (BodyLength::Unknown, Decoder::UntilClose),
            ResponseBody::Tunnel => {
                connection.outbound.switch(Encoder::Raw);
                self.reuse = Reuse::Never;
                (BodyLength::Tunnel, Decoder::Tunnel)
            }
        };
        connection.inbound.begin_body(decoder);
        Poll::Ready(Ok(Head::Final(parsed.head, length)))
    }
}

impl Source for Http1Response {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        let connection = &mut *self.connection.borrow();
        connection.inbound.poll_frame(&mut connection.io, cx)
    }
}
