//! Request ids, for logs, replies and backends.

use std::fmt;

use http::{HeaderMap, HeaderValue};

use super::X_REQUEST_ID;

const MAX_LENGTH: usize = 128;

/// A request's id: a UUID of version 7 (RFC 9562 §5.7), or the id that a trusted client sent.
/// Letters, digits and `-._:=+/` only, so that logs and pages need no escaping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(HeaderValue);

// === impl RequestId ===

impl RequestId {
    /// Creates an id from `milliseconds` since 1970 and 74 bits of `random`.
    pub(crate) fn new(milliseconds: u64, random: u128) -> Self {
        let (first, second) = ((random >> 64) as u64, random as u64);
        // 48 bits of time, 4 of version, 12 random; 2 of variant, 62 random.
        let high = milliseconds << 16 | 0x7 << 12 | first & 0xfff;
        let low = 0b10 << 62 | second & ((1 << 62) - 1);
        let mut text = [b'-'; 36];
        const POSITIONS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
        for (position, octet) in
            POSITIONS.into_iter().zip(high.to_be_bytes().into_iter().chain(low.to_be_bytes()))
        {
            if let Some([upper, lower]) = text.get_mut(position..position + 2) {
                (*upper, *lower) = (digit(octet >> 4), digit(octet & 0xf));
            }
        }
        Self(HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0")))
    }

    /// Returns the id that the client sent, if there is exactly one and it is well-formed.
    /// [`normalize`](crate::normalize) removes those of untrusted clients.
    pub(crate) fn given(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&X_REQUEST_ID).iter();
        let value = values.next().filter(|value| is_well_formed(value.as_bytes()))?;
        values.next().is_none().then(|| Self(value.clone()))
    }

    /// Returns the id as a header value.
    pub(crate) fn to_value(&self) -> HeaderValue {
        let mut value = self.0.clone();
        // Ids are unique: in HPACK's table they would only evict useful entries (RFC 7541 §6.2.3).
        value.set_sensitive(true);
        value
    }

    /// Returns the id as text.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

fn is_well_formed(value: &[u8]) -> bool {
    let plain = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b':' | b'=' | b'+' | b'/')
    };
    (1..=MAX_LENGTH).contains(&value.len()) && value.iter().all(plain)
}
