//! Moves the frames of one body from where they are read to where they are written, in constant
//! memory.

use std::task::{Context, Poll, ready};

use crate::exchange::{Broken, Frame, Refusal, Sink, Source};

/// One direction of an exchange.
#[derive(Debug)]
pub(crate) struct Copy {
    state: State,
    octets: u64,
    /// Some of it waits for the sink to take it.
    waits_for_sink: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Frames are still to come.
    Moving,
    /// All were taken; some may not have gone to the transport.
    Flushing,
    Over,
}

/// Why a body did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyError {
    /// Reading failed.
    Source(Broken),
    /// Writing failed.
    Sink(Broken),
    /// A frame was not let through.
    Refused(Refusal),
}

// === impl Copy ===

impl Copy {
    /// A body of which nothing was moved yet.
    pub(crate) fn new() -> Self {
        Self { state: State::Moving, octets: 0, waits_for_sink: false }
    }

    /// No body: only what the sink holds already is to be flushed.
    pub(crate) fn empty() -> Self {
        Self { state: State::Flushing, octets: 0, waits_for_sink: false }
    }

    /// Octets of data moved so far.
    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether some of it waits for the sink to take it, as of the last [`poll`](Self::poll).
    pub(crate) fn waits_for_sink(&self) -> bool {
        self.waits_for_sink
    }

    /// Whether nothing is left to be done.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Leaves the rest where it is.
    pub(crate) fn stop(&mut self) {
        self.state = State::Over;
    }

    /// Moves what can be moved now. Ready once all has gone to the transport. `inspect` sees each
    /// frame before it is written.
    pub(crate) fn poll<S: Source, K: Sink>(
        &mut self,
        source: &mut S,
        sink: &mut K,
        mut inspect: impl FnMut(&mut Frame) -> Result<(), Refusal>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CopyError>> {
        self.waits_for_sink = true;
        while self.state == State::Moving {
            ready!(sink.poll_ready(cx)).map_err(CopyError::Sink)?;
            match source.poll_frame(cx) {
                Poll::Ready(Some(Ok(mut frame))) => {
                    inspect(&mut frame).map_err(CopyError::Refused)?;
                    if let Frame::Data(data) = &frame {
                        self.octets += data.len() as u64;
                    }
                    sink.push(frame);
                }
                Poll::Ready(Some(Err(broken))) => {
                    return Poll::Ready(Err(CopyError::Source(broken)));
                }
                Poll::Ready(None) => {
                    sink.finish();
                    self.state = State::Flushing;
                }
                Poll::Pending => {
                    // Nothing more to gather for now: what was gathered must not wait.
                    let flushed = sink.poll_flush(cx).map_err(CopyError::Sink)?;
                    self.waits_for_sink = flushed.is_pending();
                    return Poll::Pending;
                }
            }
        }
        if self.state == State::Flushing {
            ready!(sink.poll_flush(cx)).map_err(CopyError::Sink)?;
            self.state = State::Over;
        }
        Poll::Ready(Ok(()))
    }
}
