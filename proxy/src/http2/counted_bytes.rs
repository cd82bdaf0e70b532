//! The octets that h2 holds for one stream, counted until they have gone to the transport.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};

/// A piece of a body on its way through h2.
#[derive(Debug)]
pub(crate) struct Chunk {
    data: Bytes,
    counted: usize,
    gauge: Rc<Gauge>,
}

/// How many octets h2 holds for one stream. h2 buffers without a bound, and tells neither how much
/// nor when it is gone; but it drops what it has written or given up.
pub(crate) struct Gauge {
    held: Cell<usize>,
    /// Those of all streams of the connection.
    total: Rc<Cell<usize>>,
    waiting: Cell<Option<(usize, Waker)>>,
}

// === impl Chunk ===

impl Chunk {
    pub(crate) fn new(data: Bytes, gauge: &Rc<Gauge>) -> Self {
        gauge.held.set(gauge.held.get() + data.len());
        gauge.total.set(gauge.total.get() + data.len());
        Self { counted: data.len(), data, gauge: Rc::clone(gauge) }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.data.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.data
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(into)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.gauge.release(self.counted);
    }
}

// === impl Gauge ===

impl Gauge {
    /// A stream's; `total` is counted by all streams of its connection.
    pub(crate) fn new(total: &Rc<Cell<usize>>) -> Self {
        Self { held: Cell::default(), total: Rc::clone(total), waiting: Cell::default() }
    }

    /// What h2 holds for all streams of the connection.
    pub(crate) fn total(&self) -> usize {
        self.total.get()
    }

    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Wakes the task when no more than `at_most` octets are held. The latest call counts.
    pub(crate) fn wake_at(&self, at_most: usize, cx: &Context<'_>) {
        let waker = match self.waiting.take() {
            Some((_, waker)) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.waiting.set(Some((at_most, waker)));
    }

    fn release(&self, octets: usize) {
        let held = self.held.get().saturating_sub(octets);
        self.held.set(held);
        self.total.set(self.total.get().saturating_sub(octets));
        match self.waiting.take() {
            Some((at_most, waker)) if held <= at_most => waker.wake(),
            waiting => self.waiting.set(waiting),
        }
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge").field("held", &self.held).finish_non_exhaustive()
    }
}
