//! May the caller?

use portcullis_config::snapshot::policy::{Access, Require};

use crate::normalize::Request;

/// Whether the request may go where its route leads. What it may not is answered by [`hidden`](crate::hidden), like what does
/// not exist.
///
/// There are no credentials yet that could be shown: only what demands none is open.
pub(crate) fn may(access: &Access, _request: &Request) -> bool {
    access.require == Require::Nothing
}
