//! Identity headers of callers, cached so that they are built and signed once, not for each
//! request.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use foldhash::quality::RandomState;
use portcullis_identity::cache::Cache;
use portcullis_identity::caller::{Application, Caller, User};

use super::assertion::{Assertions, Key};
use super::identity::{self, Field};
use crate::http1::outbound::put_field;

/// How long an assertion is reused: what is left of its lifetime then suffices for any request.
const REUSE: Duration = Duration::from_secs(120);
/// The most entries.
const CAPACITY: usize = 16 * 1024;

/// Builds and caches identity headers. Shared by all workers.
pub(crate) struct IdentityHeadersCache {
    /// `None` where assertions are disabled.
    assertions: Option<Arc<Assertions>>,
    hasher: RandomState,
    /// By a hash that may collide: the caller of an entry is compared.
    entries: Cache<Arc<IdentityHeaders>, u64>,
}

/// The identity headers of one caller for the backends of one host.
pub(crate) struct IdentityHeaders {
    application: Option<Application>,
    user: Option<Arc<User>>,
    host: Box<str>,
    /// The key that the assertion is signed with.
    key: Option<Arc<Key>>,
    until: SystemTime,
    fields: Vec<Field>,
    lines: BytesMut,
}

// === impl IdentityHeadersCache ===

impl IdentityHeadersCache {
    pub(crate) fn new(assertions: Option<Arc<Assertions>>) -> Self {
        Self { assertions, hasher: RandomState::default(), entries: Cache::new(CAPACITY) }
    }

    /// The issuer of assertions; `None` where they are disabled.
    pub(crate) fn assertions(&self) -> Option<&Assertions> {
        self.assertions.as_deref()
    }

    /// The identity headers of `caller` for backends of `host`; `None` where it is anonymous.
    pub(crate) fn of(
        &self,
        caller: &Caller,
        host: &str,
        now: SystemTime,
    ) -> Option<Arc<IdentityHeaders>> {
        if caller.application.is_none() && caller.user.is_none() {
            return None;
        }
        let user =
            caller.user.as_deref().map(|user| (&user.name, &user.subject, user.groups.len()));
        let hash = self.hasher.hash_one((host, &caller.application, user));
        let key = self.assertions.as_ref().and_then(|assertions| assertions.in_use(now));
        let cached = self
            .entries
            .get(&hash)
            .filter(|cached| cached.is_of(caller, host, key.as_ref()) && now < cached.until);
        Some(cached.unwrap_or_else(|| {
            let built = Arc::new(self.build(caller, host, key, now));
            self.entries.insert(hash, Arc::clone(&built));
            built
        }))
    }

    /// Whether `headers` can be reused for another request of the same caller to `host`.
    pub(crate) fn is_current(
        &self,
        headers: &IdentityHeaders,
        host: &str,
        now: SystemTime,
    ) -> bool {
        let key = self.assertions.as_ref().and_then(|assertions| assertions.in_use(now));
        headers.is_for(host, key.as_ref()) && now < headers.until
    }

    fn build(
        &self,
        caller: &Caller,
        host: &str,
        key: Option<Arc<Key>>,
        now: SystemTime,
    ) -> IdentityHeaders {
        let assertion = self
            .assertions
            .as_ref()
            .zip(key.as_ref())
            .and_then(|(assertions, key)| assertions.sign(key, caller, host, now));
        let fields = identity::fields(caller, assertion);
        let mut lines = BytesMut::new();
        fields.iter().for_each(|(name, value)| put_field(name, value, &mut lines));
        IdentityHeaders {
            application: caller.application.clone(),
            user: caller.user.clone(),
            host: host.into(),
            key,
            until: now + REUSE,
            fields,
            lines,
        }
    }
}

// === impl IdentityHeaders ===

impl IdentityHeaders {
    /// The fields, each name once.
    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The same fields, serialized for HTTP/1.1.
    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }

    fn is_of(&self, caller: &Caller, host: &str, key: Option<&Arc<Key>>) -> bool {
        self.is_for(host, key) && self.application == caller.application && self.user == caller.user
    }

    fn is_for(&self, host: &str, key: Option<&Arc<Key>>) -> bool {
        *self.host == *host && self.key.as_ref().map(Arc::as_ptr) == key.map(Arc::as_ptr)
    }
}

impl fmt::Debug for IdentityHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityHeaders").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::model::Origin;
    use portcullis_config::snapshot::access::SessionKey;
    use portcullis_identity::caller::ann;

    use super::*;

    fn sent(
        cache: &IdentityHeadersCache,
        caller: &Caller,
        host: &str,
        now: SystemTime,
    ) -> Vec<Field> {
        cache.of(caller, host, now).map(|headers| headers.fields().to_vec()).unwrap_or_default()
    }

    #[test]
    fn headers_are_reused_for_two_minutes_and_for_no_other_caller() {
        let cache =
            IdentityHeadersCache::new(Some(Arc::new(Assertions::new("apps.test").unwrap())));
        let now = SystemTime::now();
        let first = sent(&cache, &ann(), "a", now);
        assert_eq!(
            sent(&cache, &ann(), "a", now + Duration::from_secs(100)),
            first,
            "for another token of the same caller too"
        );
        assert_ne!(sent(&cache, &ann(), "a", now + Duration::from_secs(130)), first);
        assert_ne!(sent(&cache, &ann(), "b", now), first);
        assert_ne!(sent(&cache, &Caller { application: None, ..ann() }, "a", now), first);
        assert!(sent(&cache, &Caller::default(), "a", now).is_empty());
        let mut others = vec![ann(); 5];
        let mut users =
            others.iter_mut().map(|caller| Arc::make_mut(caller.user.as_mut().unwrap()));
        users.next().unwrap().name = "ben@example.com".into();
        users.next().unwrap().email = None;
        users.next().unwrap().preferred_username = Some("ann".into());
        users.next().unwrap().groups = ["dev".into(), "ops".into()].into();
        users.next().unwrap().groups = ["ops".into()].into();
        for other in others {
            assert_ne!(sent(&cache, &other, "a", now), first, "{other:?}");
            assert_eq!(sent(&cache, &ann(), "a", now).len(), first.len());
        }
    }

    #[test]
    fn a_new_key_is_used_as_soon_as_it_signs() {
        let assertions = Arc::new(Assertions::new("apps.test").unwrap());
        let cache = IdentityHeadersCache::new(Some(Arc::clone(&assertions)));
        let now = SystemTime::now();
        let key = |octet: u8, age: u64| SessionKey {
            origin: Origin::default(),
            key: vec![octet; 32].into(),
            created: Some(now - Duration::from_secs(age)),
        };
        assertions.load(&[key(1, 1000), key(2, 10)]);
        let first = sent(&cache, &ann(), "a", now);
        assert_eq!(sent(&cache, &ann(), "a", now + Duration::from_secs(40)), first);
        assert_ne!(sent(&cache, &ann(), "a", now + Duration::from_secs(60)), first);
        let second = sent(&cache, &ann(), "a", now + Duration::from_secs(60));
        assertions.load(&[key(3, 1000)]);
        assert_ne!(sent(&cache, &ann(), "a", now + Duration::from_secs(60)), second);
    }

    #[test]
    fn without_assertions_the_other_headers_are_sent() {
        let sent = sent(&IdentityHeadersCache::new(None), &ann(), "a", SystemTime::now());
        assert_eq!(
            sent.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            [
                "x-auth-request-app",
                "x-auth-request-user",
                "x-forwarded-user",
                "x-auth-request-email",
                "x-auth-request-groups"
            ]
        );
    }
}
