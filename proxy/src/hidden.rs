//! The one answer for what does not exist and for what the caller may not know of: they must be the
//! same.

use bytes::Bytes;

use crate::exchange::ResponseHead;
use crate::local_reply::{self, Facts};

/// The answer. It is made from what the client sent, and from nothing that the gateway knows: no
/// snapshot, no route, no environment can be given to it.
///
/// `asked` is the path with its query, where people can log in: the page leads there, and back to
/// it.
pub(crate) fn answer(facts: &Facts<'_>, asked: Option<&str>) -> (ResponseHead, Bytes) {
    local_reply::not_found(facts, asked)
}
