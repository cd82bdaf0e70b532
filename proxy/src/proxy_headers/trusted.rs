//! The forwarding headers of requests from trusted proxies: what describes the client is kept, as one
//! value, and the proxy is added.

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_config::settings::TrustedHeader;

use super::client::{ClientFacts, Hop};
use super::forwarded;
use super::{
    ProxyHeaderSettings, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, address, append, port,
};
use crate::normalize::Authority;

/// Sets `X-Forwarded-For`, `-Host` and `-Port`. `hop` is the proxy's address, and `host` and `port`
/// are what the request itself says.
pub(super) fn set(
    headers: &mut HeaderMap,
    client: ClientFacts,
    hop: &HeaderValue,
    host: &HeaderValue,
    port: impl FnOnce() -> HeaderValue,
    settings: &ProxyHeaderSettings,
) {
    match settings.believed {
        TrustedHeader::XForwarded => {
            append(headers, &X_FORWARDED_FOR, hop);
            let is_host = |text: &[u8]| Authority::parse(text).is_ok();
            keep_or_set(headers, &X_FORWARDED_HOST, client.hop, is_host, || host.clone());
            keep_or_set(headers, &X_FORWARDED_PORT, client.hop, is_port, port);
        }
        TrustedHeader::Forwarded => translate(headers, client, hop, host, port),
    }
}

/// Translates `Forwarded` to the headers that backends know, from the client's element on.
fn translate(
    headers: &mut HeaderMap,
    client: ClientFacts,
    hop: &HeaderValue,
    host: &HeaderValue,
    own_port: impl FnOnce() -> HeaderValue,
) {
    let (addresses, authority) = {
        let elements = forwarded::elements(headers);
        let known = match client.hop {
            Hop::At { index, .. } => elements.get(index..).unwrap_or_default(),
            Hop::First => &[],
        };
        let addresses: Vec<_> =
            known.iter().filter_map(|element| element.address).map(address).collect();
        let host = known.first().and_then(|element| element.host);
        (addresses, host.and_then(|host| Authority::parse(host).ok()))
    };
    headers.remove(&X_FORWARDED_FOR);
    for address in addresses {
        append(headers, &X_FORWARDED_FOR, &address);
    }
    append(headers, &X_FORWARDED_FOR, hop);
    let (host, port) = match authority {
        Some(authority) => (authority.to_value(), port(authority.port, client.tls)),
        None => (host.clone(), own_port()),
    };
    headers.insert(&X_FORWARDED_HOST, host);
    headers.insert(&X_FORWARDED_PORT, port);
}

/// Keeps the element that describes the client as the only value if it is valid; sets `ours`
/// otherwise.
fn keep_or_set(
    headers: &mut HeaderMap,
    name: &HeaderName,
    hop: Hop,
    is_valid: impl Fn(&[u8]) -> bool,
    ours: impl FnOnce() -> HeaderValue,
) {
    let kept = hop.of(headers, name).filter(|element| is_valid(element));
    let value = kept.and_then(|element| HeaderValue::from_bytes(element).ok()).unwrap_or_else(ours);
    headers.insert(name, value);
}

fn is_port(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|value| value.parse::<u16>().is_ok_and(|port| port > 0))
}
