//! An answer of the gateway's own on its way to the client.

use std::future::poll_fn;

use bytes::Bytes;

use crate::exchange::{Broken, Frame, Respond};
use crate::worker::Worker;

/// What is left to send when a request has been decided: the body of an answer of the gateway's own,
/// and nothing of the request.
#[derive(Debug)]
#[must_use = "an answer is to be delivered"]
pub(crate) struct Reply(Option<Bytes>);

// === impl Reply ===

impl Reply {
    /// An answer with this body, whose head the codec has already.
    pub(super) fn new(body: Bytes) -> Self {
        Self(Some(body))
    }

    /// The response was a backend's, and has ended.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Waits until the client has taken the answer, at most for `timeouts.localReply`. A client that
    /// takes a little of it now and then gets no more time than one that takes nothing: an answer
    /// of our own is small. Then the stream is reset, or the connection cut.
    pub(crate) async fn deliver<R: Respond>(self, worker: &Worker, respond: &mut R) {
        let Some(body) = self.0 else { return };
        let limit = worker.settings.timeouts.local_reply;
        match tokio::time::timeout(limit, send(body, respond)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => respond.abort(),
            Err(_) => {
                respond.abort();
                worker.meter.refused("reply_late");
            }
        }
    }
}

async fn send<R: Respond>(body: Bytes, respond: &mut R) -> Result<(), Broken> {
    poll_fn(|cx| respond.poll_ready(cx)).await?;
    if !body.is_empty() {
        respond.push(Frame::Data(body));
    }
    respond.finish();
    poll_fn(|cx| respond.poll_flush(cx)).await
}
