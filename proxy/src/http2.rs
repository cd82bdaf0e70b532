//! HTTP/2 building blocks for the server side ([`listen`](crate::listen)) and the client side
//! ([`upstream`](crate::upstream)).
//!
//! The server side uses the h2 crate, and adds a transport that coalesces writes
//! ([`write_coalescer`]), detection of unfinished header blocks ([`block_watch`]), what h2 does not
//! report about them ([`block_filter`], [`irregular`]), a bounded sink ([`sink`]) and a source
//! ([`source`]) for bodies, and a budget for resets ([`reset_budget`]).
//! The client side is implemented here: [`frame`] and [`hpack`]. Both detect dead peers with
//! [`liveness`].

mod block_filter;
pub(crate) mod block_watch;
pub(crate) mod counted_bytes;
pub(crate) mod frame;
pub(crate) mod hpack;
pub(crate) mod irregular;
pub(crate) mod liveness;
pub(crate) mod reset_budget;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod write_coalescer;

use crate::exchange::Broken;

/// Converts an h2 error to the error of the exchange that it aborted.
pub(crate) fn broken(error: &h2::Error) -> Broken {
    if error.is_library() { Broken::Malformed("http2") } else { Broken::Closed }
}
