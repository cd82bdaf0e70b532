//! Reads a small response to its end before its head is sent to the client, so that the request can
//! be repeated where the backend dies in between.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, header};
use smallvec::SmallVec;

use crate::exchange::{BodyLength, Broken, Frame, Respond, Source};
use crate::upstream::exchange::Exchange;

/// The maximum size of a response that is held, in octets.
const MAX_OCTETS: usize = 4 * 1024;
/// The maximum number of its frames.
const MAX_FRAMES: usize = 16;
/// How long to wait for the rest. Most backends write a small response at once; a response that
/// comes slowly must not be delayed.
const PATIENCE: Duration = Duration::from_millis(2);

/// The beginning of a response's body.
#[derive(Debug, Default)]
pub(super) struct Prefetched {
    frames: SmallVec<[Frame; 1]>,
    octets: usize,
    /// Nothing follows the frames.
    is_whole: bool,
}

/// A response's body: first what is held, then what is read.
pub(super) struct Resumed<'a, S> {
    pub(super) prefetched: &'a mut Prefetched,
    pub(super) source: S,
}

/// Why a response was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupted {
    Broken(Broken),
    /// The client disconnected.
    ClientClosed,
}

/// Whether a response may be small.
pub(super) fn is_candidate(length: BodyLength, headers: &HeaderMap) -> bool {
    match length {
        BodyLength::None | BodyLength::Tunnel => false,
        BodyLength::Exact(length) => length <= MAX_OCTETS as u64,
        // Events are sent as they happen.
        BodyLength::Unknown => headers
            .get(header::CONTENT_TYPE)
            .is_none_or(|kind| !kind.as_bytes().starts_with(b"text/event-stream")),
    }
}

/// Reads a response's body to its end, unless it is too large or takes too long.
///
/// # Errors
/// The response was broken off, or the client disconnected.
pub(super) async fn read<R: Respond>(
    exchange: &mut Exchange,
    respond: &mut R,
) -> Result<Prefetched, Interrupted> {
    let mut prefetched = Prefetched::default();
    // Most responses are there with their heads: then no timer is needed.
    let polled =
        poll_fn(|cx| Poll::Ready(prefetched.poll_fill(&mut exchange.halves().1, cx))).await;
    if let Poll::Ready(filled) = polled {
        return filled.map(|()| prefetched).map_err(Interrupted::Broken);
    }
    let mut timer = pin!(tokio::time::sleep(PATIENCE));
    poll_fn(|cx| {
        if let Poll::Ready(filled) = prefetched.poll_fill(&mut exchange.halves().1, cx) {
            return Poll::Ready(filled.map_err(Interrupted::Broken));
        }
        if respond.poll_client_closed(cx).is_ready() {
            return Poll::Ready(Err(Interrupted::ClientClosed));
        }
        timer.as_mut().poll(cx).map(Ok)
    })
    .await?;
    Ok(prefetched)
}

// === impl Prefetched ===

impl Prefetched {
    /// Ready when all was read, or no more is to be held.
    fn poll_fill<S: Source>(
        &mut self,
        source: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        while self.octets <= MAX_OCTETS && self.frames.len() < MAX_FRAMES {
            match std::task::ready!(source.poll_frame(cx)) {
                Some(frame) => {
                    let frame = frame?;
                    if let Frame::Data(data) = &frame {
                        self.octets += data.len();
                    }
                    self.frames.push(frame);
                }
                None => {
                    self.is_whole = true;
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

// === impl Resumed ===

impl<S: Source> Source for Resumed<'_, S> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        if !self.prefetched.frames.is_empty() {
            return Poll::Ready(Some(Ok(self.prefetched.frames.remove(0))));
        }
        if self.prefetched.is_whole { Poll::Ready(None) } else { self.source.poll_frame(cx) }
    }
}
