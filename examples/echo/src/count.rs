//! What a server has seen, so that a test can await it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;

/// How many exchanges there were. Requests for `/ready` are left out: they are the prober's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests whose head was read.
    pub started: u64,
    /// Responses that were written whole.
    pub finished: u64,
    /// Exchanges that the caller gave up before their end.
    pub cancelled: u64,
}

/// One exchange under way; dropped before its end, it counts as cancelled.
#[derive(Debug)]
pub(crate) struct Exchange {
    counts: Arc<watch::Sender<Counts>>,
    finished: bool,
}

/// A body that ends its exchange with its last frame.
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
    /// Ends the exchange of a body that is empty from the start: no server asks it for a frame.
    pub(crate) fn settled(mut self) -> Self {
        if self.inner.is_end_stream() {
            self.finish();
        }
        self
    }
}
