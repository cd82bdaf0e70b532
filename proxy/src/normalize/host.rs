//! The host of a request.

use std::fmt;
use std::net::Ipv6Addr;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;
use portcullis_config::model::MAX_HOSTNAME;
use smallvec::SmallVec;

use super::refusals;
use crate::exchange::Refusal;
use crate::itoa::put_decimal;

/// A normalized host: lower case, without port and trailing dot. A name, an IPv4 address, or an
/// IPv6 address in brackets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Host(Rc<str>);

/// A host with its explicit port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) host: Host,
    /// `None` without an explicit port.
    pub(crate) port: Option<u16>,
}

// === impl Authority ===

impl Authority {
    /// Parses `uri-host [ ":" port ]` (RFC 9110 §7.2). Rejects user information, percent-encoding,
    /// an empty port and empty labels, which parsers treat differently.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let (host, port) =
            if text.first() == Some(&b'[') { split_literal(text)? } else { split_name(text)? };
        let port = port.map(parse_port).transpose()?;
        Ok(Self { host, port })
    }

    /// Whether both identify the same entity, if URLs without a port mean `default_port` (RFC 3986
    /// §6.2.3).
    pub(super) fn is_same(&self, other: &Self, default_port: Option<u16>) -> bool {
        self.host == other.host && self.port.or(default_port) == other.port.or(default_port)
    }

    /// Returns the value of `Host` and `:authority` for a backend.
    pub(crate) fn to_value(&self) -> HeaderValue {
        let mut text = Vec::with_capacity(self.host.0.len() + ":65535".len());
        text.extend_from_slice(self.host.as_bytes());
        if let Some(port) = self.port {
            text.push(b':');
            put_decimal(&mut text, u64::from(port));
        }
        HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
    }
}

fn split_literal(text: &[u8]) -> Result<(Host, Option<&[u8]>), Refusal> {
    let end = text.iter().position(|byte| *byte == b']').ok_or(refusals::HOST_MALFORMED)?;
    let (literal, rest) = text.split_at_checked(end + 1).ok_or(refusals::HOST_MALFORMED)?;
    let inner = literal
        .get(1..end)
        .and_then(|inner| std::str::from_utf8(inner).ok())
        .ok_or(refusals::HOST_MALFORMED)?;
    inner.parse::<Ipv6Addr>().map_err(|_| refusals::HOST_MALFORMED)?;
    let host = Host(format!("[{}]", inner.to_ascii_lowercase()).into());
    match rest.split_first() {
        None => Ok((host, None)),
        Some((b':', port)) => Ok((host, Some(port))),
        Some(_) => Err(refusals::HOST_MALFORMED),
    }
}

fn split_name(text: &[u8]) -> Result<(Host, Option<&[u8]>), Refusal> {
    let colon = memchr::memchr(b':', text);
    let name = colon.map_or(text, |colon| text.get(..colon).unwrap_or_default());
    let port = colon.and_then(|colon| text.get(colon + 1..));
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() || name.len() > MAX_HOSTNAME {
        return Err(refusals::HOST_MALFORMED);
    }
    // One pass, without an early end. An empty label precedes a dot, or the end.
    let (mut previous, mut is_invalid) = (b'.', false);
    let mut lower = |octet: &u8| {
        let octet = LOWER.get(usize::from(*octet)).copied().unwrap_or_default();
        is_invalid |= (octet == 0) | ((octet == b'.') & (previous == b'.'));
        previous = octet;
        octet
    };
    let host: SmallVec<[u8; 64]> = name.iter().map(&mut lower).collect();
    if is_invalid || previous == b'.' {
        return Err(refusals::HOST_MALFORMED);
    }
    let host = std::str::from_utf8(&host).map_err(|_| refusals::HOST_MALFORMED)?;
    Ok((Host(host.into()), port))
}

/// By octet: its lower case if it may be in a name, else 0.
static LOWER: [u8; 256] = lower();

#[expect(clippy::indexing_slicing, reason = "the compiler evaluates it")]
const fn lower() -> [u8; 256] {
    let mut table = [0; 256];
    let mut octet = 0_u8;
    while octet < 0x80 {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.') {
            table[octet as usize] = octet.to_ascii_lowercase();
        }
        octet += 1;
    }
    table
}

fn parse_port(digits: &[u8]) -> Result<u16, Refusal> {
    let port = match digits {
        [] | [_, _, _, _, _, _, ..] => None,
        _ if digits.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok())
        }
        _ => None,
    };
    port.filter(|port| *port > 0).ok_or(refusals::HOST_MALFORMED)
}

// === impl Host ===

impl Host {
    /// Returns the host as octets.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the host as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&portcullis_config::model::Hostname> for Host {
    fn from(name: &portcullis_config::model::Hostname) -> Self {
        Self(name.as_str().into())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
