//! Which header fields the gateway sets, reads or frames by, in every spelling that some backend
//! takes for the same.

use smallvec::SmallVec;

/// What a field is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing: it goes through as it is.
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
    /// `Content-Length`: the codec has read it, and a codec writes it afresh.
    Length,
    /// Of one connection: `Transfer-Encoding`, `Keep-Alive`, `Proxy-Connection` and the like.
    HopByHop,
    /// Goes to the backend, may stand only once.
    Single,
    /// Goes to the backend, but never falls because `Connection` names it.
    Kept,
    /// `Cookie`.
    Cookie,
    /// Says who the caller is; only the gateway may say so.
    Identity,
    /// Says where the request came from, or what it was before; believed from trusted networks
    /// only.
    Forwarding,
}

/// What the field of that name, in lower case, is to the gateway.
pub(crate) fn role(name: &str) -> Role {
    match name.as_bytes() {
        [b'c', ..] => match name {
            "connection" => Role::Connection,
            "content-length" => Role::Length,
            "content-type" => Role::Single,
            "cookie" => Role::Cookie,
            "content-encoding" | "content-range" | "cache-control" => Role::Kept,
            "cf-connecting-ip" => Role::Forwarding,
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
            "traceparent" | "tracestate" | "true-client-ip" => Role::Forwarding,
            _ => Role::Free,
        },
        [b'f', ..] => match name {
            "forwarded" | "front-end-https" => Role::Forwarding,
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
        | b"real-ip" | b"request-id" => Role::Forwarding,
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
        // These let whoever sends them say what path, host or scheme a request had: some frameworks
        // route by them.
        b"original-url"
        | b"rewrite-url"
        | b"original-uri"
        | b"original-host"
        | b"original-method"
        | b"original-forwarded-for"
        | b"url-scheme"
        | b"client-ip"
        | b"cluster-client-ip"
        | b"envoy-external-address" => Role::Forwarding,
        _ if name.starts_with(b"auth-request-") || name.starts_with(b"portcullis-") => {
            Role::Identity
        }
        _ if name.starts_with(b"forwarded-") => Role::Forwarding,
        _ => Role::Free,
    }
}

/// The name as backends of the CGI family fold it: all that is neither letter nor digit is one
/// character to them. `None` where `name` has but letters, digits and `-`.
pub(crate) fn folded(name: &str) -> Option<SmallVec<[u8; 64]>> {
    let odd = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'-';
    name.as_bytes()
        .iter()
        .any(odd)
        .then(|| name.bytes().map(|byte| if odd(&byte) { b'-' } else { byte }).collect())
}

// === impl Role ===

impl Role {
    /// Whether the field means nothing to the gateway.
    pub(crate) fn is_free(self) -> bool {
        self == Self::Free
    }
}
