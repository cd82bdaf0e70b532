//! Token issuers and their keys: fetched on the control runtime, and kept while an issuer is down.

mod discovery;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use portcullis_config::settings::access::{AccessSettings, IssuerSettings};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

pub use self::discovery::Discovery;
use self::discovery::discover;
use super::caller::{Caller, User};
use super::keys::{Keys, UnusableKeys};
use crate::outbound::{Client, FetchError};

/// Regular refresh interval of keys.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// Minimum interval between fetches: a token with an unknown key costs at most one fetch in this
/// time.
const MIN_INTERVAL: Duration = Duration::from_secs(30);
/// First and longest pause after a failed fetch.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// An issuer of tokens.
pub struct Issuer {
    /// The settings of the issuer.
    pub settings: IssuerSettings,
    /// The prefixes of the names of other issuers, with which no name of this one may begin.
    foreign_prefixes: Box<[Box<str>]>,
    keys: ArcSwap<IssuerKeys>,
    discovered: ArcSwapOption<Discovered>,
    /// Notified when a token is signed by an unknown key.
    refresh_requested: Notify,
}

/// The current keys of an issuer.
#[derive(Default)]
pub struct IssuerKeys {
    /// The keys that verify its tokens.
    pub keys: Keys,
    /// Changes with the keys: verdicts of other generations are stale.
    pub generation: u64,
    document: Vec<u8>,
}

/// A discovery document, and when it is fetched again.
struct Discovered {
    discovery: Arc<Discovery>,
    until: Instant,
}

/// Why an issuer's keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The request failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A URL answered with a status other than 200.
    #[error("{0} answered with status {1}")]
    Status(String, u16),
    /// The discovery document is invalid.
    #[error(
        "the discovery document is invalid: it must be JSON with `issuer` and an https `jwks_uri`"
    )]
    Discovery,
    /// The discovery document belongs to another issuer.
    #[error("the discovery document belongs to the issuer `{0}`")]
    OtherIssuer(String),
    /// The key set has no usable key.
    #[error("the key set cannot be used: {0}")]
    Keys(#[from] UnusableKeys),
}

/// When keys are fetched. Pure: time is an argument.
struct Schedule {
    last: Option<Instant>,
    failures: u32,
}

// === impl Issuer ===

impl Issuer {
    /// Creates all configured issuers.
    pub fn all(access: &AccessSettings) -> Vec<Arc<Self>> {
        let foreign = |own: &IssuerSettings| {
            access.name_prefixes().filter(|prefix| *prefix != own.prefix).map(Into::into).collect()
        };
        let issuers = access.issuers.iter();
        issuers
            .map(|settings| Self {
                foreign_prefixes: foreign(settings),
                ..Self::new(settings.clone())
            })
            .map(Arc::new)
            .collect()
    }

    /// Creates an issuer without keys; [`watch`](Self::watch) fetches them.
    pub fn new(settings: IssuerSettings) -> Self {
        Self {
            settings,
            foreign_prefixes: Box::default(),
            keys: ArcSwap::default(),
            discovered: ArcSwapOption::empty(),
            refresh_requested: Notify::new(),
        }
    }

    /// Returns what a caller is to the gateway: names that look like another issuer's are left out.
    /// Only an issuer without a prefix can issue such names.
    pub fn own(&self, caller: Caller) -> Caller {
        Caller {
            application: caller.application.filter(|application| self.owns(application)),
            user: caller
                .user
                .and_then(|user| self.own_user(Arc::unwrap_or_clone(user)).map(Arc::new)),
            until: caller.until,
        }
    }

    /// Returns a user without groups that look like another issuer's; `None` if the name does.
    pub fn own_user(&self, user: User) -> Option<User> {
        if !self.owns(&user.name) {
            return None;
        }
        let groups = user.groups.into_iter().filter(|group| self.owns(group)).collect();
        Some(User { groups, ..user })
    }

    /// Whether no other issuer issues such a name. E-mail addresses are compared without regard to
    /// case in grants, and so are prefixes here.
    fn owns(&self, name: &str) -> bool {
        !self.foreign_prefixes.iter().any(|prefix| {
            name.as_bytes()
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
    }

    /// Returns the current keys.
    pub fn keys(&self) -> Arc<IssuerKeys> {
        self.keys.load_full()
    }

    /// Changes with the keys; cheaper than comparing them.
    pub fn generation(&self) -> u64 {
        self.keys.load().generation
    }

    /// Requests a refresh of the keys, because one is unknown.
    pub fn request_refresh(&self) {
        self.refresh_requested.notify_one();
    }

    /// Loads a key set. An unchanged one is ignored.
    pub fn load(&self, document: &[u8]) -> Result<(), UnusableKeys> {
        let before = self.keys.load();
        if before.document == document {
            return Ok(());
        }
        let keys = Keys::parse(document)?;
        self.keys.store(Arc::new(IssuerKeys {
            keys,
            generation: before.generation + 1,
            document: document.to_vec(),
        }));
        Ok(())
    }

    /// Keeps the keys up to date, forever: a task of the control plane.
    pub async fn watch(&self) {
        let name = &self.settings.name;
        let client = match Client::new(self.settings.certificate_authorities.as_deref()) {
            Ok(client) => client,
            Err(error) => {
                return tracing::error!(issuer = name, %error, "failed to set up the issuer's HTTP client: tokens of this issuer are rejected");
            }
        };
        let mut schedule = Schedule { last: None, failures: 0 };
        loop {
            sleep_until(schedule.earliest(Instant::now())).await;
            let fetched = self.fetch(&client).await;
            schedule.fetched(Instant::now(), fetched.is_ok());
            match fetched {
                Ok(()) => tracing::debug!(issuer = name, "fetched the issuer's keys"),
                Err(error) => {
                    tracing::warn!(issuer = name, %error, "failed to fetch the issuer's keys: the current keys stay in use")
                }
            }
            let next = schedule.next(Instant::now());
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.refresh_requested.notified() => {}
            }
        }
    }

    async fn fetch(&self, client: &Client) -> Result<(), KeysError> {
        let uri = match &self.settings.jwks_uri {
            Some(uri) => uri.clone(),
            None => self.discovery(client).await?.jwks_uri.clone(),
        };
        self.load(&get(client, &uri).await?)?;
        Ok(())
    }

    /// Returns the cached discovery document, whatever its age.
    pub fn discovered(&self) -> Option<Arc<Discovery>> {
        self.discovered.load().as_ref().map(|cached| Arc::clone(&cached.discovery))
    }

    /// Returns the issuer's discovery document, refreshed like the keys; the cached one if the
    /// issuer cannot be reached.
    pub async fn discovery(&self, client: &Client) -> Result<Arc<Discovery>, KeysError> {
        let cached = self.discovered.load_full();
        if let Some(cached) = cached.as_ref().filter(|cached| Instant::now() < cached.until) {
            return Ok(Arc::clone(&cached.discovery));
        }
        let (discovery, lasts) = match (discover(client, &self.settings.issuer).await, cached) {
            (Ok(discovery), _) => (Arc::new(discovery), REFRESH_INTERVAL),
            (Err(error), Some(cached)) => {
                tracing::warn!(issuer = self.settings.name, %error, "failed to fetch the discovery document: the cached one stays in use");
                (Arc::clone(&cached.discovery), MIN_INTERVAL)
            }
            (Err(error), None) => return Err(error),
        };
        self.discovered.store(Some(Arc::new(Discovered {
            discovery: Arc::clone(&discovery),
            until: Instant::now() + lasts,
        })));
        Ok(discovery)
    }

    /// Whether the issuer cannot be reached at the moment, whatever is cached.
    pub async fn is_unavailable(&self, client: &Client) -> bool {
        match discover(client, &self.settings.issuer).await {
            Ok(_) => false,
            Err(KeysError::Status(_, status)) => status >= 500,
            Err(error) => matches!(error, KeysError::Fetch(_)),
        }
    }
}

/// Fetches a document that is sent with status 200.
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
    fn fetched(&mut self, now: Instant, succeeded: bool) {
        self.last = Some(now);
        self.failures = if succeeded { 0 } else { self.failures.saturating_add(1) };
    }

    /// The earliest time of the next fetch, also on request.
    fn earliest(&self, now: Instant) -> Instant {
        match self.last {
            None => now,
            Some(last) if self.failures > 0 => last + self.retry(),
            Some(last) => last + MIN_INTERVAL,
        }
    }

    /// The time of the next regular fetch.
    fn next(&self, now: Instant) -> Instant {
        match self.last {
            None => now,
            Some(last) if self.failures > 0 => last + self.retry(),
            Some(last) => last + REFRESH_INTERVAL,
        }
    }

    fn retry(&self) -> Duration {
        RETRY_PAUSE.0.saturating_mul(1 << self.failures.saturating_sub(1).min(5)).min(RETRY_PAUSE.1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::caller::{Application, ann};

    #[test]
    fn names_that_look_like_those_of_another_issuer_are_left_out() {
        let access = json!({
            "issuers": [
                {"name": "corp", "issuer": "https://corp.example", "audiences": ["a"]},
                {"name": "partner", "issuer": "https://partner.example", "audiences": ["a"], "prefix": "partner:"},
            ],
            "login": {"issuer": "github", "clientId": "portcullis"},
        });
        let issuers = Issuer::all(&serde_json::from_value(access).unwrap());
        let named = |application: &str, user: &str, groups: &[&str]| {
            let ann = ann();
            let user = User {
                name: user.into(),
                groups: groups.iter().map(|group| (*group).into()).collect(),
                ..User::clone(ann.user.as_deref().unwrap())
            };
            Caller { application: Some(application.into()), user: Some(user.into()), until: None }
        };
        let own = |caller: Caller| {
            let Caller { application, user, .. } = issuers[0].own(caller);
            let groups = user.as_ref().map(|user| user.groups.concat());
            (application.as_deref().map(str::to_owned), user.map(|user| user.name.clone()), groups)
        };
        assert_eq!(
            own(named("shop", "ann", &["ops"])),
            (Some("shop".to_owned()), Some("ann".into()), Some("ops".to_owned()))
        );
        assert_eq!(
            own(named("partner", "part:ann", &["partner:ops", "partner", "github:org"])),
            (Some("partner".to_owned()), Some("part:ann".into()), Some("partner".to_owned()))
        );
        for name in ["partner:ann", "Partner:ann@example.com", "github:ann", "partner:"] {
            assert_eq!(own(named(name, name, &[])), (None, None, None), "{name}");
        }
        let theirs = Application::of_issuer("partner:", "shop");
        let caller =
            Caller { application: Some(theirs), ..named("", "partner:ann", &["partner:ops"]) };
        assert_eq!(issuers[1].own(caller.clone()), caller);
    }

    #[test]
    fn an_unknown_key_causes_at_most_one_fetch_in_thirty_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule { last: None, failures: 0 };
        assert_eq!(schedule.earliest(start), start);
        schedule.fetched(start, true);
        assert_eq!(schedule.earliest(start), start + Duration::from_secs(30));
        assert_eq!(schedule.next(start), start + Duration::from_secs(600));
    }

    #[test]
    fn failed_fetches_are_retried_with_backoff() {
        let start = Instant::now();
        let mut schedule = Schedule { last: None, failures: 0 };
        let mut pauses = Vec::new();
        for _ in 0..8 {
            schedule.fetched(start, false);
            pauses.push((schedule.next(start) - start).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        schedule.fetched(start, true);
        assert_eq!(schedule.next(start), start + REFRESH_INTERVAL);
    }
}
