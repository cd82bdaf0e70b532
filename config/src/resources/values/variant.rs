//! The syntax of what variants and their services say: shares, ranges, and how to ask for a variant.

use std::sync::Arc;

use http::HeaderName;

use crate::snapshot::split::{Bucket, InvalidWeight, Weight};

/// The longest salt, in bytes.
pub(crate) const MAX_SALT: usize = 256;

/// A range of buckets of the variant of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRange {
    /// The name, as it is written.
    pub name: Box<str>,
    /// The first bucket.
    pub first: Bucket,
    /// The last bucket, which is not before the first one.
    pub last: Bucket,
}

// === impl NamedRange ===

impl NamedRange {
    /// Parses a range such as `web-canary=0-499`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, range)| {
            let (first, last) = range.split_once('-')?;
            Some((name, number(first)?, number(last)?))
        });
        match parts {
            Some((name, first, last)) if first <= last && !name.is_empty() => {
                Ok(Self { name: name.into(), first, last })
            }
            _ => Err("is not a range of buckets".to_owned()),
        }
    }
}

fn number(text: &str) -> Option<Bucket> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).and_then(Bucket::new)
}

/// Parses ranges, separated by commas; `None` unless all of them are valid.
pub(crate) fn ranges(text: &str) -> Option<Vec<NamedRange>> {
    text.split(',').map(|item| NamedRange::parse(item.trim()).ok()).collect()
}

/// Parses a percentage.
pub(crate) fn percentage(text: &str) -> Result<Weight, String> {
    text.parse().map_err(|InvalidWeight| "is not a percentage".to_owned())
}

/// Parses the name of a header that neither carries a credential nor belongs to the connection.
pub(crate) fn header(text: &str) -> Result<HeaderName, String> {
    const RESERVED: [&str; 10] = [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "host",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
        "x-api-key",
    ];
    let name = HeaderName::try_from(text).map_err(|_| "is not the name of a header".to_owned())?;
    if RESERVED.contains(&name.as_str()) {
        return Err("is a header that cannot be used for this".to_owned());
    }
    Ok(name)
}

/// Parses the value of a header.
pub(crate) fn header_value(text: &str) -> Result<Arc<str>, String> {
    let is_value = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_value { Ok(text.into()) } else { Err("is not a value of a header".to_owned()) }
}

/// Parses the name of a cookie (RFC 6265 §4.1.1), which is none of the gateway's.
pub(crate) fn cookie(text: &str) -> Result<Arc<str>, String> {
    let is_token = HeaderName::try_from(text).is_ok();
    if !is_token || text.to_ascii_lowercase().starts_with("__host-portcullis") {
        return Err("is not the name of a cookie".to_owned());
    }
    Ok(text.into())
}

/// Parses the salt of a rollout.
pub(crate) fn salt(text: &str) -> Result<Arc<str>, String> {
    match text.len() {
        0 => Err("is empty".to_owned()),
        1..=MAX_SALT => Ok(text.into()),
        length => Err(format!("has {length} bytes")),
    }
}
