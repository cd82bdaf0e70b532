//! HTTP/1.1 on both sides of the gateway: strict parsing, and serialization from parsed parts.
//!
//! The same codec reads requests from clients and responses from backends, and writes requests to
//! backends and responses to clients. Where RFC 9112 lets a lenient recipient repair a message, it
//! is rejected: two parsers might repair it differently. The codec needs no task and no channel per
//! connection, and header values are slices of one copy of their head.
//!
//! A connection has a buffer only while octets are in it ([`buffers`]): an idle one, and one whose
//! request waits for its response, have none.

pub(crate) mod body;
mod buffers;
pub(crate) mod connection;
pub(crate) mod head;
pub(crate) mod inbound;
pub(crate) mod outbound;
