//! Header field values as text.

use http::HeaderValue;

/// Returns the value as text if it is ASCII. Faster than [`HeaderValue::to_str`], which checks
/// octet by octet, for long credentials.
#[must_use]
pub fn ascii(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok().filter(|text| text.is_ascii())
}
