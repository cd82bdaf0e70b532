//! The law of a rate limit: the generic cell rate algorithm (ITU-T I.371, "virtual scheduling").
//!
//! The whole state of a client is one time: when its next request would be due if all of its
//! requests came evenly. A request may come early by the time of a burst. A pure policy: the clock
//! is an argument.

use std::num::NonZeroU32;

use portcullis_config::snapshot::rate_limit::RateLimit;

/// A rate and a burst, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gcra {
    /// The time between requests at the allowed rate.
    interval: u64,
    /// The time between requests multiplied by the number that are allowed at once.
    burst: u64,
}

// === impl Gcra ===

impl Gcra {
    /// The part of a limit that one of `replicas` allows.
    pub(super) fn of(limit: &RateLimit, replicas: NonZeroU32) -> Self {
        let window = u64::try_from(limit.window.duration().as_nanos()).unwrap_or(u64::MAX);
        let replicas = if limit.divided { replicas.get() } else { 1 };
        let interval = window.saturating_mul(replicas.into()) / u64::from(limit.requests.get());
        let burst = (limit.burst.get() / replicas).max(1);
        Self { interval, burst: interval.saturating_mul(burst.into()) }
    }

    /// Decides a request at `now` of a client whose next request is `due`. Returns when its next
    /// one is due.
    ///
    /// # Errors
    /// The request is rejected, and changes nothing. Returns the time until it would be allowed.
    pub(super) fn decide(self, due: u64, now: u64) -> Result<u64, u64> {
        let next = due.max(now).saturating_add(self.interval);
        match (next - now).checked_sub(self.burst) {
            None | Some(0) => Ok(next),
            Some(wait) => Err(wait),
        }
    }

    /// The time by which an allowed request advances when the next one is due.
    pub(super) fn interval(self) -> u64 {
        self.interval
    }
}

#[cfg(test)]
pub(super) mod tests {
    use portcullis_config::model::Origin;
    use portcullis_config::snapshot::rate_limit::{RateScope, RateWindow};
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    pub(in crate::limit) fn limit(requests: u32, burst: u32, per: RateScope) -> RateLimit {
        RateLimit {
            owner: Origin::default(),
            per,
            requests: NonZeroU32::new(requests).unwrap(),
            window: RateWindow::Second,
            burst: NonZeroU32::new(burst).unwrap(),
            divided: false,
        }
    }

    fn gcra(requests: u32, burst: u32) -> Gcra {
        Gcra::of(&limit(requests, burst, RateScope::User), NonZeroU32::MIN)
    }

    #[test]
    fn a_burst_is_allowed_at_once_and_then_one_request_for_each_interval() {
        let (gcra, mut due, now) = (gcra(10, 3), 0, 5 * SECOND);
        for _ in 0..3 {
            due = gcra.decide(due, now).unwrap();
        }
        assert_eq!(gcra.decide(due, now), Err(SECOND / 10));
        assert_eq!(gcra.decide(due, now + SECOND / 10 - 1), Err(1));
        due = gcra.decide(due, now + SECOND / 10).unwrap();
        assert_eq!(gcra.decide(due, now + SECOND / 10), Err(SECOND / 10));
    }

    #[test]
    fn replicas_share_a_limit_that_is_divided() {
        let whole = limit(12, 6, RateScope::User);
        let divided = RateLimit { divided: true, ..whole.clone() };
        let of = |limit, replicas| Gcra::of(limit, NonZeroU32::new(replicas).unwrap());
        assert_eq!(of(&divided, 1), gcra(12, 6));
        assert_eq!(of(&divided, 3), gcra(4, 2));
        assert_eq!(of(&divided, 12), gcra(1, 1), "at least one request");
        assert_eq!(of(&whole, 3), gcra(12, 6));
    }

    proptest! {
        /// No window of any length has more requests than its length allows and one burst; and one
        /// that is rejected is allowed after the time that it is told to wait.
        #[test]
        fn no_more_than_the_rate_and_one_burst_pass(
            requests in 1..200_u32,
            burst in 1..50_u32,
            gaps in proptest::collection::vec(0..SECOND / 20, 1..300),
        ) {
            let gcra = gcra(requests, burst);
            let (mut due, mut now, mut allowed) = (0, SECOND, Vec::new());
            for gap in gaps {
                now += gap;
                match gcra.decide(due, now) {
                    Ok(next) => {
                        due = next;
                        allowed.push(now);
                    }
                    Err(wait) => {
                        prop_assert!(gcra.decide(due, now + wait).is_ok());
                        prop_assert!(gcra.decide(due, now + wait - 1).is_err());
                    }
                }
            }
            for (index, from) in allowed.iter().enumerate() {
                for (more, to) in allowed.iter().skip(index).enumerate() {
                    let most = u64::from(burst) + (to - from) / gcra.interval;
                    prop_assert!((more as u64) < most, "{more} from {from} to {to}");
                }
            }
        }
    }
}
