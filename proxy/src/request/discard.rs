//! The rest of a request's body after an early response.

use std::future::poll_fn;
use std::time::Duration;

use crate::exchange::{Frame, Source};

/// The largest request body that is discarded after an early response; for a larger one the
/// connection is closed.
pub(crate) const MAX_DISCARD: u64 = 64 * 1024;
/// How long discarding may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Discards the rest of a small request body after an early response, so that the client can finish
/// sending. Returns whether the whole body was read.
pub(crate) async fn discard_body<B: Source>(body: &mut B) -> bool {
    let mut left = MAX_DISCARD;
    let reading = async {
        loop {
            match poll_fn(|cx| body.poll_frame(cx)).await {
                None => return true,
                Some(Ok(Frame::Data(data))) => match left.checked_sub(data.len() as u64) {
                    Some(rest) => left = rest,
                    None => return false,
                },
                Some(Ok(Frame::Trailers(_))) => {}
                Some(Err(_)) => return false,
            }
        }
    };
    tokio::time::timeout(DISCARD_TIMEOUT, reading).await.unwrap_or(false)
}
