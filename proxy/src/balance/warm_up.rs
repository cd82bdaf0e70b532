//! The slow start of an endpoint that is new in its set.
//!
//! A pod that has just started is slow: its caches are empty, its code is not compiled yet. It gets
//! a small share at first, which grows fast at the beginning.

use std::time::{Duration, Instant};

/// The smallest share of an endpoint, so that it gets requests from the start.
const LEAST: f64 = 0.1;

/// Since when an endpoint is new; `None` for one that was there when its set was first used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WarmUp(Option<Instant>);

// === impl WarmUp ===

impl WarmUp {
    pub(crate) fn since(now: Instant) -> Self {
        Self(Some(now))
    }

    /// The share of an endpoint's usual requests that it gets at `now`, up to 1: the square root of
    /// the part of `window` that has passed.
    pub(crate) fn share(self, now: Instant, window: Duration) -> f64 {
        let Some(since) = self.0 else { return 1.0 };
        let age = now.saturating_duration_since(since);
        if age >= window {
            return 1.0;
        }
        (age.as_secs_f64() / window.as_secs_f64()).sqrt().max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    #[test]
    fn the_share_grows_fast_at_first_and_is_whole_after_the_window() {
        let begin = Instant::now();
        let share = |milliseconds| {
            WarmUp::since(begin).share(begin + Duration::from_millis(milliseconds), WINDOW)
        };
        let shares = [0, 300, 1_200, 7_500, 29_999, 30_000, 100_000].map(share);
        let expected = [0.1, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0];
        for (share, expected) in shares.into_iter().zip(expected) {
            assert!((share - expected).abs() < 1e-3, "{shares:?}");
        }
    }

    #[test]
    fn without_a_window_or_for_an_old_endpoint_the_share_is_whole() {
        let begin = Instant::now();
        for share in [
            WarmUp::since(begin).share(begin, Duration::ZERO),
            WarmUp::default().share(begin, WINDOW),
        ] {
            assert!((share - 1.0).abs() < f64::EPSILON, "{share}");
        }
    }
}
