//! The introspection endpoint of one issuer (RFC 7662).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use portcullis_config::settings::access::IntrospectionSettings;
use tokio::sync::OnceCell;

use crate::caller::Caller;
use crate::claims::Claims;
use crate::issuers::{Issuer, KeysError};
use crate::outbound::{Client, FetchError};
use crate::purpose;
use crate::rejected::Rejected;
use crate::tls_roots::AuthoritiesError;
use crate::token::caller;

/// Timeout of one query: a slower issuer counts as failing.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An issuer with token introspection.
pub(super) struct Endpoint {
    issuer: Arc<Issuer>,
    settings: IntrospectionSettings,
    client: OnceCell<Client>,
    /// Whether the last query failed.
    is_failing: AtomicBool,
}

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error(transparent)]
    Endpoint(#[from] KeysError),
    #[error("the issuer's discovery document has no introspection_endpoint")]
    NoEndpoint,
    #[error("the client's secret cannot be read: {0}")]
    Secret(std::io::Error),
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("no response within {} s", TIMEOUT.as_secs())]
    Late,
    #[error("the endpoint responded with status {0}")]
    Status(u16),
    #[error("the response is not a valid introspection response")]
    Malformed,
}

// === impl NoAnswer ===

impl QueryError {
    /// Whether the failure concerns the issuer rather than this one token.
    fn is_issuer_failure(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 401 | 403 | 429 | 500..),
            Self::Malformed => false,
            _ => true,
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Returns `None` if the issuer has no introspection configured.
    pub(super) fn new(issuer: &Arc<Issuer>) -> Option<Self> {
        Some(Self {
            settings: issuer.settings.introspection.clone()?,
            issuer: Arc::clone(issuer),
            client: OnceCell::new(),
            is_failing: AtomicBool::new(false),
        })
    }

    /// The introspection settings.
    pub(super) fn settings(&self) -> &IntrospectionSettings {
        &self.settings
    }

    /// The issuer's name in the configuration.
    pub(super) fn name(&self) -> &str {
        &self.issuer.settings.name
    }

    /// Returns whether the last query failed.
    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Returns the caller of a token; its `until` is the expiry of the token, if it has one.
    ///
    /// # Errors
    /// The reason why the token is rejected; [`Rejected::Unanswered`] if the query failed.
    pub(super) async fn ask(&self, token: &str) -> Result<Caller, Rejected> {
        let asked = tokio::time::timeout(TIMEOUT, self.query(token));
        let answer = asked.await.unwrap_or(Err(QueryError::Late));
        let is_failing = answer.as_ref().is_err_and(QueryError::is_issuer_failure);
        let was_failing = self.is_failing.swap(is_failing, Ordering::Relaxed);
        match answer {
            Ok(claims) => {
                if was_failing {
                    tracing::info!(
                        issuer = self.name(),
                        "the issuer's introspection endpoint recovered"
                    );
                }
                self.evaluate(&claims, SystemTime::now())
            }
            Err(error) => {
                // Logged once: there may be many queries.
                if is_failing && !was_failing {
                    tracing::warn!(issuer = self.name(), %error, "failed to introspect a token: cached active tokens stay valid for `staleIfError`");
                } else {
                    tracing::debug!(issuer = self.name(), %error, "failed to introspect a token");
                }
                Err(Rejected::Unanswered)
            }
        }
    }

    async fn query(&self, token: &str) -> Result<Claims, QueryError> {
        let client = self
            .client
            .get_or_try_init(|| async {
                Client::new(self.issuer.settings.certificate_authorities.as_deref())
            })
            .await?;
        let endpoint = match &self.settings.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self
                .issuer
                .discovery(client)
                .await?
                .introspection_endpoint
                .clone()
                .ok_or(QueryError::NoEndpoint)?,
        };
        let secret = tokio::fs::read_to_string(&self.settings.client_secret_file)
            .await
            .map_err(QueryError::Secret)?;
        let basic = Some((self.settings.client_id.as_str(), secret.trim()));
        let answer = client
            .post_form(&endpoint, &[("token", token), ("token_type_hint", "access_token")], basic)
            .await?;
        if answer.status != http::StatusCode::OK {
            return Err(QueryError::Status(answer.status.as_u16()));
        }
        serde_json::from_slice(&answer.body).map_err(|_| QueryError::Malformed)
    }

    /// Evaluates the response (RFC 7662 §2.2). Caller and audience are required: a response without
    /// `aud` is rejected.
    fn evaluate(&self, claims: &Claims, now: SystemTime) -> Result<Caller, Rejected> {
        if claims.get("active") != Some(&serde_json::Value::Bool(true)) {
            return Err(Rejected::UnknownIssuer);
        }
        let settings = &self.issuer.settings;
        if claims.get("iss").is_some() && claims.text("iss") != Some(&settings.issuer) {
            return Err(Rejected::UnknownIssuer);
        }
        let end = claims.get("exp").map(|_| claims.valid_until(now)).transpose()?;
        if !claims.is_for(&settings.audiences) {
            return Err(Rejected::Audience);
        }
        purpose::check_bearer(claims)?;
        Ok(Caller { until: end, ..self.issuer.own(caller(claims, settings, now)) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint() -> Endpoint {
        let settings = serde_json::from_value(json!({
            "name": "corp", "issuer": "https://id.example.com", "audiences": ["portcullis"],
            "introspection": { "clientId": "gateway", "clientSecretFile": "secret" },
        }))
        .unwrap();
        Endpoint::new(&Issuer::new(settings).into()).unwrap()
    }

    fn evaluated(answer: serde_json::Value) -> Result<Option<String>, Rejected> {
        let claims: Claims = serde_json::from_value(answer).unwrap();
        endpoint()
            .evaluate(&claims, SystemTime::now())
            .map(|caller| caller.application.map(|name| name.to_string()))
    }

    #[test]
    fn only_active_tokens_for_the_gateway_are_accepted() {
        let good = json!({"active": true, "client_id": "shop", "sub": "1", "aud": "portcullis", "exp": 4_000_000_000_u64});
        assert_eq!(evaluated(good.clone()), Ok(Some("shop".to_owned())));
        for (name, value, rejected) in [
            ("active", json!(false), Rejected::UnknownIssuer),
            ("active", json!("true"), Rejected::UnknownIssuer),
            ("active", json!(1), Rejected::UnknownIssuer),
            ("iss", json!("https://other.example.com"), Rejected::UnknownIssuer),
            ("iss", json!(1), Rejected::UnknownIssuer),
            ("aud", json!("other"), Rejected::Audience),
            ("aud", json!(null), Rejected::Audience),
            ("exp", json!(1), Rejected::Expired),
            ("exp", json!("4000000000"), Rejected::Claims),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            assert_eq!(evaluated(bad.clone()), Err(rejected), "{bad}");
        }
        assert_eq!(evaluated(json!({})), Err(Rejected::UnknownIssuer));
    }
}
