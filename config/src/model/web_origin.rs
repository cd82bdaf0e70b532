//! Origins of web pages, as written in CORS settings (RFC 6454; Fetch standard, "CORS protocol").

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use foldhash::fast::RandomState;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Hostname;

/// An origin, or several: `https://app.example.com`, `https://*.example.com`, `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OriginPattern {
    /// Every origin, except `null`.
    Any,
    /// This origin.
    Exact {
        /// The scheme, in lower case.
        scheme: Box<str>,
        /// Host and port, in lower case, without the scheme's default port.
        authority: Box<str>,
    },
    /// All origins with one or more labels before this domain.
    Subdomains {
        /// The scheme, in lower case.
        scheme: Box<str>,
        /// The domain and the port.
        authority: Box<str>,
    },
}

/// Why a text is not an [`OriginPattern`]; the message follows the text in a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrigin {
    /// No scheme, or a malformed one.
    #[error("does not begin with a scheme such as `https://`")]
    Scheme,
    /// Something follows host and port.
    #[error("has more than scheme, host and port")]
    Path,
    /// The host is malformed.
    #[error("has no valid host")]
    Host,
    /// The port is malformed.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
}

/// A set of origins. Looking one up takes time by its own length alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginSet {
    patterns: BTreeSet<OriginPattern>,
    exact: HashSet<Box<str>, RandomState>,
    /// The schemes of each domain with its port.
    subdomains: HashMap<Box<str>, Vec<Box<str>>, RandomState>,
}

/// The longest origin that is looked up, in octets: a scheme, a hostname and a port.
const MAX_ORIGIN: usize = 512;

// === impl OriginPattern ===

impl FromStr for OriginPattern {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin::Scheme)?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            || !scheme.bytes().all(is_scheme)
        {
            return Err(InvalidOrigin::Scheme);
        }
        if authority.contains(['/', '?', '#', '@']) {
            return Err(InvalidOrigin::Path);
        }
        match authority.strip_prefix("*.") {
            Some(domain) => Ok(Self::Subdomains {
                scheme: scheme.into(),
                authority: normalize_authority(scheme, domain)?.into(),
            }),
            None => Ok(Self::Exact {
                scheme: scheme.into(),
                authority: normalize_authority(scheme, authority)?.into(),
            }),
        }
    }
}

/// Parses host and port, and removes the scheme's default port, as browsers do.
fn normalize_authority(scheme: &str, text: &str) -> Result<String, InvalidOrigin> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match literal.map(str::parse::<Ipv6Addr>) {
        Some(Ok(address)) => format!("[{address}]"),
        Some(Err(_)) => return Err(InvalidOrigin::Host),
        None => host.parse::<Hostname>().map_err(|_| InvalidOrigin::Host)?.to_string(),
    };
    let is_number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port {
        None => return Ok(host),
        Some(port) if is_number(port) => port.parse().ok().filter(|port: &u16| *port != 0),
        Some(_) => None,
    };
    match (scheme, port.ok_or(InvalidOrigin::Port)?) {
        ("http", 80) | ("https", 443) => Ok(host),
        (_, port) => Ok(format!("{host}:{port}")),
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact { scheme, authority } => write!(f, "{scheme}://{authority}"),
            Self::Subdomains { scheme, authority } => write!(f, "{scheme}://*.{authority}"),
        }
    }
}

impl Serialize for OriginPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OriginPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("`{text}` {error}")))
    }
}

// === impl OriginSet ===

impl OriginSet {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether an origin is in the set, as browsers write it in `Origin`. `null` never is: pages of
    /// any origin can have it.
    #[must_use]
    pub fn contains(&self, origin: &str) -> bool {
        let Some((scheme, authority)) =
            origin.split_once("://").filter(|_| origin.len() <= MAX_ORIGIN)
        else {
            return false;
        };
        self.patterns.contains(&OriginPattern::Any)
            || self.exact.contains(origin)
            || self.has_parent(scheme, authority)
    }

    /// Whether the set has all origins of a pattern.
    #[must_use]
    pub fn covers(&self, pattern: &OriginPattern) -> bool {
        if self.patterns.contains(&OriginPattern::Any) || self.patterns.contains(pattern) {
            return true;
        }
        match pattern {
            OriginPattern::Any => false,
            OriginPattern::Exact { scheme, authority }
            | OriginPattern::Subdomains { scheme, authority } => self.has_parent(scheme, authority),
        }
    }

    fn has_parent(&self, scheme: &str, authority: &str) -> bool {
        let mut rest = authority;
        while let Some((_, parent)) = rest.split_once('.') {
            let schemes = self.subdomains.get(parent);
            if schemes.is_some_and(|schemes| schemes.iter().any(|one| **one == *scheme)) {
                return true;
            }
            rest = parent;
        }
        false
    }
}

impl FromIterator<OriginPattern> for OriginSet {
    fn from_iter<I: IntoIterator<Item = OriginPattern>>(patterns: I) -> Self {
        let mut set = Self { patterns: patterns.into_iter().collect(), ..Self::default() };
        for pattern in &set.patterns {
            match pattern {
                OriginPattern::Any => {}
                OriginPattern::Exact { .. } => {
                    set.exact.insert(pattern.to_string().into());
                }
                OriginPattern::Subdomains { scheme, authority } => {
                    set.subdomains.entry(authority.clone()).or_default().push(scheme.clone());
                }
            }
        }
        set
    }
}

impl Serialize for OriginSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.patterns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[&str]) -> OriginSet {
        list.iter().map(|text| text.parse::<OriginPattern>().unwrap()).collect()
    }

    #[test]
    fn an_origin_is_normalized_as_browsers_write_it() {
        for (text, normalized) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.COM:443", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://[0:0::1]", "https://[::1]"),
            ("https://*.example.com:8443", "https://*.example.com:8443"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("*", "*"),
        ] {
            assert_eq!(text.parse::<OriginPattern>().unwrap().to_string(), normalized);
        }
    }

    #[test]
    fn what_is_no_origin_is_rejected() {
        for (text, wrong) in [
            ("", InvalidOrigin::Scheme),
            ("null", InvalidOrigin::Scheme),
            ("app.example.com", InvalidOrigin::Scheme),
            ("://a", InvalidOrigin::Scheme),
            ("https://a/", InvalidOrigin::Path),
            ("https://a?b", InvalidOrigin::Path),
            ("https://user@a", InvalidOrigin::Path),
            ("https://", InvalidOrigin::Host),
            ("https://*", InvalidOrigin::Host),
            ("https://a.*.b", InvalidOrigin::Host),
            ("https://*.", InvalidOrigin::Host),
            ("https://[::1", InvalidOrigin::Host),
            ("https://a b", InvalidOrigin::Host),
            ("https://a:", InvalidOrigin::Port),
            ("https://a:0", InvalidOrigin::Port),
            ("https://a:+1", InvalidOrigin::Port),
            ("https://a:65536", InvalidOrigin::Port),
        ] {
            assert_eq!(text.parse::<OriginPattern>(), Err(wrong), "{text}");
        }
    }

    #[test]
    fn a_set_contains_what_its_patterns_match() {
        let set = set(&["https://app.example.com", "https://*.dev.example.com", "http://*.a:81"]);
        for origin in [
            "https://app.example.com",
            "https://a.dev.example.com",
            "https://a.b.dev.example.com",
            "http://x.a:81",
        ] {
            assert!(set.contains(origin), "{origin}");
        }
        for origin in [
            "null",
            "https://example.com",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.test",
            "https://dev.example.com",
            "http://a.dev.example.com",
            "https://evildev.example.com",
            "https://a.dev.example.com:8443",
            "http://x.a",
            "https://APP.example.com",
        ] {
            assert!(!set.contains(origin), "{origin}");
        }
    }

    #[test]
    fn any_origin_but_null_is_in_the_set_of_all() {
        let all = set(&["*"]);
        assert!(all.contains("https://a.test") && all.covers(&OriginPattern::Any));
        assert!(!all.contains("null"));
        assert!(!OriginSet::default().contains("https://a.test"));
    }

    #[test]
    fn a_set_covers_patterns_within_its_own() {
        let set = set(&["https://app.example.com", "https://*.dev.example.com"]);
        let covers = |text: &str| set.covers(&text.parse().unwrap());
        assert!(covers("https://app.example.com") && covers("https://a.dev.example.com"));
        assert!(covers("https://*.dev.example.com") && covers("https://*.a.dev.example.com"));
        assert!(!covers("https://*.example.com") && !covers("https://dev.example.com"));
        assert!(!covers("*") && !covers("http://app.example.com"));
    }
}
