//! From the socket to the protocol: accept, PROXY protocol, TLS, and which HTTP is spoken; and how
//! it all ends.

pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod bind;
pub(crate) mod connection;
pub(crate) mod drain;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod proxy_protocol;
pub(crate) mod socket;
pub(crate) mod tickets;
pub(crate) mod tls;
