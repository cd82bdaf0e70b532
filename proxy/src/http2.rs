//! What HTTP/2 connections to clients and to backends have in common.
//!
//! The h2 crate does the protocol. Round it: a transport that gathers writes, a bounded sink and a source for the
//! frames of a body, and the rules by which a connection is found dead or abusive.

pub(crate) mod chunk;
pub(crate) mod frame;
pub(crate) mod gather;
pub(crate) mod hpack;
pub(crate) mod liveness;
pub(crate) mod reset_budget;
pub(crate) mod sink;
pub(crate) mod source;

use crate::exchange::Broken;

/// What an error of h2 means for the exchange that it ended.
pub(crate) fn broken(error: &h2::Error) -> Broken {
    if error.is_library() { Broken::Malformed("http2") } else { Broken::Closed }
}
