//! Reauthorization of requests that last, anonymous ones too: when routes, grants or credentials
//! change, and when a credential expires.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use slab::Slab;

/// How often a worker checks for changes: a revocation takes effect within this time, and the time
/// of the check.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// The pending requests of one worker.
#[derive(Default)]
pub(crate) struct Reauthorization {
    pending: RefCell<Slab<Pending>>,
    version: Cell<u64>,
}

struct Pending {
    until: Option<SystemTime>,
    /// Whether it must be reauthorized.
    due: bool,
    waker: Waker,
}

/// The registration of one request, removed on drop.
struct Registration<'r> {
    reauthorization: &'r Reauthorization,
    since: u64,
    until: Option<SystemTime>,
    key: Option<usize>,
}

// === impl Reauthorization ===

impl Reauthorization {
    /// The version of the last tick. Read before a request is authorized, it tells
    /// [`guard`](Self::guard) since when changes matter.
    pub(crate) fn version(&self) -> u64 {
        self.version.get()
    }

    /// Wakes the requests to reauthorize: all if `version`, which changes with routes, grants and
    /// credentials, is a new one, else those whose credentials have expired.
    pub(crate) fn tick(&self, version: u64, now: SystemTime) {
        let changed = self.version.replace(version) != version;
        for (_, request) in self.pending.borrow_mut().iter_mut() {
            if changed || request.until.is_some_and(|until| until <= now) {
                request.due = true;
                request.waker.wake_by_ref();
            }
        }
    }

    /// Runs `work` for as long as `is_allowed` returns true; it is called whenever the request is
    /// due, and not before `work` had to wait. Returns `None` where it returned false.
    ///
    /// `since` is the version from before the request was authorized: changes are noticed from then
    /// on, not only from when `work` had to wait.
    pub(crate) async fn guard<F: Future>(
        &self,
        since: u64,
        until: Option<SystemTime>,
        work: F,
        mut is_allowed: impl AsyncFnMut() -> bool,
    ) -> Option<F::Output> {
        let mut work = pin!(work);
        let mut registration = Registration { reauthorization: self, since, until, key: None };
        loop {
            let done = std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if registration.is_due(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match done.await {
                Some(output) => return Some(output),
                None if is_allowed().await => {}
                None => return None,
            }
        }
    }
}

// === impl Registration ===

impl Registration<'_> {
    /// Whether the request must be reauthorized; registers it for the next tick either way.
    fn is_due(&mut self, cx: &Context<'_>) -> bool {
        let mut pending = self.reauthorization.pending.borrow_mut();
        match self.key.and_then(|key| pending.get_mut(key)) {
            Some(request) => {
                if !request.waker.will_wake(cx.waker()) {
                    request.waker = cx.waker().clone();
                }
                std::mem::take(&mut request.due)
            }
            None => {
                self.key = Some(pending.insert(Pending {
                    until: self.until,
                    due: false,
                    waker: cx.waker().clone(),
                }));
                // A tick between the authorization and this registration did not see the request.
                self.reauthorization.version.get() != self.since
            }
        }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.reauthorization.pending.borrow_mut().try_remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn work_that_completes_at_once_is_not_reauthorized() {
        let reauthorization = Reauthorization::default();
        assert_eq!(
            reauthorization
                .guard(0, None, std::future::ready(7), async || unreachable!())
                .now_or_never(),
            Some(Some(7))
        );
        assert!(reauthorization.pending.borrow().is_empty());
    }

    #[test]
    fn lasting_work_is_reauthorized_on_changes_and_cancelled_when_denied() {
        let reauthorization = Reauthorization::default();
        let (calls, allowed) = (Cell::new(0), Cell::new(true));
        let mut guarded =
            Box::pin(reauthorization.guard(0, None, std::future::pending::<()>(), async || {
                calls.set(calls.get() + 1);
                allowed.get()
            }));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        reauthorization.tick(0, UNIX_EPOCH);
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        assert_eq!(calls.get(), 0, "nothing changed");
        reauthorization.tick(1, UNIX_EPOCH);
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        assert_eq!(calls.get(), 1);
        allowed.set(false);
        assert!(guarded.as_mut().poll(&mut cx).is_pending(), "not called without a change");
        reauthorization.tick(2, UNIX_EPOCH);
        assert_eq!(guarded.as_mut().poll(&mut cx), Poll::Ready(None));
        drop(guarded);
        assert!(reauthorization.pending.borrow().is_empty());
    }

    #[test]
    fn lasting_work_is_reauthorized_when_a_credential_expires() {
        let reauthorization = Reauthorization::default();
        let until = UNIX_EPOCH + Duration::from_secs(100);
        let mut guarded = Box::pin(reauthorization.guard(
            0,
            Some(until),
            std::future::pending::<()>(),
            async || false,
        ));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        reauthorization.tick(0, until - Duration::from_secs(1));
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        reauthorization.tick(0, until);
        assert_eq!(guarded.as_mut().poll(&mut cx), Poll::Ready(None));
    }

    #[test]
    fn a_change_before_the_registration_is_noticed() {
        let reauthorization = Reauthorization::default();
        // The request is authorized; then grants change, before it has to wait.
        let since = reauthorization.version();
        reauthorization.tick(1, UNIX_EPOCH);
        let mut guarded = Box::pin(reauthorization.guard(
            since,
            None,
            std::future::pending::<()>(),
            async || false,
        ));
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(guarded.as_mut().poll(&mut cx), Poll::Ready(None));
    }
}
