//! A connection of a build: what it transfers is counted, and how long it transfers nothing is measured.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

/// How much all connections of a build may still transfer, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicU64>);

/// When something was transferred last.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    start: Instant,
    /// In milliseconds after the start.
    last: Arc<AtomicU64>,
}

/// A stream that fails once the budget is spent.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    budget: Budget,
    activity: Activity,
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn spend(&self, bytes: usize) -> io::Result<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let rest = |left: u64| Some(left.saturating_sub(bytes));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        if before.unwrap_or_default() > bytes || bytes == 0 {
            return Ok(());
        }
        Err(io::Error::other("the build has transferred too much"))
    }
}

// === impl Activity ===

impl Activity {
    fn is_now(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Returns when nothing was transferred for this time.
    pub(super) async fn ends(&self, after: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let left = last.saturating_add(after).saturating_sub(self.start.elapsed());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

// === impl Metered ===

impl<S> Metered<S> {
    pub(super) fn new(stream: S, budget: Budget) -> Self {
        let activity = Activity { start: Instant::now(), last: Arc::default() };
        Self { stream, budget, activity }
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    fn count(&self, bytes: usize) -> io::Result<()> {
        if bytes > 0 {
            self.activity.is_now();
        }
        self.budget.spend(bytes)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        Poll::Ready(this.count(buffer.filled().len().saturating_sub(before)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        part: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(context, part))?;
        Poll::Ready(this.count(written).map(|()| written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
