//! Writes header blocks: each field for itself, in plain octets.

use http::{HeaderName, HeaderValue, header};

use super::table;

/// A literal field without indexing (RFC 7541 §6.2.2).
const LITERAL: u8 = 0x00;
/// One that no intermediary may put into a table either (RFC 7541 §6.2.3).
const NEVER_INDEXED: u8 = 0x10;
const INDEXED: u8 = 0x80;

/// Writes an entry of the static table.
pub(crate) fn indexed(index: u8, out: &mut Vec<u8>) {
    out.push(INDEXED | index);
}

/// Writes a value under the name of an entry of the static table.
pub(crate) fn literal(index: u8, value: &[u8], out: &mut Vec<u8>) {
    integer(LITERAL, 4, usize::from(index), out);
    string(value, out);
}

/// Writes a value under a name that the static table does not have.
pub(crate) fn named(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.push(LITERAL);
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

fn string(octets: &[u8], out: &mut Vec<u8>) {
    integer(0, 7, octets.len(), out);
    out.extend_from_slice(octets);
}

/// An integer in the lower `bits` of an octet whose upper ones are `form`, and as many octets as it
/// needs (RFC 7541 §5.1).
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
