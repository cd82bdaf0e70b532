//! The receiving half of a stream as a [`Source`].

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::RecvStream;

use super::broken;
use super::irregular::Irregular;
use crate::exchange::{Broken, Frame, Source};

/// Reads the frames of one body.
#[derive(Debug)]
pub(crate) struct StreamSource {
    stream: RecvStream,
    irregular: Rc<Irregular>,
    /// Octets that were returned and not yet added to the receive window.
    unreleased: usize,
    is_done: bool,
}

// === impl StreamSource ===

impl StreamSource {
    /// Reads a stream of the connection that `irregular` is of.
    pub(crate) fn new(stream: RecvStream, irregular: Rc<Irregular>) -> Self {
        Self { stream, irregular, unreleased: 0, is_done: false }
    }

    /// Whether the body was read to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        loop {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.unreleased = data.len();
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(broken(&error)))),
                None => {
                    let trailers = ready!(self.stream.poll_trailers(cx));
                    // The responder resets the stream.
                    if self.irregular.has_malformed_trailers(self.stream.stream_id().as_u32()) {
                        return Poll::Ready(Some(Err(Broken::Closed)));
                    }
                    return Poll::Ready(
                        trailers
                            .map_err(|error| broken(&error))
                            .transpose()
                            .map(|trailers| trailers.map(Frame::Trailers)),
                    );
                }
            }
        }
    }
}

impl Source for StreamSource {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        let unreleased = std::mem::take(&mut self.unreleased);
        if unreleased > 0 {
            // It fails only for more than was received.
            let _ = self.stream.flow_control().release_capacity(unreleased);
        }
        if self.is_done {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_next(cx));
        self.is_done = !matches!(frame, Some(Ok(Frame::Data(_))));
        Poll::Ready(frame)
    }
}
