//! Callers that this worker has authenticated recently, found by the raw values of their credential
//! headers.
//!
//! This cache is in front of the one that all workers share: a hit there costs a fingerprint and
//! several look-ups, a hit here one comparison.

use std::cell::{Cell, Ref, RefCell};
use std::fmt;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use foldhash::quality::RandomState;
use portcullis_config::snapshot::grants::{GrantIndex, Granted};
use portcullis_identity::authenticator::Authenticated;
use portcullis_identity::caller::granted;

use super::identity_headers::{IdentityHeaders, IdentityHeadersCache};
use super::presented::{FIELDS, Fields, PresentedCredentials};

/// The number of entries on one worker.
const SLOTS: usize = 1024;
/// The most octets of credential headers in an entry; longer ones are not cached.
const MAX_VALUES: usize = 2048;

/// A bounded, direct-mapped cache: a new entry replaces the one in its slot.
pub(crate) struct CallerCache {
    hasher: RandomState,
    slots: RefCell<Box<[Option<Entry>]>>,
    anonymous: Rc<CachedCaller>,
}

/// The credentials that a request presents, and the caller that they authenticate.
#[derive(Default)]
pub(crate) struct CachedCaller {
    pub(crate) presented: PresentedCredentials,
    pub(crate) authenticated: Authenticated,
    identity_headers: RefCell<Option<Arc<IdentityHeaders>>>,
    granted: RefCell<Granted>,
}

/// A cached caller with its key: the host and the credential headers.
struct Entry {
    host: Box<str>,
    values: FieldValues<Box<[u8]>>,
    /// The generation of the credentials that it was authenticated by.
    generation: u64,
    caller: Rc<CachedCaller>,
    /// Whether it was used since the last eviction.
    is_used: Cell<bool>,
}

/// The value of each field that may carry credentials.
type FieldValues<T> = [Option<T>; FIELDS];

/// Returns the values of fields that an entry may have.
fn cacheable<'h>(fields: &Fields<'h>) -> Option<FieldValues<&'h [u8]>> {
    fields.values().filter(|values| {
        values.iter().flatten().map(|value| value.len()).sum::<usize>() <= MAX_VALUES
    })
}

// === impl CallerCache ===

impl CallerCache {
    pub(crate) fn new() -> Self {
        let slots = std::iter::repeat_with(|| None).take(SLOTS).collect();
        Self {
            hasher: RandomState::default(),
            slots: RefCell::new(slots),
            anonymous: Rc::default(),
        }
    }

    /// The caller that presents no credentials.
    pub(crate) fn anonymous(&self) -> Rc<CachedCaller> {
        Rc::clone(&self.anonymous)
    }

    /// Finds the caller that presented the same values to this host before; `None` where its
    /// credentials have expired, or are of another `generation` than the current one.
    pub(crate) fn find(
        &self,
        fields: &Fields<'_>,
        host: &str,
        generation: u64,
        now: SystemTime,
    ) -> Option<Rc<CachedCaller>> {
        let values = cacheable(fields)?;
        let slots = self.slots.borrow();
        let entry = slots.get(self.slot(host, &values))?.as_ref()?;
        if entry.generation != generation
            || !entry.matches(host, &values)
            || entry.caller.authenticated.is_expired(now)
        {
            return None;
        }
        entry.is_used.set(true);
        Some(Rc::clone(&entry.caller))
    }

    /// Caches a caller, if all credentials that it presents are valid. `generation` is the one from
    /// before it was authenticated.
    pub(crate) fn insert(
        &self,
        fields: &Fields<'_>,
        host: &str,
        generation: u64,
        caller: &Rc<CachedCaller>,
    ) {
        let Some(values) = cacheable(fields) else { return };
        if !caller.authenticated.is_identified() || caller.authenticated.rejected.is_some() {
            return;
        }
        if let Some(slot) = self.slots.borrow_mut().get_mut(self.slot(host, &values)) {
            let values = values.map(|value| value.map(Into::into));
            *slot = Some(Entry {
                host: host.into(),
                values,
                generation,
                caller: Rc::clone(caller),
                is_used: Cell::new(true),
            });
        }
    }

    /// Evicts callers that were not used since the last call, so that credentials stay in memory no
    /// longer than needed.
    pub(crate) fn evict_unused(&self) {
        for slot in self.slots.borrow_mut().iter_mut() {
            if slot.as_ref().is_some_and(|entry| !entry.is_used.replace(false)) {
                *slot = None;
            }
        }
    }

    fn slot(&self, host: &str, values: &FieldValues<&[u8]>) -> usize {
        self.hasher.hash_one((host, values)) as usize % SLOTS
    }
}

// === impl CachedCaller ===

impl CachedCaller {
    pub(crate) fn new(presented: PresentedCredentials, authenticated: Authenticated) -> Self {
        Self {
            presented,
            authenticated,
            identity_headers: RefCell::default(),
            granted: RefCell::default(),
        }
    }

    /// The name of the user.
    pub(crate) fn user_name(&self) -> Option<&str> {
        self.authenticated.caller.user.as_deref().map(|user| &*user.name)
    }

    /// The grants of a host table that the caller satisfies. They do not depend on the host.
    pub(crate) fn granted(&self, index: &GrantIndex) -> Ref<'_, Granted> {
        let is_current = self.granted.borrow().is_by(index);
        if !is_current && self.authenticated.is_identified() {
            *self.granted.borrow_mut() = granted(index, &self.authenticated.caller);
        }
        self.granted.borrow()
    }

    /// The caller's identity headers for backends of `host`; `None` where it is anonymous.
    pub(crate) fn identity_headers(
        &self,
        cache: &IdentityHeadersCache,
        host: &str,
        now: SystemTime,
    ) -> Option<Arc<IdentityHeaders>> {
        let mut last = self.identity_headers.borrow_mut();
        if !last.as_ref().is_some_and(|last| cache.is_current(last, host, now)) {
            *last = cache.of(&self.authenticated.caller, host, now);
        }
        last.clone()
    }
}

impl fmt::Debug for CachedCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedCaller")
            .field("authenticated", &self.authenticated)
            .finish_non_exhaustive()
    }
}

// === impl Entry ===

impl Entry {
    fn matches(&self, host: &str, values: &FieldValues<&[u8]>) -> bool {
        *self.host == *host
            && self.values.iter().zip(values).all(|(own, value)| match (own, value) {
                (Some(own), Some(value)) => verify_slices_are_equal(own, value).is_ok(),
                (own, value) => own.is_none() && value.is_none(),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::{HeaderMap, HeaderValue, header};
    use portcullis_identity::caller::{Caller, ann};
    use portcullis_identity::rejected::Rejected;

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn presenting(name: header::HeaderName, value: &str) -> HeaderMap {
        [(name, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    fn cached(headers: &HeaderMap, authenticated: Authenticated) -> Rc<CachedCaller> {
        Rc::new(CachedCaller::new(
            PresentedCredentials::read(&Fields::of(headers), None),
            authenticated,
        ))
    }

    fn authenticated(until: Option<SystemTime>) -> Authenticated {
        Authenticated { caller: Caller { until, ..ann() }, ..Authenticated::default() }
    }

    #[test]
    fn a_caller_is_found_by_all_credential_headers_on_the_same_host() {
        let cache = CallerCache::new();
        let headers = presenting(header::AUTHORIZATION, "Bearer a");
        let caller = cached(&headers, authenticated(None));
        assert!(cache.find(&Fields::of(&headers), "a", 1, NOW).is_none());
        cache.insert(&Fields::of(&headers), "a", 1, &caller);
        assert!(Rc::ptr_eq(&cache.find(&Fields::of(&headers), "a", 1, NOW).unwrap(), &caller));
        assert!(cache.find(&Fields::of(&headers), "b", 1, NOW).is_none());
        let mut more = headers.clone();
        more.insert(header::COOKIE, HeaderValue::from_static("a=b"));
        for other in [
            presenting(header::AUTHORIZATION, "Bearer b"),
            presenting(header::COOKIE, "Bearer a"),
            more,
            HeaderMap::new(),
        ] {
            assert!(cache.find(&Fields::of(&other), "a", 1, NOW).is_none(), "{other:?}");
        }
        let mut twice = headers;
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert!(cache.find(&Fields::of(&twice), "a", 1, NOW).is_none());
    }

    #[test]
    fn a_caller_is_found_until_credentials_change_or_expire() {
        let cache = CallerCache::new();
        let headers = presenting(header::AUTHORIZATION, "Bearer a");
        let until = NOW + Duration::from_secs(10);
        cache.insert(&Fields::of(&headers), "a", 1, &cached(&headers, authenticated(Some(until))));
        assert!(
            cache.find(&Fields::of(&headers), "a", 1, until - Duration::from_secs(1)).is_some()
        );
        assert!(cache.find(&Fields::of(&headers), "a", 1, until).is_none());
        assert!(cache.find(&Fields::of(&headers), "a", 2, NOW).is_none());
    }

    #[test]
    fn invalid_or_long_credentials_are_not_cached() {
        let cache = CallerCache::new();
        let headers = presenting(header::AUTHORIZATION, "Bearer a");
        let rejected = Authenticated { rejected: Some(Rejected::Signature), ..authenticated(None) };
        for authenticated in [Authenticated::default(), rejected] {
            cache.insert(&Fields::of(&headers), "a", 1, &cached(&headers, authenticated));
            assert!(cache.find(&Fields::of(&headers), "a", 1, NOW).is_none());
        }
        let long = presenting(header::AUTHORIZATION, &format!("Bearer {}", "a".repeat(MAX_VALUES)));
        cache.insert(&Fields::of(&long), "a", 1, &cached(&long, authenticated(None)));
        assert!(cache.find(&Fields::of(&long), "a", 1, NOW).is_none());
    }

    #[test]
    fn unused_callers_are_evicted() {
        let cache = CallerCache::new();
        let headers = presenting(header::AUTHORIZATION, "Bearer a");
        cache.insert(&Fields::of(&headers), "a", 1, &cached(&headers, authenticated(None)));
        for _ in 0..3 {
            cache.evict_unused();
            assert!(cache.find(&Fields::of(&headers), "a", 1, NOW).is_some());
        }
        cache.evict_unused();
        cache.evict_unused();
        assert!(cache.find(&Fields::of(&headers), "a", 1, NOW).is_none());
    }
}
