//! Credentials from Secrets: keys of applications, keys that seal sessions, and the sessions that
//! were ended.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1;
use k8s_openapi::jiff::Timestamp;

use super::certificate::entry;
use super::{Metadata, unreadable};
use crate::client_key::{self, secret};
use crate::model::credential::{
    APPLICATION, CLIENT_KEY, CREDENTIAL, ENDED_SESSIONS, EXPIRES, HASH, KEY, SESSION_KEY,
    SESSION_KEYS,
};
use crate::model::vocabulary::PREFIX;
use crate::model::{NamespacedName, Origin, Place};
use crate::problem::Problem;
use crate::snapshot::access::{ClientKey, EndedSessions, KeyRing, SessionKey};
use crate::snapshot::revoked_sessions::Ended;

/// How long a session key is, in octets.
const SESSION_KEY_LENGTH: usize = 32;
/// A Secret with the label [`CREDENTIAL`], as far as it is read.
#[derive(Clone, PartialEq)]
pub enum Credential {
    /// An application's key.
    ClientKey(ClientKey),
    /// A key that seals sessions.
    SessionKey(SessionKey),
    /// Keys that seal sessions, made by the gateway.
    SessionKeys(KeyRing, Vec<SessionKey>),
    /// Sessions that were ended.
    EndedSessions(EndedSessions),
}

// === impl Credential ===

impl Credential {
    /// Reads a Secret; `place` is where it was read, for one from a file.
    ///
    /// # Errors
    /// It cannot be understood as a whole: then it holds no credential, also where it held one
    /// before. No message has a value of it.
    pub fn from_secret(object: &v1::Secret, place: Option<Place>) -> Result<Self, Problem> {
        let Metadata { origin, .. } = Metadata::read("Secret", true, &object.metadata, place)?;
        match object
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(CREDENTIAL))
            .map(String::as_str)
        {
            Some(CLIENT_KEY) => client_key(object, origin).map(Self::ClientKey),
            Some(SESSION_KEY) => session_key(object, origin).map(Self::SessionKey),
            Some(SESSION_KEYS) => Ok(session_keys(object, origin)),
            Some(ENDED_SESSIONS) => Ok(ended_sessions(object, origin)),
            _ => {
                let message = format!("its label `{CREDENTIAL}` says nothing that is known");
                Err(unreadable(
                    origin,
                    message,
                    format!("write {CLIENT_KEY} or {SESSION_KEY}; until then it is no credential"),
                ))
            }
        }
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        match self {
            Self::ClientKey(key) => &key.origin,
            Self::SessionKey(key) => &key.origin,
            Self::SessionKeys(ring, _) => &ring.origin,
            Self::EndedSessions(ended) => &ended.origin,
        }
    }

    /// Its namespace and name.
    #[must_use]
    pub fn key(&self) -> NamespacedName {
        NamespacedName {
            namespace: self.origin().namespace.clone(),
            name: self.origin().name.clone(),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.origin())
    }
}

fn client_key(object: &v1::Secret, origin: Origin) -> Result<ClientKey, Problem> {
    let text = |name: &str| {
        entry(object, name).and_then(|bytes| Some(String::from_utf8(bytes).ok()?.trim().to_owned()))
    };
    let application = text(APPLICATION).filter(|name| secret::is_application(name));
    let hash = text(HASH).and_then(|hash| client_key::read_hash(&hash));
    let refuse = |message: String, help: &str| {
        Err(unreadable(
            origin.clone(),
            message,
            format!("{help}; until then no such key is accepted"),
        ))
    };
    match (application, hash, expires(object)) {
        (None, ..) => refuse(
            format!("its `{APPLICATION}` is no name of an application"),
            "write a name without `*` and white space there",
        ),
        (_, None, _) => refuse(
            format!("its `{HASH}` is no hash of a key"),
            "write `sha256:` and 64 hexadecimal digits there, as `portcullis key create` does",
        ),
        (.., Err(message)) => refuse(
            message,
            &format!("write a time such as 2030-01-31T12:00:00Z as `{PREFIX}{EXPIRES}`"),
        ),
        (Some(application), Some(hash), Ok(expires)) => {
            Ok(ClientKey { origin, application: application.into(), hash, expires })
        }
    }
}

/// When a key ends. An annotation that is not known may have been meant to say so.
fn expires(object: &v1::Secret) -> Result<Option<SystemTime>, String> {
    let mut expires = None;
    for (name, value) in object.metadata.annotations.iter().flatten() {
        match name.strip_prefix(PREFIX) {
            None => {}
            Some(EXPIRES) => {
                let time: Timestamp = value
                    .trim()
                    .parse()
                    .map_err(|_| format!("its annotation `{PREFIX}{EXPIRES}` is no time"))?;
                expires = Some(SystemTime::from(time));
            }
            Some(other) => {
                return Err(format!(
                    "its annotation `{PREFIX}{}` is unknown",
                    other.chars().take(64).collect::<String>()
                ));
            }
        }
    }
    Ok(expires)
}

fn session_key(object: &v1::Secret, origin: Origin) -> Result<SessionKey, Problem> {
    match entry(object, KEY) {
        Some(key) if key.len() == SESSION_KEY_LENGTH => {
            let created =
                object.metadata.creation_timestamp.as_ref().map(|time| SystemTime::from(time.0));
            Ok(SessionKey { origin, key: key.into(), created })
        }
        _ => Err(unreadable(
            origin,
            format!("its `{KEY}` is no key of 32 octets"),
            "write 32 octets of secret randomness there, or take it away; until then it seals and \
             opens no session"
                .to_owned(),
        )),
    }
}

/// One entry that is no key takes none of the others out of use.
fn session_keys(object: &v1::Secret, origin: Origin) -> Credential {
    let key = |name: &String| {
        // Ten digits last until the year 2286.
        let made = name.parse().ok().filter(|_| name.len() <= 10)?;
        let created = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(made))?;
        let key = entry(object, name).filter(|key| key.len() == SESSION_KEY_LENGTH)?;
        Some(SessionKey { origin: origin.clone(), key: key.into(), created: Some(created) })
    };
    let entries = entries(object);
    let keys: Vec<SessionKey> = entries.iter().filter_map(key).collect();
    let version = object.metadata.resource_version.as_deref().map(Into::into);
    let is_garbled = keys.len() < entries.len();
    Credential::SessionKeys(KeyRing { origin, version, entries, is_garbled }, keys)
}

/// What is said by the names of its entries.
fn ended_sessions(object: &v1::Secret, origin: Origin) -> Credential {
    let entries = entries(object);
    let ended: Vec<Ended> = entries.iter().filter_map(|name| name.parse().ok()).collect();
    let is_garbled = ended.len() < entries.len();
    Credential::EndedSessions(EndedSessions { origin, ended: ended.into(), is_garbled })
}

/// The names of a Secret's entries.
fn entries(object: &v1::Secret) -> BTreeSet<String> {
    let data = object.data.iter().flat_map(|data| data.keys());
    data.chain(object.string_data.iter().flat_map(|data| data.keys())).cloned().collect()
}
