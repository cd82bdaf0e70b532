//! Who may call: the credentials that a request must carry, the callers that grants allow, and the
//! credentials in the cluster's Secrets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::certificate::SecretBytes;
use super::revoked_sessions::Revocation;
use crate::model::{NamePattern, Origin};

/// Who may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Access {
    /// The credentials that a request must carry.
    pub require: Require,
    /// The applications that are allowed, where one is required: every list must match the
    /// caller's. Without a list, none is allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<Arc<[NamePattern]>>,
    /// The users that are allowed, where one is required: every entry must match the caller.
    /// Without an entry, none is allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<Arc<Subjects>>,
    /// Whether the presented credentials, except client keys and sessions, are forwarded to the
    /// backend.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pass_credentials: bool,
}

/// Users, matched by their names or by their groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Subjects {
    /// Patterns of user names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<NamePattern>,
    /// Patterns of group names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<NamePattern>,
}

/// The credentials that a request must carry. The default is the strictest: closed unless opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Require {
    /// None: open to all who can reach the gateway.
    #[serde(rename = "none")]
    Nothing,
    /// An application's.
    #[serde(rename = "app")]
    Application,
    /// A user's.
    #[serde(rename = "user")]
    User,
    /// Both.
    #[default]
    #[serde(rename = "app+user")]
    ApplicationAndUser,
}

/// All credentials that were read from Secrets.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Credentials {
    /// The keys of applications.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_keys: Vec<ClientKey>,
    /// Keys that seal sessions, by name: every key opens; the newest that all replicas have seals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub session_keys: Vec<SessionKey>,
    /// The Secret with the session keys that the gateway generated, where it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ring: Option<KeyRing>,
    /// The revoked sessions.
    #[serde(rename = "ended_sessions", skip_serializing_if = "Vec::is_empty")]
    pub revoked_sessions: Vec<RevokedSessions>,
}

/// A key that an application presents. Only its hash is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientKey {
    /// The Secret.
    pub origin: Origin,
    /// The application's name.
    pub application: Arc<str>,
    /// SHA-256 of the key as it is written.
    #[serde(skip)]
    pub hash: [u8; 32],
    /// When it expires.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub expires: Option<SystemTime>,
}

/// A key that seals sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionKey {
    /// The Secret.
    pub origin: Origin,
    /// 32 octets of secret randomness.
    #[serde(skip)]
    pub key: SecretBytes,
    /// When the Secret was created.
    #[serde(serialize_with = "seconds")]
    pub created: Option<SystemTime>,
}

/// The Secret with the session keys that the gateway generated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyRing {
    /// The Secret.
    pub origin: Origin,
    /// Its `metadata.resourceVersion`, where it comes from a cluster.
    #[serde(skip)]
    pub version: Option<Arc<str>>,
    /// The names of its entries: when each key was created, in seconds since 1970.
    pub entries: BTreeSet<String>,
    /// Whether some entries hold no key.
    #[serde(rename = "is_garbled", skip_serializing_if = "std::ops::Not::not")]
    pub has_invalid_entries: bool,
}

/// The revocations in one Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevokedSessions {
    /// The Secret.
    pub origin: Origin,
    /// Its valid entries.
    #[serde(rename = "ended")]
    pub revocations: Arc<[Revocation]>,
    /// Whether it has other entries, which cannot be parsed.
    #[serde(rename = "is_garbled", skip_serializing_if = "std::ops::Not::not")]
    pub has_invalid_entries: bool,
}

// === impl Require ===

impl Require {
    /// The union: requires all that either requires.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::of(self.application() || other.application(), self.user() || other.user())
    }

    /// The difference: what it requires and `other` does not.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self::of(self.application() && !other.application(), self.user() && !other.user())
    }

    /// The requirement made of these parts.
    #[must_use]
    pub fn of(application: bool, user: bool) -> Self {
        match (application, user) {
            (false, false) => Self::Nothing,
            (true, false) => Self::Application,
            (false, true) => Self::User,
            (true, true) => Self::ApplicationAndUser,
        }
    }

    /// Whether an application's credentials are required.
    #[must_use]
    pub fn application(self) -> bool {
        matches!(self, Self::Application | Self::ApplicationAndUser)
    }

    /// Whether a user's credentials are required.
    #[must_use]
    pub fn user(self) -> bool {
        matches!(self, Self::User | Self::ApplicationAndUser)
    }
}

// === impl Credentials ===

impl Credentials {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.client_keys.is_empty()
            && self.session_keys.is_empty()
            && self.key_ring.is_none()
            && self.revoked_sessions.is_empty()
    }
}

// === impl Subjects ===

#[cfg(test)]
impl Subjects {
    /// Whether it matches a user with this name, or with one of these groups: the definition that
    /// [`grants`](super::grants) implements.
    pub(crate) fn has<'g>(&self, user: &str, mut groups: impl Iterator<Item = &'g str>) -> bool {
        self.users.iter().any(|pattern| pattern.matches(user))
            || !self.groups.is_empty()
                && groups.any(|group| self.groups.iter().any(|pattern| pattern.matches(group)))
    }
}

/// As seconds since 1970.
fn seconds<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map(|since| since.as_secs())
        .serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::Require::{Application, ApplicationAndUser, Nothing, User};
    use super::*;

    #[test]
    fn union_and_difference_work_on_application_and_user_separately() {
        let all = [Nothing, Application, User, ApplicationAndUser];
        let parts = |require: Require| (require.application(), require.user());
        for (one, other) in all.into_iter().flat_map(|one| all.map(|other| (one, other))) {
            let ((app, user), (other_app, other_user)) = (parts(one), parts(other));
            assert_eq!(
                parts(one.and(other)),
                (app || other_app, user || other_user),
                "{one:?} and {other:?}"
            );
            assert_eq!(
                parts(one.without(other)),
                (app && !other_app, user && !other_user),
                "{one:?} without {other:?}"
            );
        }
        assert_eq!(Require::default(), ApplicationAndUser);
    }

    #[test]
    fn subjects_match_users_by_name_or_by_group() {
        let subjects =
            Subjects { users: vec!["ann".parse().unwrap()], groups: vec!["ops".parse().unwrap()] };
        let has = |user, groups: &[&str]| subjects.has(user, groups.iter().copied());
        assert!(has("ann", &[]));
        assert!(has("bob", &["dev", "ops"]));
        assert!(!has("bob", &["dev"]));
        assert!(!has("ops", &["ann"]));
        assert!(!Subjects::default().has("ann", ["ops"].into_iter()));
    }
}
