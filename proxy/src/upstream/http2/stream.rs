//! One request and its response on a connection, as both the connection and the exchange see them.

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

/// Interim responses to one request.
const INTERIM: usize = 32;

/// What became of a stream before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The backend has not begun with it, and will not.
    NotSent,
    /// The backend reset it; `no_error` says that it only needs no more of the request.
    Reset { no_error: bool },
    /// The connection ended.
    Closed,
    /// The backend stood still for too long.
    TimedOut,
    /// The backend takes no WebSocket.
    NoWebSocket,
    /// The backend broke the protocol.
    Malformed(&'static str),
}

/// How the request ends.
#[derive(Debug)]
pub(super) enum End {
    /// More may follow.
    Open,
    /// With what is queued.
    Queued,
    /// With these, after what is queued.
    Trailers(HeaderMap),
    /// The last frame was written.
    Sent,
}

/// A WebSocket that was asked for.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// The proof for a client of HTTP/1.1.
    pub(super) accept: Option<HeaderValue>,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// 0 until it is open.
    pub(super) id: u32,
    is_head: bool,
    /// For a WebSocket: what its client is to be answered with.
    pub(super) tunnel: Option<Tunnel>,
    pub(super) cause: Option<Cause>,
    /// The task of the exchange.
    waker: Option<Waker>,

    /// Heads that have come and were not taken yet. The final one is the last.
    heads: VecDeque<(ResponseHead, Option<BodyLength>)>,
    pub(super) has_final_head: bool,
    has_begun: bool,
    pub(super) data: VecDeque<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    /// END_STREAM has come.
    pub(super) is_complete: bool,
    /// The octets that `content-length` says are still to come.
    pub(super) expected: Option<u64>,
    /// What the backend may still send, in octets.
    pub(super) receive_window: u32,
    /// Octets that were read, and that the backend was not told of.
    pub(super) unannounced: u32,

    /// What the backend lets us send, in octets; settings may make it negative (RFC 9113 §6.9.2).
    pub(super) send_window: i64,
    pub(super) queue: VecDeque<Bytes>,
    /// Octets of `queue`.
    pub(super) queued: usize,
    pub(super) end: End,
    /// It is in the connection's list of those that can send.
    pub(super) is_listed: bool,
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(method: &Method, is_finished: bool, receive_window: u32) -> Self {
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
            receive_window,
            unannounced: 0,
            send_window: 0,
            queue: VecDeque::new(),
            queued: 0,
            end: if is_finished { End::Sent } else { End::Open },
            is_listed: false,
        }
    }

    /// Whether nothing more goes either way.
    pub(super) fn is_closed(&self) -> bool {
        self.cause.is_some() || self.is_complete && matches!(self.end, End::Sent)
    }

    /// Whether it has something to send that its own window does not forbid.
    pub(super) fn can_send(&self) -> bool {
        match self.queue.is_empty() {
            true => matches!(self.end, End::Queued | End::Trailers(_)),
            false => self.send_window > 0,
        }
    }

    /// Whether a response with this status has no body, whatever it says about its length (RFC 9110
    /// §6.4.1).
    pub(super) fn is_bodiless(&self, status: StatusCode) -> bool {
        self.is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Has the exchange look again.
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

    /// Ends it before its time. What has come is still read.
    pub(super) fn fail(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        self.queue.clear();
        self.queued = 0;
        self.wake();
    }

    /// Takes a head that has come; `length` is that of the final one. `false` for too many.
    pub(super) fn take_head(&mut self, head: ResponseHead, length: Option<BodyLength>) -> bool {
        self.has_final_head = length.is_some();
        if self.heads.len() >= INTERIM {
            return false;
        }
        self.heads.push_back((head, length));
        self.wake();
        true
    }

    /// The next head.
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

    /// The next octets; `Ok(None)` when the response has ended, but for trailers.
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

    /// Ready when no more than `at_most` octets are queued, or none are needed any more.
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
    /// What it means for who waits for a head; `has_begun` says whether something of the response
    /// has come.
    fn failed(self, has_begun: bool) -> Failed {
        match self {
            Self::NotSent => Failed::NotSent,
            Self::NoWebSocket => Failed::NoWebSocket,
            // Not this stream, but its connection was closed.
            Self::Closed if !has_begun => Failed::Unanswered,
            cause => Failed::Broken(cause.broken()),
        }
    }

    /// What it means for who reads the body.
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
    /// The head of a response that lets it through, as HTTP/1.1 has it.
    pub(super) fn established(self, mut head: ResponseHead) -> ResponseHead {
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        head.headers.remove(header::CONTENT_LENGTH);
        if let Some(accept) = self.accept {
            head.headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        head
    }
}
