//! The retry budget of a backend: retries are a share of its requests.
//!
//! Retries of requests that a backend may have processed multiply its load just when it fails. So
//! they are limited to a fifth of the requests of the last seconds: a failing backend gets 1.2 times
//! its load at most. The clock is an argument.

use std::cell::RefCell;
use std::time::Instant;

/// The seconds that are counted.
const SECONDS: usize = 10;
/// One retry for so many requests.
const REQUESTS_PER_RETRY: u64 = 5;
/// The retries that are allowed in all these seconds whatever the number of requests: three a
/// second. Without it, services with few requests could retry nothing.
const FLOOR: u64 = 3 * SECONDS as u64;

/// The retry budget of one backend in one worker.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    epoch: Instant,
    window: RefCell<Window>,
}

/// The requests and retries of the last seconds.
#[derive(Debug, Default)]
struct Window {
    /// The current second.
    second: u64,
    slots: [Counted; SECONDS],
    sum: Counted,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    requests: u64,
    retries: u64,
}

// === impl RetryBudget ===

impl RetryBudget {
    /// Creates the budget of a backend without requests.
    pub(crate) fn new(now: Instant) -> Self {
        Self { epoch: now, window: RefCell::default() }
    }

    /// Counts a request.
    pub(crate) fn deposit(&self, now: Instant) {
        self.window.borrow_mut().deposit(self.second(now));
    }

    /// Counts a retry, if the budget allows it.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.window.borrow_mut().withdraw(self.second(now))
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs()
    }
}

// === impl Window ===

impl Window {
    fn deposit(&mut self, second: u64) {
        self.advance(second);
        self.sum.requests += 1;
        if let Some(slot) = self.slot() {
            slot.requests += 1;
        }
    }

    fn withdraw(&mut self, second: u64) -> bool {
        self.advance(second);
        if self.sum.retries >= FLOOR.max(self.sum.requests / REQUESTS_PER_RETRY) {
            return false;
        }
        self.sum.retries += 1;
        if let Some(slot) = self.slot() {
            slot.retries += 1;
        }
        true
    }

    fn slot(&mut self) -> Option<&mut Counted> {
        self.slots.get_mut(self.second as usize % SECONDS)
    }

    /// Forgets what is older than the counted seconds. A request may have arrived a moment before
    /// the last one that was counted.
    fn advance(&mut self, second: u64) {
        let passed = second.saturating_sub(self.second);
        if passed >= SECONDS as u64 {
            *self = Self { second, ..Self::default() };
            return;
        }
        for _ in 0..passed {
            self.second += 1;
            let forgotten = self.slot().map(std::mem::take).unwrap_or_default();
            self.sum.requests -= forgotten.requests;
            self.sum.retries -= forgotten.retries;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn few_requests_can_be_retried_and_a_fifth_of_many() {
        let now = Instant::now();
        let budget = RetryBudget::new(now);
        let retries = |now| (0..10_000).take_while(|_| budget.withdraw(now)).count();
        assert_eq!(retries(now), 30, "three a second");
        assert_eq!(retries(now + Duration::from_secs(9)), 0);
        let later = now + Duration::from_secs(10);
        (0..1_000).for_each(|_| budget.deposit(later));
        assert_eq!(retries(later), 200);
        assert_eq!(retries(later + Duration::from_secs(10)), 30, "the requests are forgotten");
    }

    proptest! {
        #[test]
        fn a_retry_makes_them_no_more_than_a_fifth_of_the_requests_of_the_last_ten_seconds(
            events in proptest::collection::vec((0..400_u64, 0..200_u64, 0..200_u64), 1..200),
        ) {
            let epoch = Instant::now();
            let budget = RetryBudget::new(epoch);
            let (mut now, mut seconds) = (0, vec![(0, 0)]);
            for (milliseconds, requests, retries) in events {
                now += milliseconds;
                let at = epoch + Duration::from_millis(now);
                let second = usize::try_from(now / 1_000).unwrap();
                seconds.resize(second + 1, (0_u64, 0_u64));
                (0..requests).for_each(|_| budget.deposit(at));
                seconds[second].0 += requests;
                for _ in 0..retries {
                    if !budget.withdraw(at) {
                        continue;
                    }
                    seconds[second].1 += 1;
                    let window = &seconds[(second + 1).saturating_sub(SECONDS)..];
                    let sum: (u64, u64) = window
                        .iter()
                        .fold((0, 0), |sum, second| (sum.0 + second.0, sum.1 + second.1));
                    prop_assert!(sum.1 <= (sum.0 / 5).max(30), "{window:?}");
                }
            }
        }
    }
}
