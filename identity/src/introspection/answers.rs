//! What issuers said of tokens, and for how long that counts: pure, with the time as an argument.
//!
//! Tokens that were found to be good and all others are remembered apart, and of the others those
//! of different clients: a flood of tokens that are not good makes no good one forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::cache::{Cache, Fingerprint};
use crate::caller::Caller;
use crate::client_network::ClientNetwork;
use crate::rejected::Rejected;

/// How long an answer counts: a token that its issuer revoked is refused after this time.
const FRESH: Duration = Duration::from_secs(4);
/// When the issuer is asked anew about a token that is in use.
const REFRESHED_AFTER: Duration = Duration::from_secs(3);
/// How soon a caller who is let in by an older answer is looked at again.
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(1);
/// Good tokens that are remembered, in each of two generations.
const GOOD: usize = 16 * 1024;
/// Parts of the table of tokens that are not good: a client can fill but its own.
const PARTS: usize = 64;
/// Tokens that are not good that are remembered, in each part.
const REFUSED: usize = 512;

/// All answers that count still.
pub(super) struct Answers {
    good: Cache<Answer>,
    refused: [Mutex<HashMap<Fingerprint, (Rejected, SystemTime)>>; PARTS],
    hasher: RandomState,
}

/// The last answer about a token that was good at some time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// Whose it is; `until` is the token's own end.
    pub(super) verdict: Result<Caller, Rejected>,
    /// Which of the issuers gave it.
    pub(super) issuer: usize,
    /// When it came.
    pub(super) at: SystemTime,
    /// How long it counts beyond [`FRESH`] while the issuer cannot be asked.
    pub(super) stale_if_error: Duration,
}

/// How far an answer may be relied on.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Age {
    /// It counts.
    Fresh(Result<Caller, Rejected>),
    /// It counts, and it is time to ask anew.
    Due(Caller),
    /// It counts where its issuer cannot be asked.
    Stale(Caller),
    /// It does not count any more.
    Over,
}

// === impl Answer ===

impl Answer {
    /// How far it may be relied on at `now`. Whoever is let in by it is to be looked at again at
    /// the caller's `until`.
    pub(super) fn age(&self, now: SystemTime) -> Age {
        // A clock that was set back makes nothing older.
        let age = now.duration_since(self.at).unwrap_or_default();
        let caller = match &self.verdict {
            Ok(caller) => caller,
            Err(rejected) if age < FRESH => return Age::Fresh(Err(*rejected)),
            Err(_) => return Age::Over,
        };
        let end = self.at + FRESH + self.stale_if_error;
        let end = caller.until.map_or(end, |own| own.min(end));
        if end <= now {
            return Age::Over;
        }
        let until = (self.at + REFRESHED_AFTER).max(now + LOOKED_AT_AGAIN).min(end);
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

    /// The last answer about a token that was good at some time.
    pub(super) fn of_good(&self, token: &Fingerprint) -> Option<Answer> {
        self.good.get(token)
    }

    /// Why a token that this client showed was not good a moment ago.
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

    /// Remembers an answer. One about a token that was never good is remembered for the client
    /// that showed it, and where there is no room, not at all.
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
        look: impl FnOnce(&mut HashMap<Fingerprint, (Rejected, SystemTime)>) -> T,
    ) -> Option<T> {
        let part = self.refused.get(self.hasher.hash_one(client) as usize % PARTS)?;
        Some(look(&mut part.lock().unwrap_or_else(PoisonError::into_inner)))
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

    /// A word for an age, and when the caller is looked at again, in seconds after the answer.
    fn age(answer: &Answer, seconds: u64) -> (&'static str, Option<u64>) {
        let (word, caller) = match answer.age(after(seconds)) {
            Age::Fresh(Ok(caller)) => ("fresh", caller),
            Age::Due(caller) => ("due", caller),
            Age::Stale(caller) => ("stale", caller),
            Age::Fresh(Err(_)) => return ("refused", None),
            Age::Over => return ("over", None),
        };
        let until = caller.until.and_then(|until| until.duration_since(AT).ok());
        (word, until.map(|until| until.as_secs()))
    }

    fn client(last: u8) -> ClientNetwork {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn token(number: u64) -> Fingerprint {
        u128::from(number).to_be_bytes()
    }

    #[test]
    fn a_good_answer_is_asked_for_anew_in_time_and_outlives_its_issuer_for_the_stated_time() {
        let answer = good(None, 60);
        for (seconds, expected) in [
            (0, ("fresh", Some(3))),
            (2, ("fresh", Some(3))),
            (3, ("due", Some(4))),
            (4, ("stale", Some(5))),
            (62, ("stale", Some(63))),
            (63, ("stale", Some(64))),
            (64, ("over", None)),
        ] {
            assert_eq!(age(&answer, seconds), expected, "{seconds}");
        }
        assert_eq!(age(&good(None, 0), 3), ("due", Some(4)));
        assert_eq!(age(&good(None, 0), 4), ("over", None));
    }

    #[test]
    fn no_answer_outlives_its_token() {
        let answer = good(Some(10), 60);
        assert_eq!(age(&answer, 9), ("stale", Some(10)));
        assert_eq!(age(&answer, 10), ("over", None));
        assert_eq!(age(&good(Some(2), 60), 1), ("fresh", Some(2)));
        assert_eq!(age(&good(Some(2), 60), 2), ("over", None));
    }

    #[test]
    fn a_refusal_counts_for_seconds_and_never_longer() {
        let answer = answer(Err(Rejected::UnknownIssuer), 60);
        assert_eq!(age(&answer, 3), ("refused", None));
        assert_eq!(age(&answer, 4), ("over", None));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_answer_older() {
        let answer = Answer { at: after(100), ..good(None, 60) };
        assert_eq!(answer.age(AT), Age::Fresh(Ok(Caller { until: Some(after(103)), ..ann() })));
    }

    #[test]
    fn a_flood_of_bad_tokens_makes_no_good_one_forgotten_and_no_other_clients_bad_one() {
        let answers = Answers::new();
        let refusal = answer(Err(Rejected::UnknownIssuer), 60);
        // Another part of the table than the flood's: by chance, as the hash is.
        let part = |last| answers.hasher.hash_one(client(last)) as usize % PARTS;
        let other = (2..=255).find(|last| part(*last) != part(1)).unwrap();
        answers.insert(token(0), client(1), &good(None, 60));
        answers.insert(token(1), client(other), &refusal);
        for number in 2..100_000 {
            answers.insert(token(number), client(1), &refusal);
        }
        assert_eq!(answers.of_good(&token(0)), Some(good(None, 60)));
        assert!(answers.refused(&token(1), client(other), AT).is_some());
        let remembered: usize = answers.refused.iter().map(|part| part.lock().unwrap().len()).sum();
        assert!(remembered <= REFUSED + 1, "{remembered}");
        // What is old makes room.
        let later = Answer { at: after(4), ..refusal };
        answers.insert(token(200_000), client(1), &later);
        assert!(answers.refused(&token(200_000), client(1), after(4)).is_some());
    }

    #[test]
    fn what_was_good_and_is_no_more_is_refused_for_every_client() {
        let answers = Answers::new();
        answers.insert(token(0), client(1), &good(None, 60));
        answers.insert(token(0), client(1), &answer(Err(Rejected::UnknownIssuer), 60));
        let found = answers.of_good(&token(0)).unwrap();
        assert_eq!(found.age(AT), Age::Fresh(Err(Rejected::UnknownIssuer)));
    }
}
