//! The facts about a client behind trusted proxies.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use portcullis_config::settings::TrustedHeader;
use smallvec::SmallVec;

use super::{ProxyHeaderSettings, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REAL_IP, forwarded};
use crate::exchange::Peer;
use crate::normalize::tokens;

/// The facts about the client of one request, on which the gateway's own decisions depend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientFacts {
    pub(crate) address: IpAddr,
    /// Whether the client uses HTTPS: to the gateway, or to a trusted proxy in front.
    pub(crate) tls: bool,
    /// Which elements of the trusted proxies' headers describe the client.
    pub(super) hop: Hop,
}

/// Which element of the lists that trusted proxies extend describes the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// The first one: of `X-Forwarded-*`, lists whose lengths differ.
    First,
    /// The one with this index, in lists of this length.
    At { index: usize, length: usize },
}

/// A scheme that a proxy reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Returns the facts about the client: those of the connection, unless the peer is a trusted proxy.
///
/// Then the address is the last one in `X-Forwarded-For`, or `for` in `Forwarded`, that is not a
/// trusted proxy's, else the one in `X-Real-IP`.
pub(crate) fn client(
    headers: &HeaderMap,
    peer: &Peer,
    settings: &ProxyHeaderSettings,
) -> ClientFacts {
    let own = ClientFacts::of_connection(peer);
    match settings.believed {
        _ if !peer.trusted => own,
        TrustedHeader::XForwarded => x_forwarded(headers, own, settings),
        TrustedHeader::Forwarded => rfc7239(headers, own, settings),
    }
}

fn x_forwarded(
    headers: &HeaderMap,
    own: ClientFacts,
    settings: &ProxyHeaderSettings,
) -> ClientFacts {
    let list = || headers.get_all(&X_FORWARDED_FOR).iter().flat_map(tokens);
    let mut found = None;
    let nodes = list().collect::<SmallVec<[&[u8]; 4]>>();
    for (index, node) in nodes.iter().enumerate().rev() {
        // A node that is no address ends the trusted part: its author did not know the client.
        let Some(address) = parse_address(node) else { break };
        found = Some((address, Hop::At { index, length: nodes.len() }));
        if !settings.trusts(address) {
            break;
        }
    }
    let (address, hop) = found.unwrap_or_else(|| {
        let real = headers.get(&X_REAL_IP).and_then(|value| parse_address(value.as_bytes()));
        (real.unwrap_or(own.address), Hop::First)
    });
    let scheme = hop.of(headers, &X_FORWARDED_PROTO).and_then(Scheme::parse);
    ClientFacts { address, tls: scheme.map_or(own.tls, Scheme::is_https), hop }
}

fn rfc7239(headers: &HeaderMap, own: ClientFacts, settings: &ProxyHeaderSettings) -> ClientFacts {
    let elements = forwarded::elements(headers);
    let mut facts = own;
    for (index, element) in elements.iter().enumerate().rev() {
        // A proxy that reports no scheme does not change what is known.
        facts.tls = element.scheme.map_or(facts.tls, Scheme::is_https);
        facts.hop = Hop::At { index, length: elements.len() };
        // A hidden or unknown node ends the trusted part.
        let Some(address) = element.address else { break };
        facts.address = address;
        if !settings.trusts(address) {
            break;
        }
    }
    facts
}

/// Parses an address, with a port or without: some proxies add one, and `Forwarded` may.
pub(super) fn parse_address(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address =
        bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

// === impl ClientFacts ===

impl ClientFacts {
    /// Returns what the connection itself says.
    pub(crate) fn of_connection(peer: &Peer) -> Self {
        Self { address: peer.client.ip().to_canonical(), tls: peer.tls, hop: Hop::First }
    }
}

// === impl Hop ===

impl Hop {
    /// Returns the element of a list of `X-Forwarded-*` that describes the client: all fields of the
    /// name are one list (RFC 9110 §5.3).
    pub(super) fn of<'h>(self, headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
        let list = || headers.get_all(name).iter().flat_map(tokens);
        match self {
            Self::At { index, length } if length > 1 && list().count() == length => {
                list().nth(index)
            }
            _ => list().next(),
        }
    }
}

// === impl Scheme ===

impl Scheme {
    /// Parses a scheme, without case (RFC 3986 §3.1). Some proxies report those of WebSockets.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let is = |scheme: &[u8]| text.eq_ignore_ascii_case(scheme);
        if is(b"https") || is(b"wss") {
            Some(Self::Https)
        } else if is(b"http") || is(b"ws") {
            Some(Self::Http)
        } else {
            None
        }
    }

    pub(super) fn is_https(self) -> bool {
        self == Self::Https
    }
}
