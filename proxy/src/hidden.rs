//! The 404 for what does not exist and for what the caller must not learn of: the two must be
//! indistinguishable.

use bytes::Bytes;

use crate::exchange::ResponseHead;
use crate::local_reply::{self, ReplyContext};

/// Creates the 404 from the request only: by its parameters, it cannot depend on a snapshot, route
/// or environment.
///
/// `return_to` is the path with its query if users can log in: the page links to the login, which
/// redirects back to it.
pub(crate) fn answer(context: &ReplyContext<'_>, return_to: Option<&str>) -> (ResponseHead, Bytes) {
    local_reply::not_found(context, return_to)
}
