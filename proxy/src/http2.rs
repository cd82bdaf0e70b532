//! What HTTP/2 is made of, apart from who is spoken to: [`listen`](crate::listen) with clients,
//! [`upstream`](crate::upstream) with pods.
//!
//! Towards clients the h2 crate does the protocol. Round it: a transport that gathers writes
//! ([`gather`]), a watch on heads that never end ([`block_watch`]), a bounded sink and a source for the frames of a body, and a budget for resets.
//! Towards pods it is our own: [`frame`] and [`hpack`]. Both find in the same way that a
//! peer is dead ([`liveness`]).

pub(crate) mod block_watch;
pub(crate) mod counted_bytes;
pub(crate) mod frame;
pub(crate) mod hpack;
pub(crate) mod liveness;
pub(crate) mod reset_budget;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod write_coalescer;

use crate::exchange::Broken;

/// What an error of h2 means for the exchange that it ended.
pub(crate) fn broken(error: &h2::Error) -> Broken {
    if error.is_library() { Broken::Malformed("http2") } else { Broken::Closed }
}
