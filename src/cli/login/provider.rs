//! The OpenID provider to sign in with, as its discovery document describes it (OpenID Connect
//! Discovery 1.0 §3).

use portcullis_identity::outbound::{Answer, Client};
use serde::Deserialize;

use super::tokens::Registration;
use crate::cli::problems::Failure;

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
        Ok(Self { registration, endpoints, client })
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
