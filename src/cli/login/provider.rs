//! The provider that a person signs in at, as its discovery document describes it (OpenID Connect
//! Discovery 1.0 §3).

use portcullis_identity::outbound::{Answer, Client};
use serde::Deserialize;

use super::tokens::Registration;
use crate::cli::problems::Failure;

/// A provider that was found.
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

/// What a token endpoint answers (RFC 6749 §5.1).
#[derive(Deserialize)]
pub(in crate::cli) struct TokenAnswer {
    pub(super) id_token: Option<String>,
    pub(super) access_token: Option<String>,
    pub(super) refresh_token: Option<String>,
    pub(super) expires_in: Option<u64>,
}

/// Why there is no token: one of OAuth's words (RFC 6749 §5.2, RFC 8628 §3.5).
#[derive(Deserialize)]
pub(in crate::cli) struct Refusal {
    pub(in crate::cli) error: String,
}

// === impl Provider ===

impl<'r> Provider<'r> {
    pub(in crate::cli) async fn find(registration: &'r Registration) -> Result<Self, Failure> {
        let issuer = &registration.issuer;
        let client = Client::new(registration.certificate_authorities.as_deref())
            .map_err(|error| Failure::new(format!("the certificate authorities: {error}")))?;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let answer = client
            .get(&url, "application/json")
            .await
            .map_err(|error| Failure::new(format!("{issuer} {error}")))?;
        let endpoints: Endpoints = serde_json::from_slice(&answer.body).map_err(|_| {
            let message = format!(
                "{url} answered with status {}, and with no discovery document",
                answer.status.as_u16()
            );
            Failure::with_help(
                message,
                "check --issuer: it is the `issuer` of one of the gateway's `access.issuers`",
            )
        })?;
        if endpoints.issuer != *issuer {
            let help =
                format!("use --issuer {:?}, if that is the one that you mean", endpoints.issuer);
            return Err(Failure::with_help(
                format!("{issuer} says that it is another issuer"),
                help,
            ));
        }
        Ok(Self { registration, endpoints, client })
    }

    /// Asks the token endpoint.
    pub(in crate::cli) async fn tokens(
        &self,
        form: &[(&str, &str)],
    ) -> Result<Result<TokenAnswer, Refusal>, Failure> {
        let answer = self.post(&self.endpoints.token_endpoint, form).await?;
        if let Ok(refusal) = serde_json::from_slice(&answer.body) {
            return Ok(Err(refusal));
        }
        serde_json::from_slice(&answer.body).map(Ok).map_err(|_| self.nonsense(&answer))
    }

    /// Posts a form, as this client.
    pub(super) async fn post(&self, url: &str, form: &[(&str, &str)]) -> Result<Answer, Failure> {
        let form: Vec<(&str, &str)> =
            form.iter().copied().chain([("client_id", &*self.registration.client_id)]).collect();
        self.client
            .post_form(url, &form, None)
            .await
            .map_err(|error| Failure::new(format!("{} {error}", self.registration.issuer)))
    }

    pub(super) fn nonsense(&self, answer: &Answer) -> Failure {
        Failure::new(format!(
            "{} answered with status {}, and not as it should",
            self.registration.issuer,
            answer.status.as_u16()
        ))
    }

    pub(super) fn refused(&self, refusal: &Refusal) -> Failure {
        let word: String =
            refusal.error.chars().filter(|char| char.is_ascii_graphic()).take(64).collect();
        Failure::with_help(
            format!("{} refused: {word}", self.registration.issuer),
            "check --client-id, and what that client may do",
        )
    }
}
