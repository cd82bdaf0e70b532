//! Anonymous browsers: a random identifier, sealed into a cookie of one host, by which a browser
//! keeps its variant of a service.
//!
//! It says nothing about a person, and no two hosts have the same one.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use portcullis_config::snapshot::access::SessionKey;
use portcullis_config::unix_time::seconds;

use crate::session::cookie::VISITOR;
use crate::session::{NoRandomness, Purpose, Sealer};

/// How long a browser keeps the cookie without visiting the host.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How old a cookie is when it is replaced: by one that a current key seals, and that lasts longer.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);

/// A browser on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visitor {
    id: u128,
    /// When its cookie was sealed, in seconds since 1970; `None` if it has none yet.
    sealed_at: Option<u64>,
}

/// Seals and opens the cookies of browsers, with the keys of sessions.
pub struct Visitors {
    sealer: Sealer,
}

/// The content of a cookie: both halves of the identifier, and when it was sealed.
type Sealed = (u64, u64, u64);

// === impl Visitor ===

impl Visitor {
    /// A browser without a cookie; `id` is random.
    #[must_use]
    pub fn new(id: u128) -> Self {
        Self { id, sealed_at: None }
    }

    /// Its identifier.
    #[must_use]
    pub fn id(self) -> u128 {
        self.id
    }
}

// === impl Visitors ===

impl Visitors {
    /// Creates it without the keys of a cluster: until they are loaded, it uses a key of this
    /// process.
    ///
    /// # Errors
    /// The system returned no random numbers.
    pub(crate) fn new() -> Result<Self, NoRandomness> {
        Ok(Self { sealer: Sealer::new()? })
    }

    /// Replaces the keys by those of a snapshot.
    pub(crate) fn load(&self, keys: &[SessionKey]) {
        self.sealer.load(keys);
    }

    /// Opens the cookie of a browser on this host.
    #[must_use]
    pub fn open(&self, host: &str, value: &str) -> Option<Visitor> {
        let (high, low, sealed_at): Sealed = self.sealer.open(Purpose::Visitor, host, value)?;
        let id = u128::from(high) << 64 | u128::from(low);
        Some(Visitor { id, sealed_at: Some(sealed_at) })
    }

    /// Returns the `Set-Cookie` of a browser on this host; `None` while it has a recent one.
    #[must_use]
    pub fn cookie(&self, visitor: Visitor, host: &str, now: SystemTime) -> Option<HeaderValue> {
        let at = seconds(now);
        if visitor.sealed_at.is_some_and(|sealed| at.saturating_sub(sealed) < RENEWAL.as_secs()) {
            return None;
        }
        let content: Sealed = ((visitor.id >> 64) as u64, visitor.id as u64, at);
        VISITOR.set(&self.sealer.seal(Purpose::Visitor, host, &content, now)?, MAX_AGE)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use portcullis_config::model::Origin;

    use super::*;

    const HOST: &str = "web.example.com";
    const ID: u128 = 0x1234_5678_9abc_def0_0fed_cba9_8765_4321;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn visitors(keys: &[u8]) -> Visitors {
        let key = |octet: &u8| SessionKey {
            origin: Origin::default(),
            key: vec![*octet; 32].into(),
            created: Some(at(u64::from(*octet))),
        };
        let visitors = Visitors::new().unwrap();
        visitors.load(&keys.iter().map(key).collect::<Vec<_>>());
        visitors
    }

    fn value(cookie: &HeaderValue) -> &str {
        let text = cookie.to_str().unwrap();
        text.strip_prefix("__Host-portcullis-visitor=").unwrap().split(';').next().unwrap()
    }

    #[test]
    fn a_browser_keeps_its_identifier_on_every_replica_and_host_by_host() {
        let (one, other) = (visitors(&[1]), visitors(&[1]));
        let cookie = one.cookie(Visitor::new(ID), HOST, at(1_000)).unwrap();
        assert_eq!(other.open(HOST, value(&cookie)).unwrap().id(), ID);
        assert_eq!(other.open("shop.example.com", value(&cookie)), None);
        assert_eq!(other.open(HOST, "forged"), None);
        assert!(cookie.to_str().unwrap().ends_with("; Secure; HttpOnly; SameSite=Lax"));
    }

    #[test]
    fn a_cookie_is_replaced_after_a_day_by_one_of_the_current_key() {
        let one = visitors(&[1]);
        let first = one.cookie(Visitor::new(ID), HOST, at(1_000)).unwrap();
        let both = visitors(&[1, 2]);
        let visitor = both.open(HOST, value(&first)).unwrap();
        let day = RENEWAL.as_secs();
        assert_eq!(both.cookie(visitor, HOST, at(1_000 + day - 1)), None);
        let second = both.cookie(visitor, HOST, at(1_000 + day)).unwrap();
        assert_eq!(visitors(&[2]).open(HOST, value(&second)).unwrap().id(), ID);
    }
}
