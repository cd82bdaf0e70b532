//! Login sessions: who logged in, sealed into a cookie that only the gateway can read, and
//! worthless on any other host.
//!
//! Nothing of a session is kept here but that it was ended: every replica with the same keys can
//! open it.
//!
//! | module | what |
//! | --- | --- |
//! | [`sealer`], [`rotation`] | the keys that seal sessions; the next one is made in time |
//! | [`cookie`] | where a browser keeps what is sealed |
//! | [`revocations`], [`outbox`] | sessions that were ended; the others are told |

pub mod cookie;
mod revocation_publisher;
mod revocations;
pub mod rotation;
mod sealer;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::live::Live;
use portcullis_config::settings::access::LoginSettings;
use portcullis_config::snapshot::access::Credentials;
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

pub use self::revocation_publisher::{Counts, Outbox};
pub use self::revocations::{Revocations, Revoked};
pub use self::sealer::{Purpose, Sealer};
use crate::caller::User;

/// How often the one who says who a person is, is asked whether she still is.
const ASK: Duration = Duration::from_secs(300);
/// The most octets of a session that go into a cookie: sealed and encoded, they stay below 3.5 KiB
/// of the 4 KiB that browsers keep.
const MAX_OCTETS: usize = 2560;

/// A login, as its cookies carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its secret identifier.
    pub id: Id,
    /// The person.
    pub user: Arc<User>,
    /// The provider's own session (`sid`), by which it can end this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_session: Option<Box<str>>,
    /// When she logged in, in seconds since 1970, as all of these.
    pub issued_at: u64,
    /// When it ends, whatever happens.
    pub expires_at: u64,
    /// When it was last used, to a tenth of the idle time.
    pub renewed_at: u64,
    /// When the provider was last asked about her.
    pub asked_at: u64,
}

/// A random name of 128 bits, which nobody but the browser and the gateway may learn.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(Box<str>);

/// The session of a person that has too much to say about herself.
#[derive(Debug, thiserror::Error)]
#[error("what is known of the user does not fit into a cookie")]
pub struct Oversized;

/// The system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// What opens sessions, and says whether they still hold. Shared by all workers and the portal.
pub struct Sessions {
    /// Seals and opens cookies.
    pub sealer: Sealer,
    /// The sessions that were revoked.
    pub revocations: Revocations,
    /// Where other replicas are told; `None` where there is no place for that.
    outbox: Option<Outbox>,
    idle: Duration,
    absolute: Duration,
}

// === impl Sessions ===

impl Sessions {
    /// What is ended here is told by `outbox`.
    pub fn new(settings: &LoginSettings, outbox: Option<Outbox>) -> Result<Self, NoRandomness> {
        Ok(Self {
            sealer: Sealer::new()?,
            revocations: Revocations::new(settings.absolute),
            outbox,
            idle: settings.idle,
            absolute: settings.absolute,
        })
    }

    /// Follows the keys and the ends of sessions in the snapshot, forever: a task of the control
    /// plane.
    pub async fn follow(&self, live: &Live) {
        if self.outbox.is_none() {
            tracing::warn!(
                "`access.credentialsNamespace` is not set: sessions are sealed with a key of this \
                 process; they end with it, and other replicas know neither them nor their ends"
            );
        }
        live.follow(|snapshot| self.learn(&snapshot.credentials, SystemTime::now())).await;
    }

    /// Takes ends before keys: whatever opens by a key has been looked up among the ends that came
    /// with it.
    fn learn(&self, credentials: &Credentials, now: SystemTime) {
        self.revocations.learn(&credentials.ended_sessions, now);
        self.sealer.learn(&credentials.session_keys);
    }

    /// Ends sessions that began until now: here at once, and everywhere as soon as others can be
    /// told, which is waited for a moment.
    pub async fn end(&self, whose: Revoked<'_>, now: SystemTime) {
        let ended = self.revocations.revoke(whose, now);
        if let Some(outbox) = &self.outbox {
            outbox.tell(ended).await;
        }
    }

    /// How long a session lasts at most.
    pub fn lasting(&self) -> Duration {
        self.absolute
    }

    /// A session that begins now. Groups that do not fit are left out, which can only take rights
    /// away.
    pub fn begin(
        &self,
        user: User,
        provider_session: Option<Box<str>>,
        now: SystemTime,
    ) -> Result<Session, BeginError> {
        let now = seconds(now);
        let expires_at = now.saturating_add(self.absolute.as_secs());
        let id = Id::random()?;
        let session = Session {
            id,
            user: Arc::new(user),
            provider_session,
            issued_at: now,
            expires_at,
            renewed_at: now,
            asked_at: now,
        };
        Ok(session.fitted()?)
    }

    /// The session in a cookie's value, if it holds on this host now.
    pub fn open(
        &self,
        purpose: Purpose,
        host: &str,
        value: &str,
        now: SystemTime,
    ) -> Option<Session> {
        let session: Option<Session> = self.sealer.open(purpose, host, value);
        session.filter(|session| self.holds(session, now))
    }

    /// A cookie's value for this host.
    pub fn seal(
        &self,
        purpose: Purpose,
        host: &str,
        session: &Session,
        now: SystemTime,
    ) -> Option<String> {
        self.sealer.seal(purpose, host, session, now)
    }

    /// Whether it has neither ended by itself nor been ended.
    pub fn holds(&self, session: &Session, now: SystemTime) -> bool {
        !self.is_over(session, now) && !self.revocations.have(session)
    }

    /// Whether it has ended by itself.
    pub fn is_over(&self, session: &Session, now: SystemTime) -> bool {
        self.until(session) <= now
    }

    /// When it ends if nothing happens any more.
    pub fn until(&self, session: &Session) -> SystemTime {
        let used = session.renewed_at.saturating_add(self.idle.as_secs());
        // The settings may allow less by now than when it began; what was ended is not remembered
        // for longer.
        let absolute = session.issued_at.saturating_add(self.absolute.as_secs());
        UNIX_EPOCH + Duration::from_secs(session.expires_at.min(absolute).min(used))
    }

    /// The same session, used now; `None` where that was said less than a tenth of the idle time
    /// ago.
    pub fn renewed(&self, session: &Session, now: SystemTime) -> Option<Session> {
        let now = seconds(now);
        (now.saturating_sub(session.renewed_at) >= self.idle.as_secs() / 10)
            .then(|| Session { renewed_at: now, ..session.clone() })
    }

    /// How long a browser keeps the cookie: until the session would have ended.
    pub fn lasts(&self, session: &Session, now: SystemTime) -> Duration {
        self.until(session).duration_since(now).unwrap_or_default()
    }
}

/// Why a session did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// It does not fit into a cookie.
    #[error(transparent)]
    Oversized(#[from] Oversized),
    /// The system gives no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

// === impl Session ===

impl Session {
    /// Whether it is time to ask the provider about her.
    pub fn is_stale(&self, now: SystemTime) -> bool {
        seconds(now).saturating_sub(self.asked_at) >= ASK.as_secs()
    }

    /// With as many of her groups as fit into a cookie.
    pub fn fitted(mut self) -> Result<Self, Oversized> {
        let mut user = Arc::unwrap_or_clone(self.user);
        let groups = std::mem::take(&mut user.groups);
        self.user = Arc::new(user);
        let mut left = MAX_OCTETS.checked_sub(length(&self)).ok_or(Oversized)?;
        let given = groups.len();
        let mut kept = Vec::with_capacity(given);
        for group in groups {
            // A quotation mark at either end is in it, the comma is not.
            match left.checked_sub(length(&group) + 1) {
                Some(rest) => left = rest,
                None => break,
            }
            kept.push(group);
        }
        if kept.len() < given {
            tracing::warn!(user = %self.user.name, given, kept = kept.len(), "a session holds only some of the user's groups: a cookie is too small");
        }
        self.user = Arc::new(User { groups: kept.into(), ..Arc::unwrap_or_clone(self.user) });
        Ok(self)
    }
}

// === impl Id ===

impl Id {
    /// A new identifier.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self(random_text::<16>()?.into()))
    }

    /// The name itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// `N` random octets in base64 for URLs.
pub fn random_text<const N: usize>() -> Result<String, NoRandomness> {
    let mut octets = [0_u8; N];
    rand::fill(&mut octets).map_err(|_| NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(octets))
}

/// How long it is in JSON.
fn length(what: &impl Serialize) -> usize {
    serde_json::to_vec(what).map_or(usize::MAX, |json| json.len())
}

#[cfg(test)]
mod tests;
