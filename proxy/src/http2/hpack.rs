//! Header compression for HTTP/2 (RFC 7541), as far as a client needs it that sends the requests of
//! many people over one connection.
//!
//! What is written depends on nothing that was written before: no field enters the table of the
//! other side. Else one client could learn by the lengths of its own requests what another's hold
//! (RFC 7541 §7.1). It also costs the least.

mod decode;
mod encode;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

use http::{HeaderName, HeaderValue};

pub(crate) use self::decode::Decoder;
pub(crate) use self::encode::{field, indexed, literal, named};

/// The name of a field of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// `:status`.
    Status,
    /// Any other pseudo-header.
    Pseudo,
    Field(HeaderName),
    /// Name or value are none (RFC 9113 §8.2.1).
    Malformed,
}

/// A field, and how much it counts for the limit on a head (RFC 9113 §6.5.2), in octets.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Name,
    pub(crate) value: HeaderValue,
    pub(crate) octets: usize,
}

/// A header block that cannot be read: nothing that follows on the connection can be either (RFC
/// 9113 §4.3).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Undecodable;
