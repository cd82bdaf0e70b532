//! The header fields that only the gateway, or a proxy that it trusts, may set: one list, for heads
//! and trailers alike.
//!
//! Names are in lower case, and [folded](super::folded) where a backend could fold them.

/// Who may set a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetBy {
    /// Only the gateway: the field identifies the caller, or configures the backend.
    Gateway,
    /// The gateway, and proxies in trusted networks: the field states a request's origin, its
    /// earlier form, or who authenticated it.
    TrustedProxies,
}

use SetBy::{Gateway, TrustedProxies};

/// Returns who may set the field of that name; `None` for every client.
pub(crate) fn reserved(name: &str) -> Option<SetBy> {
    match name.as_bytes() {
        [b'x', b'-', rest @ ..] => extension(rest),
        [b'c', ..] => match name {
            // RFC 9440 §4: a gateway that terminates TLS removes both from requests.
            "client-cert" | "client-cert-chain" => Some(Gateway),
            // `HTTP_CLIENT_IP` is what PHP applications look at first.
            "client-ip" | "cf-visitor" => Some(TrustedProxies),
            _ => proxies(name.starts_with("cf-access-") || name.starts_with("cf-connecting-")),
        },
        [b'f', ..] => proxies(matches!(name, "forwarded" | "front-end-https" | "fastly-client-ip")),
        [b'p', ..] => match name {
            // CGI passes it as `HTTP_PROXY`, which HTTP clients read as their own proxy
            // (CVE-2016-5385, "httpoxy").
            "proxy" => Some(Gateway),
            _ => proxies(name == "proxy-client-ip"),
        },
        [b'r', ..] => matches!(
            name,
            "remote-user" | "remote-group" | "remote-groups" | "remote-name" | "remote-email"
        )
        .then_some(Gateway),
        // ingress-nginx, and products that run behind agents of their own.
        [b's', ..] => proxies(
            ["ssl-client-", "sm-user", "shib-"].iter().any(|prefix| name.starts_with(prefix)),
        ),
        [b't', ..] => match name {
            "traceparent" | "tracestate" | "true-client-ip" | "teleport-jwt-assertion" => {
                Some(TrustedProxies)
            }
            _ => proxies(name.starts_with("tailscale-")),
        },
        [b'w', ..] => proxies(name == "wl-proxy-client-ip"),
        _ => None,
    }
}

fn proxies(is_reserved: bool) -> Option<SetBy> {
    is_reserved.then_some(TrustedProxies)
}

/// Names that begin with `X-`, without it.
fn extension(name: &[u8]) -> Option<SetBy> {
    match name {
        b"forwarded-user"
        | b"forwarded-email"
        | b"forwarded-groups"
        | b"forwarded-preferred-username"
        | b"forwarded-access-token"
        | b"forwarded-client-cert"
        | b"remote-user"
        | b"remote-group"
        | b"remote-groups"
        | b"remote-uid"
        | b"webauth-user" => Some(Gateway),
        b"real-ip"
        | b"request-id"
        // These state which path, host or scheme a request had: some frameworks route by them.
        | b"original-url"
        | b"rewrite-url"
        | b"original-uri"
        | b"original-host"
        | b"original-method"
        | b"original-path"
        | b"original-proto"
        | b"original-port"
        | b"original-remote-addr"
        | b"original-forwarded-for"
        | b"replaced-path"
        | b"url-scheme"
        | b"scheme"
        | b"host"
        | b"client-ip"
        | b"cluster-client-ip"
        | b"originating-ip"
        | b"remote-ip"
        | b"remote-addr"
        | b"azure-clientip"
        | b"azure-socketip"
        | b"proxyuser-ip"
        // These state who was authenticated, under the names of other gateways.
        | b"auth-email"
        | b"auth-groups"
        | b"auth-roles"
        | b"auth-subject"
        | b"auth-name"
        | b"userinfo"
        | b"credential-identifier"
        | b"anonymous-consumer"
        | b"client-dn"
        | b"arr-clientcert"
        | b"client-verify" => Some(TrustedProxies),
        _ if GATEWAY.iter().any(|prefix| name.starts_with(prefix)) => Some(Gateway),
        _ => {
            let prefixes = name.first().map_or(&[][..], |first| of_trusted_proxies(*first));
            proxies(prefixes.iter().any(|prefix| name.starts_with(prefix)))
        }
    }
}

const GATEWAY: [&[u8]; 3] = [b"auth-request-", b"portcullis-", b"remote-extra-"];

/// The prefixes that begin with this letter, of names that trusted proxies may set.
fn of_trusted_proxies(first: u8) -> &'static [&'static [u8]] {
    match first {
        b'a' => &[
            b"auth-user",
            b"authenticated-",
            b"authentik-",
            b"amzn-oidc-",
            b"amzn-mtls-",
            b"appengine-",
        ],
        b'c' => &[b"client-cert", b"consumer-"],
        b'e' => &[b"envoy-"],
        b'f' => &[b"forwarded"],
        b'g' => &[b"goog-authenticated-user-", b"goog-iap-"],
        b'm' => &[b"ms-client-principal", b"ms-token-"],
        b'p' => &[b"pomerium-"],
        b's' => &[b"ssl-"],
        b't' => &[b"tls-client-"],
        b'v' => &[b"vouch-"],
        b'w' => &[b"webauth-"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_identify_callers_are_the_gateways() {
        for name in [
            "proxy",
            "client-cert",
            "client-cert-chain",
            "remote-user",
            "x-remote-user",
            "x-forwarded-user",
            "x-auth-request-user",
            "x-auth-request-anything",
            "x-portcullis-jwt-assertion",
            "x-remote-extra-scopes",
            "x-remote-uid",
        ] {
            assert_eq!(reserved(name), Some(Gateway), "{name}");
        }
    }

    #[test]
    fn names_that_state_an_origin_are_those_of_trusted_proxies() {
        for name in [
            "forwarded",
            "x-forwarded",
            "x-forwarded-for",
            "x-forwardedfor",
            "x-forwarded-anything",
            "x-real-ip",
            "x-auth-user",
            "x-auth-username",
            "x-goog-iap-jwt-assertion",
            "x-client-cert-subject",
            "cf-connecting-ip",
            "cf-access-jwt-assertion",
            "cf-visitor",
            "client-ip",
            "shib-identity-provider",
            "sm-user",
            "ssl-client-subject-dn",
            "ssl-client-verify",
            "tailscale-user-login",
            "teleport-jwt-assertion",
            "traceparent",
            "x-amzn-mtls-clientcert-subject",
            "x-appengine-user-email",
            "x-auth-subject",
            "x-consumer-username",
            "x-envoy-original-path",
            "x-ms-token-aad-id-token",
            "x-original-path",
            "x-ssl-cert",
            "x-tls-client-cert",
            "x-userinfo",
            "x-vouch-user",
        ] {
            assert_eq!(reserved(name), Some(TrustedProxies), "{name}");
        }
    }

    #[test]
    fn other_names_are_free() {
        for name in [
            "x-api-key",
            "x-auth-token",
            "x-user-agent",
            "x-requested-with",
            "x-client-version",
            "client-version",
            "client-id",
            "ssl",
            "x-original-filename",
            "x-consume",
            "proxy-id",
            "from",
            "forward",
            "remote",
        ] {
            assert_eq!(reserved(name), None, "{name}");
        }
    }
}
