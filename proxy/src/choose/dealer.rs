//! Deals requests one by one, spread evenly over the line of buckets.

use std::cell::Cell;

/// The number of splits that do not share a sequence. Those that do share one are dealt by weight
/// nevertheless.
const SEQUENCES: usize = 64;
/// 2^64 divided by the golden ratio. Of all steps, this one leaves the smallest gaps: after any
/// number of requests, each range has its share to within a few requests (Weyl 1916, Sós 1958).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A worker's sequences of points of the line. Chance alone would give a canary of 1 % none of 100
/// requests in one case of three.
pub(crate) struct Dealer([Cell<u64>; SEQUENCES]);

// === impl Dealer ===

impl Dealer {
    /// Creates a dealer that starts at random points.
    pub(crate) fn new(mut random: impl FnMut() -> u64) -> Self {
        Self(std::array::from_fn(|_| Cell::new(random())))
    }

    /// The point of the next request of the split with this `hash`, uniform over `u64`.
    pub(crate) fn next(&self, hash: u64) -> u64 {
        let sequence = self.0.get(hash as usize % SEQUENCES);
        sequence.map_or(0, |point| point.replace(point.get().wrapping_add(STEP)))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::snapshot::split::{BUCKETS, Bucket, Ranges, Split, VariantIndex};

    use super::*;

    #[test]
    fn each_share_is_exact_to_a_few_requests_after_any_number() {
        for weight in [1, 25, 100, 500, 3_333, 5_000, 9_999] {
            let ranges = Ranges::by_weight(&[weight]).unwrap();
            let split = Split::new("a".into(), ranges, Vec::new(), None);
            let dealer = Dealer::new(|| 12_345);
            let mut count = 0_u32;
            for number in 1..=1_000_000_u32 {
                let variant = split.variant(Bucket::at(dealer.next(split.hash())));
                count += u32::from(variant != VariantIndex::STABLE);
                let expected = f64::from(number) * f64::from(weight) / f64::from(BUCKETS);
                let difference = (f64::from(count) - expected).abs();
                assert!(difference < 8.0, "{weight}: {count} of {number}");
            }
        }
    }
}
