//! One worker: a thread with a runtime, listeners and upstream connections of its own.
//!
//! What its connections share is never seen by another thread, so it is `Rc` and `Cell`: no lock and no atomic on the way of a request.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use portcullis_config::live::Live;
use portcullis_config::settings::Settings;

/// What all connections of one worker share.
pub(crate) struct Worker {
    /// Its number, from 0.
    pub(crate) index: usize,
    pub(crate) settings: Arc<Settings>,
    pub(crate) live: Arc<Live>,
    random: Random,
}

/// A fast generator (wyrand) for balancing and identifiers: well spread, but not secret.
struct Random(Cell<u64>);

// === impl Worker ===

impl Worker {
    pub(crate) fn new(index: usize, settings: Arc<Settings>, live: Arc<Live>) -> Self {
        Self { index, settings, live, random: Random::seeded(index) }
    }

    /// The next number of a sequence that is uniform over `u64`.
    pub(crate) fn random(&self) -> u64 {
        self.random.next()
    }
}

// === impl Random ===

impl Random {
    /// Seeded from the operating system, by way of the standard library's hash keys.
    fn seeded(index: usize) -> Self {
        Self(Cell::new(RandomState::new().hash_one(index)))
    }

    fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0xa076_1d64_78bd_642f);
        self.0.set(state);
        let product = u128::from(state) * u128::from(state ^ 0xe703_7ed1_a0b4_28db);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_spread_over_the_whole_range() {
        let random = Random::seeded(0);
        let mut sixteenths = [0_u32; 16];
        for _ in 0..16_000 {
            sixteenths[(random.next() >> 60) as usize] += 1;
        }
        // 1000 each, standard deviation 31: six of them either way.
        assert!(sixteenths.iter().all(|count| (800..1200).contains(count)), "{sixteenths:?}");
    }

    #[test]
    fn two_workers_draw_different_numbers() {
        assert_ne!(Random::seeded(0).next(), Random::seeded(1).next());
    }
}
