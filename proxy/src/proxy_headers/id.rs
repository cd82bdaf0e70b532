//! The name of one request in logs, answers and backends.

use std::fmt;

use http::{HeaderMap, HeaderValue};

use super::X_REQUEST_ID;

const MAX_LENGTH: usize = 128;

/// A request's id: a UUID of version 7 (RFC 9562 §5.7), or what a trusted client called the
/// request. Letters, digits and `-._:=+/` only, so that it can stand in any log or page as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(HeaderValue);

// === impl RequestId ===

impl RequestId {
    /// A fresh one: `milliseconds` since 1970, and 74 of the bits of `random`.
    pub(crate) fn new(milliseconds: u64, random: u128) -> Self {
        let (first, second) = ((random >> 64) as u64, random as u64);
        // 48 bits of time, four of version, 12 of chance; two of variant, 62 of chance.
        let high = milliseconds << 16 | 0x7 << 12 | first & 0xfff;
        let low = 0b10 << 62 | second & ((1 << 62) - 1);
        let mut text = [b'-'; 36];
        const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
        for (place, octet) in
            PLACES.into_iter().zip(high.to_be_bytes().into_iter().chain(low.to_be_bytes()))
        {
            if let Some([upper, lower]) = text.get_mut(place..place + 2) {
                (*upper, *lower) = (digit(octet >> 4), digit(octet & 0xf));
            }
        }
        Self(HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0")))
    }

    /// What a client called the request, where that is a well-formed name and there is but one. The
    /// headers of clients that are not trusted have none after [`normalize`](crate::normalize).
    pub(crate) fn given(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&X_REQUEST_ID).iter();
        let value = values.next().filter(|value| is_well_formed(value.as_bytes()))?;
        values.next().is_none().then(|| Self(value.clone()))
    }

    /// As a header's value.
    pub(crate) fn to_value(&self) -> HeaderValue {
        let mut value = self.0.clone();
        // Never the same twice, so HPACK's table has no use for it (RFC 7541 §6.2.3): it would only
        // push out what comes again.
        value.set_sensitive(true);
        value
    }

    /// As text.
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
