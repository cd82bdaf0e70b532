//! Sets the forwarding headers of requests, and removes hop-by-hop fields of responses and
//! [`trailers`] that must not be forwarded.
//!
//! [`normalize`](crate::normalize) has already removed a request's hop-by-hop fields, and those
//! that its client must not set. The gateway sets its own fields afterwards, so that no client can
//! have them removed.

mod client;
mod forwarded;
mod id;
pub(crate) mod prepared;
#[cfg(test)]
mod tests;
pub(crate) mod trailers;
mod trusted;

use std::fmt::Write;
use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use ipnet::IpNet;
use portcullis_config::settings::{Settings, TrustedHeader};
use smallvec::SmallVec;

pub(crate) use self::client::{ClientFacts, client};
pub(crate) use self::id::RequestId;
use crate::exchange::{Peer, ResponseHead};
use crate::itoa::put_address;
use crate::normalize::{Request, is_reserved, role, tokens};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The settings of forwarding headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProxyHeaderSettings {
    forwarded: bool,
    trusted: Vec<IpNet>,
    /// The header that trusted proxies describe clients with.
    believed: TrustedHeader,
}

// === impl ProxyHeaderSettings ===

impl ProxyHeaderSettings {
    /// Returns whether the forwarding headers of a client at `address` are trusted.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

impl From<&Settings> for ProxyHeaderSettings {
    fn from(settings: &Settings) -> Self {
        Self {
            forwarded: settings.forwarded_header,
            trusted: settings.trusted_networks.clone(),
            believed: settings.trusted_header,
        }
    }
}

/// Sets the proxy headers of a request from a trusted proxy for the backend. Returns the value of
/// `Host`, which the codec writes.
///
/// `client` is the result of [`client()`]. The headers of other requests are [`prepared`].
pub(crate) fn extend(
    request: &mut Request,
    peer: &Peer,
    client: ClientFacts,
    id: &RequestId,
    settings: &ProxyHeaderSettings,
) -> HeaderValue {
    let proxy = peer.client.ip().to_canonical();
    let hop = address(proxy);
    let host = request.authority.to_value();
    let own_port = || port(request.authority.port, client.tls);
    let headers = &mut request.headers;
    let real = if client.address == proxy { hop.clone() } else { address(client.address) };
    trusted::set(headers, client, &hop, &host, own_port, settings);
    keep_trace(headers);
    headers.insert(&X_REAL_IP, real);
    headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme(client.tls)));
    if settings.forwarded {
        append(headers, &header::FORWARDED, &element(proxy, &host, scheme(peer.tls)));
    } else {
        headers.remove(header::FORWARDED);
    }
    id.set(headers);
    host
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Removes from a head of a backend's response, interim or final, the hop-by-hop fields, and those
/// that frame a body which its status cannot have. Keeps `Content-Length` of other responses, which
/// is meaningful in responses to HEAD.
pub(crate) fn response(head: &mut ResponseHead) {
    let headers = &mut head.headers;
    let is_dropped = |name: &&HeaderName| is_hop_by_hop(name);
    let mut drop: SmallVec<[HeaderName; 4]> = headers.keys().filter(is_dropped).cloned().collect();
    // `Connection` is one of them, if it is there.
    if !drop.is_empty() {
        let options = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
        let names = options.filter_map(|option| HeaderName::from_bytes(option).ok());
        drop.extend(names.filter(is_removable));
    }
    for name in drop {
        headers.remove(name);
    }
    // RFC 9110 §8.6: neither status may have it.
    if head.status.is_informational() || head.status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Removes the fields that clients must not send from an interim head, in every spelling: such a
/// head is for hints, and some recipients merge it into the final one.
pub(crate) fn interim_response(headers: &mut HeaderMap) {
    trailers::keep(headers, |name, _| !is_reserved(name.as_str()));
}

/// Adds `Date` to a final head if it is missing (RFC 9110 §6.6.1).
pub(crate) fn add_date(headers: &mut HeaderMap, date: &HeaderValue) {
    if !headers.contains_key(header::DATE) {
        headers.insert(header::DATE, date.clone());
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Returns whether `Connection` in a response may remove a field: not those that describe the
/// response or protect its reader.
fn is_removable(name: &HeaderName) -> bool {
    role(name.as_str()).is_free()
        && !matches!(*name, header::SET_COOKIE | header::CONTENT_SECURITY_POLICY | header::DATE)
}

/// Appends a value to a list header, and joins the list into one field.
fn append(headers: &mut HeaderMap, name: &HeaderName, last: &HeaderValue) {
    let mut list = Vec::new();
    for value in headers.get_all(name).iter().filter(|value| !value.is_empty()) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(last.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
        headers.insert(name, value);
    }
}

/// Removes a malformed trace context (W3C Trace Context §4.3): the backend then starts a new trace.
fn keep_trace(headers: &mut HeaderMap) {
    let mut parents = headers.get_all(&TRACEPARENT).iter();
    let keep = parents.next().is_some_and(|value| is_traceparent(value.as_bytes()))
        && parents.next().is_none();
    if !keep {
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
    }
}

/// Matches `version "-" trace-id "-" parent-id "-" flags` in lower-case hexadecimal (W3C Trace
/// Context §3.2); later versions may append parts.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |digits: &[u8], length: usize| {
        digits.len() == length
            && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    let not_zero = |digits: &[u8]| digits.iter().any(|digit| *digit != b'0');
    let mut parts = value.split(|byte| *byte == b'-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let ends = parts.next().is_none() || version != b"00";
    hex(version, 2)
        && version != b"ff"
        && hex(trace, 32)
        && not_zero(trace)
        && hex(parent, 16)
        && not_zero(parent)
        && hex(flags, 2)
        && ends
}

/// Formats an element of `Forwarded` (RFC 7239 §4). IPv6 addresses and hosts with a port must be
/// quoted (§6).
fn element(client: IpAddr, host: &HeaderValue, scheme: &str) -> HeaderValue {
    let mut text = String::with_capacity(96);
    let written = match client {
        IpAddr::V4(client) => write!(text, "for={client}"),
        IpAddr::V6(client) => write!(text, "for=\"[{client}]\""),
    };
    let host = host.to_str().unwrap_or_default();
    let written = written.and_then(|()| write!(text, ";host=\"{host}\";proto={scheme}"));
    written
        .ok()
        .and_then(|()| HeaderValue::try_from(text).ok())
        .unwrap_or(HeaderValue::from_static("for=unknown"))
}

fn address(address: IpAddr) -> HeaderValue {
    let mut text = Vec::with_capacity("255.255.255.255".len());
    put_address(&mut text, address);
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Returns the port of the request: the explicit one, else the scheme's default.
fn port(explicit: Option<u16>, tls: bool) -> HeaderValue {
    match (explicit, tls) {
        (Some(port), _) => HeaderValue::from(port),
        (None, true) => HeaderValue::from_static("443"),
        (None, false) => HeaderValue::from_static("80"),
    }
}
