//! May she still? Requests that last are looked at again when grants or credentials change, and
//! when a credential ends.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use slab::Slab;

/// How often a worker looks whether something changed: what is taken away has no force after this
/// time, and what it takes to look.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// The requests of one worker that were let in by credentials, and wait for something.
#[derive(Default)]
pub(crate) struct Reviews {
    waiting: RefCell<Slab<Waiting>>,
    seen: Cell<u64>,
}

struct Waiting {
    until: Option<SystemTime>,
    /// Set when it is to be looked at.
    due: bool,
    waker: Waker,
}

/// One request's place among them.
struct Place<'r> {
    reviews: &'r Reviews,
    until: Option<SystemTime>,
    key: Option<usize>,
}

// === impl Reviews ===

impl Reviews {
    /// Looks at the time, and at `version`, which changes when grants or credentials do; wakes whom
    /// it concerns.
    pub(crate) fn look(&self, version: u64, now: SystemTime) {
        let changed = self.seen.replace(version) != version;
        for (_, waiting) in self.waiting.borrow_mut().iter_mut() {
            if changed || waiting.until.is_some_and(|until| until <= now) {
                waiting.due = true;
                waiting.waker.wake_by_ref();
            }
        }
    }

    /// Runs `work` for as long as `may` says yes; it is asked whenever there is a reason to, first
    /// only after `work` had to wait. `None` where it said no.
    pub(crate) async fn guard<F: Future>(
        &self,
        until: Option<SystemTime>,
        work: F,
        mut may: impl AsyncFnMut() -> bool,
    ) -> Option<F::Output> {
        let mut work = pin!(work);
        let mut place = Place { reviews: self, until, key: None };
        loop {
            let done = std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if place.is_due(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match done.await {
                Some(output) => return Some(output),
                None if may().await => {}
                None => return None,
            }
        }
    }
}

// === impl Place ===

impl Place<'_> {
    /// Whether it is to be looked at; registers for the next time either way.
    fn is_due(&mut self, cx: &Context<'_>) -> bool {
        let mut waiting = self.reviews.waiting.borrow_mut();
        match self.key.and_then(|key| waiting.get_mut(key)) {
            Some(place) => {
                if !place.waker.will_wake(cx.waker()) {
                    place.waker = cx.waker().clone();
                }
                std::mem::take(&mut place.due)
            }
            None => {
                self.key = Some(waiting.insert(Waiting {
                    until: self.until,
                    due: false,
                    waker: cx.waker().clone(),
                }));
                // Something may have changed since it was let in, before it had a place here.
                false
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.reviews.waiting.borrow_mut().try_remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_is_done_at_once_is_never_looked_at() {
        let reviews = Reviews::default();
        assert_eq!(
            reviews.guard(None, std::future::ready(7), async || unreachable!()).now_or_never(),
            Some(Some(7))
        );
        assert!(reviews.waiting.borrow().is_empty());
    }

    #[test]
    fn what_lasts_is_looked_at_when_something_changed_and_ends_when_it_may_not() {
        let reviews = Reviews::default();
        let (asked, allowed) = (Cell::new(0), Cell::new(true));
        let mut guarded = Box::pin(reviews.guard(None, std::future::pending::<()>(), async || {
            asked.set(asked.get() + 1);
            allowed.get()
        }));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        reviews.look(0, UNIX_EPOCH);
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        assert_eq!(asked.get(), 0, "nothing changed");
        reviews.look(1, UNIX_EPOCH);
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        assert_eq!(asked.get(), 1);
        allowed.set(false);
        assert!(guarded.as_mut().poll(&mut cx).is_pending(), "it is not asked without a reason");
        reviews.look(2, UNIX_EPOCH);
        assert_eq!(guarded.as_mut().poll(&mut cx), Poll::Ready(None));
        drop(guarded);
        assert!(reviews.waiting.borrow().is_empty());
    }

    #[test]
    fn what_was_let_in_for_a_time_is_looked_at_when_it_is_over() {
        let reviews = Reviews::default();
        let until = UNIX_EPOCH + Duration::from_secs(100);
        let mut guarded =
            Box::pin(reviews.guard(Some(until), std::future::pending::<()>(), async || false));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        reviews.look(0, until - Duration::from_secs(1));
        assert!(guarded.as_mut().poll(&mut cx).is_pending());
        reviews.look(0, until);
        assert_eq!(guarded.as_mut().poll(&mut cx), Poll::Ready(None));
    }
}
