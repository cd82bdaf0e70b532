//! The sending half of a stream as a bounded [`Sink`].

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};

use super::counted_bytes::{Chunk, Gauge};
use crate::exchange::{Broken, Frame, Sink};

/// Octets of one stream that may wait in h2 before no more are taken.
const BOUND: usize = 64 * 1024;
/// Octets of all streams of a connection that may wait in h2 before no more are taken of a stream
/// than one frame, and that only where the peer has opened a window for it.
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
    /// The peer's windows do not cover all that waits in h2.
    is_uncovered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Finished,
    /// h2 took no more: the stream was reset, why is not known yet.
    Refused,
    Reset,
}

// === impl StreamSink ===

impl StreamSink {
    /// `held` counts what waits in h2 for all streams of the connection.
    pub(crate) fn new(stream: SendStream<Chunk>, held: &Rc<Cell<usize>>) -> Self {
        let gauge = Rc::new(Gauge::new(held));
        Self { stream, gauge, last: None, state: State::Open, is_uncovered: false }
    }

    /// Whether the whole body has been pushed.
    pub(crate) fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Resets the stream, whatever waits in it.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.last = None;
        self.state = State::Reset;
        self.stream.send_reset(reason);
    }

    /// Ready when the stream was reset, by either side, or its connection is gone.
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
        self.is_uncovered |= self.stream.capacity() < data.len();
        if is_last {
            self.state = State::Finished;
        }
        if self.stream.send_data(Chunk::new(data, &self.gauge), is_last).is_err() {
            self.state = State::Refused;
        }
    }

    fn send_last(&mut self) {
        if let Some(data) = self.last.take() {
            self.send(data, false);
        }
    }

    /// Waits until h2 holds nothing of the stream and the peer has opened a window for it.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.send_last();
        ready!(self.poll_held(0, cx))?;
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Broken::Closed)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until h2 holds no more than `at_most` octets, or the stream is reset.
    fn poll_held(&mut self, at_most: usize, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self.state {
            State::Reset => return Poll::Ready(Err(Broken::Closed)),
            State::Open | State::Finished if self.gauge.held() <= at_most => {
                self.is_uncovered &= self.gauge.held() > 0;
                return Poll::Ready(Ok(()));
            }
            State::Open | State::Finished | State::Refused => {}
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
        if self.gauge.held() + self.last.as_ref().map_or(0, Bytes::len) >= BOUND {
            self.send_last();
        }
        if self.gauge.total() >= CONNECTION_BOUND {
            return self.poll_window(cx);
        }
        self.poll_held(BOUND - 1, cx)
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
        // What the peer's windows cover is held up by nothing but the transport, which the
        // connection's task watches.
        let at_most = if self.is_uncovered { 0 } else { BOUND - 1 };
        self.poll_held(at_most, cx)
    }
}
