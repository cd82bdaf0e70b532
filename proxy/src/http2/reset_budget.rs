//! Limits how many requests a client may cancel: each costs the gateway the work of a request, and
//! no concurrency limit counts it (the "rapid reset" attack, CVE-2023-44487).

use std::time::{Duration, Instant};

/// A token bucket of resets: a browser that leaves a page may cancel all its requests at once, but
/// not continuously.
#[derive(Debug)]
pub(crate) struct ResetBudget {
    capacity: u32,
    left: u32,
    refilled_at: Instant,
}

/// The time in which an empty bucket refills.
const REFILL: Duration = Duration::from_secs(10);

// === impl ResetBudget ===

impl ResetBudget {
    pub(crate) fn new(capacity: u32, now: Instant) -> Self {
        Self { capacity, left: capacity, refilled_at: now }
    }

    /// Takes `resets` from the bucket; returns `false` if it holds fewer.
    #[must_use]
    pub(crate) fn take(&mut self, resets: u32, now: Instant) -> bool {
        let elapsed = now.duration_since(self.refilled_at).min(REFILL);
        let refill = u128::from(self.capacity) * elapsed.as_millis() / REFILL.as_millis();
        if refill > 0 {
            self.left = u32::try_from(refill)
                .unwrap_or(u32::MAX)
                .saturating_add(self.left)
                .min(self.capacity);
            self.refilled_at = now;
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
    fn the_bucket_refills_up_to_its_capacity() {
        let start = Instant::now();
        let mut budget = ResetBudget::new(100, start);
        assert!(budget.take(100, start));
        assert!(budget.take(10, start + REFILL / 10));
        assert!(!budget.take(1, start + REFILL / 10));
        assert!(budget.take(100, start + 100 * REFILL));
        assert!(!budget.take(1, start + 100 * REFILL));
    }
}
