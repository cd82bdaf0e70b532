//! Who may call: what is demanded of a request, whom the grants let in, and the credentials that
//! the cluster's Secrets hold.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::certificate::SecretBytes;
use super::revoked_sessions::Ended;
use crate::model::{NamePattern, Origin};

/// Who may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Access {
    /// The credentials that a request must carry.
    pub require: Require,
    /// The applications that are let in, where one is demanded: each list must have the caller's.
    /// Without any list nobody is let in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<Arc<[NamePattern]>>,
    /// The users that are let in, where one is demanded: each circle must have the caller. Without
    /// any circle nobody is let in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<Arc<Circle>>,
    /// Whether the credentials that were shown go on to the backend.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pass_credentials: bool,
}

/// Users, by their own names or by their groups'.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Circle {
    /// By their own names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<NamePattern>,
    /// By the name of a group of theirs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<NamePattern>,
}

/// The credentials that a request must carry. The default demands the most: closed unless opened.
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

/// All credentials that are known from Secrets.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Credentials {
    /// The keys of applications.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_keys: Vec<ClientKey>,
    /// Keys that seal sessions, in the order of their names: all open, and the newest that is old
    /// enough for every replica to have it seals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub session_keys: Vec<SessionKey>,
    /// The Secret with those of them that the gateway made, where it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ring: Option<KeyRing>,
    /// The sessions that were ended before their time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ended_sessions: Vec<EndedSessions>,
}

/// A key that an application shows. The key itself is nowhere: only its hash is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientKey {
    /// The Secret.
    pub origin: Origin,
    /// The application's name.
    pub application: Arc<str>,
    /// SHA-256 of the key as it is written.
    #[serde(skip)]
    pub hash: [u8; 32],
    /// When it ends.
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
    /// When the Secret was made.
    #[serde(serialize_with = "seconds")]
    pub created: Option<SystemTime>,
}

/// The Secret with the keys that the gateway made by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyRing {
    /// The Secret.
    pub origin: Origin,
    /// Its `metadata.resourceVersion`, where it comes from a cluster.
    #[serde(skip)]
    pub version: Option<Arc<str>>,
    /// The names of its entries: when each key was made, in seconds since 1970.
    pub entries: BTreeSet<String>,
    /// Whether some of them hold no key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_garbled: bool,
}

/// Sessions that were ended before their time, as far as one Secret tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndedSessions {
    /// The Secret.
    pub origin: Origin,
    /// Which.
    pub ended: Arc<[Ended]>,
    /// Whether there are more that cannot be understood.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_garbled: bool,
}

// === impl Require ===

impl Require {
    /// What demands all that either demands.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::of(self.application() || other.application(), self.user() || other.user())
    }

    /// What of it the other does not demand.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self::of(self.application() && !other.application(), self.user() && !other.user())
    }

    /// By its parts.
    #[must_use]
    pub fn of(application: bool, user: bool) -> Self {
        match (application, user) {
            (false, false) => Self::Nothing,
            (true, false) => Self::Application,
            (false, true) => Self::User,
            (true, true) => Self::ApplicationAndUser,
        }
    }

    /// Whether an application's credentials are demanded.
    #[must_use]
    pub fn application(self) -> bool {
        matches!(self, Self::Application | Self::ApplicationAndUser)
    }

    /// Whether a user's credentials are demanded.
    #[must_use]
    pub fn user(self) -> bool {
        matches!(self, Self::User | Self::ApplicationAndUser)
    }
}

// === impl Credentials ===

impl Credentials {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.client_keys.is_empty()
            && self.session_keys.is_empty()
            && self.key_ring.is_none()
            && self.ended_sessions.is_empty()
    }
}

// === impl Circle ===

impl Circle {
    /// Whether a user of that name, or of one of those groups, is in it.
    pub fn has<'g>(&self, user: &str, mut groups: impl Iterator<Item = &'g str>) -> bool {
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
    fn demands_are_joined_and_parted_by_application_and_user() {
        let all = [Nothing, Application, User, ApplicationAndUser];
        let demands = |require: Require| (require.application(), require.user());
        for (one, other) in all.into_iter().flat_map(|one| all.map(|other| (one, other))) {
            let ((app, user), (other_app, other_user)) = (demands(one), demands(other));
            assert_eq!(
                demands(one.and(other)),
                (app || other_app, user || other_user),
                "{one:?} and {other:?}"
            );
            assert_eq!(
                demands(one.without(other)),
                (app && !other_app, user && !other_user),
                "{one:?} without {other:?}"
            );
        }
        assert_eq!(Require::default(), ApplicationAndUser);
    }

    #[test]
    fn a_circle_has_users_by_name_or_by_group() {
        let circle =
            Circle { users: vec!["ann".parse().unwrap()], groups: vec!["ops".parse().unwrap()] };
        let has = |user, groups: &[&str]| circle.has(user, groups.iter().copied());
        assert!(has("ann", &[]));
        assert!(has("bob", &["dev", "ops"]));
        assert!(!has("bob", &["dev"]));
        assert!(!has("ops", &["ann"]));
        assert!(!Circle::default().has("ann", ["ops"].into_iter()));
    }
}
