//! What was found out about bearer tokens: for how long it holds, and how many are remembered.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_config::bearer_review::Verdict;
use tokio::time::Instant;

use portcullis_identity::cache::Fingerprint;

/// How long an admitted bearer is not reviewed again.
pub(super) const ALLOWED: Duration = Duration::from_secs(60);
/// How long an admitted bearer stays admitted while no review is to be had, from the last one on.
pub(super) const OUTLIVES: Duration = Duration::from_secs(600);
/// How long a refused bearer is not reviewed again.
pub(super) const REFUSED: Duration = Duration::from_secs(10);
/// The most admitted bearers that are remembered.
const MAX_ALLOWED: usize = 256;
/// The most refused ones.
const MAX_REFUSED: usize = 1024;

/// Verdicts by fingerprint of the token. Admitted and refused ones have tables of their own:
/// whoever sends tokens that are nobody's pushes out no admitted one.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    allowed: HashMap<Fingerprint, Instant>,
    refused: HashMap<Fingerprint, (Verdict, Instant)>,
}

/// What is known of a bearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It need not be reviewed.
    Decided(Verdict),
    /// It was admitted, and is to be reviewed again; where that cannot be had, it still is.
    WasAllowed,
    /// It must be reviewed.
    Nothing,
}

// === impl Verdicts ===

impl Verdicts {
    pub(super) fn find(&self, bearer: &Fingerprint, now: Instant) -> Known {
        let age = |since: &Instant| now.saturating_duration_since(*since);
        match (self.allowed.get(bearer).map(age), self.refused.get(bearer)) {
            (Some(age), _) if age < ALLOWED => Known::Decided(Verdict::Allowed),
            (Some(age), _) if age < OUTLIVES => Known::WasAllowed,
            (_, Some((verdict, since))) if age(since) < REFUSED => Known::Decided(*verdict),
            _ => Known::Nothing,
        }
    }

    /// Remembers a verdict of `now` in the place of what was known.
    pub(super) fn learn(&mut self, bearer: Fingerprint, verdict: Verdict, now: Instant) {
        self.allowed.remove(&bearer);
        self.refused.remove(&bearer);
        match verdict {
            Verdict::Allowed => {
                make_room(&mut self.allowed, MAX_ALLOWED, |since| *since);
                self.allowed.insert(bearer, now);
            }
            Verdict::Forbidden | Verdict::Unauthenticated => {
                make_room(&mut self.refused, MAX_REFUSED, |(_, since)| *since);
                self.refused.insert(bearer, (verdict, now));
            }
        }
    }
}

/// Removes the oldest entry of a full table.
fn make_room<T>(table: &mut HashMap<Fingerprint, T>, bound: usize, since: impl Fn(&T) -> Instant) {
    if table.len() < bound {
        return;
    }
    let oldest = table.iter().min_by_key(|(_, entry)| since(entry)).map(|(bearer, _)| *bearer);
    oldest.map(|oldest| table.remove(&oldest));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(number: usize) -> Fingerprint {
        (number as u128).to_be_bytes()
    }

    #[test]
    fn verdicts_hold_for_a_stated_time() {
        let mut verdicts = Verdicts::default();
        let now = Instant::now();
        assert_eq!(verdicts.find(&bearer(1), now), Known::Nothing);
        verdicts.learn(bearer(1), Verdict::Allowed, now);
        let second = Duration::from_secs(1);
        let at = |verdicts: &Verdicts, time| verdicts.find(&bearer(1), now + time);
        assert_eq!(at(&verdicts, ALLOWED - second), Known::Decided(Verdict::Allowed));
        assert_eq!(at(&verdicts, ALLOWED), Known::WasAllowed);
        assert_eq!(at(&verdicts, OUTLIVES - second), Known::WasAllowed);
        assert_eq!(at(&verdicts, OUTLIVES), Known::Nothing);
        for verdict in [Verdict::Forbidden, Verdict::Unauthenticated] {
            verdicts.learn(bearer(1), verdict, now);
            assert_eq!(at(&verdicts, REFUSED - second), Known::Decided(verdict));
            assert_eq!(at(&verdicts, REFUSED), Known::Nothing, "it was admitted before");
        }
    }

    #[test]
    fn tokens_of_nobody_push_out_no_admitted_one_and_take_no_more_room() {
        let mut verdicts = Verdicts::default();
        let now = Instant::now();
        verdicts.learn(bearer(0), Verdict::Allowed, now);
        for number in 1..3 * MAX_REFUSED {
            let time = now + Duration::from_micros(number as u64);
            verdicts.learn(bearer(number), Verdict::Unauthenticated, time);
        }
        assert_eq!(verdicts.refused.len(), MAX_REFUSED);
        assert_eq!(verdicts.find(&bearer(0), now), Known::Decided(Verdict::Allowed));
        for number in 0..3 * MAX_ALLOWED {
            verdicts.learn(bearer(number), Verdict::Allowed, now);
        }
        assert_eq!(verdicts.allowed.len(), MAX_ALLOWED);
    }
}
