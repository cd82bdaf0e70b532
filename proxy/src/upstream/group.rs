//! What the endpoints of one set share: how many of them are ejected, their requests in flight, their
//! typical latency, and the requests that wait for one of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use super::wait_queue::WaitQueue;
use crate::balance::latency::{Latency, Typical};

/// The state of one set.
pub(super) struct Group {
    /// The id of its endpoint set.
    set: u64,
    size: usize,
    ejected: Cell<usize>,
    in_flight: Cell<usize>,
    typical: Cell<Typical>,
    /// That of the backend, whatever its endpoints are.
    pub(super) queue: Rc<WaitQueue>,
    /// Another set has replaced this one.
    is_replaced: Cell<bool>,
}

// === impl Group ===

impl Group {
    /// Creates the state of a set of `size` endpoints that replaces one with the `typical` latency
    /// and these waiting requests.
    pub(super) fn new(set: u64, size: usize, typical: Typical, queue: Rc<WaitQueue>) -> Self {
        Self {
            set,
            size,
            ejected: Cell::new(0),
            in_flight: Cell::new(0),
            typical: Cell::new(typical),
            queue,
            is_replaced: Cell::new(false),
        }
    }

    /// Another set replaces this one: endpoints that are not in it get no more requests.
    pub(super) fn replace(&self) {
        self.is_replaced.set(true);
    }

    /// Whether the set has more than one endpoint.
    pub(super) fn has_others(&self) -> bool {
        self.size > 1
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether an endpoint, which is ejected or not, gets requests that wait.
    pub(super) fn offers(&self, is_ejected: bool) -> bool {
        !self.is_replaced.get() && (!is_ejected || self.ejected.get() >= self.size)
    }

    /// The id of the endpoint set.
    pub(super) fn set(&self) -> u64 {
        self.set
    }

    pub(super) fn typical(&self) -> Typical {
        self.typical.get()
    }

    /// Records that one of the endpoints responded, and has this latency now.
    pub(super) fn responded(&self, latency: Latency, now: Instant) {
        self.typical.set(self.typical().responded(latency, now));
    }

    pub(super) fn ejected(&self) -> usize {
        self.ejected.get()
    }

    pub(super) fn eject(&self) {
        self.ejected.set(self.ejected.get() + 1);
    }

    pub(super) fn release(&self) {
        self.ejected.set(self.ejected.get().saturating_sub(1));
    }

    /// The requests in flight at all endpoints.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Records requests that begin, or those of an endpoint that joins the set.
    pub(super) fn begin(&self, requests: usize) {
        self.in_flight.set(self.in_flight.get().saturating_add(requests));
    }

    /// Records that a request has ended.
    pub(super) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// Whether server errors may eject one more endpoint: one or a tenth of the set, because a
    /// client can send requests that fail everywhere.
    pub(super) fn allows_for_errors(&self) -> bool {
        self.ejected.get() < (self.size / 10).max(1)
    }
}
