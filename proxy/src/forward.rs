//! Forwards a request to a backend and the response to the client, and retries where that is safe.

mod attempt;
mod attempts;
mod interim;
#[cfg(test)]
mod law_tests;
mod prefetch;
mod rejection;
mod replay;
mod response;
mod stall;
mod upload;
mod waiting;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use portcullis_config::snapshot::backend::Backend;
use portcullis_config::snapshot::policy::Policy;

use self::attempt::Unanswered;
use self::attempts::{Attempts, Cost, FailedAttempt, Repeatable};
use self::interim::InterimResponses;
use self::prefetch::Prefetched;
pub(crate) use self::response::relay;
pub(crate) use self::upload::Upload;
use crate::exchange::{BodyLength, Broken, Refusal, Respond, ResponseHead, Source};
use crate::limit::Requester;
use crate::memory::Charge;
use crate::random::Random;
use crate::telemetry::Meter;
use crate::telemetry::traffic::{Attempt, Response};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::exchange::{Exchange, Failed, Load, Message};
use crate::upstream::{Balancer, Choice, Upstreams};

/// The reason of requests that got no place in time.
pub(crate) const UPSTREAM_FULL: &str = "upstream_full";

/// The reason of calls whose caller waits no longer, by its own `grpc-timeout`.
pub(crate) const CALL_EXPIRED: &str = "call_expired";

/// A request to forward, and what is needed for it.
pub(crate) struct ForwardRequest<'a> {
    pub(crate) upstreams: &'a Upstreams,
    pub(crate) meter: &'a Meter,
    pub(crate) random: &'a Random,
    pub(crate) message: Message<'a>,
    pub(crate) backend: &'a Backend,
    /// The backend for the request if nothing of `backend` answers, or has a place in time.
    pub(crate) fallback: Option<&'a Backend>,
    pub(crate) policy: &'a Policy,
    /// The hash of the caller, if it keeps its endpoint.
    pub(crate) caller: Option<u64>,
    pub(crate) deadlines: Deadlines,
    /// Whether it is a call of gRPC or gRPC-Web.
    pub(crate) is_grpc: bool,
    /// When the request arrived.
    pub(crate) started: Instant,
    /// Who sends it: the client's memory holds the body.
    pub(crate) requester: Requester<'a>,
}

/// The client's side of a request.
pub(crate) struct ClientSide<'a, B, R, H> {
    body: &'a mut B,
    respond: &'a mut R,
    /// The memory of the request.
    charge: &'a mut Charge,
    interim: InterimResponses<'a, H>,
}

/// The timeouts of an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// The time by which the whole response must be sent.
    pub(crate) whole: Option<Instant>,
    /// Whether the caller has set that time by itself, shorter than the route's.
    pub(crate) is_callers: bool,
    /// Timeout of connecting to an endpoint.
    pub(crate) connect: Duration,
    /// Timeout from the end of the request to the response's head; `None` for calls whose response
    /// may start only after the request ends.
    pub(crate) head: Option<Duration>,
    /// Timeout without progress of either body.
    pub(crate) idle: Duration,
    /// Timeout for a client that reads nothing of a waiting response.
    pub(crate) client_read: Duration,
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole response was sent.
    Sent,
    /// Nothing was sent: the gateway replies locally.
    Failed { status: StatusCode, reason: &'static str },
    /// The request's body is invalid; nothing was sent.
    Refused(Refusal),
    /// The response was aborted.
    Aborted(&'static str),
    /// The client disconnected before the end of the response.
    ClientClosed,
    /// The client's credentials or grants expired or were revoked before the end of the response.
    Revoked,
}

/// Statistics of a forwarded request, for metrics and the access log.
#[derive(Debug, Default)]
pub(crate) struct ForwardStats {
    /// The endpoint of the last attempt.
    pub(crate) upstream: Option<SocketAddr>,
    /// Why the other backend was to answer, if it was.
    pub(crate) crossing: Option<Crossing>,
    /// The number of attempts, including the first.
    pub(crate) tries: u32,
    /// The first attempt that failed by the backend's fault, if it did not end the request.
    pub(crate) first_failed: Option<Attempt>,
    /// The status of the backend's response.
    pub(crate) status: Option<StatusCode>,
    /// When the head of the response arrived.
    pub(crate) head_at: Option<Instant>,
    /// When the whole response was sent.
    pub(crate) ended_at: Option<Instant>,
    /// Octets of the request's body that were forwarded.
    pub(crate) received: u64,
    /// Octets of the response's body that were forwarded.
    pub(crate) sent: u64,
    /// The `grpc-status` of the response's head or trailers.
    pub(crate) grpc_status: Option<u16>,
}

/// Why a request goes to the other backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossing {
    /// Nothing of the chosen one answers.
    Missed,
    /// It is full, as far as this client may fill it: that says nothing about the backend.
    Full,
}

/// Modifies the heads of the response before they are forwarded.
pub(crate) trait OnHead {
    /// Modifies an interim head (1xx).
    fn on_interim(&mut self, head: &mut ResponseHead);

    /// Modifies the final head.
    fn on_head(&mut self, head: &mut ResponseHead);
}

/// A backend's response, to be [relayed](relay). It does not borrow the request's head. It is handed
/// on as a box: it is large.
pub(crate) struct Answered {
    exchange: Exchange,
    head: ResponseHead,
    /// The `grpc-status` of the head.
    grpc_status: Option<u16>,
    /// When the head arrived.
    at: Instant,
    length: BodyLength,
    prefetched: Prefetched,
}

// === impl Answered ===

impl Answered {
    /// What the traffic feed counts of it, if it is not forwarded.
    fn attempt(&self, started: Instant) -> Attempt {
        Attempt::Rejected(Response {
            status: self.head.status.as_u16(),
            grpc_status: self.grpc_status,
            latency: self.at.duration_since(started),
        })
    }

    /// Gives the connection back to the pool, if the response was read to its end.
    fn discard(self: Box<Self>) {
        self.exchange.finish(Instant::now());
    }
}

/// Why no endpoint of a backend is chosen.
enum NoEndpoint {
    /// Each was tried.
    Exhausted,
    /// Another attempt would exceed the retry budget.
    Denied,
}

// === impl Deadlines ===

impl Deadlines {
    /// The outcome of a request whose whole time has passed.
    fn expired(&self) -> Outcome {
        if !self.is_callers {
            return attempt::LATE;
        }
        failed(StatusCode::GATEWAY_TIMEOUT, CALL_EXPIRED)
    }

    /// The outcome if no head arrived until `now`, in time or in the whole time.
    fn late(&self, now: Instant) -> Outcome {
        if self.whole.is_some_and(|whole| whole <= now) { self.expired() } else { attempt::LATE }
    }
}

// === impl ForwardStats ===

impl ForwardStats {
    /// Records an attempt that failed by the fault of the chosen backend, unless another one has
    /// been asked.
    fn failed_by(&mut self, attempt: impl FnOnce() -> Attempt) {
        if self.crossing.is_none() {
            self.first_failed.get_or_insert_with(attempt);
        }
    }
}

// === impl ClientSide ===

impl<'a, B, R, H: OnHead> ClientSide<'a, B, R, H> {
    pub(crate) fn new(
        body: &'a mut B,
        respond: &'a mut R,
        charge: &'a mut Charge,
        on_head: &'a mut H,
    ) -> Self {
        Self { body, respond, charge, interim: InterimResponses::new(on_head) }
    }
}

/// Sends a request to endpoints of the backend until one responds. Returns the response, which
/// [`relay`] forwards together with the rest of `upload`.
///
/// # Errors
/// Returns the outcome if there is no response.
pub(crate) async fn send<B: Source, R: Respond, H: OnHead>(
    request: &ForwardRequest<'_>,
    upload: &mut Upload,
    mut client: ClientSide<'_, B, R, H>,
    stats: &mut ForwardStats,
) -> Result<Box<Answered>, Outcome> {
    let mut rejected = None;
    let mut answered = attempt_all(request, upload, &mut client, &mut rejected, stats).await;
    match rejected {
        // What a backend responded is better than what went wrong after it.
        Some(rejected) if matches!(answered, Err(Outcome::Failed { .. })) => {
            upload.stop();
            answered = Ok(rejected);
        }
        Some(rejected) => rejected.discard(),
        None => {}
    }
    upload.release(client.charge);
    answered
}

/// Attempts the request until a response is to be forwarded. The last one that is not, because its
/// status is retried, is `rejected`.
async fn attempt_all<B: Source, R: Respond, H: OnHead>(
    request: &ForwardRequest<'_>,
    upload: &mut Upload,
    client: &mut ClientSide<'_, B, R, H>,
    rejected: &mut Option<Box<Answered>>,
    stats: &mut ForwardStats,
) -> Result<Box<Answered>, Outcome> {
    let mut attempts = Attempts::default();
    let mut cost = Cost::Free;
    let mut outcome = failed(StatusCode::SERVICE_UNAVAILABLE, "no_ready_endpoint");
    // For the first attempt, the time at which the request arrived is recent enough.
    let mut now = request.started;
    let mut until = None;
    loop {
        let load = match admit(request, &mut attempts, cost, now, stats) {
            Some(load) => load,
            // A response that is at hand has a place itself: requests would wait for each other.
            None if attempts.any_was_full() && rejected.is_none() => {
                let (crossed, respond) = (stats.crossing.is_some(), &mut *client.respond);
                let waiting = waiting::wait(request, &attempts, cost, crossed, &mut until, respond);
                // Boxed: it is rare, and would make the future of every request larger.
                match Box::pin(waiting).await? {
                    Some(load) => load,
                    None => {
                        outcome = outcome_of(Failed::Full);
                        if !crossed && request.fallback.is_some() {
                            (now, cost) = (Instant::now(), Cost::Free);
                            attempts.cross();
                            cross(request, Crossing::Full, now, stats);
                            continue;
                        }
                        count(request.meter, Failed::Full);
                        break;
                    }
                }
            }
            None => break,
        };
        let endpoint = Rc::clone(load.endpoint());
        let address = endpoint.address();
        stats.upstream = Some(address);
        if stats.tries > 0 {
            request.meter.upstream_retried();
        }
        stats.tries += 1;
        match attempt::perform(request, load, &attempts, now, upload, client, stats).await {
            Ok(answered) => return Ok(answered),
            Err(Unanswered::Finished(outcome)) => return Err(outcome),
            Err(Unanswered::Rejected(back_off, response)) => {
                attempts.rejected(address);
                stats.failed_by(|| response.attempt(request.started));
                if let Some(earlier) = rejected.replace(response) {
                    earlier.discard();
                }
                attempt::pause(back_off, request, client).await?;
                // It was paid for when the response was rejected.
                cost = Cost::Free;
            }
            Err(Unanswered::Failed(failure, was_kept)) => {
                count(request.meter, failure);
                if is_conclusive(failure, was_kept) {
                    stats.failed_by(|| Attempt::Failed);
                }
                outcome = outcome_of(failure);
                let is_ejected = endpoint.is_ejected();
                let failed = FailedAttempt { address, failure, was_kept, is_ejected };
                match attempts.failed(failed, repeatable(request, upload)) {
                    Some(next) => cost = next,
                    None => break,
                }
            }
        }
        now = Instant::now();
        if request.deadlines.whole.is_some_and(|whole| whole <= now) {
            return Err(request.deadlines.expired());
        }
    }
    Err(outcome)
}

/// Takes a place for the next attempt at an endpoint that is not full.
fn admit(
    request: &ForwardRequest<'_>,
    attempts: &mut Attempts,
    mut cost: Cost,
    now: Instant,
    stats: &mut ForwardStats,
) -> Option<Load> {
    while attempts.may_go_on()
        && let Some(endpoint) = choose(request, attempts, cost, now, stats)
    {
        if let Some(load) = endpoint.admit(request.requester) {
            return Some(load);
        }
        stats.upstream = Some(endpoint.address());
        attempts.found_full(endpoint.address());
        // It was paid for when the endpoint was chosen.
        cost = Cost::Free;
    }
    None
}

/// Chooses the endpoint of the next attempt. If no endpoint of the backend is left, none of which has
/// answered or is full, the request crosses over to the fallback, and stays there.
fn choose(
    request: &ForwardRequest<'_>,
    attempts: &mut Attempts,
    cost: Cost,
    now: Instant,
    stats: &mut ForwardStats,
) -> Option<Rc<Endpoint>> {
    if stats.crossing.is_none() {
        let own = balancer(request, request.backend, now);
        if attempts.is_first() {
            own.retry_budget.deposit(now);
        }
        let chosen = choose_of(&own, request, attempts, cost, now);
        return match (chosen, request.fallback) {
            (Err(NoEndpoint::Exhausted), Some(fallback)) if attempts.may_cross() => {
                cross(request, Crossing::Missed, now, stats);
                let other = balancer(request, fallback, now);
                choose_of(&other, request, attempts, Cost::Free, now).ok()
            }
            (chosen, _) => chosen.ok(),
        };
    }
    let other = balancer(request, request.fallback?, now);
    choose_of(&other, request, attempts, cost, now).ok()
}

/// Goes over to the fallback. There, it is not a retry.
fn cross(request: &ForwardRequest<'_>, crossing: Crossing, now: Instant, stats: &mut ForwardStats) {
    stats.crossing = Some(crossing);
    if let Some(fallback) = request.fallback {
        balancer(request, fallback, now).retry_budget.deposit(now);
    }
}

fn balancer(request: &ForwardRequest<'_>, backend: &Backend, now: Instant) -> Rc<Balancer> {
    request.upstreams.balancer(&backend.endpoints, &backend.protocol, now)
}

/// Chooses among the endpoints of one backend. It may cost part of the retry budget.
fn choose_of(
    balancer: &Balancer,
    request: &ForwardRequest<'_>,
    attempts: &mut Attempts,
    cost: Cost,
    now: Instant,
) -> Result<Rc<Endpoint>, NoEndpoint> {
    loop {
        let is_tried = |address| attempts.has_tried(address);
        let choice = Choice {
            algorithm: request.policy.load_balancing,
            caller: request.caller,
            random: request.random.next(),
            now,
            is_first: attempts.is_first(),
        };
        let endpoint = match balancer.choose(choice, is_tried) {
            Some(endpoint) => endpoint,
            None => {
                let again = attempts.retry(|address| balancer.endpoint(address).is_some());
                let again = again.and_then(|again| balancer.endpoint(again));
                again.ok_or(NoEndpoint::Exhausted)?
            }
        };
        let is_free = match cost {
            Cost::Free => true,
            Cost::FreeIfGood => endpoint.is_good(),
            Cost::Paid => false,
        };
        if is_free || balancer.retry_budget.withdraw(now) {
            return Ok(Rc::clone(endpoint));
        }
        request.meter.upstream_retry_denied();
        if cost == Cost::Paid {
            return Err(NoEndpoint::Denied);
        }
        // Another endpoint may be good.
        attempts.skipped(endpoint.address());
    }
}

/// Returns how often the request may be sent.
fn repeatable(request: &ForwardRequest<'_>, upload: &Upload) -> Repeatable {
    let method = request.message.method;
    let is_safe_to_repeat = (method.is_idempotent() || request.policy.retries.non_idempotent)
        && *method != Method::CONNECT;
    match (upload.can_repeat(), is_safe_to_repeat) {
        (false, _) => Repeatable::Never,
        (true, false) => Repeatable::Unprocessed,
        (true, true) => Repeatable::Always,
    }
}

/// Counts a failed attempt. Failed connections are counted where they are made.
fn count(meter: &Meter, failure: Failed) {
    if failure != Failed::Connect
        && let Outcome::Failed { reason, .. } = outcome_of(failure)
    {
        meter.upstream_failed(reason);
    }
}

/// Whether a failed attempt says something about the backend: not if it was never processed, or only
/// an old connection was closed.
fn is_conclusive(failure: Failed, was_kept: bool) -> bool {
    match failure {
        Failed::NotSent | Failed::Full => false,
        Failed::NoResponse => !was_kept,
        _ => true,
    }
}

fn failed(status: StatusCode, reason: &'static str) -> Outcome {
    Outcome::Failed { status, reason }
}

fn outcome_of(failure: Failed) -> Outcome {
    match failure {
        Failed::Connect => failed(StatusCode::BAD_GATEWAY, "upstream_unconnected"),
        Failed::Full => failed(StatusCode::SERVICE_UNAVAILABLE, UPSTREAM_FULL),
        Failed::NotSent => failed(StatusCode::SERVICE_UNAVAILABLE, "upstream_refused"),
        Failed::NoResponse => failed(StatusCode::BAD_GATEWAY, "upstream_closed"),
        Failed::NoWebSocket => failed(StatusCode::BAD_GATEWAY, "upstream_no_websocket"),
        Failed::Broken(Broken::TimedOut) => failed(StatusCode::GATEWAY_TIMEOUT, "upstream_silent"),
        Failed::Broken(Broken::Closed) => failed(StatusCode::BAD_GATEWAY, "upstream_closed"),
        Failed::Broken(Broken::Malformed(reason)) => {
            tracing::debug!(reason, "malformed response of a backend");
            failed(StatusCode::BAD_GATEWAY, "upstream_malformed")
        }
    }
}
