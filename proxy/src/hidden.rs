//! The one answer for what does not exist and for what the caller may not know of: they must be the same.

use bytes::Bytes;
use http::StatusCode;

use crate::answer::{self, Facts};
use crate::exchange::ResponseHead;

/// The answer. It is made from what the client sent, and from nothing that the gateway knows: no snapshot, no route, no
/// environment can be given to it.
pub(crate) fn answer(facts: &Facts<'_>) -> (ResponseHead, Bytes) {
    answer::error(StatusCode::NOT_FOUND, facts)
}
