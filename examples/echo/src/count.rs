//! Counts exchanges, so that tests can wait for them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;

/// The number of exchanges, except requests for `/ready`, which are probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests whose head was read.
    pub started: u64,
    /// Responses that were written completely.
    pub finished: u64,
    /// Exchanges that the client cancelled.
    pub cancelled: u64,
}

/// An exchange in progress. It counts as cancelled if it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Exchange {
    counts: Arc<watch::Sender<Counts>>,
    finished: bool,
}

/// A body that finishes its exchange with its last frame.
#[derive(Debug)]
pub(crate) struct Counted<B> {
    inner: B,
    exchange: Option<Exchange>,
}

// === impl Exchange ===

impl Exchange {
    pub(crate) fn start(counts: &Arc<watch::Sender<Counts>>) -> Self {
        counts.send_modify(|counts| counts.started += 1);
        Self { counts: Arc::clone(counts), finished: false }
    }

    fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.counts.send_modify(|counts| {
            if self.finished { counts.finished += 1 } else { counts.cancelled += 1 }
        });
    }
}

// === impl Counted ===

impl<B> Counted<B> {
    pub(crate) fn new(inner: B, exchange: Option<Exchange>) -> Self {
        Self { inner, exchange }
    }

    fn finish(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.finish();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        let last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || this.inner.is_end_stream(),
            Some(Err(_)) => false,
        };
        if last {
            this.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Body> Counted<B> {
    /// Finishes the exchange of an empty body, which servers do not poll.
    pub(crate) fn settled(mut self) -> Self {
        if self.inner.is_end_stream() {
            self.finish();
        }
        self
    }
}
