//! The issuers of tokens and their keys: fetched on the control runtime, kept when an issuer is
//! away.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use portcullis_config::settings::access::IssuerSettings;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::keys::{Keys, UnusableKeys};
use crate::outbound::{Client, FetchError};

/// How often keys are fetched without any other reason.
const REFRESH: Duration = Duration::from_secs(600);
/// How soon they are fetched again at the earliest: a token with an unknown key costs at most one
/// fetch in this time.
const AT_MOST_EVERY: Duration = Duration::from_secs(30);
/// The first and the longest pause after a failure, before any keys are known.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Someone who issues tokens.
pub struct Issuer {
    /// The settings of the issuer.
    pub settings: IssuerSettings,
    known: ArcSwap<Known>,
    discovered: ArcSwapOption<Discovered>,
    /// A key was asked for that is not known.
    wanted: Notify,
}

/// The keys that are known now.
#[derive(Default)]
pub struct Known {
    /// The keys that verify its tokens.
    pub keys: Keys,
    /// Changes with the keys: what was decided by others is void.
    pub generation: u64,
    document: Vec<u8>,
}

/// A discovery document, and until when it need not be fetched again.
struct Discovered {
    discovery: Arc<Discovery>,
    until: Instant,
}

/// Where an issuer's endpoints are (OpenID Connect Discovery 1.0 §3, RFC 8414 §2).
#[derive(Debug, Clone, Deserialize)]
pub struct Discovery {
    /// The issuer identifier.
    pub issuer: String,
    /// URL of the key set.
    pub jwks_uri: String,
    /// URL of token introspection (RFC 8414 §2).
    #[serde(default)]
    pub introspection_endpoint: Option<String>,
    /// URL where people log in.
    pub authorization_endpoint: Option<String>,
    /// URL where codes become tokens.
    pub token_endpoint: Option<String>,
    /// How clients may authenticate at the token endpoint.
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// URL of the userinfo endpoint (OpenID Connect Core 1.0 §5.3).
    pub userinfo_endpoint: Option<String>,
    /// URL where people sign out (OpenID Connect RP-Initiated Logout 1.0 §2.1).
    pub end_session_endpoint: Option<String>,
    /// RFC 9207 §3.
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// Why an issuer's keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The issuer could not be asked.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A URL answered with a status other than 200.
    #[error("{0} answered with status {1}")]
    Status(String, u16),
    /// The discovery document is not understood.
    #[error("the discovery document is not understood")]
    Discovery,
    /// The discovery document is of another issuer.
    #[error("the discovery document is of the issuer `{0}`")]
    OtherIssuer(String),
    /// The key set holds nothing that can be used.
    #[error("the key set cannot be used: {0}")]
    Keys(#[from] UnusableKeys),
}

/// When keys are fetched: pure, with the time as an argument.
struct Schedule {
    last: Option<Instant>,
    failures: u32,
}

// === impl Issuer ===

impl Issuer {
    /// An issuer whose keys are not known yet.
    pub fn new(settings: IssuerSettings) -> Self {
        Self {
            settings,
            known: ArcSwap::default(),
            discovered: ArcSwapOption::empty(),
            wanted: Notify::new(),
        }
    }

    /// The keys that are known now.
    pub fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    /// Changes with the keys. Cheaper than to look at them.
    pub fn generation(&self) -> u64 {
        self.known.load().generation
    }

    /// Says that a key was asked for that is not known.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Takes a key set into use. The same one again changes nothing.
    pub fn learn(&self, document: &[u8]) -> Result<(), UnusableKeys> {
        let before = self.known.load();
        if before.document == document {
            return Ok(());
        }
        let keys = Keys::parse(document)?;
        self.known.store(Arc::new(Known {
            keys,
            generation: before.generation + 1,
            document: document.to_vec(),
        }));
        Ok(())
    }

    /// Keeps the keys up to date, forever: a task of the control plane. A client that cannot even
    /// be made is told once.
    pub async fn follow(&self) {
        let name = &self.settings.name;
        let client = match Client::new(self.settings.certificate_authorities.as_deref()) {
            Ok(client) => client,
            Err(error) => {
                return tracing::error!(issuer = name, %error, "no token of this issuer will be accepted");
            }
        };
        let mut schedule = Schedule { last: None, failures: 0 };
        loop {
            sleep_until(schedule.earliest(Instant::now())).await;
            let fetched = self.fetch(&client).await;
            schedule.fetched(Instant::now(), fetched.is_ok());
            match fetched {
                Ok(()) => tracing::debug!(issuer = name, "keys fetched"),
                Err(error) => {
                    tracing::warn!(issuer = name, %error, "keys could not be fetched: those that are known stay in use")
                }
            }
            let next = schedule.next(Instant::now());
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    async fn fetch(&self, client: &Client) -> Result<(), KeysError> {
        let uri = match &self.settings.jwks_uri {
            Some(uri) => uri.clone(),
            None => self.discovery(client).await?.jwks_uri.clone(),
        };
        self.learn(&get(client, &uri).await?)?;
        Ok(())
    }

    /// The discovery document, where it was fetched at some time.
    pub fn discovered(&self) -> Option<Arc<Discovery>> {
        self.discovered.load().as_ref().map(|known| Arc::clone(&known.discovery))
    }

    /// The issuer's discovery document, not older than the keys may be; an old one where the issuer
    /// is away.
    pub async fn discovery(&self, client: &Client) -> Result<Arc<Discovery>, KeysError> {
        let known = self.discovered.load_full();
        if let Some(known) = known.as_ref().filter(|known| Instant::now() < known.until) {
            return Ok(Arc::clone(&known.discovery));
        }
        let (discovery, lasts) = match (discover(client, &self.settings.issuer).await, known) {
            (Ok(discovery), _) => (Arc::new(discovery), REFRESH),
            (Err(error), Some(known)) => {
                tracing::warn!(issuer = self.settings.name, %error, "the discovery document could not be fetched: the one that is known stays in use");
                (Arc::clone(&known.discovery), AT_MOST_EVERY)
            }
            (Err(error), None) => return Err(error),
        };
        self.discovered.store(Some(Arc::new(Discovered {
            discovery: Arc::clone(&discovery),
            until: Instant::now() + lasts,
        })));
        Ok(discovery)
    }
}

/// Reads an issuer's discovery document, which must be its own.
async fn discover(client: &Client, issuer: &str) -> Result<Discovery, KeysError> {
    let uri = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let discovery: Discovery =
        serde_json::from_slice(&get(client, &uri).await?).map_err(|_| KeysError::Discovery)?;
    if discovery.issuer == issuer {
        Ok(discovery)
    } else {
        Err(KeysError::OtherIssuer(discovery.issuer.chars().take(200).collect()))
    }
}

async fn get(client: &Client, uri: &str) -> Result<bytes::Bytes, KeysError> {
    let answer = client.get(uri, "application/json").await?;
    if answer.status == http::StatusCode::OK {
        Ok(answer.body)
    } else {
        Err(KeysError::Status(uri.to_owned(), answer.status.as_u16()))
    }
}

// === impl Schedule ===

impl Schedule {
    fn fetched(&mut self, now: Instant, well: bool) {
        self.last = Some(now);
        self.failures = if well { 0 } else { self.failures.saturating_add(1) };
    }

    /// Before this nothing is fetched, whoever asks.
    fn earliest(&self, now: Instant) -> Instant {
        match self.last {
            None => now,
            Some(last) if self.failures > 0 => last + self.retry(),
            Some(last) => last + AT_MOST_EVERY,
        }
    }

    /// At this time keys are fetched even if nobody asks.
    fn next(&self, now: Instant) -> Instant {
        match self.last {
            None => now,
            Some(last) if self.failures > 0 => last + self.retry(),
            Some(last) => last + REFRESH,
        }
    }

    fn retry(&self) -> Duration {
        RETRY.0.saturating_mul(1 << self.failures.saturating_sub(1).min(5)).min(RETRY.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_costs_at_most_one_fetch_in_thirty_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule { last: None, failures: 0 };
        assert_eq!(schedule.earliest(start), start);
        schedule.fetched(start, true);
        assert_eq!(schedule.earliest(start), start + Duration::from_secs(30));
        assert_eq!(schedule.next(start), start + Duration::from_secs(600));
    }

    #[test]
    fn an_issuer_that_is_away_is_asked_again_soon_but_ever_less_often() {
        let start = Instant::now();
        let mut schedule = Schedule { last: None, failures: 0 };
        let mut pauses = Vec::new();
        for _ in 0..8 {
            schedule.fetched(start, false);
            pauses.push((schedule.next(start) - start).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        schedule.fetched(start, true);
        assert_eq!(schedule.next(start), start + REFRESH);
    }
}
