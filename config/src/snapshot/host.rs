//! Hostnames, and the table that finds the virtual host of one.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::{Serialize, Serializer};

use super::rule::Route;
use crate::problem::Origin;

/// The longest hostname in octets without a trailing dot (RFC 1035 §2.3.4).
pub const MAX_HOSTNAME: usize = 253;
/// The longest label in octets (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;

/// A DNS name that was checked: lower-case letters, digits and hyphens in labels of 1 to 63 octets,
/// 253 in all, no trailing dot (RFC 1123 §2.1). Internationalised names are in their ASCII form
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

/// Why a text is no [`Hostname`].
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

/// All that is served under one hostname.
#[derive(Debug, Clone, Serialize)]
pub struct VirtualHost {
    /// The name or wildcard.
    pub pattern: HostPattern,
    /// The environment's name, for metrics and logs; empty where there is none.
    pub environment: Arc<str>,
    /// The resource that claims the name.
    pub origin: Origin,
    /// Its routes in the order in which they are tried.
    pub routes: Vec<Route>,
}

/// Finds the virtual host of a name: the exact one, else that of the longest wildcard.
#[derive(Debug, Clone, Default)]
pub struct HostTable {
    exact: HashMap<Hostname, Arc<VirtualHost>, RandomState>,
    wildcard: HashMap<Hostname, Arc<VirtualHost>, RandomState>,
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

    /// Checks `text`, which must be in lower case.
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
/// Says what is wrong with it.
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

// === impl HostTable ===

impl HostTable {
    /// The virtual host for `host`: lower case, without port or trailing dot.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        let exact = self.exact.get(host);
        if self.wildcard.is_empty() {
            return exact;
        }
        // All are looked up, whatever is found first: how long it takes must not tell which names
        // there are.
        let mut longest = None;
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            longest = longest.or(self.wildcard.get(parent));
            rest = parent;
        }
        exact.or(longest)
    }

    /// The virtual host of that very pattern.
    #[must_use]
    pub fn get(&self, pattern: &HostPattern) -> Option<&Arc<VirtualHost>> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(name) => self.wildcard.get(name),
        }
    }

    /// Adds a virtual host, in place of one of the same pattern, which is returned.
    pub fn insert(&mut self, host: Arc<VirtualHost>) -> Option<Arc<VirtualHost>> {
        match &host.pattern {
            HostPattern::Exact(name) => self.exact.insert(name.clone(), host),
            HostPattern::Wildcard(name) => self.wildcard.insert(name.clone(), host),
        }
    }

    /// All virtual hosts, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        self.exact.values().chain(self.wildcard.values())
    }

    /// How many virtual hosts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Serialize for HostTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sorted: BTreeMap<&HostPattern, &Arc<VirtualHost>> =
            self.iter().map(|host| (&host.pattern, host)).collect();
        serializer.collect_seq(sorted.values())
    }
}

#[cfg(test)]
mod tests;
