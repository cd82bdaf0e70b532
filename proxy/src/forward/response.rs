//! Forwards a backend's response to the client.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use super::prefetch::{Prefetched, Resumed};
use super::stall::StallDetector;
use super::upload::Upload;
use super::{Answered, Deadlines, ForwardStats, OnHead, Outcome};
use crate::exchange::grpc_status::grpc_status;
use crate::exchange::{BodyLength, Broken, Frame, Refusal, Respond, Source};
use crate::proxy_headers::trailers::ResponseTrailers;
use crate::relay::{BodyCopy, CopyError};
use crate::upstream::exchange::Exchange;

/// Both bodies of an exchange, as far as they are not forwarded yet.
struct Bodies<'a> {
    exchange: &'a mut Exchange,
    prefetched: &'a mut Prefetched,
    /// The response's trailers that are forwarded.
    allowed: ResponseTrailers,
    upload: &'a mut Upload,
}

/// Forwards a backend's response, and concurrently the rest of the request's body.
pub(crate) async fn relay<B: Source, R: Respond>(
    mut answered: Box<Answered>,
    upload: &mut Upload,
    deadlines: &Deadlines,
    body: &mut B,
    respond: &mut R,
    on_head: &mut impl OnHead,
    stats: &mut ForwardStats,
) -> Outcome {
    let (mut head, length) = (answered.head, answered.length);
    stats.status = Some(head.status);
    stats.head_at = Some(answered.at);
    stats.grpc_status = answered.grpc_status;
    let allowed = ResponseTrailers::of(&head.headers);
    on_head.on_head(&mut head);
    if length == BodyLength::Tunnel {
        upload.open_tunnel();
    }
    respond.head(head, length);
    let (exchange, prefetched) = (&mut answered.exchange, &mut answered.prefetched);
    let bodies = Bodies { exchange, prefetched, allowed, upload };
    let outcome = move_bodies(deadlines, bodies, body, respond, stats).await;
    match outcome {
        Outcome::Sent => {
            let now = Instant::now();
            stats.ended_at = Some(now);
            answered.exchange.finish(now);
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

/// Forwards both bodies until the end of the response.
async fn move_bodies<B: Source, R: Respond>(
    deadlines: &Deadlines,
    bodies: Bodies<'_>,
    body: &mut B,
    respond: &mut R,
    stats: &mut ForwardStats,
) -> Outcome {
    let Bodies { exchange, prefetched, allowed, upload } = bodies;
    let mut download = BodyCopy::new();
    let mut waiting = None;
    let mut code = stats.grpc_status;
    let outcome = poll_fn(|cx| {
        let (mut sink, source) = exchange.halves();
        match upload.poll(body, None, &mut sink, cx) {
            Poll::Ready(Err(CopyError::Source(Broken::Closed))) => {
                return Poll::Ready(Outcome::ClientClosed);
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Aborted("request_body")),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let mut source = Resumed { prefetched, source };
        match download.poll(&mut source, respond, |frame| inspect(frame, allowed, &mut code), cx) {
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
        let moved = (upload.octets(), download.octets());
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
    stats.received = upload.octets();
    stats.sent = download.octets();
    stats.grpc_status = code;
    outcome
}

fn inspect(
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
