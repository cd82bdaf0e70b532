//! HTTP/2 to backends: by prior knowledge (h2c, RFC 9113 §3.3) and over TLS.
//!
//! One task a connection drives it; requests are streams of it and need no task of their own.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason};
use http::{Request, StatusCode, header};
use portcullis_config::settings::Settings;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::exchange::{Failed, Head};
use crate::exchange::{BodyLength, Broken, Frame, ResponseHead, Source};
use crate::http2::broken;
use crate::http2::chunk::Chunk;
use crate::http2::gather::{Flushed, Gather};
use crate::http2::liveness::{Liveness, Verdict};
use crate::http2::sink::StreamSink;
use crate::http2::source::StreamSource;

/// Streams that are opened before the backend has said how many it takes (RFC 9113 §6.5.2 recommends no less than this).
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// Streams of one connection, whatever the backend allows: with more, they only wait for each other.
const STREAMS: usize = 250;

/// How a connection to a backend is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientSettings {
    /// Octets that one stream's response may have under way before they are read.
    pub(crate) stream_window: u32,
    /// The same for all streams of the connection together.
    pub(crate) connection_window: u32,
    /// Octets of a response's head, as HPACK counts them (RFC 9113 §6.5.2).
    pub(crate) head_bytes: u32,
    /// How long it is kept without a request.
    pub(crate) idle: Duration,
    /// How long a backend may be quiet after something was sent to it before it is asked with a PING; and how long it may
    /// take to answer that. gRPC servers close connections that PING for no reason, so none is sent otherwise.
    pub(crate) quiet: Duration,
}

/// A connection to a backend: a handle that can be cloned.
#[derive(Debug, Clone)]
pub(crate) struct Http2Client(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    /// None once no new request may be sent on it. h2 closes the connection when neither this nor a stream is left.
    sender: RefCell<Option<SendRequest<Chunk>>>,
    in_flight: Cell<usize>,
    has_timed_out: Cell<bool>,
}

/// One request and its response. Dropped before both have ended, it resets the stream with CANCEL.
#[derive(Debug)]
pub(crate) struct Http2Exchange {
    /// The request's body.
    pub(crate) request: StreamSink,
    /// The response's head and body.
    pub(crate) response: Response,
    shared: Rc<Shared>,
}

/// The response of an exchange. Its frames are read after its final head.
#[derive(Debug)]
pub(crate) struct Response {
    state: ResponseState,
    /// An interim response has come.
    has_begun: bool,
    shared: Rc<Shared>,
}

#[derive(Debug)]
enum ResponseState {
    AwaitingHead(ResponseFuture),
    Body(StreamSource),
    Failed,
}

// === impl ClientSettings ===

impl ClientSettings {
    pub(crate) fn new(settings: &Settings) -> Self {
        let stream_window = settings.limits.http2_stream_window.get();
        Self {
            stream_window,
            connection_window: stream_window.saturating_mul(16),
            head_bytes: u32::try_from(settings.limits.response_head_bytes.get()).unwrap_or(u32::MAX),
            idle: settings.timeouts.upstream_idle,
            quiet: settings.timeouts.connect,
        }
    }
}

// === impl Http2Client ===

impl Http2Client {
    /// Starts HTTP/2 on a transport and spawns the task that drives it, on this thread. It does not wait for the backend:
    /// the first request goes out with the preface.
    ///
    /// # Errors
    ///
    /// The transport failed.
    pub(crate) async fn connect<T>(io: T, settings: &ClientSettings) -> Result<Self, Broken>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let gather = Gather::new(io);
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .initial_window_size(window(settings.stream_window))
            .initial_connection_window_size(window(settings.connection_window))
            .max_header_list_size(settings.head_bytes);
        let (sender, mut connection) = builder.handshake::<_, Chunk>(gather.clone()).await.map_err(|error| broken(&error))?;
        let shared = Rc::new(Shared { sender: RefCell::new(Some(sender)), in_flight: Cell::new(0), has_timed_out: Cell::new(false) });
        let pings = connection.ping_pong();
        let driver = Driver {
            connection,
            gather,
            pings,
            liveness: Liveness::new(settings.quiet, settings.quiet, Instant::now().into_std()),
            idle: settings.idle,
            idle_since: Some(Instant::now()),
            shared: Rc::clone(&shared),
        };
        tokio::task::spawn_local(driver.run());
        Ok(Self(shared))
    }

    /// Whether one more request may be sent on it now.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_open() && self.in_flight() < self.capacity()
    }

    /// Whether it takes requests at all; if not, it ends by itself with what is in flight on it, and may be dropped.
    pub(crate) fn is_open(&self) -> bool {
        let mut sender = self.0.sender.borrow_mut();
        // Not about the number of streams: an error says that the connection broke, or that the backend said GOAWAY.
        let is_open = sender.as_mut().is_some_and(|sender| !matches!(sender.poll_ready(&mut noop()), Poll::Ready(Err(_))));
        if !is_open {
            *sender = None;
        }
        is_open
    }

    /// Requests on it that have not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.get()
    }

    fn capacity(&self) -> usize {
        self.0.sender.borrow().as_ref().map_or(0, SendRequest::current_max_send_streams).min(STREAMS)
    }

    /// Opens a stream. The request's URI must have a scheme and an authority; connection-specific headers are refused.
    ///
    /// # Errors
    ///
    /// [`Failed::NotSent`] where the connection takes no more requests: nothing was sent.
    pub(crate) fn send(&self, request: Request<()>, is_finished: bool) -> Result<Http2Exchange, Failed> {
        // A clone has no request of its own waiting to be opened, so h2 never rejects it for that.
        let sender = self.0.sender.borrow().clone();
        let Some(mut sender) = sender else { return Err(Failed::NotSent) };
        match sender.send_request(request, is_finished) {
            Ok((response, stream)) => {
                self.0.in_flight.set(self.0.in_flight.get() + 1);
                Ok(Http2Exchange {
                    request: StreamSink::request(stream, is_finished),
                    response: Response { state: ResponseState::AwaitingHead(response), has_begun: false, shared: Rc::clone(&self.0) },
                    shared: Rc::clone(&self.0),
                })
            }
            // Of the remote's errors it is GOAWAY. Those of ours would be the same on the next connection.
            Err(error) if error.is_go_away() || error.is_io() || error.is_reset() => {
                self.0.close();
                Err(Failed::NotSent)
            }
            Err(_) => Err(Failed::Broken(Broken::Malformed("unsendable_request"))),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// h2 wakes the driver when the last sender goes.
    fn close(&self) {
        self.sender.borrow_mut().take();
    }

    /// `has_begun` says whether something of the response has come.
    fn failed(&self, error: &h2::Error, has_begun: bool) -> Failed {
        if error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM)) {
            // h2 gives GOAWAY to those streams alone that are above its last stream identifier (RFC 9113 §6.8).
            return Failed::NotSent;
        }
        match self.broken(broken(error)) {
            // Not this stream, but its connection was closed.
            Broken::Closed if !error.is_reset() && !has_begun => Failed::Unanswered,
            reason => Failed::Broken(reason),
        }
    }

    fn broken(&self, reason: Broken) -> Broken {
        if self.has_timed_out.get() { Broken::TimedOut } else { reason }
    }
}

// === impl Http2Exchange ===

impl Drop for Http2Exchange {
    fn drop(&mut self) {
        if !self.request.is_finished() || !self.response.is_ended() {
            self.request.reset(Reason::CANCEL);
        }
        self.shared.in_flight.set(self.shared.in_flight.get().saturating_sub(1));
    }
}

// === impl Response ===

impl Response {
    /// The next head: interim ones, and then the final one, after which this must not be called again.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failed>> {
        let ResponseState::AwaitingHead(future) = &mut self.state else {
            return Poll::Ready(Err(Failed::Broken(Broken::Closed)));
        };
        let interim = match future.poll_informational(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(interim) => interim,
        };
        let head = match interim {
            Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                // RFC 9113 §8.6: HTTP/2 has no 101.
                Err(Failed::Broken(Broken::Malformed("switching_protocols")))
            }
            Some(Ok(response)) => {
                self.has_begun = true;
                Ok(Head::Interim(head(response.into_parts().0)))
            }
            Some(Err(error)) => Err(self.shared.failed(&error, self.has_begun)),
            None => match ready!(Pin::new(future).poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(self.begin_body(response))),
                Err(error) => Err(self.shared.failed(&error, self.has_begun)),
            },
        };
        if head.is_err() {
            self.state = ResponseState::Failed;
        }
        Poll::Ready(head)
    }

    fn begin_body(&mut self, response: http::Response<h2::RecvStream>) -> Head {
        let (parts, stream) = response.into_parts();
        let length = if stream.is_end_stream() {
            BodyLength::None
        } else {
            // h2 has checked that it is a number, and checks that the body has this length.
            let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            length.map_or(BodyLength::Unknown, BodyLength::Exact)
        };
        self.state = ResponseState::Body(StreamSource::new(stream));
        Head::Final(head(parts), length)
    }

    fn is_ended(&self) -> bool {
        matches!(&self.state, ResponseState::Body(body) if body.is_ended())
    }
}

impl Source for Response {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        match &mut self.state {
            ResponseState::Body(body) => {
                body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(|reason| self.shared.broken(reason))))
            }
            ResponseState::AwaitingHead(_) | ResponseState::Failed => Poll::Ready(Some(Err(Broken::Closed))),
        }
    }
}

fn head(parts: http::response::Parts) -> ResponseHead {
    ResponseHead { status: parts.status, headers: parts.headers }
}

/// RFC 9113 §6.5.2: the largest window.
fn window(size: u32) -> u32 {
    size.min((1 << 31) - 1)
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// The task of one connection.
struct Driver<T> {
    connection: Connection<Gather<T>, Chunk>,
    gather: Gather<T>,
    pings: Option<PingPong>,
    liveness: Liveness,
    idle: Duration,
    idle_since: Option<Instant>,
    shared: Rc<Shared>,
}

// === impl Driver ===

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    async fn run(mut self) {
        let mut timer = pin!(sleep_until(self.next_tick()));
        poll_fn(|cx| self.poll(timer.as_mut(), cx)).await;
        self.shared.close();
    }

    fn next_tick(&self) -> Instant {
        Instant::now() + self.liveness.interval().min(self.idle / 4).max(Duration::from_millis(1))
    }

    fn poll(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let is_over = Pin::new(&mut self.connection).poll(cx).is_ready();
            match self.gather.poll_flush_all(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                // Its shutdown has flushed already.
                _ if is_over => return Poll::Ready(()),
                Poll::Ready(Ok(Flushed::MadeRoom)) => continue,
                Poll::Ready(Ok(Flushed::All)) | Poll::Pending => {}
            }
            self.note_idle();
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.tick().is_ready() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.next_tick());
        }
    }

    fn note_idle(&mut self) {
        if self.shared.in_flight.get() > 0 {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(Instant::now());
        }
    }

    /// Ready when the connection is dead.
    fn tick(&mut self) -> Poll<()> {
        self.note_idle();
        let now = Instant::now();
        if let Some(since) = self.idle_since {
            self.gather.shrink();
            if now.duration_since(since) >= self.idle {
                self.shared.close();
            }
        }
        let is_expected = self.gather.is_unanswered() && self.shared.in_flight.get() > 0;
        match self.liveness.judge(now.into_std(), self.gather.signs_of_life(), is_expected) {
            Verdict::Alive => Poll::Pending,
            Verdict::Ask => {
                if let Some(pings) = &mut self.pings {
                    // The pong counts as a sign of life like everything that is read; one that is not taken would keep
                    // the next PING from being sent.
                    let _ = pings.poll_pong(&mut noop());
                    let _ = pings.send_ping(Ping::opaque());
                }
                Poll::Pending
            }
            Verdict::Dead => {
                self.shared.has_timed_out.set(true);
                Poll::Ready(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
