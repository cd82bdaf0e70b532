//! How many requests a client may cancel: each costs us the work of a request, and no concurrency
//! limit counts it (the "rapid reset" attack, CVE-2023-44487).

use std::time::{Duration, Instant};

/// A bucket of resets: a page that is left may cancel all its requests at once, but not all the
/// time.
#[derive(Debug)]
pub(crate) struct ResetBudget {
    most: u32,
    left: u32,
    refilled: Instant,
}

/// The time after which a whole bucket has been filled again.
const REFILL: Duration = Duration::from_secs(10);

// === impl ResetBudget ===

impl ResetBudget {
    pub(crate) fn new(most: u32, now: Instant) -> Self {
        Self { most, left: most, refilled: now }
    }

    /// Takes `resets` from the bucket; `false` if it has not so many.
    #[must_use]
    pub(crate) fn take(&mut self, resets: u32, now: Instant) -> bool {
        let elapsed = now.duration_since(self.refilled).min(REFILL);
        let refill = u128::from(self.most) * elapsed.as_millis() / REFILL.as_millis();
        if refill > 0 {
            self.left =
                u32::try_from(refill).unwrap_or(u32::MAX).saturating_add(self.left).min(self.most);
            self.refilled = now;
        }
        let left = self.left.checked_sub(resets);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_once() {
        let start = Instant::now();
        let mut budget = ResetBudget::new(100, start);
        assert!(budget.take(100, start));
        assert!(!budget.take(1, start));
    }

    #[test]
    fn the_bucket_fills_again_with_time_but_never_over() {
        let start = Instant::now();
        let mut budget = ResetBudget::new(100, start);
        assert!(budget.take(100, start));
        assert!(budget.take(10, start + REFILL / 10));
        assert!(!budget.take(1, start + REFILL / 10));
        assert!(budget.take(100, start + 100 * REFILL));
        assert!(!budget.take(1, start + 100 * REFILL));
    }
}
