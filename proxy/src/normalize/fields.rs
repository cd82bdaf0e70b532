//! The header fields with a meaning to the gateway, in all spellings that some backends treat as
//! equal.

use smallvec::SmallVec;

use super::reserved::{SetBy, reserved};

/// The meaning of a header field to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// None: it is forwarded unchanged.
    Free,
    /// `Host`.
    Host,
    /// `Connection`.
    Connection,
    /// `Upgrade`.
    Upgrade,
    /// `Expect`.
    Expect,
    /// `TE`.
    Te,
    /// `HTTP2-Settings`.
    Http2Settings,
    /// `Content-Length`, which codecs parse and write.
    Length,
    /// Hop-by-hop: `Transfer-Encoding`, `Keep-Alive`, `Proxy-Connection` and others.
    HopByHop,
    /// Forwarded, must not be repeated.
    Single,
    /// Forwarded, even if `Connection` lists it.
    Kept,
    /// `Cookie`.
    Cookie,
    /// Identifies the caller; only the gateway may set it.
    Identity,
    /// Describes the origin or the original form of a request; accepted from trusted networks only.
    ProxyHeaderSettings,
}

/// Returns the role of the field with that lower-case name.
pub(crate) fn role(name: &str) -> Role {
    match name.as_bytes() {
        [b'c', ..] => match name {
            "connection" => Role::Connection,
            "content-length" => Role::Length,
            "content-type" => Role::Single,
            "cookie" => Role::Cookie,
            "content-encoding" | "content-range" | "cache-control" => Role::Kept,
            _ => by_owner(name),
        },
        [b'h', ..] => match name {
            "host" => Role::Host,
            "http2-settings" => Role::Http2Settings,
            _ => by_owner(name),
        },
        [b't', ..] => match name {
            "te" => Role::Te,
            "transfer-encoding" => Role::HopByHop,
            "trailer" => Role::Kept,
            _ => by_owner(name),
        },
        [b'f' | b'x', ..] => by_owner(name),
        _ => other(name),
    }
}

fn other(name: &str) -> Role {
    match name {
        "upgrade" => Role::Upgrade,
        "expect" => Role::Expect,
        "keep-alive"
        | "proxy-connection"
        | "proxy-authorization"
        | "proxy-authenticate"
        | "proxy-authentication-info" => Role::HopByHop,
        "authorization" | "sec-websocket-key" | "sec-websocket-version" => Role::Single,
        "sec-websocket-protocol"
        | "sec-websocket-extensions"
        | "sec-websocket-accept"
        | "range"
        | "accept"
        | "origin" => Role::Kept,
        _ => by_owner(name),
    }
}

/// Returns the role of a field that only some senders may set, or that is free.
fn by_owner(name: &str) -> Role {
    match reserved(name) {
        Some(SetBy::Gateway) => Role::Identity,
        Some(SetBy::TrustedProxies) => Role::ProxyHeaderSettings,
        None => Role::Free,
    }
}

/// Folds a name as CGI does: all characters except letters and digits become `-`. Returns `None` if
/// that does not change it.
pub(crate) fn folded(name: &str) -> Option<SmallVec<[u8; 64]>> {
    let is_special = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'-';
    name.as_bytes()
        .iter()
        .any(is_special)
        .then(|| name.bytes().map(|byte| if is_special(&byte) { b'-' } else { byte }).collect())
}

/// Returns whether only the gateway, or a trusted proxy, may set the field of that lower-case name
/// or of one that folds to it.
pub(crate) fn is_reserved(name: &str) -> bool {
    match folded(name) {
        None => reserved(name).is_some(),
        Some(folded) => std::str::from_utf8(&folded).is_ok_and(|name| reserved(name).is_some()),
    }
}

// === impl Role ===

impl Role {
    /// Returns whether the field has no meaning to the gateway.
    pub(crate) fn is_free(self) -> bool {
        self == Self::Free
    }
}
