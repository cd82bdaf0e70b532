//! Cache of introspection responses, and how long each is valid. Pure: time is an argument.
//!
//! Active and inactive tokens are cached separately, and inactive ones separately by client: a
//! flood of invalid tokens evicts no valid one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::cache::{Cache, Fingerprint};
use crate::caller::Caller;
use crate::client_network::ClientNetwork;
use crate::rejected::Rejected;

/// How long a response is valid: the longest time until a revoked token is rejected.
const FRESH: Duration = Duration::from_secs(4);
/// Age at which the response about a token in use is refreshed.
const REFRESHED_AFTER: Duration = Duration::from_secs(3);
/// Shortest time after which a caller with a stale response is verified again.
const REVERIFIED_AFTER: Duration = Duration::from_secs(1);
/// Maximum number of active tokens in each of two generations.
const GOOD: usize = 16 * 1024;
/// Shards of the table of inactive tokens: one client can fill only its own shard.
const PARTS: usize = 64;
/// Maximum number of inactive tokens in each shard.
const REFUSED: usize = 512;

/// All cached responses.
pub(super) struct Answers {
    good: Cache<Answer>,
    refused: [Mutex<HashMap<Fingerprint, (Rejected, SystemTime)>>; PARTS],
    hasher: RandomState,
}

/// The last response about a token that was active at some time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// The caller; `until` is the expiry of the token itself.
    pub(super) verdict: Result<Caller, Rejected>,
    /// Index of the issuer that answered.
    pub(super) issuer: usize,
    /// When the response was received.
    pub(super) at: SystemTime,
    /// How long it is valid beyond [`FRESH`] while the issuer does not answer.
    pub(super) stale_if_error: Duration,
}

/// Whether a response can still be used.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Age {
    /// Valid.
    Fresh(Result<Caller, Rejected>),
    /// Valid, and due to be refreshed.
    Due(Caller),
    /// Valid only if its issuer does not answer.
    Stale(Caller),
    /// No longer valid.
    Expired,
}

// === impl Answer ===

impl Answer {
    /// Returns its state at `now`. The caller's `until` is when it must be verified again.
    pub(super) fn age(&self, now: SystemTime) -> Age {
        // A clock that was set back makes no response older.
        let age = now.duration_since(self.at).unwrap_or_default();
        let caller = match &self.verdict {
            Ok(caller) => caller,
            Err(rejected) if age < FRESH => return Age::Fresh(Err(*rejected)),
            Err(_) => return Age::Expired,
        };
        let end = self.at + FRESH + self.stale_if_error;
        let end = caller.until.map_or(end, |own| own.min(end));
        if end <= now {
            return Age::Expired;
        }
        let until = (self.at + REFRESHED_AFTER).max(now + REVERIFIED_AFTER).min(end);
        let caller = Caller { until: Some(until), ..caller.clone() };
        match age {
            age if age < REFRESHED_AFTER => Age::Fresh(Ok(caller)),
            age if age < FRESH => Age::Due(caller),
            _ => Age::Stale(caller),
        }
    }
}

// === impl Answers ===

impl Answers {
    pub(super) fn new() -> Self {
        Self {
            good: Cache::new(GOOD),
            refused: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Returns the last response about a token that was active at some time.
    pub(super) fn active(&self, token: &Fingerprint) -> Option<Answer> {
        self.good.get(token)
    }

    /// Returns why a token of this client was rejected, while that response is valid.
    pub(super) fn refused(
        &self,
        token: &Fingerprint,
        client: ClientNetwork,
        now: SystemTime,
    ) -> Option<Rejected> {
        self.part(client, |part| part.get(token).copied())?
            .filter(|(_, until)| now < *until)
            .map(|(rejected, _)| rejected)
    }

    /// Caches a response. One about a token that was never active is cached for the client that
    /// sent it, and not at all if the shard is full.
    pub(super) fn insert(&self, token: Fingerprint, client: ClientNetwork, answer: &Answer) {
        match answer.verdict {
            Err(rejected) if self.good.get(&token).is_none() => {
                let until = answer.at + FRESH;
                self.part(client, |part| {
                    if part.len() >= REFUSED {
                        part.retain(|_, (_, until)| answer.at < *until);
                    }
                    if part.len() < REFUSED {
                        part.insert(token, (rejected, until));
                    }
                });
            }
            _ => self.good.insert(token, answer.clone()),
        }
    }

    fn part<T>(
        &self,
        client: ClientNetwork,
        access: impl FnOnce(&mut HashMap<Fingerprint, (Rejected, SystemTime)>) -> T,
    ) -> Option<T> {
        let part = self.refused.get(self.hasher.hash_one(client) as usize % PARTS)?;
        Some(access(&mut part.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::caller::ann;

    const AT: SystemTime = UNIX_EPOCH;

    fn answer(verdict: Result<Caller, Rejected>, stale_if_error: u64) -> Answer {
        Answer { verdict, issuer: 0, at: AT, stale_if_error: Duration::from_secs(stale_if_error) }
    }

    fn good(end: Option<u64>, stale_if_error: u64) -> Answer {
        answer(Ok(Caller { until: end.map(after), ..ann() }), stale_if_error)
    }

    fn after(seconds: u64) -> SystemTime {
        AT + Duration::from_secs(seconds)
    }

    /// The state by name, and when the caller is verified again, in seconds after the response.
    fn age(answer: &Answer, seconds: u64) -> (&'static str, Option<u64>) {
        let (state, caller) = match answer.age(after(seconds)) {
            Age::Fresh(Ok(caller)) => ("fresh", caller),
            Age::Due(caller) => ("due", caller),
            Age::Stale(caller) => ("stale", caller),
            Age::Fresh(Err(_)) => return ("refused", None),
            Age::Expired => return ("expired", None),
        };
        let until = caller.until.and_then(|until| until.duration_since(AT).ok());
        (state, until.map(|until| until.as_secs()))
    }

    fn client(last: u8) -> ClientNetwork {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn token(number: u64) -> Fingerprint {
        u128::from(number).to_be_bytes()
    }

    #[test]
    fn an_active_response_is_refreshed_in_time_and_valid_for_stale_if_error() {
        let answer = good(None, 60);
        for (seconds, expected) in [
            (0, ("fresh", Some(3))),
            (2, ("fresh", Some(3))),
            (3, ("due", Some(4))),
            (4, ("stale", Some(5))),
            (62, ("stale", Some(63))),
            (63, ("stale", Some(64))),
            (64, ("expired", None)),
        ] {
            assert_eq!(age(&answer, seconds), expected, "{seconds}");
        }
        assert_eq!(age(&good(None, 0), 3), ("due", Some(4)));
        assert_eq!(age(&good(None, 0), 4), ("expired", None));
    }

    #[test]
    fn a_response_expires_with_its_token() {
        let answer = good(Some(10), 60);
        assert_eq!(age(&answer, 9), ("stale", Some(10)));
        assert_eq!(age(&answer, 10), ("expired", None));
        assert_eq!(age(&good(Some(2), 60), 1), ("fresh", Some(2)));
        assert_eq!(age(&good(Some(2), 60), 2), ("expired", None));
    }

    #[test]
    fn an_inactive_response_is_valid_for_four_seconds() {
        let answer = answer(Err(Rejected::UnknownIssuer), 60);
        assert_eq!(age(&answer, 3), ("refused", None));
        assert_eq!(age(&answer, 4), ("expired", None));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_response_older() {
        let answer = Answer { at: after(100), ..good(None, 60) };
        assert_eq!(answer.age(AT), Age::Fresh(Ok(Caller { until: Some(after(103)), ..ann() })));
    }

    #[test]
    fn a_flood_of_inactive_tokens_evicts_no_active_token_and_no_token_of_another_client() {
        let answers = Answers::new();
        let refusal = answer(Err(Rejected::UnknownIssuer), 60);
        // A client in another shard than the flood's; the hash is random.
        let part = |last| answers.hasher.hash_one(client(last)) as usize % PARTS;
        let other = (2..=255).find(|last| part(*last) != part(1)).unwrap();
        answers.insert(token(0), client(1), &good(None, 60));
        answers.insert(token(1), client(other), &refusal);
        for number in 2..100_000 {
            answers.insert(token(number), client(1), &refusal);
        }
        assert_eq!(answers.active(&token(0)), Some(good(None, 60)));
        assert!(answers.refused(&token(1), client(other), AT).is_some());
        let remembered: usize = answers.refused.iter().map(|part| part.lock().unwrap().len()).sum();
        assert!(remembered <= REFUSED + 1, "{remembered}");
        // Expired entries make room.
        let later = Answer { at: after(4), ..refusal };
        answers.insert(token(200_000), client(1), &later);
        assert!(answers.refused(&token(200_000), client(1), after(4)).is_some());
    }

    #[test]
    fn a_revoked_token_is_rejected_for_every_client() {
        let answers = Answers::new();
        answers.insert(token(0), client(1), &good(None, 60));
        answers.insert(token(0), client(1), &answer(Err(Rejected::UnknownIssuer), 60));
        let found = answers.active(&token(0)).unwrap();
        assert_eq!(found.age(AT), Age::Fresh(Err(Rejected::UnknownIssuer)));
    }
}
