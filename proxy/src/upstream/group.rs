//! What the endpoints of one set share: how many of them are ejected.

use std::cell::Cell;

/// The number of ejected endpoints of one set.
#[derive(Debug)]
pub(super) struct Group {
    size: usize,
    ejected: Cell<usize>,
}

// === impl Group ===

impl Group {
    pub(super) fn new(size: usize) -> Self {
        Self { size, ejected: Cell::new(0) }
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
