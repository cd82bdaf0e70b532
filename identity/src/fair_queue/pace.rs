//! A token bucket for the number of items started per second (compare RFC 2697 §3). Pure.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// A token bucket. Its burst is the rate of a quarter of a second, and at least two.
pub(super) struct Pace {
    /// Tokens per second.
    rate: f64,
    size: f64,
    level: f64,
    at: Instant,
}

// === impl Pace ===

impl Pace {
    pub(super) fn new(rate: NonZeroU32, now: Instant) -> Self {
        let rate = f64::from(rate.get());
        let size = (rate / 4.0).max(2.0);
        Self { rate, size, level: size, at: now }
    }

    /// Takes one token. With `reserve`, half of the bucket is left for takers without it.
    ///
    /// The time at which a token is available.
    /// There is none before the time that is returned.
    pub(super) fn take(&mut self, now: Instant, reserve: bool) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.rate).min(self.size);
        self.at = now;
        let missing = 1.0 + if reserve { self.size / 2.0 } else { 0.0 } - self.level;
        if missing > 1e-6 {
            // Rounded up, so that a token is available then.
            let wait = Duration::from_secs_f64(missing / self.rate) + Duration::from_millis(1);
            return Err(now + wait);
        }
        self.level -= 1.0;
        Ok(())
    }

    /// Returns a token that was not used.
    pub(super) fn put_back(&mut self) {
        self.level = (self.level + 1.0).min(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many tokens can be taken within a time.
    fn taken(pace: &mut Pace, start: Instant, milliseconds: u64, reserve: bool) -> usize {
        (0..milliseconds)
            .map(|at| {
                let now = start + Duration::from_millis(at);
                std::iter::repeat_with(|| pace.take(now, reserve)).take_while(Result::is_ok).count()
            })
            .sum()
    }

    #[test]
    fn the_rate_holds_in_the_long_run() {
        for (rate, most) in [(1, 12), (2, 22), (100, 1025), (1000, 10_250)] {
            let start = Instant::now();
            for reserve in [false, true] {
                let mut pace = Pace::new(NonZeroU32::new(rate).unwrap(), start);
                let taken = taken(&mut pace, start, 10_000, reserve);
                assert!(taken <= most, "{taken} at {rate} a second");
                assert!(taken >= rate as usize * 9, "{taken} at {rate} a second");
            }
        }
    }

    #[test]
    fn a_taker_with_reserve_leaves_half_of_the_bucket() {
        let start = Instant::now();
        let mut pace = Pace::new(NonZeroU32::new(100).unwrap(), start);
        let with = std::iter::repeat_with(|| pace.take(start, true)).take_while(Result::is_ok);
        assert_eq!(with.count(), 12);
        let without = std::iter::repeat_with(|| pace.take(start, false)).take_while(Result::is_ok);
        assert_eq!(without.count(), 13);
        let then = pace.take(start, false).unwrap_err();
        assert!(then - start < Duration::from_millis(20));
        assert_eq!(pace.take(then, false), Ok(()));
    }
}
