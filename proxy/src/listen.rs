//! Client connections: accept, PROXY protocol, TLS, HTTP version detection, serving, and draining.

pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod bind;
pub(crate) mod connection;
pub(crate) mod drain;
pub(crate) mod http1;
pub(crate) mod http2;
mod lazy_timer;
mod linger;
pub(crate) mod placement;
pub(crate) mod proxy_protocol;
pub(crate) mod socket;
pub(crate) mod stream_tasks;
pub(crate) mod tickets;
pub(crate) mod tls;
