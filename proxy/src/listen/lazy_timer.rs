//! A timer that is cheap to move to a later time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// A timer that follows its deadline to a later time only when it fires: a connection with many
/// requests moves its deadline with each, and few of them are ever reached.
pub(super) struct LazyTimer<'a> {
    sleep: Pin<&'a mut Sleep>,
    deadline: Instant,
}

// === impl LazyTimer ===

impl<'a> LazyTimer<'a> {
    pub(super) fn new(sleep: Pin<&'a mut Sleep>) -> Self {
        let deadline = sleep.deadline();
        Self { sleep, deadline }
    }

    /// Moves the deadline.
    pub(super) fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
        }
    }

    /// Ready from the deadline on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if self.sleep.deadline() >= self.deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_its_last_deadline() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let sleep = pin!(tokio::time::sleep_until(after(10)));
        let mut timer = LazyTimer::new(sleep);
        // Later, and later again; sooner; later than what has fired.
        for deadlines in [&[20, 5][..], &[20, 30], &[90, 40], &[50]] {
            for deadline in deadlines {
                timer.reset(after(*deadline));
            }
            poll_fn(|cx| timer.poll(cx)).await;
            assert_eq!(Some(&Instant::now().duration_since(begin).as_secs()), deadlines.last());
        }
    }
}
