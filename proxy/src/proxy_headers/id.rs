//! Request ids, for logs, replies and backends.

use std::fmt;

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};

use super::X_REQUEST_ID;
use crate::http1::outbound::put_parts;
use crate::http2::hpack;

const MAX_LENGTH: usize = 128;

/// A request's id: a UUID of version 7 (RFC 9562 §5.7), or the id that a trusted client sent.
/// Letters, digits and `-._:=+/` only, so that logs and pages need no escaping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(Text);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Text {
    New([u8; 36]),
    Given(HeaderValue),
}

// === impl RequestId ===

impl RequestId {
    /// Creates an id from `milliseconds` since 1970 and 74 bits of `random`.
    pub(crate) fn new(milliseconds: u64, random: u128) -> Self {
        let (first, second) = ((random >> 64) as u64, random as u64);
        // 48 bits of time, 4 of version, 12 random; 2 of variant, 62 random.
        let high = milliseconds << 16 | 0x7 << 12 | first & 0xfff;
        let low = 0b10 << 62 | second & ((1 << 62) - 1);
        let [a, b, c, d] =
            [high >> 32, high, low >> 32, low].map(|part| hexadecimal(part & 0xffff_ffff));
        let ((b, b_end), (c, c_end)) = (b.split_at(4), c.split_at(4));
        let mut text = [b'-'; 36];
        for (start, digits) in
            [(0, a.as_slice()), (9, b), (14, b_end), (19, c), (24, c_end), (28, d.as_slice())]
        {
            if let Some(place) = text.get_mut(start..start + digits.len()) {
                place.copy_from_slice(digits);
            }
        }
        Self(Text::New(text))
    }

    /// Returns the id that the client sent, if there is exactly one and it is well-formed.
    /// [`normalize`](crate::normalize) removes those of untrusted clients.
    pub(crate) fn given(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&X_REQUEST_ID).iter();
        let value = values.next().filter(|value| is_well_formed(value.as_bytes()))?;
        values.next().is_none().then(|| Self(Text::Given(value.clone())))
    }

    /// Sets `X-Request-Id`.
    pub(super) fn set(&self, headers: &mut HeaderMap) {
        let mut value = match &self.0 {
            Text::New(text) => {
                HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("0"))
            }
            Text::Given(value) => value.clone(),
        };
        // Ids are unique: in HPACK's table they would only evict useful entries (RFC 7541 §6.2.3).
        value.set_sensitive(true);
        headers.insert(&X_REQUEST_ID, value);
    }

    /// Writes `X-Request-Id` as a line of HTTP/1.1.
    pub(super) fn put_line(&self, out: &mut BytesMut) {
        put_parts([X_REQUEST_ID.as_str().as_bytes(), b": ", self.as_bytes(), b"\r\n"], out);
    }

    /// Writes `X-Request-Id` as a field of HTTP/2.
    pub(super) fn put_field(&self, out: &mut Vec<u8>) {
        hpack::never_indexed(X_REQUEST_ID.as_str(), self.as_bytes(), out);
    }

    /// Returns the id, which is ASCII.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::New(text) => text,
            Text::Given(value) => value.as_bytes(),
        }
    }

    /// Returns the id as text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the eight hexadecimal digits of a number of 32 bits.
fn hexadecimal(number: u64) -> [u8; 8] {
    // Each step moves the upper half of every part away from the lower one, down to four bits.
    let number = (number << 16 | number) & 0x0000_ffff_0000_ffff;
    let number = (number << 8 | number) & 0x00ff_00ff_00ff_00ff;
    let number = (number << 4 | number) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((number + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (number + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

fn is_well_formed(value: &[u8]) -> bool {
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b':' | b'=' | b'+' | b'/')
    };
    (1..=MAX_LENGTH).contains(&value.len()) && value.iter().all(plain)
}
