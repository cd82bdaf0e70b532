//! Delivery of the gateway's own replies to the client.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;

use crate::exchange::{BodyLength, Frame, Respond, ResponseHead};
use crate::worker_context::WorkerContext;

/// The outcome of a request that has been decided: its reply is still to be delivered, for which
/// the request is not needed.
#[derive(Debug)]
#[must_use = "a reply must be delivered"]
pub(crate) struct Reply {
    /// When a backend's response was complete; `None` for the gateway's own, which is not yet.
    ended_at: Option<Instant>,
}

// === impl Reply ===

impl Reply {
    /// Passes a reply of the gateway's own to the codec, whole: it is small, and follows nothing
    /// but interim responses.
    pub(super) fn begin<R: Respond>(head: ResponseHead, body: Bytes, respond: &mut R) -> Self {
        if body.is_empty() {
            respond.head(head, BodyLength::None);
        } else {
            respond.head(head, BodyLength::Exact(body.len() as u64));
            respond.push(Frame::Data(body));
        }
        respond.finish();
        Self { ended_at: None }
    }

    /// For a backend's response, which is already complete.
    pub(super) fn forwarded(ended_at: Instant) -> Self {
        Self { ended_at: Some(ended_at) }
    }

    /// When a backend's response was complete.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.ended_at
    }

    /// Whether the reply is flushed, or needs no flush.
    pub(crate) async fn is_flushed<R: Respond>(&self, respond: &mut R) -> bool {
        self.ended_at.is_some()
            || poll_fn(|cx| Poll::Ready(matches!(respond.poll_flush(cx), Poll::Ready(Ok(())))))
                .await
    }

    /// Waits until the client has received the reply, for `timeouts.localReply` at most; then
    /// resets the stream, or closes the connection. Progress does not extend the time: a reply is
    /// small.
    pub(crate) async fn deliver<R: Respond>(self, worker: &WorkerContext, respond: &mut R) {
        if self.ended_at.is_some() {
            return;
        }
        let limit = worker.settings.timeouts.local_reply;
        match tokio::time::timeout(limit, poll_fn(|cx| respond.poll_flush(cx))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => respond.abort(),
            Err(_) => {
                respond.abort();
                worker.meter.refused("reply_late");
            }
        }
    }
}
