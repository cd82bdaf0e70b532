//! The discovery documents of issuers (OpenID Connect Discovery 1.0, RFC 8414).

use http::Uri;
use serde::Deserialize;

use super::{KeysError, get};
use crate::outbound::Client;

/// The endpoints of an issuer (OpenID Connect Discovery 1.0 §3, RFC 8414 §2).
#[derive(Debug, Clone, Deserialize)]
pub struct Discovery {
    /// The issuer identifier.
    pub issuer: String,
    /// URL of the key set.
    pub jwks_uri: String,
    /// URL of the introspection endpoint (RFC 8414 §2).
    #[serde(default)]
    pub introspection_endpoint: Option<String>,
    /// URL of the authorization endpoint.
    pub authorization_endpoint: Option<String>,
    /// URL of the token endpoint.
    pub token_endpoint: Option<String>,
    /// How clients may authenticate at the token endpoint.
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// URL of the userinfo endpoint (OpenID Connect Core 1.0 §5.3).
    pub userinfo_endpoint: Option<String>,
    /// URL for logout (OpenID Connect RP-Initiated Logout 1.0 §2.1).
    pub end_session_endpoint: Option<String>,
    /// The scopes that it offers, as far as it lists them.
    #[serde(default)]
    pub scopes_supported: Vec<String>,
    /// RFC 9207 §3.
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// Fetches an issuer's discovery document, and checks that it is the issuer's own.
pub(super) async fn discover(client: &Client, issuer: &str) -> Result<Discovery, KeysError> {
    let uri = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let discovery: Discovery =
        serde_json::from_slice(&get(client, &uri).await?).map_err(|_| KeysError::Discovery)?;
    if discovery.issuer == issuer {
        discovery.restricted()
    } else {
        Err(KeysError::OtherIssuer(discovery.issuer.chars().take(200).collect()))
    }
}

// === impl Discovery ===

impl Discovery {
    /// Leaves out endpoints that are not `https` URLs, unless the issuer itself is on a loopback
    /// host: a provider elsewhere must not send the gateway to what listens on its own machine, such
    /// as its administration, nor browsers to other schemes.
    ///
    /// # Errors
    /// The key set has no such URL.
    fn restricted(mut self) -> Result<Self, KeysError> {
        let scheme = |url: &str| {
            let uri: Option<Uri> = url.parse().ok();
            uri.and_then(|uri| uri.scheme_str().map(str::to_ascii_lowercase))
        };
        let is_local = scheme(&self.issuer).as_deref() == Some("http");
        let is_allowed = |url: &str| match scheme(url).as_deref() {
            Some("https") => true,
            Some("http") => is_local,
            _ => false,
        };
        for endpoint in [
            &mut self.introspection_endpoint,
            &mut self.authorization_endpoint,
            &mut self.token_endpoint,
            &mut self.userinfo_endpoint,
            &mut self.end_session_endpoint,
        ] {
            *endpoint = endpoint.take().filter(|url| is_allowed(url));
        }
        if is_allowed(&self.jwks_uri) { Ok(self) } else { Err(KeysError::Discovery) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_provider_elsewhere_names_no_endpoint_on_this_machine() {
        let discovery = |issuer: &str, endpoint: &str| {
            let document = json!({
                "issuer": issuer, "jwks_uri": format!("{issuer}/keys"),
                "introspection_endpoint": endpoint, "authorization_endpoint": endpoint,
                "token_endpoint": endpoint, "userinfo_endpoint": endpoint,
                "end_session_endpoint": endpoint,
            });
            serde_json::from_value::<Discovery>(document).unwrap()
        };
        let endpoints = |issuer: &str, endpoint: &str| {
            let discovery = discovery(issuer, endpoint).restricted().unwrap();
            [
                discovery.introspection_endpoint,
                discovery.authorization_endpoint,
                discovery.token_endpoint,
                discovery.userinfo_endpoint,
                discovery.end_session_endpoint,
            ]
        };
        let admin = "http://127.0.0.1:9903/sessions/rotate?end=true";
        for (issuer, endpoint, is_kept) in [
            ("https://id.example", "https://id.example/a?b", true),
            ("https://id.example", "HTTPS://other.example", true),
            ("https://id.example", admin, false),
            ("https://id.example", "http://localhost:9903/", false),
            ("https://id.example", "http://id.example/a", false),
            ("https://id.example", "javascript:alert(1)", false),
            ("https://id.example", "//id.example", false),
            ("https://id.example", "", false),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/token", true),
        ] {
            let expected = [(); 5].map(|()| is_kept.then(|| endpoint.to_owned()));
            assert_eq!(endpoints(issuer, endpoint), expected, "{issuer} {endpoint}");
        }
        let keys = Discovery {
            jwks_uri: admin.to_owned(),
            ..discovery("https://id.example", "https://id.example")
        };
        assert!(matches!(keys.restricted(), Err(KeysError::Discovery)));
    }
}
