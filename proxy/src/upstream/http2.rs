//! HTTP/2 to backends: by prior knowledge (h2c, RFC 9113 §3.3) and over TLS.
//!
//! One task a connection drives it; requests are streams of it and need no task of their own. It is
//! written for this place (docs/decisions/010): no table of fields is kept that would mix people's
//! requests, heads are written from where they are, and what many exchanges send in one turn goes
//! out in one piece.

mod connection;
mod driver;
mod head;
#[cfg(any(test, feature = "fuzzing"))]
mod invariants;
mod receive;
mod stream;

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
pub(crate) use self::invariants::law;
use self::stream::Shared;
use super::exchange::{Failed, Head, Message};
use crate::exchange::{Broken, Frame, Sink, Source};

/// Octets of one request's body that may wait for the backend before no more are taken.
const BOUND: usize = 64 * 1024;

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
    /// How long a backend may be quiet after something was sent to it before it is asked with a
    /// PING; and how long it may take to answer that. gRPC servers close connections that PING
    /// for no reason, so none is sent otherwise.
    pub(crate) quiet: Duration,
}

/// A connection to a backend: a handle that can be cloned. With the last one it ends, when the last
/// exchange on it has.
#[derive(Debug, Clone)]
pub(crate) struct Http2Client(Rc<Handle>);

#[derive(Debug)]
struct Handle(Rc<RefCell<Connection>>);

/// One request and its response. Dropped before both have ended, it resets the stream with CANCEL.
#[derive(Debug)]
pub(crate) struct Http2Exchange {
    /// The request's body.
    pub(crate) request: RequestBody,
    /// The response's head and body.
    pub(crate) response: Response,
}

/// The body of a request on its way.
///
/// The latest data is held back until it is known whether something follows, so that the last DATA
/// frame carries END_STREAM itself.
#[derive(Debug)]
pub(crate) struct RequestBody {
    connection: Rc<RefCell<Connection>>,
    stream: Shared,
    last: Option<Bytes>,
}

/// The response of an exchange. Its frames are read after its final head.
#[derive(Debug)]
pub(crate) struct Response {
    connection: Rc<RefCell<Connection>>,
    stream: Shared,
    /// Octets that were handed out and whose window is not opened again.
    taken: usize,
    is_ended: bool,
}

// === impl ClientSettings ===

impl ClientSettings {
    pub(crate) fn new(settings: &Settings) -> Self {
        let stream_window = settings.limits.http2_stream_window.get();
        Self {
            stream_window,
            connection_window: stream_window.saturating_mul(16),
            head_bytes: u32::try_from(settings.limits.response_head_bytes.get())
                .unwrap_or(u32::MAX),
            idle: settings.timeouts.upstream_idle,
            quiet: settings.timeouts.connect,
        }
    }
}

// === impl Http2Client ===

impl Http2Client {
    /// Starts HTTP/2 on a transport and spawns the task that drives it, on this thread. It does not
    /// wait for the backend: the first request goes out with the preface.
    pub(crate) fn connect<T>(io: T, settings: &ClientSettings) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let connection = Rc::new(RefCell::new(Connection::new(*settings)));
        tokio::task::spawn_local(Driver::new(io, Rc::clone(&connection)).run());
        Self(Rc::new(Handle(connection)))
    }

    /// Whether one more request may be sent on it now.
    pub(crate) fn is_usable(&self) -> bool {
        let connection = self.0.0.borrow();
        connection.is_open && connection.exchanges < connection.capacity()
    }

    /// Whether it takes requests at all; if not, it ends by itself with what is in flight on it,
    /// and may be dropped.
    pub(crate) fn is_open(&self) -> bool {
        self.0.0.borrow().is_open
    }

    /// Sends a request's head; where the backend takes no more streams, it waits for one. `tls`
    /// says whether the transport is encrypted.
    ///
    /// # Errors
    /// [`Failed::NotSent`] where the connection takes no more requests, and [`Failed::Full`] where
    /// too many wait: nothing was sent.
    pub(crate) fn send(&self, message: &Message<'_>, tls: bool) -> Result<Http2Exchange, Failed> {
        let connection = &self.0.0;
        let stream = connection.borrow_mut().request(message, tls)?;
        Ok(Http2Exchange {
            request: RequestBody {
                connection: Rc::clone(connection),
                stream: Rc::clone(&stream),
                last: None,
            },
            response: Response {
                connection: Rc::clone(connection),
                stream,
                taken: 0,
                is_ended: false,
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
        let Response { connection, stream, taken, .. } = &self.response;
        let mut connection = connection.borrow_mut();
        connection.release(*taken);
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
        let held = self.last.as_ref().map_or(0, Bytes::len);
        if held > 0 && self.stream.borrow().queued + held >= BOUND {
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
        // What has left the queue is held up by nothing but the transport, which the connection's
        // task watches.
        self.stream.borrow_mut().poll_queued(0, cx)
    }
}

// === impl Response ===

impl Response {
    /// The next head: interim ones, and then the final one, after which this must not be called
    /// again.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failed>> {
        self.stream.borrow_mut().poll_head(cx)
    }
}

impl Source for Response {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            self.connection.borrow_mut().release_stream(&self.stream, taken);
        }
        if self.is_ended {
            return Poll::Ready(None);
        }
        let mut stream = self.stream.borrow_mut();
        let frame = match std::task::ready!(stream.poll_data(cx)) {
            Ok(Some(data)) => {
                self.taken = data.len();
                return Poll::Ready(Some(Ok(Frame::Data(data))));
            }
            Ok(None) => stream.trailers.take().map(|trailers| Ok(Frame::Trailers(trailers))),
            Err(reason) => Some(Err(reason)),
        };
        self.is_ended = true;
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests;
