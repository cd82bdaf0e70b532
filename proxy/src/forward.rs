//! Sends a request to a backend and its response to the client, with another try where that is
//! safe.

mod standstill;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, Method, StatusCode};
use portcullis_config::snapshot::backend::Backend;
use portcullis_config::snapshot::policy::Policy;
use smallvec::SmallVec;

use self::standstill::Standstill;
use crate::exchange::{BodyLength, Broken, Frame, Refusal, Respond, ResponseHead, Source};
use crate::limit::BodyBudget;
use crate::proxy_headers;
use crate::random::Random;
use crate::relay::{Copy, CopyError};
use crate::telemetry::Meter;
use crate::upstream::Upstreams;
use crate::upstream::exchange::{Exchange, Failed, Head, Message};

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Endpoints that are tried for one request where none of them has answered.
const TRIES: usize = 3;

/// All that is needed to forward one request.
pub(crate) struct Job<'a> {
    pub(crate) upstreams: &'a Upstreams,
    pub(crate) meter: &'a Meter,
    pub(crate) random: &'a Random,
    pub(crate) message: Message<'a>,
    pub(crate) backend: &'a Backend,
    pub(crate) policy: &'a Policy,
    pub(crate) deadlines: Deadlines,
    /// When the request came.
    pub(crate) started: Instant,
}

/// How long the parts of an exchange may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// When the whole response must have been sent.
    pub(crate) whole: Option<Instant>,
    /// From the request sent to the response's head; `None` for calls whose response may begin
    /// only when the request has ended.
    pub(crate) head: Option<Duration>,
    /// How long both bodies may stand still.
    pub(crate) idle: Duration,
    /// How long the client may take nothing of a response that waits for it.
    pub(crate) client_read: Duration,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The response was sent in whole.
    Sent,
    /// Nothing was sent: the client gets an answer of our own.
    Failed { status: StatusCode, reason: &'static str },
    /// The client's own body was at fault; nothing was sent.
    Refused(Refusal),
    /// The response was broken off.
    Aborted(&'static str),
    /// The client went before the response's end.
    Gone,
    /// The client's credentials or grants ended before the response did.
    Ended,
}

/// What is noted on the way, for metrics and the log.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The endpoint of the last try.
    pub(crate) upstream: Option<SocketAddr>,
    /// Tries, the first one too.
    pub(crate) tries: u32,
    /// The status that the backend answered with.
    pub(crate) status: Option<StatusCode>,
    /// When its head was there.
    pub(crate) head_at: Option<Instant>,
    /// When the whole response had been sent.
    pub(crate) ended_at: Option<Instant>,
    /// Octets of the request's body that were sent on.
    pub(crate) received: u64,
    /// Octets of the response's body.
    pub(crate) sent: u64,
    /// The `grpc-status` of its head or trailers.
    pub(crate) grpc_status: Option<u16>,
}

/// Sees to the head of the response before it is sent on.
pub(crate) trait OnHead {
    fn on_head(&mut self, head: &mut ResponseHead);
}

/// A backend's response whose head is there, and that is not sent on yet. The request's head is not
/// needed any more.
pub(crate) struct Answered {
    exchange: Exchange,
    upload: Upload,
    head: ResponseHead,
    length: BodyLength,
}

enum Attempt {
    Answered(Exchange, ResponseHead, BodyLength),
    Over(Outcome),
    Failed(Failed),
    /// The backend answered with a status that is to be tried again.
    Again,
}

enum Event {
    Head(Head),
    Failed(Failed),
    Upload(CopyError),
    Gone,
    Late,
}

/// Sends one request to backends until one has answered.
///
/// # Errors
/// There is no response: what became of the request instead.
pub(crate) async fn send<B: Source, R: Respond>(
    job: &Job<'_>,
    body: &mut B,
    respond: &mut R,
    notes: &mut Notes,
) -> Result<Answered, Outcome> {
    let budget =
        BodyBudget::new(job.message.body, job.policy.max_body).map_err(Outcome::Refused)?;
    let mut upload = Upload { copy: Copy::empty(), budget };
    let mut tried = SmallVec::<[SocketAddr; TRIES]>::new();
    // What is old by no more than it took to let the request in is not asked for anew.
    let mut now = job.started;
    loop {
        let balancer = job.upstreams.balancer(&job.backend.endpoints, &job.backend.protocol);
        let Some(endpoint) = balancer.choose(job.random.next(), now, &tried) else {
            return Err(failed(StatusCode::SERVICE_UNAVAILABLE, "no_ready_endpoint"));
        };
        notes.upstream = Some(endpoint.address());
        notes.tries += 1;
        upload.rewind(job.message.body);
        let Some(started) = unless_gone(endpoint.start(&job.message, now), respond).await else {
            return Err(Outcome::Gone);
        };
        let failure = match started {
            Ok(exchange) => match attempt(job, exchange, &mut upload, body, respond, notes).await {
                Attempt::Answered(exchange, head, length) => {
                    return Ok(Answered { exchange, upload, head, length });
                }
                Attempt::Over(outcome) => return Err(outcome),
                Attempt::Failed(failure) => Some(failure),
                Attempt::Again => None,
            },
            Err(failure) => Some(failure),
        };
        tried.push(endpoint.address());
        // Who makes connections counts those that could not be made.
        if let Some(failure) = failure
            && failure != Failed::Unconnected
            && let Outcome::Failed { reason, .. } = answer_to(failure)
        {
            job.meter.upstream_failed(reason);
        }
        if let Some(failure) = failure
            && !may_try_again(job, failure, &upload, tried.len())
        {
            return Err(answer_to(failure));
        }
        job.meter.upstream_retried();
        now = Instant::now();
    }
}

/// The request's body on its way to the backend.
struct Upload {
    copy: Copy,
    budget: BodyBudget,
}

/// What `work` gives, or `None` where the client goes before.
async fn unless_gone<T, R: Respond>(work: impl Future<Output = T>, respond: &mut R) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        respond.poll_gone(cx).map(|()| None)
    })
    .await
}

// === impl Upload ===

impl Upload {
    /// Begins a try: nothing of the body has been moved yet. What comes through a tunnel follows
    /// the response's head.
    fn rewind(&mut self, body: BodyLength) {
        self.copy = if matches!(body, BodyLength::None | BodyLength::Tunnel) {
            Copy::empty()
        } else {
            Copy::new()
        };
    }
}

/// Whether a failed try may be followed by another. Once part of the body is gone, never.
fn may_try_again(job: &Job<'_>, failure: Failed, upload: &Upload, tries: usize) -> bool {
    if tries >= TRIES
        || upload.copy.octets() > 0
        || job.deadlines.whole.is_some_and(|whole| whole <= Instant::now())
    {
        return false;
    }
    match failure {
        Failed::Unconnected | Failed::Full | Failed::NotSent => true,
        // The backend may have begun with it (RFC 9110 §9.2.2).
        Failed::Unanswered => is_replayable(job, upload),
        Failed::NoWebSocket | Failed::Broken(_) => false,
    }
}

fn is_replayable(job: &Job<'_>, upload: &Upload) -> bool {
    job.message.method.is_idempotent()
        && *job.message.method != Method::CONNECT
        && upload.copy.octets() == 0
}

fn failed(status: StatusCode, reason: &'static str) -> Outcome {
    Outcome::Failed { status, reason }
}

fn answer_to(failure: Failed) -> Outcome {
    match failure {
        Failed::Unconnected => failed(StatusCode::BAD_GATEWAY, "upstream_unconnected"),
        Failed::Full => failed(StatusCode::SERVICE_UNAVAILABLE, "upstream_full"),
        Failed::NotSent => failed(StatusCode::SERVICE_UNAVAILABLE, "upstream_refused"),
        Failed::Unanswered => failed(StatusCode::BAD_GATEWAY, "upstream_closed"),
        Failed::NoWebSocket => failed(StatusCode::BAD_GATEWAY, "upstream_no_websocket"),
        Failed::Broken(Broken::TimedOut) => failed(StatusCode::GATEWAY_TIMEOUT, "upstream_silent"),
        Failed::Broken(Broken::Closed) => failed(StatusCode::BAD_GATEWAY, "upstream_closed"),
        Failed::Broken(Broken::Malformed(reason)) => {
            tracing::debug!(reason, "malformed answer of a backend");
            failed(StatusCode::BAD_GATEWAY, "upstream_malformed")
        }
    }
}

/// One try, up to the head of the response where it succeeds.
async fn attempt<B: Source, R: Respond>(
    job: &Job<'_>,
    mut exchange: Exchange,
    upload: &mut Upload,
    body: &mut B,
    respond: &mut R,
    notes: &mut Notes,
) -> Attempt {
    let (head, length) = loop {
        match wait_for_head(job, &mut exchange, upload, body, respond).await {
            Event::Head(Head::Interim(head)) => respond.informational(head),
            Event::Head(Head::Final(head, length)) => break (head, length),
            Event::Failed(failure) => {
                if failure == Failed::Broken(Broken::TimedOut) {
                    exchange.endpoint().suspect(Instant::now());
                }
                return Attempt::Failed(failure);
            }
            Event::Upload(error) => return Attempt::Over(upload_outcome(error)),
            Event::Gone => return Attempt::Over(Outcome::Gone),
            Event::Late => {
                let outcome = if upload.copy.is_over() {
                    failed(StatusCode::GATEWAY_TIMEOUT, "upstream_late")
                } else {
                    Outcome::Refused(Refusal {
                        status: StatusCode::REQUEST_TIMEOUT,
                        reason: "body_late",
                        close: true,
                    })
                };
                return Attempt::Over(outcome);
            }
        }
    };
    let may_retry =
        notes.tries <= u32::from(job.policy.retries.attempts) && is_replayable(job, upload);
    if may_retry && job.policy.retries.codes.contains(&head.status.as_u16()) {
        return Attempt::Again;
    }
    Attempt::Answered(exchange, head, length)
}

/// Sends a backend's response on, and what is left of the request's body meanwhile.
pub(crate) async fn relay<B: Source, R: Respond>(
    answered: Answered,
    deadlines: &Deadlines,
    body: &mut B,
    respond: &mut R,
    on_head: &mut impl OnHead,
    notes: &mut Notes,
) -> Outcome {
    let Answered { mut exchange, mut upload, mut head, length } = answered;
    notes.status = Some(head.status);
    notes.head_at = Some(Instant::now());
    notes.grpc_status = grpc_status(&head.headers);
    on_head.on_head(&mut head);
    if length == BodyLength::Tunnel {
        upload.copy = Copy::new();
    }
    respond.head(head, length);
    let outcome = move_bodies(deadlines, &mut exchange, &mut upload, body, respond, notes).await;
    match outcome {
        Outcome::Sent => {
            let now = Instant::now();
            notes.ended_at = Some(now);
            exchange.finish(now);
        }
        Outcome::Aborted(_) => {
            // What came before the break is the client's: it may be the last line of a log.
            poll_fn(|cx| Poll::Ready(respond.poll_flush(cx).is_ready())).await;
            respond.abort();
        }
        _ => {}
    }
    outcome
}

fn upload_outcome(error: CopyError) -> Outcome {
    match error {
        CopyError::Refused(refusal) => Outcome::Refused(refusal),
        CopyError::Source(Broken::Malformed(reason)) => Outcome::Refused(Refusal::bad(reason)),
        CopyError::Source(Broken::TimedOut) => Outcome::Refused(Refusal {
            status: StatusCode::REQUEST_TIMEOUT,
            reason: "body_late",
            close: true,
        }),
        CopyError::Source(Broken::Closed) | CopyError::Sink(_) => Outcome::Gone,
    }
}

/// Sends the request, and waits for a head of the response meanwhile: a backend may answer before
/// it has read all.
async fn wait_for_head<B: Source, R: Respond>(
    job: &Job<'_>,
    exchange: &mut Exchange,
    upload: &mut Upload,
    body: &mut B,
    respond: &mut R,
) -> Event {
    let started = Instant::now();
    let mut seen = (upload.copy.octets(), upload.copy.is_over());
    let mut since = started;
    let mut timer = pin!(tokio::time::sleep_until(head_deadline(job, upload, since).into()));
    poll_fn(|cx| {
        let (mut sink, mut source) = exchange.halves();
        if !upload.copy.is_over() {
            let Upload { copy, budget } = &mut *upload;
            match copy.poll(body, &mut sink, |frame| inspect(frame, budget), cx) {
                // The backend reads no more; it may have answered all the same (RFC 9112 §9.5).
                Poll::Ready(Err(CopyError::Sink(_))) => copy.stop(),
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Upload(error)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        match source.poll_head(cx) {
            Poll::Ready(Ok(head)) => return Poll::Ready(Event::Head(head)),
            Poll::Ready(Err(failure)) => return Poll::Ready(Event::Failed(failure)),
            Poll::Pending => {}
        }
        // Interim responses wait for nothing; a client that reads none of them is found by what
        // follows.
        let _ = respond.poll_flush(cx);
        if respond.poll_gone(cx).is_ready() {
            return Poll::Ready(Event::Gone);
        }
        let progress = (upload.copy.octets(), upload.copy.is_over());
        if progress != seen {
            seen = progress;
            since = Instant::now();
            timer.as_mut().reset(head_deadline(job, upload, since).into());
        }
        timer.as_mut().poll(cx).map(|()| Event::Late)
    })
    .await
}

fn head_deadline(job: &Job<'_>, upload: &Upload, since: Instant) -> Instant {
    let allowed = match job.deadlines.head {
        Some(head) if upload.copy.is_over() => head,
        _ => job.deadlines.idle,
    };
    let deadline = since + allowed;
    job.deadlines.whole.map_or(deadline, |whole| deadline.min(whole))
}

fn inspect(frame: &mut Frame, budget: &mut BodyBudget) -> Result<(), Refusal> {
    if let Frame::Trailers(trailers) = frame {
        proxy_headers::trailers(trailers);
    }
    budget.take(frame)
}

/// Moves the response's body, and what is left of the request's, until the response has ended.
async fn move_bodies<B: Source, R: Respond>(
    deadlines: &Deadlines,
    exchange: &mut Exchange,
    upload: &mut Upload,
    body: &mut B,
    respond: &mut R,
    notes: &mut Notes,
) -> Outcome {
    let mut download = Copy::new();
    let mut waiting = None;
    let mut code = notes.grpc_status;
    let outcome = poll_fn(|cx| {
        let (mut sink, mut source) = exchange.halves();
        if !upload.copy.is_over() {
            let Upload { copy, budget } = &mut *upload;
            match copy.poll(body, &mut sink, |frame| inspect(frame, budget), cx) {
                Poll::Ready(Err(CopyError::Sink(_))) => copy.stop(),
                Poll::Ready(Err(CopyError::Source(Broken::Closed))) => {
                    return Poll::Ready(Outcome::Gone);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Aborted("request_body")),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        match download.poll(&mut source, respond, |frame| trailers(frame, &mut code), cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Outcome::Sent),
            Poll::Ready(Err(CopyError::Sink(Broken::Malformed(_)))) => {
                return Poll::Ready(Outcome::Aborted("upstream_length"));
            }
            Poll::Ready(Err(CopyError::Sink(_))) => return Poll::Ready(Outcome::Gone),
            Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Aborted("upstream_broken_off")),
            Poll::Pending => {}
        }
        if respond.poll_gone(cx).is_ready() {
            return Poll::Ready(Outcome::Gone);
        }
        let moved = (upload.copy.octets(), download.octets());
        let (standstill, timer) = waiting.get_or_insert_with(|| {
            let standstill = Standstill::new(moved, Instant::now());
            let (until, _) = standstill.deadline(deadlines);
            (standstill, Box::pin(tokio::time::sleep_until(until.into())))
        });
        if standstill.note(moved, download.waits_for_sink(), Instant::now) {
            timer.as_mut().reset(standstill.deadline(deadlines).0.into());
        }
        timer.as_mut().poll(cx).map(|()| Outcome::Aborted(standstill.deadline(deadlines).1))
    })
    .await;
    notes.received = upload.copy.octets();
    notes.sent = download.octets();
    notes.grpc_status = code;
    outcome
}

fn trailers(frame: &mut Frame, code: &mut Option<u16>) -> Result<(), Refusal> {
    if let Frame::Trailers(trailers) = frame {
        proxy_headers::trailers(trailers);
        *code = grpc_status(trailers).or(*code);
    }
    Ok(())
}

/// The status of a call, in a head that is all there is or in trailers; what is no number counts as
/// unknown.
fn grpc_status(fields: &HeaderMap) -> Option<u16> {
    let value = fields.get(&GRPC_STATUS)?;
    Some(value.to_str().ok().and_then(|value| value.parse().ok()).unwrap_or(u16::MAX))
}
