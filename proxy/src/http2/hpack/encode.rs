//! Encodes header blocks: each field independently, without Huffman coding.

use http::{HeaderName, HeaderValue, header};

use super::table;

/// A literal field without indexing (RFC 7541 §6.2.2).
const LITERAL: u8 = 0x00;
/// A literal field that intermediaries must not index either (RFC 7541 §6.2.3).
const NEVER_INDEXED: u8 = 0x10;
const INDEXED: u8 = 0x80;

/// Writes an entry of the static table by its index.
pub(crate) fn indexed(index: u8, out: &mut Vec<u8>) {
    out.push(INDEXED | index);
}

/// Writes a field with the name of a static table entry.
pub(crate) fn literal(index: u8, value: &[u8], out: &mut Vec<u8>) {
    integer(LITERAL, 4, usize::from(index), out);
    string(value, out);
}

/// Writes a field whose name is not in the static table.
pub(crate) fn named(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.push(LITERAL);
    string(name.as_bytes(), out);
    string(value, out);
}

/// Writes a field whose name is not in the static table, and which no recipient may index.
pub(crate) fn never_indexed(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.push(NEVER_INDEXED);
    string(name.as_bytes(), out);
    string(value, out);
}

/// Writes a header field.
pub(crate) fn field(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    let is_secret = value.is_sensitive()
        || matches!(*name, header::AUTHORIZATION | header::COOKIE | header::PROXY_AUTHORIZATION);
    let form = if is_secret { NEVER_INDEXED } else { LITERAL };
    match table::index(name.as_str()) {
        Some(index) => integer(form, 4, usize::from(index), out),
        None => {
            out.push(form);
            string(name.as_str().as_bytes(), out);
        }
    }
    string(value.as_bytes(), out);
}

pub(super) fn string(octets: &[u8], out: &mut Vec<u8>) {
    integer(0, 7, octets.len(), out);
    out.extend_from_slice(octets);
}

/// Writes an integer with a prefix of `bits` bits in an octet whose upper bits are `form` (RFC 7541
/// §5.1).
fn integer(form: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(form | value.to_le_bytes()[0]);
        return;
    }
    out.push(form | most.to_le_bytes()[0]);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f).to_le_bytes()[0]);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}
