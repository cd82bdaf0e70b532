//! What the endpoints of one set share: how many of them are ejected, and their typical latency.

use std::cell::Cell;
use std::time::Instant;

use crate::balance::latency::{Latency, Typical};

/// The state of one set.
#[derive(Debug)]
pub(super) struct Group {
    size: usize,
    ejected: Cell<usize>,
    typical: Cell<Typical>,
}

// === impl Group ===

impl Group {
    /// Creates the state of a set of `size` endpoints that replaces one with the `typical` latency.
    pub(super) fn new(size: usize, typical: Typical) -> Self {
        Self { size, ejected: Cell::new(0), typical: Cell::new(typical) }
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

    /// Whether server errors may eject one more endpoint: one or a tenth of the set, because a
    /// client can send requests that fail everywhere.
    pub(super) fn allows_for_errors(&self) -> bool {
        self.ejected.get() < (self.size / 10).max(1)
    }
}
