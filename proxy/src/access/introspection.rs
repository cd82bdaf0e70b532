//! Tokens that only their issuer can read (RFC 7662): it is asked on the control runtime, and what
//! it says is remembered for seconds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use portcullis_config::settings::access::IntrospectionSettings;
use tokio::sync::OnceCell;

use super::cache::{Cache, Fingerprint, Fingerprints};
use super::caller::Caller;
use super::claims::{Claims, LEEWAY};
use super::issuers::{Issuer, KeysError};
use super::purpose;
use super::token::{Rejected, caller};
use crate::desk::{self, Desk, Queue};
use crate::fetch::{Client, FetchError};
use crate::upstream::AuthoritiesError;

/// How long an answer is remembered: a token that its issuer revoked is refused after this time.
const REMEMBERED_FOR: Duration = Duration::from_secs(4);
/// Answers that are remembered, in each of two generations.
const REMEMBERED: usize = 16 * 1024;
/// Tokens that wait to be asked about; a token beyond that is not believed.
const WAITING: usize = 256;
/// Questions at a time.
const AT_A_TIME: usize = 32;
/// The shortest and the longest text that is taken for a token.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=4096;

/// Asks issuers about tokens.
pub(crate) struct Introspection {
    fingerprints: Arc<Fingerprints>,
    known: Cache<(Result<Caller, Rejected>, SystemTime)>,
    desk: Desk<String, Result<Caller, Rejected>>,
    /// Taken by the task that asks.
    queue: Mutex<Option<Queue<String, Result<Caller, Rejected>>>>,
    issuers: Arc<[Asked]>,
}

struct Asked {
    issuer: Arc<Issuer>,
    introspection: IntrospectionSettings,
    client: OnceCell<Client>,
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
    #[error("the endpoint answered with status {0}")]
    Status(u16),
    #[error("the answer is not understood")]
    Malformed,
}

// === impl Introspection ===

impl Introspection {
    /// `None` where no issuer is to be asked.
    pub(crate) fn new(issuers: &[Arc<Issuer>], fingerprints: &Arc<Fingerprints>) -> Option<Self> {
        let issuers: Arc<[Asked]> =
            issuers.iter().filter_map(|issuer| Asked::new(Arc::clone(issuer))).collect();
        let (desk, queue) = desk::open(WAITING);
        (!issuers.is_empty()).then(|| Self {
            fingerprints: Arc::clone(fingerprints),
            known: Cache::new(REMEMBERED),
            desk,
            queue: Some(queue).into(),
            issuers,
        })
    }

    /// Whether a bearer token may be one that only its issuer can read: it is no JWT.
    pub(crate) fn is_for(token: &str) -> bool {
        LENGTHS.contains(&token.len()) && token.bytes().filter(|byte| *byte == b'.').count() != 2
    }

    /// Who is known to show this token.
    pub(crate) fn find(&self, token: &str, now: SystemTime) -> Option<Result<Caller, Rejected>> {
        self.known
            .get(&self.fingerprint(token)?)
            .filter(|(_, until)| now < *until)
            .map(|(found, _)| found)
    }

    fn fingerprint(&self, token: &str) -> Option<Fingerprint> {
        self.fingerprints.of("opaque", &[token])
    }

    /// Asks about a token that is not known. What comes of it is found by [`find`](Self::find)
    /// then.
    pub(crate) async fn ask(&self, token: &str, now: SystemTime) {
        if self.find(token, now).is_some() {
            return;
        }
        let found = self.desk.ask(token.to_owned()).await.unwrap_or(Err(Rejected::Unanswered));
        // Whoever is let in by it is looked at again when the answer is forgotten.
        let until = now + REMEMBERED_FOR;
        let found =
            found.map(|caller| Caller { until: caller.until.map(|end| end.min(until)), ..caller });
        if let Some(fingerprint) = self.fingerprint(token) {
            self.known.insert(fingerprint, (found, until));
        }
    }

    /// Asks the issuers what workers want to know, forever: a task of the control plane.
    pub(crate) async fn follow(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(queue) = queue else { return };
        let answer = |token: String| {
            let issuers = Arc::clone(&self.issuers);
            async move { ask_all(&issuers, &token).await }
        };
        queue.serve(AT_A_TIME, answer).await;
    }
}

/// The first issuer that knows the token says whose it is.
async fn ask_all(issuers: &[Asked], token: &str) -> Result<Caller, Rejected> {
    let mut rejected = Rejected::UnknownIssuer;
    for asked in issuers {
        match asked.ask(token).await {
            Ok(claims) => match asked.judge(&claims, SystemTime::now()) {
                Err(Rejected::UnknownIssuer) => {}
                judged => return judged,
            },
            Err(error) => {
                tracing::warn!(issuer = asked.issuer.settings.name, %error, "an issuer did not say what a token is worth: it is not believed");
                rejected = Rejected::Unanswered;
            }
        }
    }
    Err(rejected)
}

// === impl Asked ===

impl Asked {
    /// `None` for an issuer that is not to be asked.
    fn new(issuer: Arc<Issuer>) -> Option<Self> {
        Some(Self {
            introspection: issuer.settings.introspection.clone()?,
            issuer,
            client: OnceCell::new(),
        })
    }

    async fn ask(&self, token: &str) -> Result<Claims, NoAnswer> {
        let client = self
            .client
            .get_or_try_init(|| async {
                Client::new(self.issuer.settings.certificate_authorities.as_deref())
            })
            .await?;
        let endpoint = match &self.introspection.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self
                .issuer
                .discovery(client)
                .await?
                .introspection_endpoint
                .clone()
                .ok_or(NoAnswer::NoEndpoint)?,
        };
        let secret = tokio::fs::read_to_string(&self.introspection.client_secret_file)
            .await
            .map_err(NoAnswer::Secret)?;
        let basic = Some((self.introspection.client_id.as_str(), secret.trim()));
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
        let until = match claims.get("exp") {
            Some(_) => claims.valid_until(now)?,
            None => now + LEEWAY,
        };
        if !claims.is_for(&settings.audiences) {
            return Err(Rejected::Audience);
        }
        purpose::check_bearer(claims)?;
        Ok(caller(claims, settings, until))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked() -> Asked {
        let settings = serde_json::from_value(json!({
            "name": "corp", "issuer": "https://id.example.com", "audiences": ["portcullis"],
            "introspection": { "clientId": "gateway", "clientSecretFile": "secret" },
        }))
        .unwrap();
        Asked::new(Issuer::new(settings).into()).unwrap()
    }

    fn judged(answer: serde_json::Value) -> Result<Option<String>, Rejected> {
        let claims: Claims = serde_json::from_value(answer).unwrap();
        asked()
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

    #[test]
    fn signed_tokens_are_not_asked_about() {
        assert!(Introspection::is_for("2YotnFZFEjr1zCsicMWpAA"));
        assert!(!Introspection::is_for("header.claims.signature"));
        assert!(!Introspection::is_for("short"));
        assert!(!Introspection::is_for(&"a".repeat(5000)));
    }
}
