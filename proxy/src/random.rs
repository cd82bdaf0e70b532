//! Random numbers for the request path.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// A fast generator (wyrand) for balancing and identifiers; not cryptographically secure.
pub(crate) struct Random(Cell<u64>);

// === impl Random ===

impl Random {
    /// Creates a generator, seeded by the system through the standard library's hash keys.
    pub(crate) fn seeded(index: usize) -> Self {
        Self(Cell::new(RandomState::new().hash_one(index)))
    }

    /// Returns the next number, uniform over `u64`.
    pub(crate) fn next(&self) -> u64 {
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
    fn numbers_are_uniform() {
        let random = Random::seeded(0);
        let mut sixteenths = [0_u32; 16];
        for _ in 0..16_000 {
            sixteenths[(random.next() >> 60) as usize] += 1;
        }
        // 1000 each, standard deviation 31: six of them either way.
        assert!(sixteenths.iter().all(|count| (800..1200).contains(count)), "{sixteenths:?}");
    }

    #[test]
    fn workers_have_different_sequences() {
        assert_ne!(Random::seeded(0).next(), Random::seeded(1).next());
    }
}
