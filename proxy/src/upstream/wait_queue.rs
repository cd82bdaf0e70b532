//! Requests that wait because all endpoints of their service are full: a bounded queue, served round
//! robin by client.

use std::cell::RefCell;
use std::num::NonZeroU64;

use portcullis_identity::round_robin::RoundRobin;
use tokio::sync::oneshot;

use super::exchange::Load;

/// The queue of one service in one worker.
pub(super) struct WaitQueue {
    limit: usize,
    waiting: RefCell<RoundRobin<Waiter, NonZeroU64>>,
}

/// A request that waits. It gets a place at an endpoint, or is displaced.
pub(super) type Waiter = oneshot::Sender<Load>;

// === impl WaitQueue ===

impl WaitQueue {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, waiting: RefCell::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Queues a request. The receiver fails if there is no room for it, now or later because those
    /// of other clients displace it.
    pub(super) fn join(&self, client: NonZeroU64) -> oneshot::Receiver<Load> {
        let (waiter, place) = oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= self.limit {
            waiting.retain(|waiter| !waiter.is_closed());
        }
        drop(waiting.push_within(self.limit, client, waiter));
        place
    }

    /// Takes the next request of an eligible client that still waits.
    pub(super) fn next(
        &self,
        is_eligible: impl Fn(NonZeroU64) -> bool,
    ) -> Option<(NonZeroU64, Waiter)> {
        let mut waiting = self.waiting.borrow_mut();
        std::iter::from_fn(|| waiting.pop(&is_eligible)).find(|(_, waiter)| !waiter.is_closed())
    }

    /// Removes requests that do not wait any more.
    pub(super) fn sweep(&self) {
        self.waiting.borrow_mut().retain(|waiter| !waiter.is_closed());
    }
}
