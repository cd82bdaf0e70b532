//! Questions that are under way: who asks about a token that is asked about already waits for the
//! same answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::cache::Fingerprint;
use crate::caller::Caller;
use crate::rejected::Rejected;

/// What came of a question; [`Rejected::Unanswered`] where nothing did.
pub(super) type Outcome = Result<Caller, Rejected>;

/// All that are under way; each is in one of the bounded queues, or being asked.
#[derive(Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Fingerprint, Flight>>>);

#[derive(Clone)]
struct Flight {
    since: Instant,
    outcome: watch::Sender<Option<Outcome>>,
}

/// The end of a question at which it is answered. Dropped without, it was not asked.
pub(super) struct Answering {
    flights: Arc<Mutex<HashMap<Fingerprint, Flight>>>,
    token: Fingerprint,
    outcome: watch::Sender<Option<Outcome>>,
}

/// The end at which the answer is waited for.
pub(super) struct Waiting {
    since: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

// === impl Flights ===

impl Flights {
    /// Joins the question about a token. Where none is under way, one begins, and whoever gets its
    /// other end has to ask it.
    pub(super) fn join(&self, token: Fingerprint, now: Instant) -> (Waiting, Option<Answering>) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Flight { since, outcome }) = flights.get(&token) {
            return (Waiting { since: *since, outcome: outcome.subscribe() }, None);
        }
        let (outcome, waiting) = watch::channel(None);
        flights.insert(token, Flight { since: now, outcome: outcome.clone() });
        let answering = Answering { flights: Arc::clone(&self.0), token, outcome };
        (Waiting { since: now, outcome: waiting }, Some(answering))
    }

    /// How many are under way.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

// === impl Answering ===

impl Answering {
    pub(super) fn token(&self) -> &Fingerprint {
        &self.token
    }

    /// Whether nobody waits for the answer.
    pub(super) fn is_abandoned(&self) -> bool {
        self.outcome.receiver_count() == 0
    }

    /// Gives the answer to all who wait for it.
    pub(super) fn finish(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
        self.outcome.send_if_modified(|outcome| {
            let is_open = outcome.is_none();
            outcome.get_or_insert(Err(Rejected::Unanswered));
            is_open
        });
    }
}

// === impl Waiting ===

impl Waiting {
    /// Waits for the answer, but not beyond `patience` after the question began.
    pub(super) async fn outcome(mut self, patience: Duration) -> Outcome {
        let answered = timeout_at(self.since + patience, self.outcome.wait_for(Option::is_some));
        match answered.await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Err(Rejected::Unanswered)),
            Ok(Err(_)) | Err(_) => Err(Rejected::Unanswered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn identical_questions_are_one_and_all_get_its_answer() {
        let flights = Flights::default();
        let (first, answering) = flights.join([1; 16], Instant::now());
        let (second, none) = flights.join([1; 16], Instant::now());
        let (_, other) = flights.join([2; 16], Instant::now());
        assert!(none.is_none() && other.is_some());
        answering.unwrap().finish(Err(Rejected::Audience));
        assert_eq!(first.outcome(PATIENCE).await, Err(Rejected::Audience));
        assert_eq!(second.outcome(PATIENCE).await, Err(Rejected::Audience));
        drop(other);
        assert_eq!(flights.len(), 0);
        assert!(flights.join([1; 16], Instant::now()).1.is_some(), "the next one begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_asked_is_not_answered() {
        let flights = Flights::default();
        let (waiting, answering) = flights.join([1; 16], Instant::now());
        drop(answering);
        assert_eq!(waiting.outcome(PATIENCE).await, Err(Rejected::Unanswered));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_counted_from_the_beginning_of_the_question() {
        let flights = Flights::default();
        let start = Instant::now();
        let (first, answering) = flights.join([1; 16], start);
        assert_eq!(first.outcome(PATIENCE).await, Err(Rejected::Unanswered));
        assert_eq!(start.elapsed(), PATIENCE);
        let answering = answering.unwrap();
        assert!(answering.is_abandoned());
        let (second, _) = flights.join([1; 16], Instant::now());
        assert!(!answering.is_abandoned());
        assert_eq!(second.outcome(PATIENCE).await, Err(Rejected::Unanswered));
        assert_eq!(start.elapsed(), PATIENCE, "whoever comes later does not wait anew");
    }
}
