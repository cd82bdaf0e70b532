//! Credentials from Secrets: keys of applications, and keys that seal sessions.

use std::fmt;
use std::time::SystemTime;

use k8s_openapi::api::core::v1;
use k8s_openapi::jiff::Timestamp;

use super::certificate::entry;
use super::{Metadata, NamespacedName, PREFIX, unreadable};
use crate::client_key::{self, secret};
use crate::problem::{Origin, Place, Problem};
use crate::snapshot::access::{CREDENTIAL, ClientKey, SessionKey};

/// The value of the label of Secrets with an application's key.
pub const CLIENT_KEY: &str = "client-key";
/// The value of the label of Secrets with a key that seals sessions.
pub const SESSION_KEY: &str = "session-key";
/// The entry of the application's name.
pub const APPLICATION: &str = "application";
/// The entry of a client key's hash.
pub const HASH: &str = "hash";
/// The entry of a session key.
pub const KEY: &str = "key";
/// The annotation that says when a client key ends, after [`PREFIX`].
pub const EXPIRES: &str = "expires";

/// A Secret with the label [`CREDENTIAL`], as far as it is read.
#[derive(Clone, PartialEq)]
pub enum Credential {
    /// An application's key.
    ClientKey(ClientKey),
    /// A key that seals sessions.
    SessionKey(SessionKey),
}

// === impl Credential ===

impl Credential {
    /// Reads a Secret; `place` is where it was read, for one from a file.
    ///
    /// # Errors
    /// It cannot be understood as a whole: then it holds no credential, also where it held one before. No message has a value of it.
    pub fn from_secret(object: &v1::Secret, place: Option<Place>) -> Result<Self, Problem> {
        let Metadata { origin, .. } = Metadata::read("Secret", true, &object.metadata, place)?;
        match object.metadata.labels.as_ref().and_then(|labels| labels.get(CREDENTIAL)).map(String::as_str) {
            Some(CLIENT_KEY) => client_key(object, origin).map(Self::ClientKey),
            Some(SESSION_KEY) => session_key(object, origin).map(Self::SessionKey),
            _ => {
                let message = format!("its label `{CREDENTIAL}` says nothing that is known");
                Err(unreadable(origin, message, format!("write {CLIENT_KEY} or {SESSION_KEY}; until then it is no credential")))
            }
        }
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        match self {
            Self::ClientKey(key) => &key.origin,
            Self::SessionKey(key) => &key.origin,
        }
    }

    /// Its namespace and name.
    #[must_use]
    pub fn key(&self) -> NamespacedName {
        NamespacedName { namespace: self.origin().namespace.clone(), name: self.origin().name.clone() }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.origin())
    }
}

fn client_key(object: &v1::Secret, origin: Origin) -> Result<ClientKey, Problem> {
    let text = |name: &str| entry(object, name).and_then(|bytes| Some(String::from_utf8(bytes).ok()?.trim().to_owned()));
    let application = text(APPLICATION).filter(|name| secret::is_application(name));
    let hash = text(HASH).and_then(|hash| client_key::read_hash(&hash));
    let refuse =
        |message: String, help: &str| Err(unreadable(origin.clone(), message, format!("{help}; until then no such key is accepted")));
    match (application, hash, expires(object)) {
        (None, ..) => refuse(format!("its `{APPLICATION}` is no name of an application"), "write a name without `*` and white space there"),
        (_, None, _) => refuse(
            format!("its `{HASH}` is no hash of a key"),
            "write `sha256:` and 64 hexadecimal digits there, as `portcullis key create` does",
        ),
        (.., Err(message)) => refuse(message, &format!("write a time such as 2030-01-31T12:00:00Z as `{PREFIX}{EXPIRES}`")),
        (Some(application), Some(hash), Ok(expires)) => Ok(ClientKey { origin, application: application.into(), hash, expires }),
    }
}

/// When a key ends. An annotation that is not known may have been meant to say so.
fn expires(object: &v1::Secret) -> Result<Option<SystemTime>, String> {
    let mut expires = None;
    for (name, value) in object.metadata.annotations.iter().flatten() {
        match name.strip_prefix(PREFIX) {
            None => {}
            Some(EXPIRES) => {
                let time: Timestamp = value.trim().parse().map_err(|_| format!("its annotation `{PREFIX}{EXPIRES}` is no time"))?;
                expires = Some(SystemTime::from(time));
            }
            Some(other) => return Err(format!("its annotation `{PREFIX}{}` is unknown", other.chars().take(64).collect::<String>())),
        }
    }
    Ok(expires)
}

fn session_key(object: &v1::Secret, origin: Origin) -> Result<SessionKey, Problem> {
    match entry(object, KEY) {
        Some(key) if key.len() == 32 => {
            let created = object.metadata.creation_timestamp.as_ref().map(|time| SystemTime::from(time.0));
            Ok(SessionKey { origin, key: key.into(), created })
        }
        _ => Err(unreadable(
            origin,
            format!("its `{KEY}` is no key of 32 octets"),
            "write 32 octets of secret randomness there, or take it away; until then it seals and opens no session".to_owned(),
        )),
    }
}
