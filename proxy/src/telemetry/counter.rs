//! Counters that one thread writes and others read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A monotonic counter with a single writer: it needs no locked instruction, and its cache line
/// moves between cores only for reads.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

/// A histogram of durations.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    microseconds: Counter,
}

/// The sum of several [`Histogram`]s.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Distribution {
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    pub(super) microseconds: u64,
}

/// Counters by label, for few labels and rare events: only scrapes contend for its lock.
#[derive(Debug)]
pub(super) struct LabeledCounter<L>(Mutex<Vec<(L, u64)>>);

/// The upper bounds of a histogram's buckets, in microseconds.
pub(super) const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

// === impl Counter ===

impl Counter {
    /// Adds a number. Must be called on one thread only: concurrent additions could be lost.
    pub(super) fn add(&self, number: u64) {
        self.0.store(self.get().wrapping_add(number), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Histogram ===

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let index = BOUNDS.iter().position(|bound| microseconds <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(index) {
            bucket.add(1);
        }
        self.microseconds.add(microseconds);
    }
}

// === impl Distribution ===

impl Distribution {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.microseconds = self.microseconds.wrapping_add(histogram.microseconds.get());
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

// === impl LabeledCounter ===

impl<L> Default for LabeledCounter<L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L: Copy + PartialEq> LabeledCounter<L> {
    pub(super) fn add(&self, label: L) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.iter_mut().find(|(other, _)| *other == label) {
            Some((_, count)) => *count += 1,
            None => counts.push((label, 1)),
        }
    }

    pub(super) fn add_to(&self, sums: &mut Vec<(L, u64)>) {
        for (label, count) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match sums.iter_mut().find(|(other, _)| other == label) {
                Some((_, sum)) => *sum += count,
                None => sums.push((*label, *count)),
            }
        }
    }
}
