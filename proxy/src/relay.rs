//! Copies the frames of a body from a source to a sink, in constant memory.

use std::task::{Context, Poll, ready};

use crate::exchange::{Broken, Frame, Refusal, Sink, Source};

/// The state of copying one body: one direction of an exchange.
#[derive(Debug)]
pub(crate) struct BodyCopy {
    state: State,
    octets: u64,
    /// Whether some of it waits for the sink.
    waits_for_sink: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More frames will follow.
    Copying,
    /// All frames are in the sink, which may not have flushed them.
    Flushing,
    Done,
}

/// Why a body could not be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyError {
    /// Reading failed.
    Source(Broken),
    /// Writing failed.
    Sink(Broken),
    /// A frame was rejected.
    Refused(Refusal),
}

// === impl BodyCopy ===

impl BodyCopy {
    /// Starts to copy a body.
    pub(crate) fn new() -> Self {
        Self { state: State::Copying, octets: 0, waits_for_sink: false }
    }

    /// Copies no body, and only flushes the sink.
    pub(crate) fn empty() -> Self {
        Self { state: State::Flushing, octets: 0, waits_for_sink: false }
    }

    /// Returns the octets of data copied so far.
    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    /// Returns whether data waited for the sink at the last [`poll`](Self::poll).
    pub(crate) fn waits_for_sink(&self) -> bool {
        self.waits_for_sink
    }

    /// Returns whether copying is complete or stopped.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Stops copying.
    pub(crate) fn stop(&mut self) {
        self.state = State::Done;
    }

    /// Copies available frames. Ready when all are flushed. Calls `inspect` with each frame before
    /// it is written.
    pub(crate) fn poll<S: Source, K: Sink>(
        &mut self,
        source: &mut S,
        sink: &mut K,
        mut inspect: impl FnMut(&mut Frame) -> Result<(), Refusal>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CopyError>> {
        self.waits_for_sink = true;
        while self.state == State::Copying {
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
                    // No more frames to coalesce for now: flush those in the sink.
                    let flushed = sink.poll_flush(cx).map_err(CopyError::Sink)?;
                    self.waits_for_sink = flushed.is_pending();
                    return Poll::Pending;
                }
            }
        }
        if self.state == State::Flushing {
            ready!(sink.poll_flush(cx)).map_err(CopyError::Sink)?;
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }
}
