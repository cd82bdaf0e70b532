//! A host that builds may reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The port of a mirror that is written without one.
const HTTPS: u16 = 443;
/// The longest name of a host.
const MAX_NAME: usize = 253;
/// The longest label of a name.
const MAX_LABEL: usize = 63;

/// A mirror of packages or a registry of images, by its host and port, such as
/// `npm.example.com` (port 443) or `debian.example.com:80`.
///
/// Names are compared without regard to case. Two are equal if they are the same host and port: a name
/// is never that of its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MirrorHost {
    /// What is reached.
    pub host: Host,
    /// Its port, which is not 0.
    pub port: u16,
}

/// A host, by its name or its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name, in lower case, without a dot at its end, which no resolver takes for an address.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A text is not the host of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the host of a mirror: write it as `HOST` or `HOST:PORT`, without a scheme, a path, \
     a wildcard or a dot at the end"
)]
pub struct InvalidMirrorHost(String);

// === impl MirrorHost ===

impl MirrorHost {
    /// Reads `HOST` or `HOST:PORT`. An address of IPv6 is in brackets.
    pub(crate) fn parse(text: &str, default_port: u16) -> Option<Self> {
        // The colons of an address in brackets are not that of a port.
        let end = text.rfind(']').unwrap_or_default();
        let (host, port) = match text.get(end..)?.rfind(':') {
            Some(colon) => {
                let (host, port) = text.split_at_checked(end.checked_add(colon)?)?;
                (host, read_port(port.strip_prefix(':')?)?)
            }
            None => (text, default_port),
        };
        Some(Self { host: Host::parse(host)?, port })
    }
}

fn read_port(text: &str) -> Option<u16> {
    let is_plain = !text.starts_with('0') && text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

impl FromStr for MirrorHost {
    type Err = InvalidMirrorHost;

    fn from_str(text: &str) -> Result<Self, InvalidMirrorHost> {
        Self::parse(text, HTTPS).ok_or_else(|| InvalidMirrorHost(text.to_owned()))
    }
}

impl TryFrom<String> for MirrorHost {
    type Error = InvalidMirrorHost;

    fn try_from(text: String) -> Result<Self, InvalidMirrorHost> {
        text.parse()
    }
}

impl From<MirrorHost> for String {
    fn from(mirror: MirrorHost) -> Self {
        mirror.to_string()
    }
}

impl fmt::Display for MirrorHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

// === impl Host ===

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[') {
            let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        let name = text.to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // Resolvers take `127.1`, `2130706433` and `0x7f000001` for addresses.
        let is_number = |label: &str| {
            let digits = label.strip_prefix("0x");
            digits.unwrap_or(label).bytes().all(|octet| match digits {
                Some(_) => octet.is_ascii_hexdigit(),
                None => octet.is_ascii_digit(),
            })
        };
        let is_name = name.len() <= MAX_NAME
            && name.split('.').all(is_label)
            && !name.rsplit('.').next().is_some_and(is_number);
        is_name.then_some(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(formatter),
            Self::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_host_and_a_port() {
        for (text, written) in [
            ("npm.mirror.test", "npm.mirror.test:443"),
            ("Debian.TEST:80", "debian.test:80"),
            ("mirror", "mirror:443"),
            ("192.0.2.7:8080", "192.0.2.7:8080"),
            ("[2001:DB8:0::1]", "[2001:db8::1]:443"),
            ("[2001:db8::1]:8443", "[2001:db8::1]:8443"),
            ("a_b.test:65535", "a_b.test:65535"),
        ] {
            let mirror: MirrorHost = text.parse().unwrap();
            assert_eq!(mirror.to_string(), written);
            assert_eq!(written.parse(), Ok(mirror), "{written}");
        }
    }

    #[test]
    fn what_others_could_read_differently_is_no_host_of_a_mirror() {
        for bad in [
            "",
            ":",
            ":443",
            "a.test:",
            "a.test:0",
            "a.test:0443",
            "a.test:+443",
            "a.test:65536",
            "a.test:443:443",
            "a.test.",
            ".a.test",
            "a..test",
            "*.a.test",
            "-a.test",
            "a-.test",
            "https://a.test",
            "a.test/npm",
            "user@a.test",
            "a.test b.test",
            "a.test\n",
            "\u{e4}.test",
            "a%2etest",
            "2001:db8::1",
            "[2001:db8::1",
            "[2001:db8::1]x",
            "[2001:db8::1]443",
            "[fe80::1%eth0]",
            "[127.0.0.1]",
            // What `inet_aton` takes for 127.0.0.1.
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.0.0.0x1",
            "0x",
            "1.2.3.4.5",
        ] {
            assert!(bad.parse::<MirrorHost>().is_err(), "{bad}");
        }
        assert!(format!("{}.test", "a".repeat(64)).parse::<MirrorHost>().is_err());
        assert!(format!("{}test", "a.".repeat(126)).parse::<MirrorHost>().is_err());
    }
}
