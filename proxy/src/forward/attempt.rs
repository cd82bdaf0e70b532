//! One attempt to forward a request to an endpoint, up to the head of the response.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::StatusCode;
use portcullis_config::snapshot::backend::Backend;

use super::attempts::{Attempts, Repeatable};
use super::prefetch::{self, Interrupted, Prefetched};
use super::upload::{self, Upload};
use super::{
    Answered, ClientSide, Deadlines, ForwardRequest, ForwardStats, OnHead, Outcome, rejection,
    repeatable,
};
use crate::exchange::grpc_status::grpc_status;
use crate::exchange::{Respond, ResponseHead, Source};
use crate::relay::CopyError;
use crate::upstream::endpoint::Pool;
use crate::upstream::exchange::{Exchange, Failed, Head, Load};

/// Why an attempt has no response to forward.
pub(super) enum Unanswered {
    /// The request is finished.
    Finished(Outcome),
    /// It failed, on a connection that was used before or not.
    Failed(Failed, bool),
    /// The response's status is to be retried after this time.
    Rejected(Duration, Box<Answered>),
}

/// No endpoint responded in the time of the route.
pub(super) const LATE: Outcome =
    Outcome::Failed { status: StatusCode::GATEWAY_TIMEOUT, reason: "upstream_late" };

enum Event {
    Head(Head),
    Failed(Failed),
    Upload(CopyError),
    ClientClosed,
    TimedOut,
}

/// Performs one attempt at the endpoint of `load`, which begins at `now`.
///
/// # Errors
/// There is no response to forward.
pub(super) async fn perform<B: Source, R: Respond, H: OnHead>(
    request: &ForwardRequest<'_>,
    load: Load,
    attempts: &Attempts,
    now: Instant,
    upload: &mut Upload,
    client: &mut ClientSide<'_, B, R, H>,
    stats: &ForwardStats,
) -> Result<Box<Answered>, Unanswered> {
    let pool = if attempts.needs_new_connection() { Pool::Bypass } else { Pool::Use };
    let endpoint = Rc::clone(load.endpoint());
    let starting = endpoint.start(load, &request.message, pool, now);
    let exchange = match unless_ended(starting, &request.deadlines, client.respond).await {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(failure)) => return Err(Unanswered::Failed(failure, false)),
        Err(outcome) => return Err(Unanswered::Finished(outcome)),
    };
    upload.rewind();
    respond(request, exchange, attempts, upload, client, stats).await
}

/// Returns the result of `work`.
///
/// # Errors
/// The time of the whole request passes, or the client disconnects first.
pub(super) async fn unless_ended<T, R: Respond>(
    work: impl Future<Output = T>,
    deadlines: &Deadlines,
    respond: &mut R,
) -> Result<T, Outcome> {
    let mut work = pin!(work);
    let mut timer = None;
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if respond.poll_client_closed(cx).is_ready() {
            return Poll::Ready(Err(Outcome::ClientClosed));
        }
        let Some(deadline) = deadlines.whole else { return Poll::Pending };
        // Only what has to wait needs a timer.
        let timer =
            timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        timer.as_mut().poll(cx).map(|()| Err(deadlines.expired()))
    })
    .await
}

/// Sends the request, and reads the response's head.
async fn respond<B: Source, R: Respond, H: OnHead>(
    request: &ForwardRequest<'_>,
    mut exchange: Exchange,
    attempts: &Attempts,
    upload: &mut Upload,
    client: &mut ClientSide<'_, B, R, H>,
    stats: &ForwardStats,
) -> Result<Box<Answered>, Unanswered> {
    let (head, length) = loop {
        match wait_for_head(request, &mut exchange, upload, client).await {
            Event::Head(Head::Interim(head)) => {
                if let Err(failure) = client.interim.forward(head, client.respond) {
                    return Err(fail(&exchange, failure));
                }
            }
            Event::Head(Head::Final(head, length)) => break (head, length),
            Event::Failed(failure) => return Err(fail(&exchange, failure)),
            Event::Upload(error) => return Err(Unanswered::Finished(upload::outcome_of(error))),
            Event::ClientClosed => return Err(Unanswered::Finished(Outcome::ClientClosed)),
            Event::TimedOut if upload.is_done() => {
                return Err(Unanswered::Finished(request.deadlines.late(Instant::now())));
            }
            Event::TimedOut => return Err(Unanswered::Finished(Outcome::Refused(upload::LATE))),
        }
    };
    let at = Instant::now();
    let grpc_status = request.is_grpc.then(|| grpc_status(&head.headers)).flatten();
    let mut prefetched = Prefetched::default();
    let is_repeatable = repeatable(request, upload) == Repeatable::Always;
    if is_repeatable && prefetch::is_candidate(length, &head.headers) {
        match prefetch::read(&mut exchange, client.respond).await {
            Ok(read) => prefetched = read,
            Err(Interrupted::Broken(broken)) => {
                return Err(fail(&exchange, Failed::Broken(broken)));
            }
            Err(Interrupted::ClientClosed) => {
                return Err(Unanswered::Finished(Outcome::ClientClosed));
            }
        }
    }
    exchange.responded(head.status, grpc_status, at);
    let back_off = if is_repeatable { retry_after(request, &head, attempts, stats) } else { None };
    let answered = Box::new(Answered { exchange, head, grpc_status, at, length, prefetched });
    match back_off {
        Some(back_off) => Err(Unanswered::Rejected(back_off, answered)),
        None => Ok(answered),
    }
}

/// After what time another attempt is to follow a response; `None` if it is forwarded: its status is
/// none that is retried, there is no time left, or no retry budget.
fn retry_after(
    request: &ForwardRequest<'_>,
    head: &ResponseHead,
    attempts: &Attempts,
    stats: &ForwardStats,
) -> Option<Duration> {
    let retries = &request.policy.retries;
    if stats.tries > u32::from(retries.attempts) {
        return None;
    }
    let (earlier, random) = (attempts.rejections(), request.random.next());
    let back_off = rejection::back_off(retries, head, earlier, random)?;
    let now = Instant::now();
    if request.deadlines.whole.is_some_and(|whole| whole <= now + back_off) {
        return None;
    }
    let Backend { endpoints, protocol, .. } = request.backend;
    if request.upstreams.balancer(endpoints, protocol, now).retry_budget.withdraw(now) {
        return Some(back_off);
    }
    request.meter.upstream_retry_denied();
    None
}

/// Waits before the next attempt.
///
/// # Errors
/// The client disconnects.
pub(super) async fn pause<B, R: Respond, H: OnHead>(
    time: Duration,
    request: &ForwardRequest<'_>,
    client: &mut ClientSide<'_, B, R, H>,
) -> Result<(), Outcome> {
    // Rare, so it must not make the future of every request larger.
    let sleep = Box::pin(tokio::time::sleep(time));
    unless_ended(sleep, &request.deadlines, client.respond).await
}

fn fail(exchange: &Exchange, failure: Failed) -> Unanswered {
    exchange.failed(failure);
    Unanswered::Failed(failure, exchange.is_kept())
}

/// Forwards the request's body and concurrently waits for a response head: a backend may respond
/// before it has read everything.
async fn wait_for_head<B: Source, R: Respond, H: OnHead>(
    request: &ForwardRequest<'_>,
    exchange: &mut Exchange,
    upload: &mut Upload,
    client: &mut ClientSide<'_, B, R, H>,
) -> Event {
    let started = Instant::now();
    let mut last_progress = (upload.octets(), upload.is_done());
    let mut since = started;
    if upload.is_done() {
        exchange.sent(started);
    }
    let mut timer = pin!(tokio::time::sleep_until(head_deadline(request, upload, since).into()));
    poll_fn(|cx| {
        let (mut sink, mut source) = exchange.halves();
        let memory = Some((&mut *client.charge, request.requester.address));
        if let Poll::Ready(Err(error)) = upload.poll(client.body, memory, &mut sink, cx) {
            return Poll::Ready(Event::Upload(error));
        }
        match source.poll_head(cx) {
            Poll::Ready(Ok(head)) => return Poll::Ready(Event::Head(head)),
            Poll::Ready(Err(failure)) => return Poll::Ready(Event::Failed(failure)),
            Poll::Pending => {}
        }
        // Nothing waits for interim responses; a client that does not read is detected later.
        let _ = client.respond.poll_flush(cx);
        if client.respond.poll_client_closed(cx).is_ready() {
            return Poll::Ready(Event::ClientClosed);
        }
        let progress = (upload.octets(), upload.is_done());
        if progress != last_progress {
            last_progress = progress;
            since = Instant::now();
            if upload.is_done() {
                exchange.sent(since);
            }
            timer.as_mut().reset(head_deadline(request, upload, since).into());
        }
        timer.as_mut().poll(cx).map(|()| Event::TimedOut)
    })
    .await
}

fn head_deadline(request: &ForwardRequest<'_>, upload: &Upload, since: Instant) -> Instant {
    let allowed = match request.deadlines.head {
        Some(head) if upload.is_done() => head,
        _ => request.deadlines.idle,
    };
    let deadline = since + allowed;
    request.deadlines.whole.map_or(deadline, |whole| deadline.min(whole))
}
