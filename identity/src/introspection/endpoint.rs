//! One issuer's endpoint for tokens that only it can read (RFC 7662).

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

/// How long one question may take: an issuer that is slower is as good as away.
const WITHIN: Duration = Duration::from_secs(5);

/// An issuer that is asked about tokens.
pub(super) struct Endpoint {
    issuer: Arc<Issuer>,
    settings: IntrospectionSettings,
    client: OnceCell<Client>,
    /// The last question was not answered.
    is_failing: AtomicBool,
}

/// Why an issuer gave no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Endpoint(#[from] KeysError),
    #[error("the issuer's discovery document names no introspection endpoint")]
    NoEndpoint,
    #[error("the client's secret cannot be read: {0}")]
    Secret(std::io::Error),
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("there was no answer within {} s", WITHIN.as_secs())]
    Late,
    #[error("the endpoint answered with status {0}")]
    Status(u16),
    #[error("the answer is not understood")]
    Malformed,
}

// === impl NoAnswer ===

impl NoAnswer {
    /// Whether it is for the issuer's sake, and not for one token's.
    fn is_of_issuer(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 401 | 403 | 429 | 500..),
            Self::Malformed => false,
            _ => true,
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// `None` for an issuer that is not to be asked.
    pub(super) fn new(issuer: &Arc<Issuer>) -> Option<Self> {
        Some(Self {
            settings: issuer.settings.introspection.clone()?,
            issuer: Arc::clone(issuer),
            client: OnceCell::new(),
            is_failing: AtomicBool::new(false),
        })
    }

    /// How the issuer is asked.
    pub(super) fn settings(&self) -> &IntrospectionSettings {
        &self.settings
    }

    /// The issuer's name in the configuration.
    pub(super) fn name(&self) -> &str {
        &self.issuer.settings.name
    }

    /// Whether the last question was not answered.
    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Asks whose a token is; the caller's `until` is the token's own end, where it has one.
    ///
    /// # Errors
    /// Why it is nobody's; [`Rejected::Unanswered`] where the issuer did not say.
    pub(super) async fn ask(&self, token: &str) -> Result<Caller, Rejected> {
        let asked = tokio::time::timeout(WITHIN, self.question(token));
        let answer = asked.await.unwrap_or(Err(NoAnswer::Late));
        let is_failing = answer.as_ref().is_err_and(NoAnswer::is_of_issuer);
        let was_failing = self.is_failing.swap(is_failing, Ordering::Relaxed);
        match answer {
            Ok(claims) => {
                if was_failing {
                    tracing::info!(issuer = self.name(), "the issuer answers about tokens again");
                }
                self.judge(&claims, SystemTime::now())
            }
            Err(error) => {
                // Once: there may be many questions.
                if is_failing && !was_failing {
                    tracing::warn!(issuer = self.name(), %error, "the issuer did not answer about a token: those that were good stay so for as long as `staleIfError` allows");
                } else {
                    tracing::debug!(issuer = self.name(), %error, "no answer about a token");
                }
                Err(Rejected::Unanswered)
            }
        }
    }

    async fn question(&self, token: &str) -> Result<Claims, NoAnswer> {
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
                .ok_or(NoAnswer::NoEndpoint)?,
        };
        let secret = tokio::fs::read_to_string(&self.settings.client_secret_file)
            .await
            .map_err(NoAnswer::Secret)?;
        let basic = Some((self.settings.client_id.as_str(), secret.trim()));
        let answer = client
            .post_form(&endpoint, &[("token", token), ("token_type_hint", "access_token")], basic)
            .await?;
        if answer.status != http::StatusCode::OK {
            return Err(NoAnswer::Status(answer.status.as_u16()));
        }
        serde_json::from_slice(&answer.body).map_err(|_| NoAnswer::Malformed)
    }

    /// What the issuer's answer says (RFC 7662 §2.2). Who and for whom must be said: an answer that
    /// leaves out the audience is for nobody.
    fn judge(&self, claims: &Claims, now: SystemTime) -> Result<Caller, Rejected> {
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
        Ok(Caller { until: end, ..caller(claims, settings, now) })
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

    fn judged(answer: serde_json::Value) -> Result<Option<String>, Rejected> {
        let claims: Claims = serde_json::from_value(answer).unwrap();
        endpoint()
            .judge(&claims, SystemTime::now())
            .map(|caller| caller.application.map(|name| name.to_string()))
    }

    #[test]
    fn only_a_token_that_is_active_and_for_the_gateway_is_believed() {
        let good = json!({"active": true, "client_id": "shop", "sub": "1", "aud": "portcullis", "exp": 4_000_000_000_u64});
        assert_eq!(judged(good.clone()), Ok(Some("shop".to_owned())));
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
            assert_eq!(judged(bad.clone()), Err(rejected), "{bad}");
        }
        assert_eq!(judged(json!({})), Err(Rejected::UnknownIssuer));
    }
}
