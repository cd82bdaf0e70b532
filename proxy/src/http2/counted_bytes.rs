//! Counts the octets that h2 buffers for a stream until they are written to the transport.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};

/// A piece of a body, counted while h2 buffers it.
#[derive(Debug)]
pub(crate) struct Chunk {
    data: Bytes,
    counted: usize,
    gauge: Rc<Gauge>,
}

/// Counts the octets that h2 buffers for one stream. h2 buffers without a bound and does not report
/// how much, but it drops each piece once it is written or discarded.
pub(crate) struct Gauge {
    buffered: Cell<usize>,
    /// The count for all streams of the connection.
    total: Rc<Cell<usize>>,
    waiting: Cell<Option<(usize, Waker)>>,
}

// === impl Chunk ===

impl Chunk {
    pub(crate) fn new(data: Bytes, gauge: &Rc<Gauge>) -> Self {
        gauge.buffered.set(gauge.buffered.get() + data.len());
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
    /// Creates the gauge of a stream; all streams of a connection share `total`.
    pub(crate) fn new(total: &Rc<Cell<usize>>) -> Self {
        Self { buffered: Cell::default(), total: Rc::clone(total), waiting: Cell::default() }
    }

    /// Octets that h2 buffers for all streams of the connection.
    pub(crate) fn total(&self) -> usize {
        self.total.get()
    }

    /// Octets that h2 buffers for this stream.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered.get()
    }

    /// Wakes the task when at most `at_most` octets are buffered. Replaces an earlier call.
    pub(crate) fn wake_at(&self, at_most: usize, cx: &Context<'_>) {
        let waker = match self.waiting.take() {
            Some((_, waker)) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.waiting.set(Some((at_most, waker)));
    }

    fn release(&self, octets: usize) {
        let buffered = self.buffered.get().saturating_sub(octets);
        self.buffered.set(buffered);
        self.total.set(self.total.get().saturating_sub(octets));
        match self.waiting.take() {
            Some((at_most, waker)) if buffered <= at_most => waker.wake(),
            waiting => self.waiting.set(waiting),
        }
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge").field("buffered", &self.buffered).finish_non_exhaustive()
    }
}
