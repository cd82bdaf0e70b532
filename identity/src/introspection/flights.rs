//! Queries in flight: requests with the same token share one query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::cache::Fingerprint;
use crate::caller::Caller;
use crate::rejected::Rejected;

/// The outcome of a query; [`Rejected::Unanswered`] if there was no response.
pub(super) type Outcome = Result<Caller, Rejected>;

/// All queries in flight; each is in one of the bounded queues or being sent.
#[derive(Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Fingerprint, Flight>>>);

#[derive(Clone)]
struct Flight {
    since: Instant,
    outcome: watch::Sender<Option<Outcome>>,
}

/// The sending half of a query. Dropping it reports [`Rejected::Unanswered`].
pub(super) struct Responder {
    flights: Arc<Mutex<HashMap<Fingerprint, Flight>>>,
    token: Fingerprint,
    outcome: watch::Sender<Option<Outcome>>,
}

/// The receiving half of a query.
pub(super) struct Waiter {
    since: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

// === impl Flights ===

impl Flights {
    /// Joins the query about a token. Without one in flight, starts one: the caller that gets the
    /// sending half must run it.
    pub(super) fn join(&self, token: Fingerprint, now: Instant) -> (Waiter, Option<Responder>) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Flight { since, outcome }) = flights.get(&token) {
            return (Waiter { since: *since, outcome: outcome.subscribe() }, None);
        }
        let (outcome, waiting) = watch::channel(None);
        flights.insert(token, Flight { since: now, outcome: outcome.clone() });
        let responder = Responder { flights: Arc::clone(&self.0), token, outcome };
        (Waiter { since: now, outcome: waiting }, Some(responder))
    }

    /// Number of queries in flight.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

// === impl Answering ===

impl Responder {
    pub(super) fn token(&self) -> &Fingerprint {
        &self.token
    }

    /// Whether all waiters are gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.outcome.receiver_count() == 0
    }

    /// Returns the outcome to all waiters.
    pub(super) fn finish(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Responder {
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

impl Waiter {
    /// Waits for the outcome, at most until `timeout` after the start of the query.
    pub(super) async fn outcome(mut self, timeout: Duration) -> Outcome {
        let answered = timeout_at(self.since + timeout, self.outcome.wait_for(Option::is_some));
        match answered.await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Err(Rejected::Unanswered)),
            Ok(Err(_)) | Err(_) => Err(Rejected::Unanswered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn concurrent_queries_about_a_token_share_one_response() {
        let flights = Flights::default();
        let (first, responder) = flights.join([1; 16], Instant::now());
        let (second, none) = flights.join([1; 16], Instant::now());
        let (_, other) = flights.join([2; 16], Instant::now());
        assert!(none.is_none() && other.is_some());
        responder.unwrap().finish(Err(Rejected::Audience));
        assert_eq!(first.outcome(TIMEOUT).await, Err(Rejected::Audience));
        assert_eq!(second.outcome(TIMEOUT).await, Err(Rejected::Audience));
        drop(other);
        assert_eq!(flights.len(), 0);
        assert!(flights.join([1; 16], Instant::now()).1.is_some(), "the next query is a new one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_query_is_unanswered() {
        let flights = Flights::default();
        let (waiting, responder) = flights.join([1; 16], Instant::now());
        drop(responder);
        assert_eq!(waiting.outcome(TIMEOUT).await, Err(Rejected::Unanswered));
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_counts_from_the_start_of_the_query() {
        let flights = Flights::default();
        let start = Instant::now();
        let (first, responder) = flights.join([1; 16], start);
        assert_eq!(first.outcome(TIMEOUT).await, Err(Rejected::Unanswered));
        assert_eq!(start.elapsed(), TIMEOUT);
        let responder = responder.unwrap();
        assert!(responder.is_abandoned());
        let (second, _) = flights.join([1; 16], Instant::now());
        assert!(!responder.is_abandoned());
        assert_eq!(second.outcome(TIMEOUT).await, Err(Rejected::Unanswered));
        assert_eq!(start.elapsed(), TIMEOUT, "later waiters share the timeout");
    }
}
