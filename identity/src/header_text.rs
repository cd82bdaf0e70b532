//! Header field values as text.

use http::HeaderValue;

/// The value as text where it is ASCII; `None` for anything else. [`HeaderValue::to_str`] decides
/// the same octet by octet, which is slower for long credentials.
#[must_use]
pub fn ascii(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok().filter(|text| text.is_ascii())
}
