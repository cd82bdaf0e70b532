//! Histograms of latencies, in steps of 3 to 6 %.
//!
//! Below 16 µs a step is 1 µs. Above, each octave from 2^n to 2^(n+1) µs has 16 equal steps. A
//! step is named by its edge: it has the latencies below its edge, and not below that of the step
//! before.

use std::sync::OnceLock;
use std::time::Duration;

use crate::telemetry::counter::Counter;

/// The steps of an octave.
const STEPS: u64 = 16;
/// The octaves, of which the first one has the latencies below 16 µs.
const OCTAVES: usize = 27;
/// The last edge, about 18 minutes: longer latencies are in the last step.
const LONGEST: u64 = 1 << 30;

/// A step of the histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step(u16);

/// A histogram with a single writer. An octave takes memory once it has been seen.
#[derive(Debug, Default)]
pub(super) struct Histogram([OnceLock<Box<Octave>>; OCTAVES]);

type Octave = [Counter; STEPS as usize];

/// A histogram of few latencies: the steps that were seen, in order.
#[derive(Debug, Default, Clone)]
pub(super) struct SparseHistogram(Vec<(Step, u32)>);

// === impl Step ===

impl Step {
    /// The step of a latency.
    pub(crate) fn of(latency: Duration) -> Self {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(LONGEST).min(LONGEST - 1);
        let octave = u64::from(microseconds.max(1).ilog2()).saturating_sub(3);
        let step = microseconds >> octave.saturating_sub(1);
        // From the second octave on, the highest bit of `step` is that of the octave.
        Self((octave * STEPS + step % STEPS) as u16)
    }

    /// The step that ends at a threshold, or has it within: later steps are slower than that.
    pub(super) fn up_to(threshold: Duration) -> Self {
        Self::of(threshold.saturating_sub(Duration::from_micros(1)))
    }

    /// The shortest latency that is above the step, in microseconds.
    pub(super) fn edge(self) -> u64 {
        let (octave, step) = (u64::from(self.0) / STEPS, u64::from(self.0) % STEPS);
        match octave.checked_sub(1) {
            None => step + 1,
            Some(shift) => (STEPS + step + 1) << shift,
        }
    }
}

// === impl Histogram ===

impl Histogram {
    /// Counts a latency. Must be called on one thread only.
    pub(super) fn add(&self, Step(step): Step) {
        let (octave, step) = (step / STEPS as u16, step % STEPS as u16);
        let octave = self.0.get(usize::from(octave)).map(|octave| octave.get_or_init(Box::default));
        if let Some(counter) = octave.and_then(|octave| octave.get(usize::from(step))) {
            counter.add(1);
        }
    }

    /// The steps that were seen, with their counts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Step, u64)> {
        let octaves =
            self.0.iter().zip(0_u16..).filter_map(|(octave, at)| Some((octave.get()?, at)));
        let steps = octaves.flat_map(|(octave, at)| {
            octave
                .iter()
                .zip(0..)
                .map(move |(count, step)| (Step(at * STEPS as u16 + step), count.get()))
        });
        steps.filter(|(_, count)| *count > 0)
    }
}

// === impl SparseHistogram ===

impl SparseHistogram {
    pub(super) fn add(&mut self, step: Step) {
        match self.0.binary_search_by_key(&step, |(other, _)| *other) {
            Ok(at) => {
                if let Some((_, count)) = self.0.get_mut(at) {
                    *count = count.saturating_add(1);
                }
            }
            Err(at) => self.0.insert(at, (step, 1)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Step, u64)> {
        self.0.iter().map(|(step, count)| (*step, u64::from(*count)))
    }

    /// The memory that it takes, in octets.
    pub(super) fn octets(&self) -> usize {
        self.0.capacity() * size_of::<(Step, u32)>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(microseconds: u64) -> Step {
        Step::of(Duration::from_micros(microseconds))
    }

    #[test]
    fn edges_follow_each_other_without_a_gap() {
        let last = step(u64::MAX);
        assert_eq!((last.edge(), step(0).edge()), (LONGEST, 1));
        for number in 0..last.0 {
            let edge = Step(number).edge();
            assert_eq!((step(edge - 1), step(edge)), (Step(number), Step(number + 1)), "{edge}");
        }
        assert_eq!(usize::from(last.0), OCTAVES * STEPS as usize - 1);
    }

    proptest! {
        #[test]
        fn a_step_is_at_most_a_sixteenth_above_what_it_has(microseconds in 16..LONGEST) {
            let edge = step(microseconds).edge();
            prop_assert!(edge > microseconds && edge - microseconds <= microseconds / 16 + 1);
        }

        #[test]
        fn both_histograms_count_the_same(all in prop::collection::vec(any::<u32>(), 0..300)) {
            let (live, mut sparse) = (Histogram::default(), SparseHistogram::default());
            for latency in &all {
                live.add(step(u64::from(*latency)));
                sparse.add(step(u64::from(*latency)));
            }
            prop_assert!(live.iter().eq(sparse.iter()));
            prop_assert_eq!(sparse.iter().map(|(_, count)| count).sum::<u64>(), all.len() as u64);
        }
    }
}
