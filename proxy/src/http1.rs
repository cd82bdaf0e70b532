//! HTTP/1.1 on both sides of the gateway: one strict reading, and serialising afresh.
//!
//! The same codec reads requests from clients and responses from backends, and writes requests to
//! backends and responses to clients. What RFC 9112 lets a lenient recipient repair is refused
//! here: two parsers might repair it differently. It needs no task and no channel a connection, and
//! a header's value is a slice of the octets that were read.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod head;
pub(crate) mod inbound;
pub(crate) mod outbound;
