//! An answer of the gateway's own on its way to the client.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;

use crate::exchange::{BodyLength, Frame, Respond, ResponseHead};
use crate::worker_context::WorkerContext;

/// Says that a request has been decided: what is left to do is to see its answer off, for which
/// nothing of the request is needed.
#[derive(Debug)]
#[must_use = "an answer is to be delivered"]
pub(crate) struct Reply {
    /// It is the gateway's own; a backend's has ended.
    is_own: bool,
}

// === impl Reply ===

impl Reply {
    /// Hands an answer of our own to the codec, whole: it is small, and the first that the codec
    /// gets for this request but for interim heads.
    pub(super) fn begin<R: Respond>(head: ResponseHead, body: Bytes, respond: &mut R) -> Self {
        if body.is_empty() {
            respond.head(head, BodyLength::None);
        } else {
            respond.head(head, BodyLength::Exact(body.len() as u64));
            respond.push(Frame::Data(body));
        }
        respond.finish();
        Self { is_own: true }
    }

    /// The response was a backend's, and has ended.
    pub(super) fn none() -> Self {
        Self { is_own: false }
    }

    /// Whether the client has taken it already, or will without more of its doing.
    pub(crate) async fn is_taken<R: Respond>(&self, respond: &mut R) -> bool {
        !self.is_own
            || poll_fn(|cx| Poll::Ready(matches!(respond.poll_flush(cx), Poll::Ready(Ok(())))))
                .await
    }

    /// Waits until the client has taken the answer, at most for `timeouts.localReply`. A client that
    /// takes a little of it now and then gets no more time than one that takes nothing: an answer
    /// of our own is small. Then the stream is reset, or the connection cut.
    pub(crate) async fn deliver<R: Respond>(self, worker: &WorkerContext, respond: &mut R) {
        if !self.is_own {
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
