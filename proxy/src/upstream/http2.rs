//! HTTP/2 to backends: with prior knowledge (h2c, RFC 9113 §3.3) and over TLS.
//!
//! One task per connection drives it; requests are its streams and need no task of their own. It is
//! a purpose-built client (docs/decisions/010): it keeps no HPACK encoder state that different
//! users' requests would share, writes heads without intermediate copies, and coalesces what many
//! exchanges send in one poll into one write.

mod connection;
mod driver;
mod head;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what is fuzzed fails by a panic"
)]
mod invariants;
mod receive;
mod stream;
mod windows;

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use portcullis_config::settings::Settings;
use tokio::io::{AsyncRead, AsyncWrite};

use self::connection::Connection;
use self::driver::Driver;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::invariants::check_invariants;
use self::stream::Shared;
use super::exchange::{Failed, Head, Message};
use crate::exchange::{Broken, Frame, Sink, Source};

/// Buffered octets of one request's body above which no more are accepted.
const BOUND: usize = 64 * 1024;

/// Maximum streams before a backend's first settings arrive (RFC 9113 §6.5.2 recommends a limit of
/// at least this).
pub(crate) const STREAMS_BEFORE_SETTINGS: usize = 100;

/// The settings of a connection to a backend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientSettings {
    /// Octets of one stream's response that the backend may send before they are read, at most.
    pub(crate) stream_window: u32,
    /// Octets that streams may use together, in addition to a small window that each has.
    pub(crate) spare_window: u32,
    /// Octets of a response's head, as HPACK counts them (RFC 9113 §6.5.2).
    pub(crate) head_bytes: u32,
    /// Maximum streams before the backend's settings arrive. It refuses what is beyond its own limit.
    pub(crate) streams: usize,
    /// How long the connection is kept without a request.
    pub(crate) idle: Duration,
    /// How long a backend may be inactive after something was sent before a PING is sent, and how
    /// long it may take to answer it. gRPC servers close connections with unneeded PINGs, so no
    /// others are sent.
    pub(crate) ping_after: Duration,
}

/// A cloneable handle to a connection to a backend. After the last handle is dropped, the
/// connection is closed when its last exchange completes.
#[derive(Debug, Clone)]
pub(crate) struct Http2Client(Rc<Handle>);

#[derive(Debug)]
struct Handle(Rc<RefCell<Connection>>);

/// One request and its response. Dropping it before both are complete resets the stream (CANCEL).
#[derive(Debug)]
pub(crate) struct Http2Exchange {
    /// Whether the backend has used the connection before.
    pub(super) is_kept: bool,
    /// The request's body.
    pub(crate) request: RequestBody,
    /// The response's head and body.
    pub(crate) response: Response,
}

/// The sink for a request's body.
///
/// The latest data is held back until it is known whether more follows, so that the last DATA frame
/// carries END_STREAM itself.
#[derive(Debug)]
pub(crate) struct RequestBody {
    connection: Rc<RefCell<Connection>>,
    stream: Shared,
    last: Option<Bytes>,
}

/// The response of an exchange: its heads, then its frames.
#[derive(Debug)]
pub(crate) struct Response {
    connection: Rc<RefCell<Connection>>,
    stream: Shared,
    /// Octets that were returned and not yet added to the receive window.
    unreleased: usize,
    is_done: bool,
}

// === impl ClientSettings ===

impl ClientSettings {
    pub(crate) fn new(settings: &Settings) -> Self {
        let stream_window = settings.limits.http2_stream_window.get();
        Self {
            stream_window,
            spare_window: stream_window.saturating_mul(16),
            head_bytes: u32::try_from(settings.limits.response_head_bytes.get())
                .unwrap_or(u32::MAX),
            streams: STREAMS_BEFORE_SETTINGS,
            idle: settings.timeouts.upstream_idle,
            ping_after: settings.timeouts.connect,
        }
    }
}

// === impl Http2Client ===

impl Http2Client {
    /// Starts HTTP/2 on a transport and spawns the local task that drives it. It does not wait for
    /// the backend: the first request is sent with the preface.
    pub(crate) fn connect<T>(io: T, settings: &ClientSettings) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let connection = Rc::new(RefCell::new(Connection::new(*settings)));
        tokio::task::spawn_local(Driver::new(io, Rc::clone(&connection)).run());
        Self(Rc::new(Handle(connection)))
    }

    /// Whether a stream is free for one more request.
    pub(crate) fn is_usable(&self) -> bool {
        let connection = self.0.0.borrow();
        connection.is_open && connection.exchanges < connection.capacity()
    }

    /// Returns the maximum number of open streams.
    pub(crate) fn capacity(&self) -> usize {
        self.0.0.borrow().capacity()
    }

    /// Returns the maximum number of open streams, if the backend's settings have arrived.
    pub(crate) fn known_capacity(&self) -> Option<usize> {
        let connection = self.0.0.borrow();
        connection.has_settings.then(|| connection.capacity())
    }

    /// Whether it accepts requests. If not, it closes after its exchanges in flight, and the handle
    /// may be dropped.
    pub(crate) fn is_open(&self) -> bool {
        self.0.0.borrow().is_open
    }

    /// Sends a request's head, or queues it until the backend allows another stream. `tls` states
    /// whether the transport is encrypted.
    ///
    /// # Errors
    /// Nothing was sent: [`Failed::NotSent`] if the connection accepts no more requests, and
    /// [`Failed::Full`] if too many are queued.
    pub(crate) fn send(&self, message: &Message<'_>, tls: bool) -> Result<Http2Exchange, Failed> {
        let connection = &self.0.0;
        let is_kept = connection.borrow().has_settings;
        let stream = connection.borrow_mut().request(message, tls)?;
        Ok(Http2Exchange {
            is_kept,
            request: RequestBody {
                connection: Rc::clone(connection),
                stream: Rc::clone(&stream),
                last: None,
            },
            response: Response {
                connection: Rc::clone(connection),
                stream,
                unreleased: 0,
                is_done: false,
            },
        })
    }
}

// === impl Handle ===

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.borrow_mut().close();
    }
}

// === impl Http2Exchange ===

impl Drop for Http2Exchange {
    fn drop(&mut self) {
        let Response { connection, stream, unreleased, .. } = &self.response;
        let mut connection = connection.borrow_mut();
        connection.release(*unreleased);
        connection.abandon(stream);
    }
}

// === impl RequestBody ===

impl RequestBody {
    fn send(&mut self, data: Bytes, is_last: bool) {
        self.connection.borrow_mut().send(&self.stream, data, is_last);
    }

    fn send_last(&mut self) {
        if let Some(data) = self.last.take() {
            self.send(data, false);
        }
    }
}

impl Sink for RequestBody {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let last = self.last.as_ref().map_or(0, Bytes::len);
        if last > 0 && self.stream.borrow().queued + last >= BOUND {
            self.send_last();
        }
        self.stream.borrow_mut().poll_queued(BOUND - 1, cx)
    }

    fn push(&mut self, frame: Frame) {
        match frame {
            Frame::Data(data) if data.is_empty() => {}
            Frame::Data(data) => {
                self.send_last();
                self.last = Some(data);
            }
            Frame::Trailers(trailers) => {
                self.send_last();
                self.connection.borrow_mut().send_trailers(&self.stream, trailers);
            }
        }
    }

    fn finish(&mut self) {
        let data = self.last.take().unwrap_or_default();
        self.send(data, true);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.send_last();
        // What has left the queue waits only for the transport, which the connection's task
        // watches.
        self.stream.borrow_mut().poll_queued(0, cx)
    }
}

// === impl Response ===

impl Response {
    /// Returns the next head: interim ones first, then the final one. Must not be called after the
    /// final one.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failed>> {
        self.stream.borrow_mut().poll_head(cx)
    }
}

impl Source for Response {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        let unreleased = std::mem::take(&mut self.unreleased);
        if unreleased > 0 {
            self.connection.borrow_mut().release_stream(&self.stream, unreleased);
        }
        if self.is_done {
            return Poll::Ready(None);
        }
        let mut stream = self.stream.borrow_mut();
        let frame = match std::task::ready!(stream.poll_data(cx)) {
            Ok(Some(data)) => {
                self.unreleased = data.len();
                return Poll::Ready(Some(Ok(Frame::Data(data))));
            }
            Ok(None) => stream.trailers.take().map(|trailers| Ok(Frame::Trailers(trailers))),
            Err(reason) => Some(Err(reason)),
        };
        self.is_done = true;
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests;
