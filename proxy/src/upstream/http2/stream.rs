//! The state of one stream, shared by its connection and its exchange.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::exchange::{BodyLength, Broken, ResponseHead};
use crate::upstream::exchange::{Failed, Head};

/// A stream, shared by its connection and its exchange.
pub(super) type Shared = Rc<RefCell<Stream>>;

/// Maximum number of unread heads of one response.
const INTERIM: usize = 32;

/// Why a stream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The backend has not processed the request, and will not.
    NotSent,
    /// The backend reset it; with `no_error`, it only needs no more of the request.
    Reset { no_error: bool },
    /// The connection was closed.
    Closed,
    /// The backend did not respond in time.
    TimedOut,
    /// The backend does not support WebSocket.
    NoWebSocket,
    /// The backend violated the protocol.
    Malformed(&'static str),
}

/// The end of the request's body.
#[derive(Debug)]
pub(super) enum End {
    /// More may follow.
    Open,
    /// The body ends with what is queued.
    Queued,
    /// These trailers follow what is queued.
    Trailers(HeaderMap),
    /// The last frame was written.
    Sent,
}

/// A requested WebSocket.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// `Sec-WebSocket-Accept` for an HTTP/1.1 client.
    pub(super) accept: Option<HeaderValue>,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// 0 until it is open.
    pub(super) id: u32,
    is_head: bool,
    /// `Some` for a WebSocket without a final head.
    pub(super) tunnel: Option<Tunnel>,
    pub(super) cause: Option<Cause>,
    /// Wakes the task of the exchange.
    waker: Option<Waker>,

    /// Heads that were received and not read. The final one is the last.
    heads: VecDeque<(ResponseHead, Option<BodyLength>)>,
    pub(super) has_final_head: bool,
    has_begun: bool,
    pub(super) data: VecDeque<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    /// END_STREAM was received.
    pub(super) is_complete: bool,
    /// Octets of the body that `content-length` announced and that were not received.
    pub(super) expected: Option<u64>,
    /// The whole receive window, and octets of it that the backend may send now.
    pub(super) window: u32,
    pub(super) receive_window: u32,
    /// Octets that were read, and not yet added to the receive window.
    pub(super) unannounced: u32,

    /// The send window, in octets; settings may make it negative (RFC 9113 §6.9.2).
    pub(super) send_window: i64,
    pub(super) queue: VecDeque<Bytes>,
    /// Octets of `queue`.
    pub(super) queued: usize,
    pub(super) end: End,
    /// It is in the connection's queue of streams that can send.
    pub(super) is_scheduled: bool,
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(method: &Method, is_finished: bool, window: u32) -> Self {
        Self {
            id: 0,
            is_head: *method == Method::HEAD,
            tunnel: None,
            cause: None,
            waker: None,
            heads: VecDeque::new(),
            has_final_head: false,
            has_begun: false,
            data: VecDeque::new(),
            trailers: None,
            is_complete: false,
            expected: None,
            window,
            receive_window: window,
            unannounced: 0,
            send_window: 0,
            queue: VecDeque::new(),
            queued: 0,
            end: if is_finished { End::Sent } else { End::Open },
            is_scheduled: false,
        }
    }

    /// Whether both directions are closed.
    pub(super) fn is_closed(&self) -> bool {
        self.cause.is_some() || self.is_complete && matches!(self.end, End::Sent)
    }

    /// Whether it has something to send that its own window permits.
    pub(super) fn can_send(&self) -> bool {
        match self.queue.is_empty() {
            true => matches!(self.end, End::Queued | End::Trailers(_)),
            false => self.send_window > 0,
        }
    }

    /// Whether a response with this status has no body, whatever its `content-length` (RFC 9110
    /// §6.4.1).
    pub(super) fn is_bodiless(&self, status: StatusCode) -> bool {
        self.is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Wakes the task of the exchange.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Fails the stream. What was received can still be read.
    pub(super) fn fail(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        self.queue.clear();
        self.queued = 0;
        self.wake();
    }

    /// Stores a received head; `length` is `Some` for the final one. Returns `false` for too many.
    pub(super) fn take_head(&mut self, head: ResponseHead, length: Option<BodyLength>) -> bool {
        self.has_final_head = length.is_some();
        if self.heads.len() >= INTERIM {
            return false;
        }
        self.heads.push_back((head, length));
        self.wake();
        true
    }

    /// Returns the next head.
    pub(super) fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Head, Failed>> {
        match (self.heads.pop_front(), self.cause) {
            (Some((head, Some(length))), _) => Poll::Ready(Ok(Head::Final(head, length))),
            (Some((head, None)), _) => {
                self.has_begun = true;
                Poll::Ready(Ok(Head::Interim(head)))
            }
            (None, Some(cause)) => {
                Poll::Ready(Err(cause.failed(self.has_begun || self.has_final_head)))
            }
            (None, None) => self.wait(cx),
        }
    }

    /// Returns the next data; `Ok(None)` at the end of the response, before trailers.
    pub(super) fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        if let Some(data) = self.data.pop_front() {
            return Poll::Ready(Ok(Some(data)));
        }
        match self.cause {
            _ if self.is_complete => Poll::Ready(Ok(None)),
            Some(cause) => Poll::Ready(Err(cause.broken())),
            None => self.wait(cx),
        }
    }

    /// Ready when at most `at_most` octets are queued, or the backend needs no more.
    pub(super) fn poll_queued(
        &mut self,
        at_most: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        match self.cause {
            Some(Cause::Reset { no_error: true }) => Poll::Ready(Ok(())),
            Some(_) => Poll::Ready(Err(Broken::Closed)),
            None if self.queued <= at_most => Poll::Ready(Ok(())),
            None => self.wait(cx),
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Returns the error for an exchange that waits for a head; `has_begun` states whether a part
    /// of the response was received.
    fn failed(self, has_begun: bool) -> Failed {
        match self {
            Self::NotSent => Failed::NotSent,
            Self::NoWebSocket => Failed::NoWebSocket,
            // The whole connection was closed, not only this stream.
            Self::Closed if !has_begun => Failed::NoResponse,
            cause => Failed::Broken(cause.broken()),
        }
    }

    /// Returns the error for an exchange that reads or writes a body.
    fn broken(self) -> Broken {
        match self {
            Self::NotSent | Self::NoWebSocket | Self::Reset { .. } | Self::Closed => Broken::Closed,
            Self::TimedOut => Broken::TimedOut,
            Self::Malformed(reason) => Broken::Malformed(reason),
        }
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// Converts the head of a successful response to that of an HTTP/1.1 upgrade.
    pub(super) fn established(self, mut head: ResponseHead) -> ResponseHead {
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        head.headers.remove(header::CONTENT_LENGTH);
        if let Some(accept) = self.accept {
            head.headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        head
    }
}
