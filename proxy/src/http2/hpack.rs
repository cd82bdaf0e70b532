//! Header compression for HTTP/2 (RFC 7541), for a client that sends the requests of many users
//! over one connection.
//!
//! The encoder is stateless: no field enters the peer's dynamic table. Otherwise one user could
//! infer the fields of another's requests from the lengths of their own (RFC 7541 §7.1). It is also
//! the cheapest encoding.

mod decode;
mod dynamic_table;
mod encode;
mod huffman;
mod scan;
mod table;
#[cfg(test)]
mod tests;

use http::{HeaderName, HeaderValue};

pub(crate) use self::decode::Decoder;
pub(crate) use self::encode::{field, indexed, literal, named, never_indexed};
pub(crate) use self::scan::Scanner;

/// The name of a response field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// `:status`.
    Status,
    /// Any other pseudo-header.
    Pseudo,
    Field(HeaderName),
    /// The name or value is not valid (RFC 9113 §8.2.1).
    Malformed,
}

/// A field, and its size in octets as RFC 9113 §6.5.2 counts it.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Name,
    pub(crate) value: HeaderValue,
    pub(crate) octets: usize,
}

/// A header block cannot be decoded; neither can any later one on the connection (RFC 9113 §4.3).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Undecodable;
