//! HTTP/1.1 on both sides of the gateway: strict parsing, and serialization from parsed parts.
//!
//! The same codec reads requests from clients and responses from backends, and writes requests to
//! backends and responses to clients. Where RFC 9112 lets a lenient recipient repair a message, it
//! is rejected: two parsers might repair it differently. The codec needs no task and no channel per
//! connection, and header values are slices of the octets that were read.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod head;
pub(crate) mod inbound;
pub(crate) mod outbound;
