//! Draining: signals connections that the gateway is stopping, and waits until they are closed.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// The worker's end: signals all connections to drain, and waits for them.
#[derive(Default)]
pub(crate) struct Drains {
    shared: Rc<Shared>,
}

/// A connection's end. Each handle, clones included, keeps the worker waiting.
pub(crate) struct Drain {
    shared: Rc<Shared>,
}

/// Ready once the gateway drains; see [`Drain::draining`].
pub(crate) struct Draining {
    shared: Rc<Shared>,
    key: Option<usize>,
}

#[derive(Default)]
struct Shared {
    announced: Cell<bool>,
    draining: Cell<bool>,
    /// Number of handles.
    alive: Cell<usize>,
    waiting: RefCell<Slab<Waker>>,
    idle: RefCell<Option<Waker>>,
}

// === impl Drains ===

impl Drains {
    /// Returns a handle for one more connection.
    pub(crate) fn handle(&self) -> Drain {
        Drain::new(Rc::clone(&self.shared))
    }

    /// Makes HTTP/1.1 responses close their connections from now on. Active clients then reconnect
    /// elsewhere before idle connections are closed, when a request could race with the close.
    pub(crate) fn announce(&self) {
        self.shared.announced.set(true);
    }

    /// Signals every connection, including later ones, to drain.
    pub(crate) fn start(&self) {
        self.announce();
        self.shared.draining.set(true);
        for waker in self.shared.waiting.borrow().iter().map(|(_, waker)| waker) {
            waker.wake_by_ref();
        }
    }

    /// Returns the number of handles.
    pub(crate) fn alive(&self) -> usize {
        self.shared.alive.get()
    }

    /// Waits until no handle is left. Supports one waiter at a time.
    pub(crate) async fn drained(&self) {
        poll_fn(|cx| {
            if self.alive() == 0 {
                return Poll::Ready(());
            }
            *self.shared.idle.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

// === impl Drain ===

impl Drain {
    fn new(shared: Rc<Shared>) -> Self {
        shared.alive.set(shared.alive.get() + 1);
        Self { shared }
    }

    /// Whether responses should close their connections.
    pub(crate) fn is_announced(&self) -> bool {
        self.shared.announced.get()
    }

    /// Waits until this connection should close as soon as its requests in flight complete. It does
    /// not count as a handle, and costs a comparison per poll.
    pub(crate) fn draining(&self) -> Draining {
        Draining { shared: Rc::clone(&self.shared), key: None }
    }
}

impl Clone for Drain {
    fn clone(&self) -> Self {
        Self::new(Rc::clone(&self.shared))
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let alive = self.shared.alive.get().saturating_sub(1);
        self.shared.alive.set(alive);
        if alive == 0
            && let Some(waker) = self.shared.idle.take()
        {
            waker.wake();
        }
    }
}

// === impl Draining ===

impl Future for Draining {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.draining.get() {
            return Poll::Ready(());
        }
        let this = &mut *self;
        let mut waiting = this.shared.waiting.borrow_mut();
        match this.key.and_then(|key| waiting.get_mut(key)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => this.key = Some(waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.waiting.borrow_mut().try_remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_connection_is_woken_when_the_gateway_drains() {
        let drains = Drains::default();
        let drain = drains.handle();
        let (waker, woken) = Wakes::waker();
        let mut cx = Context::from_waker(&waker);
        let mut draining = drain.draining();
        assert!(draining.poll_unpin(&mut cx).is_pending());
        assert!(!drain.is_announced());

        drains.start();
        assert_eq!(woken.get(), 1);
        assert!(drain.is_announced());
        assert!(draining.poll_unpin(&mut cx).is_ready());
    }

    #[test]
    fn a_dropped_waiter_is_removed() {
        let drains = Drains::default();
        let drain = drains.handle();
        let mut draining = drain.draining();
        assert!((&mut draining).now_or_never().is_none());
        assert!((&mut draining).now_or_never().is_none());
        assert_eq!(drains.shared.waiting.borrow().len(), 1);
        drop(draining);
        assert!(drains.shared.waiting.borrow().is_empty());
    }

    #[test]
    fn the_worker_waits_for_the_last_handle() {
        let drains = Drains::default();
        let first = drains.handle();
        let second = first.clone();
        let (waker, woken) = Wakes::waker();
        let mut cx = Context::from_waker(&waker);
        let mut drained = Box::pin(drains.drained());
        assert!(drained.poll_unpin(&mut cx).is_pending());
        drop(first);
        assert_eq!((woken.get(), drains.alive()), (0, 1));
        drop(second);
        assert_eq!(woken.get(), 1);
        assert!(drained.poll_unpin(&mut cx).is_ready());
    }

    /// Counts the wakes of a waker.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wakes {
        fn waker() -> (Waker, Arc<Self>) {
            let wakes = Arc::<Self>::default();
            (Waker::from(Arc::clone(&wakes)), wakes)
        }

        fn get(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
