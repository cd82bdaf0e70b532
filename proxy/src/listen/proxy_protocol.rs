//! The PROXY protocol, versions 1 and 2: how a load balancer forwards the client's address.
//!
//! The format is HAProxy's `doc/proxy-protocol.txt` (2020/03/05). The parser does no I/O and is
//! strict: it takes what has arrived so far, and returns the header's exact length, so that nothing
//! after it is treated as part of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest accepted header in octets.
///
/// Version 1 has at most 107 (§2.1); version 2 could have 65,551, but headers of real load
/// balancers, with all TLVs in use (a client's certificate names, a VPC endpoint), are well below
/// this.
pub(crate) const MAX_HEADER: usize = 4096;

const V1_LONGEST: usize = 107;
const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

/// The result of parsing the octets that have arrived so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The header is incomplete.
    NeedMore,
    /// The header is complete.
    Done(Header),
}

/// A PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The addresses of the connection, if the header has any.
    pub(crate) addresses: Option<Addresses>,
    /// Its length in octets: what follows belongs to the client.
    pub(crate) length: usize,
}

/// The addresses of the connection that the load balancer accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The client's address.
    pub(crate) source: SocketAddr,
    /// The load balancer's address that the client connected to.
    pub(crate) destination: SocketAddr,
}

/// Why octets are not a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// They start with neither signature.
    #[error("the connection does not start with a PROXY protocol header")]
    Signature,
    /// A version, command, family or transport that is undefined, or not for streams.
    #[error("the header's version, command or address family is unknown")]
    Unknown,
    /// A version 1 line that violates §2.1.
    #[error("the version 1 header line is malformed")]
    Line,
    /// Longer than [`MAX_HEADER`], too short for its addresses, or not filled by its TLVs.
    #[error("the header's length does not match its contents")]
    Length,
}

/// Parses the header at the start of `octets`.
///
/// # Errors
/// They cannot become a header, whatever follows.
pub(crate) fn read(octets: &[u8]) -> Result<Progress, Malformed> {
    if starts_alike(octets, &V2_SIGNATURE) {
        return read_v2(octets);
    }
    if starts_alike(octets, V1_SIGNATURE) {
        return read_v1(octets);
    }
    Err(Malformed::Signature)
}

/// Whether one is a prefix of the other.
fn starts_alike(octets: &[u8], signature: &[u8]) -> bool {
    octets.iter().zip(signature).all(|(octet, expected)| octet == expected)
}

fn read_v1(octets: &[u8]) -> Result<Progress, Malformed> {
    let window = octets.get(..V1_LONGEST).unwrap_or(octets);
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() < V1_LONGEST {
            Ok(Progress::NeedMore)
        } else {
            Err(Malformed::Line)
        };
    };
    let line =
        window.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed::Line)?;
    let rest = line.strip_prefix("PROXY ").ok_or(Malformed::Line)?;
    Ok(Progress::Done(Header { addresses: read_v1_addresses(rest)?, length: end + 1 }))
}

/// Parses what follows `PROXY `: exactly one space between fields, and anything after `UNKNOWN`
/// (§2.1).
fn read_v1_addresses(text: &str) -> Result<Option<Addresses>, Malformed> {
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Ok(None);
    }
    let mut fields = text.split(' ');
    let mut field = || fields.next().ok_or(Malformed::Line);
    let address: fn(&str) -> Option<IpAddr> = match field()? {
        "TCP4" => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(Malformed::Line),
    };
    let source = address(field()?).ok_or(Malformed::Line)?;
    let destination = address(field()?).ok_or(Malformed::Line)?;
    let source_port = port(field()?).ok_or(Malformed::Line)?;
    let destination_port = port(field()?).ok_or(Malformed::Line)?;
    if fields.next().is_some() {
        return Err(Malformed::Line);
    }
    let source = SocketAddr::new(source, source_port);
    let destination = SocketAddr::new(destination, destination_port);
    Ok(Some(Addresses { source, destination }))
}

/// Parses a decimal port, without sign or leading zero (§2.1).
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    (digits && plain).then(|| text.parse().ok()).flatten()
}

fn read_v2(octets: &[u8]) -> Result<Progress, Malformed> {
    let Some((fixed, rest)) = octets.split_first_chunk::<V2_FIXED>() else {
        // Fails early for another version: it would otherwise wait for more octets.
        return match octets.get(V2_SIGNATURE.len()) {
            Some(version) if version >> 4 != 2 => Err(Malformed::Unknown),
            _ => Ok(Progress::NeedMore),
        };
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_FIXED + length > MAX_HEADER {
        return Err(Malformed::Length);
    }
    let carried = V2Carried::new(command, family)?;
    let Some(payload) = rest.get(..length) else {
        return Ok(Progress::NeedMore);
    };
    Ok(Progress::Done(Header { addresses: carried.read(payload)?, length: V2_FIXED + length }))
}

/// The kind of payload of a version 2 header.
enum V2Carried {
    /// `LOCAL`: the load balancer's own connection (a health check); the payload is skipped (§2.2).
    Local,
    /// `UNSPEC` or UNIX addresses: no IP address.
    NoAddress {
        octets: usize,
    },
    Ipv4,
    Ipv6,
}

// === impl V2Carried ===

impl V2Carried {
    fn new(command: u8, family: u8) -> Result<Self, Malformed> {
        match (command, family) {
            (0x20, _) => Ok(Self::Local),
            (0x21, 0x00) => Ok(Self::NoAddress { octets: 0 }),
            (0x21, 0x11) => Ok(Self::Ipv4),
            (0x21, 0x21) => Ok(Self::Ipv6),
            (0x21, 0x31) => Ok(Self::NoAddress { octets: 216 }),
            _ => Err(Malformed::Unknown),
        }
    }

    fn read(&self, payload: &[u8]) -> Result<Option<Addresses>, Malformed> {
        let (addresses, tlvs) = match self {
            Self::Local => return Ok(None),
            Self::NoAddress { octets } => (None, payload.get(*octets..).ok_or(Malformed::Length)?),
            Self::Ipv4 => {
                let (source, rest) = payload.split_first_chunk::<4>().ok_or(Malformed::Length)?;
                let (destination, rest) = rest.split_first_chunk::<4>().ok_or(Malformed::Length)?;
                addresses(
                    Ipv4Addr::from(*source).into(),
                    Ipv4Addr::from(*destination).into(),
                    rest,
                )?
            }
            Self::Ipv6 => {
                let (source, rest) = payload.split_first_chunk::<16>().ok_or(Malformed::Length)?;
                let (destination, rest) =
                    rest.split_first_chunk::<16>().ok_or(Malformed::Length)?;
                addresses(
                    Ipv6Addr::from(*source).into(),
                    Ipv6Addr::from(*destination).into(),
                    rest,
                )?
            }
        };
        skip_tlvs(tlvs)?;
        Ok(addresses)
    }
}

/// Parses the ports after two IP addresses, and returns what follows them.
fn addresses(
    source: IpAddr,
    destination: IpAddr,
    rest: &[u8],
) -> Result<(Option<Addresses>, &[u8]), Malformed> {
    let (ports, rest) = rest.split_first_chunk::<4>().ok_or(Malformed::Length)?;
    let [a, b, c, d] = *ports;
    let source = SocketAddr::new(source, u16::from_be_bytes([a, b]));
    let destination = SocketAddr::new(destination, u16::from_be_bytes([c, d]));
    Ok((Some(Addresses { source, destination }), rest))
}

/// TLVs (§2.2) must fill the rest exactly; none of them is used.
fn skip_tlvs(mut octets: &[u8]) -> Result<(), Malformed> {
    while !octets.is_empty() {
        let ([_kind, high, low], rest) =
            octets.split_first_chunk::<3>().ok_or(Malformed::Length)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        octets = rest.get(length..).ok_or(Malformed::Length)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
