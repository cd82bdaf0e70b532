//! Determines the client's address behind trusted proxies.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::{ProxyHeaderSettings, X_FORWARDED_FOR, X_REAL_IP};
use crate::exchange::Peer;

/// Returns the client's address: that of the peer, unless it is a trusted proxy. Then the last
/// address in `X-Forwarded-For` that is not a trusted proxy, else `X-Real-IP`.
pub(crate) fn client(headers: &HeaderMap, peer: &Peer, settings: &ProxyHeaderSettings) -> IpAddr {
    let hop = peer.client.ip().to_canonical();
    if !peer.trusted {
        return hop;
    }
    let list = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    let mut first = None;
    for entry in list.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
        // Do not trust entries before an invalid one.
        let Some(address) = parse(entry.trim_ascii()) else { break };
        if !settings.trusts(address) {
            return address;
        }
        first = Some(address);
    }
    first
        .or_else(|| headers.get(&X_REAL_IP).and_then(|value| parse(value.as_bytes())))
        .unwrap_or(hop)
}

/// Parses an address, with or without a port.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address =
        bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}
