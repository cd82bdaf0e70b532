//! The sending half of a stream as a bounded [`Sink`].

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};

use super::counted_bytes::{Chunk, Gauge};
use crate::exchange::{Broken, Frame, Sink};

/// Octets buffered in h2 for one stream above which no more are accepted.
const BOUND: usize = 64 * 1024;
/// Octets buffered in h2 for all streams of a connection above which a stream may add only one
/// frame at a time, and only if the peer has opened a window for it.
const CONNECTION_BOUND: usize = 1024 * 1024;

/// Sends the frames of one body.
///
/// The latest data is held back until it is known whether something follows, so that the last DATA
/// frame carries END_STREAM itself.
#[derive(Debug)]
pub(crate) struct StreamSink {
    stream: SendStream<Chunk>,
    gauge: Rc<Gauge>,
    last: Option<Bytes>,
    state: State,
    /// The peer's windows do not cover everything that h2 buffers.
    exceeds_window: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Finished,
    /// h2 accepted no more data: the stream was reset, but the reset is not reported yet.
    Rejected,
    Reset,
}

// === impl StreamSink ===

impl StreamSink {
    /// `total` counts the octets that h2 buffers for all streams of the connection.
    pub(crate) fn new(stream: SendStream<Chunk>, total: &Rc<Cell<usize>>) -> Self {
        let gauge = Rc::new(Gauge::new(total));
        Self { stream, gauge, last: None, state: State::Open, exceeds_window: false }
    }

    /// Whether the whole body has been pushed.
    pub(crate) fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Resets the stream and discards buffered data.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.last = None;
        self.state = State::Reset;
        self.stream.send_reset(reason);
    }

    /// Ready when either side has reset the stream, or its connection is closed.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state == State::Reset {
            Poll::Ready(())
        } else {
            self.stream.poll_reset(cx).map(|_| ())
        }
    }

    fn send(&mut self, data: Bytes, is_last: bool) {
        if self.state != State::Open {
            return;
        }
        self.stream.reserve_capacity(data.len());
        self.exceeds_window |= self.stream.capacity() < data.len();
        if is_last {
            self.state = State::Finished;
        }
        if self.stream.send_data(Chunk::new(data, &self.gauge), is_last).is_err() {
            self.state = State::Rejected;
        }
    }

    fn send_last(&mut self) {
        if let Some(data) = self.last.take() {
            self.send(data, false);
        }
    }

    /// Waits until h2 buffers nothing of the stream and the peer has opened a window for it.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.send_last();
        ready!(self.poll_buffered(0, cx))?;
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Broken::Closed)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until h2 buffers at most `at_most` octets, or the stream is reset.
    fn poll_buffered(&mut self, at_most: usize, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self.state {
            State::Reset => return Poll::Ready(Err(Broken::Closed)),
            State::Open | State::Finished if self.gauge.buffered() <= at_most => {
                self.exceeds_window &= self.gauge.buffered() > 0;
                return Poll::Ready(Ok(()));
            }
            State::Open | State::Finished | State::Rejected => {}
        }
        match self.stream.poll_reset(cx) {
            Poll::Ready(_) => {
                self.state = State::Reset;
                Poll::Ready(Err(Broken::Closed))
            }
            Poll::Pending => {
                self.gauge.wake_at(at_most, cx);
                Poll::Pending
            }
        }
    }
}

impl Sink for StreamSink {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.gauge.buffered() + self.last.as_ref().map_or(0, Bytes::len) >= BOUND {
            self.send_last();
        }
        if self.gauge.total() >= CONNECTION_BOUND {
            return self.poll_window(cx);
        }
        self.poll_buffered(BOUND - 1, cx)
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
                if self.state == State::Open {
                    self.state = State::Finished;
                    if self.stream.send_trailers(trailers).is_err() {
                        self.reset(Reason::INTERNAL_ERROR);
                    }
                }
            }
        }
    }

    fn finish(&mut self) {
        let data = self.last.take().unwrap_or_default();
        self.send(data, true);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.send_last();
        // Data within the peer's windows waits only for the transport, which the connection's task
        // watches.
        let at_most = if self.exceeds_window { 0 } else { BOUND - 1 };
        self.poll_buffered(at_most, cx)
    }
}
