//! Hostnames and hostname patterns.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The longest hostname in octets without a trailing dot (RFC 1035 §2.3.4).
pub const MAX_HOSTNAME: usize = 253;
/// The longest label in octets (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;

/// A valid DNS name: lower-case letters, digits and hyphens in labels of 1 to 63 octets,
/// 253 in total, no trailing dot (RFC 1123 §2.1). Internationalised names are in their ASCII form
/// (`xn--…`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Hostname(Arc<str>);

/// A hostname, or a wildcard for all names below one (Gateway API `Hostname`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This name.
    Exact(Hostname),
    /// Every name with one or more labels before this one, written `*.` and the name.
    Wildcard(Hostname),
}

/// Why a text is not a [`Hostname`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostname {
    /// The text, or a label of it, is empty.
    #[error("has an empty label")]
    EmptyLabel,
    /// More than [`MAX_LABEL`] octets between dots.
    #[error("has a label of more than {MAX_LABEL} characters")]
    LongLabel,
    /// More than [`MAX_HOSTNAME`] octets.
    #[error("has more than {MAX_HOSTNAME} characters")]
    Long,
    /// A character other than `a`–`z`, `0`–`9`, `-` and `.`.
    #[error("has a character other than a-z, 0-9 and '-'")]
    Character,
    /// A label that starts or ends with `-`.
    #[error("has a label that starts or ends with '-'")]
    Hyphen,
}

// === impl Hostname ===

impl Hostname {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = InvalidHostname;

    /// Parses `text`, which must be in lower case.
    fn from_str(text: &str) -> Result<Self, InvalidHostname> {
        if text.len() > MAX_HOSTNAME {
            return Err(InvalidHostname::Long);
        }
        for label in text.split('.') {
            check_label(label)?;
        }
        Ok(Self(text.into()))
    }
}

/// Checks one label of a hostname (RFC 1123 §2.1, lower case only).
///
/// # Errors
/// Why it is not valid.
pub fn check_label(label: &str) -> Result<(), InvalidHostname> {
    if label.is_empty() {
        return Err(InvalidHostname::EmptyLabel);
    }
    if label.len() > MAX_LABEL {
        return Err(InvalidHostname::LongLabel);
    }
    if !label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        return Err(InvalidHostname::Character);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(InvalidHostname::Hyphen);
    }
    Ok(())
}

impl Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl HostPattern ===

impl FromStr for HostPattern {
    type Err = InvalidHostname;

    fn from_str(text: &str) -> Result<Self, InvalidHostname> {
        match text.strip_prefix("*.") {
            Some(rest) => rest.parse().map(Self::Wildcard),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Wildcard(name) => write!(f, "*.{name}"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
