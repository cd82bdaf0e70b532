//! Tokens that only their issuer can read (RFC 7662): it is asked on the control runtime, and what
//! it says is remembered for seconds.
//!
//! | what | module |
//! | --- | --- |
//! | how long an answer counts | [`answers`] |
//! | one question for all who show the same token | [`flights`] |
//! | the question itself | [`endpoint`] |
//!
//! Each issuer has a queue of its own, in which clients take turns and tokens that were good
//! before come first: clients that show thousands of unknown tokens wait for
//! themselves. That a question found no room is never remembered as an answer.

mod answers;
mod endpoint;
mod flights;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use self::answers::{Age, Answer, Answers};
use self::endpoint::Endpoint;
use self::flights::{Answering, Flights, Outcome, Waiting};
use super::cache::{Fingerprint, Fingerprints};
use super::issuers::Issuer;
use super::rejected::Rejected;
use crate::client_network::ClientNetwork;
use crate::fair_queue::{self, Class, FairQueue, Limits, Queued};

/// Questions that wait to be asked, for each issuer.
const WAITING: usize = 256;
/// How long an answer is waited for, from the beginning of the question.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, where there is an older answer that counts meanwhile.
const PATIENCE_OF_KNOWN: Duration = Duration::from_secs(1);
/// The shortest and the longest text that is taken for a token.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=4096;

/// Asks issuers about tokens.
pub struct Introspection(Arc<Shared>);

struct Shared {
    fingerprints: Arc<Fingerprints>,
    answers: Answers,
    flights: Flights,
    issuers: Vec<Asked>,
}

/// An issuer, and what is to be asked of it.
struct Asked {
    endpoint: Endpoint,
    queue: FairQueue<Question>,
}

/// A question about a token, on its way through the issuers.
struct Question {
    token: Box<str>,
    client: ClientNetwork,
    class: Class,
    /// Who is asked next, if nobody before knows the token.
    rest: std::vec::IntoIter<usize>,
    /// One of the issuers did not answer.
    is_unanswered: bool,
    answering: Answering,
}

// === impl Introspection ===

impl Introspection {
    /// `None` where no issuer is to be asked.
    pub fn new(issuers: &[Arc<Issuer>], fingerprints: &Arc<Fingerprints>) -> Option<Self> {
        let issuers: Vec<_> = issuers.iter().filter_map(Endpoint::new).map(Asked::new).collect();
        (!issuers.is_empty()).then(|| {
            Self(Arc::new(Shared {
                fingerprints: Arc::clone(fingerprints),
                answers: Answers::new(),
                flights: Flights::default(),
                issuers,
            }))
        })
    }

    /// Whether a bearer token may be one that only its issuer can read: it is no JWT.
    pub fn is_for(token: &str) -> bool {
        LENGTHS.contains(&token.len()) && token.bytes().filter(|byte| *byte == b'.').count() != 2
    }

    /// Whose a token is known to be, without asking.
    ///
    /// # Errors
    /// Why it is nobody's; [`Rejected::Unanswered`] where its issuer would have to be asked.
    pub fn find(&self, token: &str, client: ClientNetwork, now: SystemTime) -> Outcome {
        let unanswered = Err(Rejected::Unanswered);
        let Some(fingerprint) = self.0.fingerprint(token) else { return unanswered };
        match self.0.answers.of_good(&fingerprint).map(|answer| answer.age(now)) {
            Some(Age::Fresh(verdict)) => verdict,
            Some(Age::Due(caller) | Age::Stale(caller)) => Ok(caller),
            Some(Age::Over) | None => {
                self.0.answers.refused(&fingerprint, client, now).map_or(unanswered, Err)
            }
        }
    }

    /// Whose a token is; its issuer is asked, where that is not known.
    ///
    /// # Errors
    /// Why it is nobody's; [`Rejected::Unanswered`] where its issuer did not say, and no answer of
    /// it counts any more.
    pub async fn ask(&self, token: &str, client: ClientNetwork, now: SystemTime) -> Outcome {
        let shared = &self.0;
        let Some(fingerprint) = shared.fingerprint(token) else {
            return Err(Rejected::Unanswered);
        };
        let known = shared.answers.of_good(&fingerprint);
        let issuer = known.as_ref().map(|answer| answer.issuer);
        let begin = |class, issuer| shared.begin(token, fingerprint, client, class, issuer);
        match known.map(|answer| answer.age(now)) {
            Some(Age::Fresh(verdict)) => return verdict,
            Some(Age::Due(caller)) => {
                drop(begin(Class::Known, issuer));
                return Ok(caller);
            }
            Some(Age::Stale(caller)) => {
                let waiting = begin(Class::Known, issuer);
                let asked = issuer.and_then(|issuer| shared.issuers.get(issuer));
                // Nobody waits for an issuer that is away.
                let patience = match asked.is_some_and(|asked| asked.endpoint.is_failing()) {
                    true => Duration::ZERO,
                    false => PATIENCE_OF_KNOWN,
                };
                return match waiting.outcome(patience).await {
                    Err(Rejected::Unanswered) => Ok(caller),
                    outcome => outcome,
                };
            }
            Some(Age::Over) | None => {}
        }
        if let Some(rejected) = shared.answers.refused(&fingerprint, client, now) {
            return Err(rejected);
        }
        begin(Class::Anonymous, None).outcome(PATIENCE).await
    }

    /// Asks the issuers what workers want to know, forever: a task of the control plane.
    pub async fn follow(&self) {
        let serving = (0..self.0.issuers.len()).filter_map(|issuer| {
            let queue = &self.0.issuers.get(issuer)?.queue;
            Some(queue.serve(move |question| question.ask(Arc::clone(&self.0), issuer)))
        });
        futures::future::join_all(serving).await;
    }

    /// What metrics tell of the queues.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<fair_queue::Counts>> {
        self.0.issuers.iter().map(|asked| asked.queue.counts())
    }
}

// === impl Shared ===

impl Shared {
    fn fingerprint(&self, token: &str) -> Option<Fingerprint> {
        self.fingerprints.of("opaque", &[token])
    }

    /// Begins a question about a token, or joins the one that is under way. `issuer` is the one
    /// that knows the token; where none does, all are asked in their order, those last that do not
    /// answer.
    fn begin(
        &self,
        token: &str,
        fingerprint: Fingerprint,
        client: ClientNetwork,
        class: Class,
        issuer: Option<usize>,
    ) -> Waiting {
        let (waiting, answering) = self.flights.join(fingerprint, Instant::now());
        if let Some(answering) = answering {
            let mut order: Vec<_> =
                issuer.map_or_else(|| (0..self.issuers.len()).collect(), |issuer| vec![issuer]);
            order.sort_by_key(|issuer| {
                self.issuers.get(*issuer).is_some_and(|asked| asked.endpoint.is_failing())
            });
            let rest = order.into_iter();
            let token = token.into();
            self.pass_on(Question { token, client, class, rest, is_unanswered: false, answering });
        }
        waiting
    }

    /// Gives a question to the next issuer; where there is none any more, nobody knows the token.
    fn pass_on(&self, mut question: Question) {
        match question.rest.next().and_then(|issuer| Some((issuer, self.issuers.get(issuer)?))) {
            Some((_, asked)) => {
                // Without room, it is answered by being dropped.
                let _ = asked.queue.push(question.class, question.client, question);
            }
            None if question.is_unanswered => question.answering.finish(Err(Rejected::Unanswered)),
            None => self.finish(question, 0, Err(Rejected::UnknownIssuer)),
        }
    }

    /// Remembers what `issuer` said, and gives it to all who wait for it.
    fn finish(&self, question: Question, issuer: usize, verdict: Outcome) {
        let at = SystemTime::now();
        let stale_if_error = self
            .issuers
            .get(issuer)
            .map_or(Duration::ZERO, |asked| asked.endpoint.settings().stale_if_error);
        let answer = Answer { verdict, issuer, at, stale_if_error };
        let outcome = match answer.age(at) {
            Age::Fresh(verdict) => verdict,
            Age::Due(_) | Age::Stale(_) | Age::Over => Err(Rejected::Expired),
        };
        self.answers.insert(*question.answering.token(), question.client, &answer);
        question.answering.finish(outcome);
    }
}

// === impl Asked ===

impl Asked {
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

// === impl Question ===

impl Question {
    /// Asks one issuer; where that one does not know the token, the question goes on to the next.
    async fn ask(mut self, shared: Arc<Shared>, issuer: usize) {
        let Some(asked) = shared.issuers.get(issuer) else { return };
        match asked.endpoint.ask(&self.token).await {
            Err(Rejected::UnknownIssuer) => shared.pass_on(self),
            Err(Rejected::Unanswered) => {
                self.is_unanswered = true;
                shared.pass_on(self);
            }
            verdict => shared.finish(self, issuer, verdict),
        }
    }
}

impl Queued for Question {
    /// One about a token that was good is asked in any case: its answer is needed soon.
    fn is_abandoned(&self) -> bool {
        self.class == Class::Anonymous && self.answering.is_abandoned()
    }
}

#[cfg(test)]
mod tests;
