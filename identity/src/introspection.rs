//! Token introspection (RFC 7662): asks issuers about opaque tokens on the control runtime.
//!
//! Responses are cached for seconds.
//!
//! | purpose | module |
//! | --- | --- |
//! | how long a response is valid | [`answers`] |
//! | one query for all requests with the same token | [`flights`] |
//! | the query itself | [`endpoint`] |
//!
//! Each issuer has a queue of its own. It is fair between clients, and tokens that were active
//! before come first, so a client that sends thousands of unknown tokens delays only itself. A
//! query that is dropped because the queue is full is never cached as a response.

mod answers;
mod endpoint;
mod flights;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use self::answers::{Age, Answer, Answers};
use self::endpoint::Endpoint;
use self::flights::{Flights, Outcome, Responder, Waiter};
use super::cache::{Fingerprint, Fingerprints};
use super::issuers::Issuer;
use super::rejected::Rejected;
use crate::client_network::ClientNetwork;
use crate::fair_queue::{self, Class, FairQueue, Limits, Queued};

/// Maximum number of queued queries per issuer.
const WAITING: usize = 256;
/// Maximum wait for a response, counted from the start of the query.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum wait where an older cached response can be used instead.
const TIMEOUT_WITH_CACHED: Duration = Duration::from_secs(1);
/// Lengths of a bearer token that is introspected.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=4096;

/// Asks issuers about opaque tokens and caches the responses.
pub struct Introspection(Arc<Shared>);

struct Shared {
    fingerprints: Arc<Fingerprints>,
    answers: Answers,
    flights: Flights,
    issuers: Vec<IssuerQueue>,
}

/// An issuer and the queue of queries to it.
struct IssuerQueue {
    endpoint: Endpoint,
    queue: FairQueue<TokenQuery>,
}

/// A query about a token, passed from issuer to issuer.
struct TokenQuery {
    token: Box<str>,
    client: ClientNetwork,
    class: Class,
    /// Issuers to ask next if none so far knows the token.
    rest: std::vec::IntoIter<usize>,
    /// Whether an issuer failed to answer.
    is_unanswered: bool,
    responder: Responder,
}

// === impl Introspection ===

impl Introspection {
    /// Creates the introspection client; `None` if no issuer has introspection configured.
    pub fn new(issuers: &[Arc<Issuer>], fingerprints: &Arc<Fingerprints>) -> Option<Self> {
        let issuers: Vec<_> =
            issuers.iter().filter_map(Endpoint::new).map(IssuerQueue::new).collect();
        (!issuers.is_empty()).then(|| {
            Self(Arc::new(Shared {
                fingerprints: Arc::clone(fingerprints),
                answers: Answers::new(),
                flights: Flights::default(),
                issuers,
            }))
        })
    }

    /// Returns whether a bearer token is opaque: it is not a JWT.
    pub fn is_for(token: &str) -> bool {
        LENGTHS.contains(&token.len()) && token.bytes().filter(|byte| *byte == b'.').count() != 2
    }

    /// Looks up a token in the cache without asking its issuer.
    ///
    /// # Errors
    /// The reason why the token is rejected; [`Rejected::Unanswered`] if the cache has no response.
    pub fn find(&self, token: &str, client: ClientNetwork, now: SystemTime) -> Outcome {
        let unanswered = Err(Rejected::Unanswered);
        let Some(fingerprint) = self.0.fingerprint(token) else { return unanswered };
        match self.0.answers.active(&fingerprint).map(|answer| answer.age(now)) {
            Some(Age::Fresh(verdict)) => verdict,
            Some(Age::Due(caller) | Age::Stale(caller)) => Ok(caller),
            Some(Age::Expired) | None => {
                self.0.answers.refused(&fingerprint, client, now).map_or(unanswered, Err)
            }
        }
    }

    /// Returns the caller of a token, and asks its issuer if the cache has no response.
    ///
    /// # Errors
    /// The reason why the token is rejected; [`Rejected::Unanswered`] if no issuer answered and no
    /// cached response is valid.
    pub async fn ask(&self, token: &str, client: ClientNetwork, now: SystemTime) -> Outcome {
        let shared = &self.0;
        let Some(fingerprint) = shared.fingerprint(token) else {
            return Err(Rejected::Unanswered);
        };
        let cached = shared.answers.active(&fingerprint);
        let issuer = cached.as_ref().map(|answer| answer.issuer);
        let begin = |class, issuer| shared.begin(token, fingerprint, client, class, issuer);
        match cached.map(|answer| answer.age(now)) {
            Some(Age::Fresh(verdict)) => return verdict,
            Some(Age::Due(caller)) => {
                drop(begin(Class::Known, issuer));
                return Ok(caller);
            }
            Some(Age::Stale(caller)) => {
                let waiting = begin(Class::Known, issuer);
                let asked = issuer.and_then(|issuer| shared.issuers.get(issuer));
                // Do not wait for an issuer that is failing.
                let timeout = match asked.is_some_and(|asked| asked.endpoint.is_failing()) {
                    true => Duration::ZERO,
                    false => TIMEOUT_WITH_CACHED,
                };
                return match waiting.outcome(timeout).await {
                    Err(Rejected::Unanswered) => Ok(caller),
                    outcome => outcome,
                };
            }
            Some(Age::Expired) | None => {}
        }
        if let Some(rejected) = shared.answers.refused(&fingerprint, client, now) {
            return Err(rejected);
        }
        begin(Class::Anonymous, None).outcome(TIMEOUT).await
    }

    /// Serves the queues of all issuers forever: a task of the control plane.
    pub async fn run(&self) {
        let serving = (0..self.0.issuers.len()).filter_map(|issuer| {
            let queue = &self.0.issuers.get(issuer)?.queue;
            Some(queue.serve(move |query| query.ask(Arc::clone(&self.0), issuer)))
        });
        futures::future::join_all(serving).await;
    }

    /// Returns the counters of the queues, for metrics.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<fair_queue::Counts>> {
        self.0.issuers.iter().map(|asked| asked.queue.counts())
    }
}

// === impl Shared ===

impl Shared {
    fn fingerprint(&self, token: &str) -> Option<Fingerprint> {
        self.fingerprints.of("opaque", &[token])
    }

    /// Starts a query about a token, or joins the one in flight. `issuer` is the one known to have
    /// issued the token; without it all are asked in order, failing ones last.
    fn begin(
        &self,
        token: &str,
        fingerprint: Fingerprint,
        client: ClientNetwork,
        class: Class,
        issuer: Option<usize>,
    ) -> Waiter {
        let (waiting, responder) = self.flights.join(fingerprint, Instant::now());
        if let Some(responder) = responder {
            let mut order: Vec<_> =
                issuer.map_or_else(|| (0..self.issuers.len()).collect(), |issuer| vec![issuer]);
            order.sort_by_key(|issuer| {
                self.issuers.get(*issuer).is_some_and(|asked| asked.endpoint.is_failing())
            });
            let rest = order.into_iter();
            let token = token.into();
            self.forward(TokenQuery {
                token,
                client,
                class,
                rest,
                is_unanswered: false,
                responder,
            });
        }
        waiting
    }

    /// Forwards a query to the next issuer; after the last one the token is unknown.
    fn forward(&self, mut query: TokenQuery) {
        match query.rest.next().and_then(|issuer| Some((issuer, self.issuers.get(issuer)?))) {
            Some((_, asked)) => {
                // Dropping the query reports `Unanswered` to all waiters.
                let _ = asked.queue.push(query.class, query.client, query);
            }
            None if query.is_unanswered => query.responder.finish(Err(Rejected::Unanswered)),
            None => self.finish(query, 0, Err(Rejected::UnknownIssuer)),
        }
    }

    /// Caches the verdict of `issuer`, and returns it to all waiters.
    fn finish(&self, query: TokenQuery, issuer: usize, verdict: Outcome) {
        let at = SystemTime::now();
        let stale_if_error = self
            .issuers
            .get(issuer)
            .map_or(Duration::ZERO, |asked| asked.endpoint.settings().stale_if_error);
        let answer = Answer { verdict, issuer, at, stale_if_error };
        let outcome = match answer.age(at) {
            Age::Fresh(verdict) => verdict,
            Age::Due(_) | Age::Stale(_) | Age::Expired => Err(Rejected::Expired),
        };
        self.answers.insert(*query.responder.token(), query.client, &answer);
        query.responder.finish(outcome);
    }
}

// === impl Asked ===

impl IssuerQueue {
    fn new(endpoint: Endpoint) -> Self {
        let settings = endpoint.settings();
        let limits = Limits {
            waiting: WAITING,
            concurrent: settings.concurrency.get(),
            rate: Some(settings.rate),
        };
        let queue = FairQueue::new(&format!("introspection:{}", endpoint.name()), limits);
        Self { endpoint, queue }
    }
}

// === impl TokenQuery ===

impl TokenQuery {
    /// Asks one issuer; if that one does not know the token, the query goes to the next.
    async fn ask(mut self, shared: Arc<Shared>, issuer: usize) {
        let Some(asked) = shared.issuers.get(issuer) else { return };
        match asked.endpoint.ask(&self.token).await {
            Err(Rejected::UnknownIssuer) => shared.forward(self),
            Err(Rejected::Unanswered) => {
                self.is_unanswered = true;
                shared.forward(self);
            }
            verdict => shared.finish(self, issuer, verdict),
        }
    }
}

impl Queued for TokenQuery {
    /// A refresh of a known token always runs: its result is needed soon.
    fn is_abandoned(&self) -> bool {
        self.class == Class::Anonymous && self.responder.is_abandoned()
    }
}

#[cfg(test)]
mod tests;
