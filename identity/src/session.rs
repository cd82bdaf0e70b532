//! Login sessions: a user, sealed into a cookie that only the gateway can read, for one host.
//!
//! The server stores nothing but revocations: every replica with the same keys can open a session.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`sealer`], [`rotation`] | the keys that seal sessions, and their rotation |
//! | [`cookie`] | the cookies with the sealed values |
//! | [`revocations`], [`revocation_publisher`] | revoked sessions, here and on other replicas |

pub mod cookie;
mod revocation_publisher;
mod revocations;
pub mod rotation;
mod sealer;
#[cfg(any(test, feature = "testing"))]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by a panic"
)]
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
use portcullis_config::snapshot::revoked_sessions::Revocation;
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

pub use self::revocation_publisher::{Counts, RevocationQueue};
pub use self::revocations::{Revocations, Revoked};
pub use self::sealer::{Purpose, Sealer};
use crate::caller::{MAX_GROUPS, User};

/// How often the provider is asked to confirm a user.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Maximum size of a session in octets: sealed and encoded it stays below 3.5 KiB of the 4 KiB that
/// browsers store in a cookie.
const MAX_OCTETS: usize = 2560;

/// A login session, as stored in its cookies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its secret identifier.
    pub id: Id,
    /// The user.
    pub user: Arc<User>,
    /// The provider's session (`sid`), by which the provider can revoke this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_session: Option<Box<str>>,
    /// Time of login, in seconds since 1970, like all times here.
    pub issued_at: u64,
    /// Absolute expiry.
    pub expires_at: u64,
    /// Last use, to a tenth of the idle time.
    pub renewed_at: u64,
    /// When the portal was last asked to confirm the user, whether it could or not.
    pub asked_at: u64,
    /// When the provider last confirmed the user.
    #[serde(default)]
    pub confirmed_at: u64,
    /// When the provider was last found to be unavailable, after it had confirmed the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable_at: Option<u64>,
}

/// A random identifier of 128 bits, known to the browser and the gateway alone.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(Box<str>);

/// The user does not fit into a cookie.
#[derive(Debug, thiserror::Error)]
#[error("the user's attributes do not fit into a cookie")]
pub struct Oversized;

/// The system returned no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system returned no random numbers")]
pub struct NoRandomness;

/// Opens, seals and revokes sessions. Shared by all workers and the portal.
pub struct Sessions {
    /// Seals and opens cookies.
    pub sealer: Sealer,
    /// The sessions that were revoked.
    pub revocations: Revocations,
    /// Publishes revocations to other replicas; `None` without a namespace for them.
    queue: Option<RevocationQueue>,
    /// The name of the identity provider that logs users in.
    issuer: Box<str>,
    idle: Duration,
    absolute: Duration,
    revalidate_within: Duration,
    stale_if_error: Duration,
}

// === impl Sessions ===

impl Sessions {
    /// Creates the sessions of this replica; `queue` publishes its revocations.
    pub fn new(
        settings: &LoginSettings,
        queue: Option<RevocationQueue>,
    ) -> Result<Self, NoRandomness> {
        Ok(Self {
            sealer: Sealer::new()?,
            revocations: Revocations::new(settings.absolute),
            queue,
            issuer: settings.issuer.as_str().into(),
            idle: settings.idle,
            absolute: settings.absolute,
            revalidate_within: settings.revalidate_within,
            stale_if_error: settings.stale_if_error,
        })
    }

    /// Watches the keys and revocations of the snapshot, forever: a task of the control plane.
    pub async fn watch(&self, live: &Live) {
        if self.queue.is_none() {
            tracing::warn!(
                "`access.credentialsNamespace` is not set: sessions are sealed with a key of this \
                 process; they are lost when it restarts, and other replicas cannot open or \
                 revoke them"
            );
        }
        live.watch(|snapshot| self.load(&snapshot.credentials, SystemTime::now())).await;
    }

    /// Loads revocations before keys: a session that a new key opens has been checked against the
    /// revocations that came with the key.
    fn load(&self, credentials: &Credentials, now: SystemTime) {
        self.revocations.load(&credentials.revoked_sessions, now);
        self.sealer.load(&credentials.session_keys);
    }

    /// Revokes sessions that began until now: here at once, and on other replicas by the publisher,
    /// for which this waits up to a second. Returns whether other replicas can know of it.
    pub async fn revoke(&self, whose: Revoked<'_>, now: SystemTime) -> bool {
        self.publish(self.revocations.revoke(whose, now)).await
    }

    /// Like [`revoke`](Self::revoke), for a scope that includes this session. It may have begun
    /// later than now: by the clock of another replica, or before this clock was set back.
    pub async fn revoke_with(
        &self,
        session: &Session,
        whose: Revoked<'_>,
        now: SystemTime,
    ) -> bool {
        let began = UNIX_EPOCH + Duration::from_secs(session.issued_at);
        self.publish(self.revocations.revoke_until(whose, began.max(now), now)).await
    }

    async fn publish(&self, revocation: Revocation) -> bool {
        match &self.queue {
            Some(queue) => queue.publish(revocation).await,
            None => true,
        }
    }

    /// Maximum lifetime of a session.
    pub fn max_lifetime(&self) -> Duration {
        self.absolute
    }

    /// Begins a session. It may be too large for a cookie: see [`fitted`](Session::fitted).
    ///
    /// # Errors
    /// The system returned no random numbers.
    pub fn begin(
        &self,
        user: User,
        provider_session: Option<Box<str>>,
        now: SystemTime,
    ) -> Result<Session, NoRandomness> {
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
            confirmed_at: now,
            unavailable_at: None,
        };
        Ok(session)
    }

    /// Whether the provider is due to confirm the user, when the user navigates.
    pub fn is_stale(&self, session: &Session, now: SystemTime) -> bool {
        self.revalidate_at(session) <= now
    }

    /// Returns when a navigation asks the provider: some time after it was last asked, or at once if
    /// its last word is too old.
    pub fn revalidate_at(&self, session: &Session) -> SystemTime {
        let interval = REFRESH_INTERVAL.min(self.revalidate_within);
        let asked = UNIX_EPOCH + Duration::from_secs(session.asked_at);
        (asked + interval).min(self.trusted_until(session))
    }

    /// Whether the provider confirmed the user recently enough. A session that is not trusted is
    /// still good for a navigation to the portal.
    pub fn is_trusted(&self, session: &Session, now: SystemTime) -> bool {
        now < self.trusted_until(session)
    }

    /// Returns when the provider's last word is too old: some time after it confirmed the user; or,
    /// if it was unavailable since, after that, within limits.
    fn trusted_until(&self, session: &Session) -> SystemTime {
        let within = self.revalidate_within.as_secs();
        let confirmed = session.confirmed_at.saturating_add(within);
        let latest = confirmed.saturating_add(self.stale_if_error.as_secs());
        let excused = session.unavailable_at.map_or(0, |at| at.saturating_add(within).min(latest));
        UNIX_EPOCH + Duration::from_secs(confirmed.max(excused))
    }

    /// Returns when requests with this session must be authorized again.
    pub fn accepted_until(&self, session: &Session) -> SystemTime {
        self.until(session).min(self.trusted_until(session))
    }

    /// Opens the session in a cookie of this host, if it is valid now.
    pub fn open(
        &self,
        purpose: Purpose,
        host: &str,
        value: &str,
        now: SystemTime,
    ) -> Option<Session> {
        let session: Option<Session> = self.sealer.open(purpose, host, value);
        session.filter(|session| self.is_valid(session, now))
    }

    /// Seals a session for a cookie of this host.
    pub fn seal(
        &self,
        purpose: Purpose,
        host: &str,
        session: &Session,
        now: SystemTime,
    ) -> Option<String> {
        self.sealer.seal(purpose, host, session, now)
    }

    /// Whether it is neither expired nor revoked, and of the provider that logs users in now.
    pub fn is_valid(&self, session: &Session, now: SystemTime) -> bool {
        *session.user.issuer == *self.issuer
            && !self.is_expired(session, now)
            && !self.revocations.contains(session)
    }

    /// Whether it has expired.
    pub fn is_expired(&self, session: &Session, now: SystemTime) -> bool {
        self.until(session) <= now
    }

    /// Returns when it expires without further use.
    pub fn until(&self, session: &Session) -> SystemTime {
        let used = session.renewed_at.saturating_add(self.idle.as_secs());
        // The settings may have become stricter since it began; revocations are not stored for
        // longer.
        let absolute = session.issued_at.saturating_add(self.absolute.as_secs());
        UNIX_EPOCH + Duration::from_secs(session.expires_at.min(absolute).min(used))
    }

    /// Returns the session as used now; `None` if it was renewed within a tenth of the idle time.
    pub fn renewed(&self, session: &Session, now: SystemTime) -> Option<Session> {
        let now = seconds(now);
        (now.saturating_sub(session.renewed_at) >= self.idle.as_secs() / 10)
            .then(|| Session { renewed_at: now, ..session.clone() })
    }

    /// Lifetime of the cookie: until the session expires.
    pub fn cookie_max_age(&self, session: &Session, now: SystemTime) -> Duration {
        self.until(session).duration_since(now).unwrap_or_default()
    }
}

// === impl Session ===

impl Session {
    /// Keeps as many groups as fit into a cookie, which can only remove permissions. If some do not
    /// fit, `arrange` puts the most important ones first.
    ///
    /// # Errors
    /// The user does not fit, even without groups.
    pub fn fitted(mut self, arrange: impl FnOnce(&mut Vec<Box<str>>)) -> Result<Self, Oversized> {
        let mut user = Arc::unwrap_or_clone(self.user);
        let mut groups = Vec::from(std::mem::take(&mut user.groups));
        self.user = Arc::new(user);
        let left = MAX_OCTETS.checked_sub(length(&self)).ok_or(Oversized)?;
        let given = groups.len();
        if groups.iter().map(|group| size(group)).sum::<usize>() > left || given > MAX_GROUPS {
            arrange(&mut groups);
            let mut used = 0;
            groups.truncate(MAX_GROUPS);
            groups.retain(|group| {
                let is_kept = used + size(group) <= left;
                used += if is_kept { size(group) } else { 0 };
                is_kept
            });
        }
        if groups.len() < given {
            tracing::warn!(user = %self.user.name, given, kept = groups.len(), "left out groups of a user: they do not fit into the session cookie");
        }
        self.user = Arc::new(User { groups: groups.into(), ..Arc::unwrap_or_clone(self.user) });
        Ok(self)
    }
}

// === impl Id ===

impl Id {
    /// Creates a random identifier.
    ///
    /// # Errors
    /// The system returned no random numbers.
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self(random_text::<16>()?.into()))
    }

    /// The identifier itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Returns `N` random octets in base64url.
pub fn random_text<const N: usize>() -> Result<String, NoRandomness> {
    let mut octets = [0_u8; N];
    rand::fill(&mut octets).map_err(|_| NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(octets))
}

/// Size of a group in a session: its quotation marks count as much as they do, the comma too.
fn size(group: &str) -> usize {
    length(&group) + 1
}

/// Length in JSON.
fn length(what: &impl Serialize) -> usize {
    serde_json::to_vec(what).map_or(usize::MAX, |json| json.len())
}

#[cfg(test)]
mod tests;
