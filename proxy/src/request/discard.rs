//! The rest of a request's body after an early response.

use std::future::poll_fn;
use std::time::Duration;

use portcullis_config::settings::Settings;

use crate::exchange::{Frame, Source};

/// The largest request body that is discarded after an early response; for a larger one the
/// connection is closed.
pub(crate) const MAX_DISCARD: u64 = 64 * 1024;

/// How many octets of a body are discarded, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiscardLimit {
    octets: u64,
    time: Duration,
}

/// What became of the rest of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discarded {
    /// It was read to its end.
    Whole,
    /// The client ended it prematurely.
    Broken,
    /// The client sends more than the limit, or too slowly.
    Exceeded,
}

/// Discards the rest of a request's body after an early response, so that the client can finish
/// sending: many read the response only then.
pub(crate) async fn discard_body<B: Source>(body: &mut B, limit: DiscardLimit) -> Discarded {
    let mut left = limit.octets;
    let reading = async {
        loop {
            match poll_fn(|cx| body.poll_frame(cx)).await {
                None => return Discarded::Whole,
                Some(Ok(Frame::Data(data))) => match left.checked_sub(data.len() as u64) {
                    Some(rest) => left = rest,
                    None => return Discarded::Exceeded,
                },
                Some(Ok(Frame::Trailers(_))) => {}
                Some(Err(_)) => return Discarded::Broken,
            }
        }
    };
    tokio::time::timeout(limit.time, reading).await.unwrap_or(Discarded::Exceeded)
}

// === impl DiscardLimit ===

impl DiscardLimit {
    /// Before the next request on the same HTTP/1.1 connection.
    pub(crate) const KEPT_CONNECTION: Self =
        Self { octets: MAX_DISCARD, time: Duration::from_secs(2) };

    /// Of an HTTP/2 stream.
    pub(crate) fn of_stream(settings: &Settings) -> Self {
        Self {
            octets: settings.limits.unread_body_bytes.get() as u64,
            time: settings.timeouts.unread_body,
        }
    }
}
