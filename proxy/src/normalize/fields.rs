//! The header fields with a meaning to the gateway, in all spellings that some backends treat as
//! equal.

use smallvec::SmallVec;

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
            "cf-connecting-ip" => Role::ProxyHeaderSettings,
            _ => Role::Free,
        },
        [b'h', ..] => match name {
            "host" => Role::Host,
            "http2-settings" => Role::Http2Settings,
            _ => Role::Free,
        },
        [b't', ..] => match name {
            "te" => Role::Te,
            "transfer-encoding" => Role::HopByHop,
            "trailer" => Role::Kept,
            "traceparent" | "tracestate" | "true-client-ip" => Role::ProxyHeaderSettings,
            _ => Role::Free,
        },
        [b'f', ..] => match name {
            "forwarded" | "front-end-https" => Role::ProxyHeaderSettings,
            _ => Role::Free,
        },
        [b'x', b'-', rest @ ..] => extension(rest),
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
        "remote-user" => Role::Identity,
        _ => Role::Free,
    }
}

fn extension(name: &[u8]) -> Role {
    match name {
        b"forwarded-for" | b"forwarded-proto" | b"forwarded-host" | b"forwarded-port"
        | b"real-ip" | b"request-id" => Role::ProxyHeaderSettings,
        b"forwarded-user"
        | b"forwarded-email"
        | b"forwarded-groups"
        | b"forwarded-preferred-username"
        | b"forwarded-access-token"
        | b"forwarded-client-cert"
        | b"remote-user"
        | b"remote-group"
        | b"remote-groups"
        | b"webauth-user" => Role::Identity,
        // These override path, host or scheme in some frameworks.
        b"original-url"
        | b"rewrite-url"
        | b"original-uri"
        | b"original-host"
        | b"original-method"
        | b"original-forwarded-for"
        | b"url-scheme"
        | b"client-ip"
        | b"cluster-client-ip"
        | b"envoy-external-address" => Role::ProxyHeaderSettings,
        _ if name.starts_with(b"auth-request-") || name.starts_with(b"portcullis-") => {
            Role::Identity
        }
        _ if name.starts_with(b"forwarded-") => Role::ProxyHeaderSettings,
        _ => Role::Free,
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

// === impl Role ===

impl Role {
    /// Returns whether the field has no meaning to the gateway.
    pub(crate) fn is_free(self) -> bool {
        self == Self::Free
    }
}
