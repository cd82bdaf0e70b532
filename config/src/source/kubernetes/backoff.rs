//! The wait before the next retry.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The wait after the first failure.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait: bounds the time to reconnect to an API server that recovered.
const LONGEST: Duration = Duration::from_secs(10);

/// Exponential back-off with jitter, so that gateways that lost the API server at the same time do
/// not reconnect at the same time.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

// === impl Backoff ===

impl Backoff {
    /// Records a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Records a failure, and returns the wait: between half and all of the doubled value. `random`
    /// is uniform over `u64`.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let part = (random >> 32) as f64 / f64::from(u32::MAX);
        whole.mul_f64(0.5 + part / 2.0)
    }
}

/// A random number that need not be secret.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_reset_after_a_success() {
        let mut backoff = Backoff::default();
        let most: Vec<_> = (0..6).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(most, [500, 1000, 2000, 4000, 8000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.next(0).as_millis(), 250);
    }
}
