//! A bounded cache of verdicts on bearer tokens.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_config::bearer_review::Verdict;
use tokio::time::Instant;

use portcullis_identity::cache::Fingerprint;

/// How long an allowed bearer is not reviewed again.
pub(super) const ALLOWED: Duration = Duration::from_secs(60);
/// How long after its last review an allowed bearer stays allowed while reviews are unavailable.
pub(super) const GRACE: Duration = Duration::from_secs(600);
/// How long a denied bearer is not reviewed again.
pub(super) const DENIED: Duration = Duration::from_secs(10);
/// The most allowed bearers in the cache.
const MAX_ALLOWED: usize = 256;
/// The most denied bearers in the cache.
const MAX_DENIED: usize = 1024;

/// Verdicts by fingerprint of the token, in separate tables for allowed and denied ones: a flood of
/// invalid tokens evicts no allowed one.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    allowed: HashMap<Fingerprint, Instant>,
    denied: HashMap<Fingerprint, (Verdict, Instant)>,
}

/// The cached verdict on a bearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CachedVerdict {
    /// No review is needed.
    Decided(Verdict),
    /// It was allowed and is due for review; it stays allowed if that is unavailable.
    WasAllowed,
    /// It must be reviewed.
    Unknown,
}

// === impl Verdicts ===

impl Verdicts {
    pub(super) fn find(&self, bearer: &Fingerprint, now: Instant) -> CachedVerdict {
        let age = |since: &Instant| now.saturating_duration_since(*since);
        match (self.allowed.get(bearer).map(age), self.denied.get(bearer)) {
            (Some(age), _) if age < ALLOWED => CachedVerdict::Decided(Verdict::Allowed),
            (Some(age), _) if age < GRACE => CachedVerdict::WasAllowed,
            (_, Some((verdict, since))) if age(since) < DENIED => CachedVerdict::Decided(*verdict),
            _ => CachedVerdict::Unknown,
        }
    }

    /// Caches a verdict of `now`, in place of an earlier one.
    pub(super) fn insert(&mut self, bearer: Fingerprint, verdict: Verdict, now: Instant) {
        self.allowed.remove(&bearer);
        self.denied.remove(&bearer);
        match verdict {
            Verdict::Allowed => {
                make_room(&mut self.allowed, MAX_ALLOWED, |since| *since);
                self.allowed.insert(bearer, now);
            }
            Verdict::Forbidden | Verdict::Unauthenticated => {
                make_room(&mut self.denied, MAX_DENIED, |(_, since)| *since);
                self.denied.insert(bearer, (verdict, now));
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
    fn verdicts_are_cached_for_a_fixed_time() {
        let mut verdicts = Verdicts::default();
        let now = Instant::now();
        assert_eq!(verdicts.find(&bearer(1), now), CachedVerdict::Unknown);
        verdicts.insert(bearer(1), Verdict::Allowed, now);
        let second = Duration::from_secs(1);
        let at = |verdicts: &Verdicts, time| verdicts.find(&bearer(1), now + time);
        assert_eq!(at(&verdicts, ALLOWED - second), CachedVerdict::Decided(Verdict::Allowed));
        assert_eq!(at(&verdicts, ALLOWED), CachedVerdict::WasAllowed);
        assert_eq!(at(&verdicts, GRACE - second), CachedVerdict::WasAllowed);
        assert_eq!(at(&verdicts, GRACE), CachedVerdict::Unknown);
        for verdict in [Verdict::Forbidden, Verdict::Unauthenticated] {
            verdicts.insert(bearer(1), verdict, now);
            assert_eq!(at(&verdicts, DENIED - second), CachedVerdict::Decided(verdict));
            assert_eq!(at(&verdicts, DENIED), CachedVerdict::Unknown, "it was allowed before");
        }
    }

    #[test]
    fn invalid_tokens_evict_no_allowed_one_and_the_tables_are_bounded() {
        let mut verdicts = Verdicts::default();
        let now = Instant::now();
        verdicts.insert(bearer(0), Verdict::Allowed, now);
        for number in 1..3 * MAX_DENIED {
            let time = now + Duration::from_micros(number as u64);
            verdicts.insert(bearer(number), Verdict::Unauthenticated, time);
        }
        assert_eq!(verdicts.denied.len(), MAX_DENIED);
        assert_eq!(verdicts.find(&bearer(0), now), CachedVerdict::Decided(Verdict::Allowed));
        for number in 0..3 * MAX_ALLOWED {
            verdicts.insert(bearer(number), Verdict::Allowed, now);
        }
        assert_eq!(verdicts.allowed.len(), MAX_ALLOWED);
    }
}
