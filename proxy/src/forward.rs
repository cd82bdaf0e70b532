//! Forwards a request to a backend and the response to the client, and retries where that is safe.

mod interim;
mod stall;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, Method, StatusCode};
use portcullis_config::snapshot::backend::Backend;
use portcullis_config::snapshot::policy::Policy;
use smallvec::SmallVec;

use self::interim::InterimResponses;
use self::stall::StallDetector;
use crate::exchange::{BodyLength, Broken, Frame, Refusal, Respond, ResponseHead, Source};
use crate::limit::BodyBudget;
use crate::proxy_headers::trailers::{self, ResponseTrailers};
use crate::random::Random;
use crate::relay::{BodyCopy, CopyError};
use crate::telemetry::Meter;
use crate::upstream::Upstreams;
use crate::upstream::exchange::{Exchange, Failed, Head, Message};

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The maximum number of endpoints to try for a request that none has answered.
const MAX_TRIES: usize = 3;

/// A request to forward, and what is needed for it.
pub(crate) struct ForwardRequest<'a> {
    pub(crate) upstreams: &'a Upstreams,
    pub(crate) meter: &'a Meter,
    pub(crate) random: &'a Random,
    pub(crate) message: Message<'a>,
    pub(crate) backend: &'a Backend,
    pub(crate) policy: &'a Policy,
    pub(crate) deadlines: Deadlines,
    /// When the request arrived.
    pub(crate) started: Instant,
}

/// The timeouts of an exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// The time by which the whole response must be sent.
    pub(crate) whole: Option<Instant>,
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
    /// The endpoint of the last try.
    pub(crate) upstream: Option<SocketAddr>,
    /// The number of tries, including the first.
    pub(crate) tries: u32,
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

/// Modifies the heads of the response before they are forwarded.
pub(crate) trait OnHead {
    /// Modifies an interim head (1xx).
    fn on_interim(&mut self, head: &mut ResponseHead);

    /// Modifies the final head.
    fn on_head(&mut self, head: &mut ResponseHead);
}

/// A backend's response of which nothing is forwarded yet. It does not borrow the request's head.
pub(crate) struct Answered {
    exchange: Exchange,
    upload: Upload,
    head: ResponseHead,
    length: BodyLength,
}

enum Attempt {
    Answered(Exchange, ResponseHead, BodyLength),
    Finished(Outcome),
    Failed(Failed),
    /// The backend returned a status to retry.
    Retry,
}

enum Event {
    Head(Head),
    Failed(Failed),
    Upload(CopyError),
    ClientClosed,
    TimedOut,
}

/// Sends a request to endpoints of the backend until one responds.
///
/// # Errors
/// Returns the outcome if there is no response.
pub(crate) async fn send<B: Source, R: Respond>(
    request: &ForwardRequest<'_>,
    body: &mut B,
    respond: &mut R,
    on_head: &mut impl OnHead,
    stats: &mut ForwardStats,
) -> Result<Answered, Outcome> {
    let budget =
        BodyBudget::new(request.message.body, request.policy.max_body).map_err(Outcome::Refused)?;
    let mut upload = Upload { copy: BodyCopy::empty(), budget };
    let mut interim = InterimResponses::new(on_head);
    let mut tried = SmallVec::<[SocketAddr; MAX_TRIES]>::new();
    // For the first try, the time at which the request arrived is recent enough.
    let mut now = request.started;
    loop {
        let balancer =
            request.upstreams.balancer(&request.backend.endpoints, &request.backend.protocol);
        let Some(endpoint) = balancer.choose(request.random.next(), now, &tried) else {
            return Err(failed(StatusCode::SERVICE_UNAVAILABLE, "no_ready_endpoint"));
        };
        stats.upstream = Some(endpoint.address());
        stats.tries += 1;
        upload.rewind(request.message.body);
        let Some(started) =
            unless_client_closed(endpoint.start(&request.message, now), respond).await
        else {
            return Err(Outcome::ClientClosed);
        };
        let failure = match started {
            Ok(exchange) => {
                match attempt(request, exchange, &mut upload, body, respond, &mut interim, stats)
                    .await
                {
                    Attempt::Answered(exchange, head, length) => {
                        return Ok(Answered { exchange, upload, head, length });
                    }
                    Attempt::Finished(outcome) => return Err(outcome),
                    Attempt::Failed(failure) => Some(failure),
                    Attempt::Retry => None,
                }
            }
            Err(failure) => Some(failure),
        };
        tried.push(endpoint.address());
        // The pool already counts failed connections.
        if let Some(failure) = failure
            && failure != Failed::Connect
            && let Outcome::Failed { reason, .. } = outcome_of(failure)
        {
            request.meter.upstream_failed(reason);
        }
        if let Some(failure) = failure
            && !can_retry(request, failure, &upload, tried.len())
        {
            return Err(outcome_of(failure));
        }
        request.meter.upstream_retried();
        now = Instant::now();
    }
}

/// The request's body, and how much of it is allowed.
struct Upload {
    copy: BodyCopy,
    budget: BodyBudget,
}

/// Returns the result of `work`, or `None` if the client disconnects first.
async fn unless_client_closed<T, R: Respond>(
    work: impl Future<Output = T>,
    respond: &mut R,
) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        respond.poll_client_closed(cx).map(|()| None)
    })
    .await
}

// === impl Upload ===

impl Upload {
    /// Starts a try, of which no part of the body is forwarded yet. A tunnel starts to forward only
    /// after the response's head.
    fn rewind(&mut self, body: BodyLength) {
        self.copy = if matches!(body, BodyLength::None | BodyLength::Tunnel) {
            BodyCopy::empty()
        } else {
            BodyCopy::new()
        };
    }
}

/// Returns whether to retry after a failure: never after part of the body was forwarded.
fn can_retry(request: &ForwardRequest<'_>, failure: Failed, upload: &Upload, tries: usize) -> bool {
    if tries >= MAX_TRIES
        || upload.copy.octets() > 0
        || request.deadlines.whole.is_some_and(|whole| whole <= Instant::now())
    {
        return false;
    }
    match failure {
        Failed::Connect | Failed::Full | Failed::NotSent => true,
        // The backend may have started to process it (RFC 9110 §9.2.2).
        Failed::NoResponse => is_replayable(request, upload),
        Failed::NoWebSocket | Failed::Broken(_) => false,
    }
}

fn is_replayable(request: &ForwardRequest<'_>, upload: &Upload) -> bool {
    request.message.method.is_idempotent()
        && *request.message.method != Method::CONNECT
        && upload.copy.octets() == 0
}

fn failed(status: StatusCode, reason: &'static str) -> Outcome {
    Outcome::Failed { status, reason }
}

fn outcome_of(failure: Failed) -> Outcome {
    match failure {
        Failed::Connect => failed(StatusCode::BAD_GATEWAY, "upstream_unconnected"),
        Failed::Full => failed(StatusCode::SERVICE_UNAVAILABLE, "upstream_full"),
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

/// Performs one try, up to the head of the response.
async fn attempt<B: Source, R: Respond>(
    request: &ForwardRequest<'_>,
    mut exchange: Exchange,
    upload: &mut Upload,
    body: &mut B,
    respond: &mut R,
    interim: &mut InterimResponses<'_, impl OnHead>,
    stats: &mut ForwardStats,
) -> Attempt {
    let (head, length) = loop {
        match wait_for_head(request, &mut exchange, upload, body, respond).await {
            Event::Head(Head::Interim(head)) => {
                if let Err(failure) = interim.forward(head, respond) {
                    return Attempt::Failed(failure);
                }
            }
            Event::Head(Head::Final(head, length)) => break (head, length),
            Event::Failed(failure) => {
                if failure == Failed::Broken(Broken::TimedOut) {
                    exchange.endpoint().eject(Instant::now());
                }
                return Attempt::Failed(failure);
            }
            Event::Upload(error) => return Attempt::Finished(upload_outcome(error)),
            Event::ClientClosed => return Attempt::Finished(Outcome::ClientClosed),
            Event::TimedOut => {
                let outcome = if upload.copy.is_done() {
                    failed(StatusCode::GATEWAY_TIMEOUT, "upstream_late")
                } else {
                    Outcome::Refused(Refusal {
                        status: StatusCode::REQUEST_TIMEOUT,
                        reason: "body_late",
                        close: true,
                    })
                };
                return Attempt::Finished(outcome);
            }
        }
    };
    let may_retry =
        stats.tries <= u32::from(request.policy.retries.attempts) && is_replayable(request, upload);
    if may_retry && request.policy.retries.codes.contains(&head.status.as_u16()) {
        return Attempt::Retry;
    }
    Attempt::Answered(exchange, head, length)
}

/// Forwards a backend's response, and concurrently the rest of the request's body.
pub(crate) async fn relay<B: Source, R: Respond>(
    answered: Answered,
    deadlines: &Deadlines,
    body: &mut B,
    respond: &mut R,
    on_head: &mut impl OnHead,
    stats: &mut ForwardStats,
) -> Outcome {
    let Answered { mut exchange, mut upload, mut head, length } = answered;
    stats.status = Some(head.status);
    stats.head_at = Some(Instant::now());
    stats.grpc_status = grpc_status(&head.headers);
    let allowed = ResponseTrailers::of(&head.headers);
    on_head.on_head(&mut head);
    if length == BodyLength::Tunnel {
        upload.copy = BodyCopy::new();
    }
    respond.head(head, length);
    let outcome =
        move_bodies(deadlines, &mut exchange, &mut upload, allowed, body, respond, stats).await;
    match outcome {
        Outcome::Sent => {
            let now = Instant::now();
            stats.ended_at = Some(now);
            exchange.finish(now);
        }
        Outcome::Aborted(_) => {
            // Flush what arrived before the failure: it may be the last line of a log.
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
        CopyError::Source(Broken::Closed) | CopyError::Sink(_) => Outcome::ClientClosed,
    }
}

/// Forwards the request's body and concurrently waits for a response head: a backend may respond
/// before it has read everything.
async fn wait_for_head<B: Source, R: Respond>(
    request: &ForwardRequest<'_>,
    exchange: &mut Exchange,
    upload: &mut Upload,
    body: &mut B,
    respond: &mut R,
) -> Event {
    let started = Instant::now();
    let mut last_progress = (upload.copy.octets(), upload.copy.is_done());
    let mut since = started;
    let mut timer = pin!(tokio::time::sleep_until(head_deadline(request, upload, since).into()));
    poll_fn(|cx| {
        let (mut sink, mut source) = exchange.halves();
        if !upload.copy.is_done() {
            let Upload { copy, budget } = &mut *upload;
            match copy.poll(body, &mut sink, |frame| inspect(frame, budget), cx) {
                // The backend stopped reading; it may have responded anyway (RFC 9112 §9.5).
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
        // Nothing waits for interim responses; a client that does not read is detected later.
        let _ = respond.poll_flush(cx);
        if respond.poll_client_closed(cx).is_ready() {
            return Poll::Ready(Event::ClientClosed);
        }
        let progress = (upload.copy.octets(), upload.copy.is_done());
        if progress != last_progress {
            last_progress = progress;
            since = Instant::now();
            timer.as_mut().reset(head_deadline(request, upload, since).into());
        }
        timer.as_mut().poll(cx).map(|()| Event::TimedOut)
    })
    .await
}

fn head_deadline(request: &ForwardRequest<'_>, upload: &Upload, since: Instant) -> Instant {
    let allowed = match request.deadlines.head {
        Some(head) if upload.copy.is_done() => head,
        _ => request.deadlines.idle,
    };
    let deadline = since + allowed;
    request.deadlines.whole.map_or(deadline, |whole| deadline.min(whole))
}

fn inspect(frame: &mut Frame, budget: &mut BodyBudget) -> Result<(), Refusal> {
    if let Frame::Trailers(trailers) = frame {
        trailers::of_request(trailers);
    }
    budget.take(frame)
}

/// Forwards both bodies until the end of the response.
async fn move_bodies<B: Source, R: Respond>(
    deadlines: &Deadlines,
    exchange: &mut Exchange,
    upload: &mut Upload,
    allowed: ResponseTrailers,
    body: &mut B,
    respond: &mut R,
    stats: &mut ForwardStats,
) -> Outcome {
    let mut download = BodyCopy::new();
    let mut waiting = None;
    let mut code = stats.grpc_status;
    let outcome = poll_fn(|cx| {
        let (mut sink, mut source) = exchange.halves();
        if !upload.copy.is_done() {
            let Upload { copy, budget } = &mut *upload;
            match copy.poll(body, &mut sink, |frame| inspect(frame, budget), cx) {
                Poll::Ready(Err(CopyError::Sink(_))) => copy.stop(),
                Poll::Ready(Err(CopyError::Source(Broken::Closed))) => {
                    return Poll::Ready(Outcome::ClientClosed);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Aborted("request_body")),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        match download.poll(
            &mut source,
            respond,
            |frame| inspect_response(frame, allowed, &mut code),
            cx,
        ) {
            Poll::Ready(Ok(())) => return Poll::Ready(Outcome::Sent),
            Poll::Ready(Err(CopyError::Sink(Broken::Malformed(_)))) => {
                return Poll::Ready(Outcome::Aborted("upstream_length"));
            }
            Poll::Ready(Err(CopyError::Sink(_))) => return Poll::Ready(Outcome::ClientClosed),
            Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Aborted("upstream_broken_off")),
            Poll::Pending => {}
        }
        if respond.poll_client_closed(cx).is_ready() {
            return Poll::Ready(Outcome::ClientClosed);
        }
        let moved = (upload.copy.octets(), download.octets());
        let (stall, timer) = waiting.get_or_insert_with(|| {
            let stall = StallDetector::new(moved, Instant::now());
            let (until, _) = stall.deadline(deadlines);
            (stall, Box::pin(tokio::time::sleep_until(until.into())))
        });
        if stall.update(moved, download.waits_for_sink(), Instant::now) {
            timer.as_mut().reset(stall.deadline(deadlines).0.into());
        }
        timer.as_mut().poll(cx).map(|()| Outcome::Aborted(stall.deadline(deadlines).1))
    })
    .await;
    stats.received = upload.copy.octets();
    stats.sent = download.octets();
    stats.grpc_status = code;
    outcome
}

fn inspect_response(
    frame: &mut Frame,
    allowed: ResponseTrailers,
    code: &mut Option<u16>,
) -> Result<(), Refusal> {
    if let Frame::Trailers(trailers) = frame {
        allowed.apply(trailers);
        *code = grpc_status(trailers).or(*code);
    }
    Ok(())
}

/// Returns the status of a gRPC call, from trailers or from a Trailers-Only head. An invalid value
/// becomes `u16::MAX`.
fn grpc_status(fields: &HeaderMap) -> Option<u16> {
    let value = fields.get(&GRPC_STATUS)?;
    Some(value.to_str().ok().and_then(|value| value.parse().ok()).unwrap_or(u16::MAX))
}
