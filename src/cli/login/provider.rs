//! The OpenID provider to sign in with, as its discovery document describes it (OpenID Connect
//! Discovery 1.0 §3).

use portcullis_identity::outbound::{Answer, Client};
use serde::Deserialize;

use super::tokens::Registration;
use crate::cli::problems::Failure;

/// The scope of refresh tokens (OpenID Connect Core 1.0 §11).
pub(super) const OFFLINE: &str = "offline_access";

/// A discovered provider.
pub(in crate::cli) struct Provider<'r> {
    pub(super) registration: &'r Registration,
    pub(super) endpoints: Endpoints,
    client: Client,
}

#[derive(Deserialize)]
pub(super) struct Endpoints {
    issuer: String,
    pub(super) authorization_endpoint: String,
    token_endpoint: String,
    pub(super) device_authorization_endpoint: Option<String>,
    /// The scopes that it offers, as far as it lists them.
    #[serde(default)]
    scopes_supported: Vec<String>,
    /// RFC 9207 §3.
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// A successful response of the token endpoint (RFC 6749 §5.1).
#[derive(Deserialize)]
pub(in crate::cli) struct TokenResponse {
    pub(super) id_token: Option<String>,
    pub(super) access_token: Option<String>,
    pub(super) refresh_token: Option<String>,
    pub(super) expires_in: Option<u64>,
}

/// An error response: one of OAuth's error codes (RFC 6749 §5.2, RFC 8628 §3.5).
#[derive(Deserialize)]
pub(in crate::cli) struct ErrorResponse {
    pub(in crate::cli) error: String,
}

// === impl Provider ===

impl<'r> Provider<'r> {
    pub(in crate::cli) async fn discover(registration: &'r Registration) -> Result<Self, Failure> {
        let issuer = &registration.issuer;
        let client =
            Client::new(registration.certificate_authorities.as_deref()).map_err(|error| {
                Failure::new(format!("failed to load the certificate authorities: {error}"))
            })?;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let response = client
            .get(&url, "application/json")
            .await
            .map_err(|error| Failure::new(format!("{issuer} {error}")))?;
        let endpoints: Endpoints = serde_json::from_slice(&response.body).map_err(|_| {
            let message = format!(
                "{url} returned status {} without a discovery document",
                response.status.as_u16()
            );
            Failure::with_help(
                message,
                "check --issuer: it is the `issuer` of one of the gateway's `access.issuers`",
            )
        })?;
        if endpoints.issuer != *issuer {
            let help =
                format!("use --issuer {:?} if that is the intended issuer", endpoints.issuer);
            return Err(Failure::with_help(
                format!("the discovery document of {issuer} is for another issuer"),
                help,
            ));
        }
        if !is_web(&endpoints.authorization_endpoint) {
            let message = format!("{issuer} has no web page to sign in at");
            return Err(Failure::new(message));
        }
        Ok(Self { registration, endpoints, client })
    }

    /// Returns the scopes to request: `offline_access` only where the provider offers it, since
    /// others refuse sign-ins with a scope that they do not know.
    pub(super) fn scope(&self) -> String {
        offered(&self.registration.scope, &self.endpoints.scopes_supported)
    }

    /// Whether an authorization response with this `iss` is of this provider (RFC 9207 §2.4).
    pub(super) fn is_issuer(&self, iss: Option<&str>) -> bool {
        match iss {
            Some(iss) => iss == self.registration.issuer,
            None => !self.endpoints.authorization_response_iss_parameter_supported,
        }
    }

    /// Posts a form to the token endpoint.
    pub(in crate::cli) async fn tokens(
        &self,
        form: &[(&str, &str)],
    ) -> Result<Result<TokenResponse, ErrorResponse>, Failure> {
        let response = self.post(&self.endpoints.token_endpoint, form).await?;
        if let Ok(error) = serde_json::from_slice(&response.body) {
            return Ok(Err(error));
        }
        serde_json::from_slice(&response.body).map(Ok).map_err(|_| self.invalid_response(&response))
    }

    /// Posts a form with this client's identifier.
    pub(super) async fn post(&self, url: &str, form: &[(&str, &str)]) -> Result<Answer, Failure> {
        let form: Vec<(&str, &str)> =
            form.iter().copied().chain([("client_id", &*self.registration.client_id)]).collect();
        self.client
            .post_form(url, &form, None)
            .await
            .map_err(|error| Failure::new(format!("{} {error}", self.registration.issuer)))
    }

    pub(super) fn invalid_response(&self, response: &Answer) -> Failure {
        Failure::new(format!(
            "{} returned status {} with an invalid body",
            self.registration.issuer,
            response.status.as_u16()
        ))
    }

    pub(super) fn rejected(&self, response: &ErrorResponse) -> Failure {
        let error: String =
            response.error.chars().filter(|char| char.is_ascii_graphic()).take(64).collect();
        Failure::with_help(
            format!("{} rejected the request: {error}", self.registration.issuer),
            "check --client-id, and the grants that this client is allowed to use",
        )
    }
}

fn offered(scope: &str, supported: &[String]) -> String {
    let is_offered = |scope: &&str| *scope != OFFLINE || supported.iter().any(|it| it == scope);
    scope.split_ascii_whitespace().filter(is_offered).collect::<Vec<_>>().join(" ")
}

/// Whether a URL can be shown on a terminal and opened in a browser: a provider must not choose
/// another program, or control the terminal.
fn is_web(url: &str) -> bool {
    let has_scheme = |scheme: &str| {
        url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    url.bytes().all(|byte| byte.is_ascii_graphic())
        && (has_scheme("https://") || has_scheme("http://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_access_is_requested_only_where_it_is_offered() {
        let supported =
            |scopes: &[&str]| scopes.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let default = "openid email profile offline_access";
        assert_eq!(offered(default, &supported(&["openid", "offline_access"])), default);
        for scopes in [&[][..], &["openid", "email"]] {
            assert_eq!(offered(default, &supported(scopes)), "openid email profile");
        }
        assert_eq!(offered("openid groups", &[]), "openid groups");
    }

    #[test]
    fn only_web_pages_are_opened() {
        for (url, expected) in [
            ("https://id.example/authorize?a=b", true),
            ("HTTP://127.0.0.1:8080/authorize", true),
            ("file:///usr/bin/true", false),
            ("-a", false),
            ("https://id.example/\u{1b}[2J", false),
            ("https://id.example/ --flag", false),
            ("", false),
        ] {
            assert_eq!(is_web(url), expected, "{url:?}");
        }
    }
}
