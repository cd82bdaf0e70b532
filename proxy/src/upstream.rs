//! Connections to backends.

pub(crate) mod http2;
