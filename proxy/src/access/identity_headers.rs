//! All that a backend is told of a caller, kept so that it is made and signed once and not for each
//! request.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use foldhash::quality::RandomState;
use portcullis_identity::cache::Cache;
use portcullis_identity::caller::{Caller, User};

use super::assertion::{Assertions, Key};
use super::identity::{self, Field};
use crate::http1::outbound::put_field;

/// How long the same assertion is sent again: what is left of it then is enough for any request.
const REUSED: Duration = Duration::from_secs(120);
/// Introductions that are kept to be sent again.
const KEPT: usize = 16 * 1024;

/// Introduces callers to backends. Shared by all workers.
pub(crate) struct Introductions {
    /// `None` where nothing is signed.
    assertions: Option<Arc<Assertions>>,
    hasher: RandomState,
    /// By a hash that need not tell all apart: whom an entry is about is compared.
    kept: Cache<Arc<Introduction>, u64>,
}

/// One caller as one host's backends are told of her.
pub(crate) struct Introduction {
    application: Option<Arc<str>>,
    user: Option<Arc<User>>,
    host: Box<str>,
    /// What the assertion is signed with.
    key: Option<Arc<Key>>,
    until: SystemTime,
    fields: Vec<Field>,
    lines: BytesMut,
}

// === impl Introductions ===

impl Introductions {
    pub(crate) fn new(assertions: Option<Arc<Assertions>>) -> Self {
        Self { assertions, hasher: RandomState::default(), kept: Cache::new(KEPT) }
    }

    /// What signs, where something is signed.
    pub(crate) fn assertions(&self) -> Option<&Assertions> {
        self.assertions.as_deref()
    }

    /// What a backend of `host` is told of the caller; `None` where nothing is known of her.
    pub(crate) fn of(
        &self,
        caller: &Caller,
        host: &str,
        now: SystemTime,
    ) -> Option<Arc<Introduction>> {
        if caller.application.is_none() && caller.user.is_none() {
            return None;
        }
        let user =
            caller.user.as_deref().map(|user| (&user.name, &user.subject, user.groups.len()));
        let place = self.hasher.hash_one((host, &caller.application, user));
        let key = self.assertions.as_ref().and_then(|assertions| assertions.in_use(now));
        let known = self
            .kept
            .get(&place)
            .filter(|known| known.is_of(caller, host, key.as_ref()) && now < known.until);
        Some(known.unwrap_or_else(|| {
            let made = Arc::new(self.make(caller, host, key, now));
            self.kept.insert(place, Arc::clone(&made));
            made
        }))
    }

    /// Whether a backend of `host` would be told the same again of whom this is about.
    pub(crate) fn is_current(
        &self,
        introduction: &Introduction,
        host: &str,
        now: SystemTime,
    ) -> bool {
        let key = self.assertions.as_ref().and_then(|assertions| assertions.in_use(now));
        introduction.is_for(host, key.as_ref()) && now < introduction.until
    }

    fn make(
        &self,
        caller: &Caller,
        host: &str,
        key: Option<Arc<Key>>,
        now: SystemTime,
    ) -> Introduction {
        let assertion = self
            .assertions
            .as_ref()
            .zip(key.as_ref())
            .and_then(|(assertions, key)| assertions.sign(key, caller, host, now));
        let fields = identity::fields(caller, assertion);
        let mut lines = BytesMut::new();
        fields.iter().for_each(|(name, value)| put_field(name, value, &mut lines));
        Introduction {
            application: caller.application.clone(),
            user: caller.user.clone(),
            host: host.into(),
            key,
            until: now + REUSED,
            fields,
            lines,
        }
    }
}

// === impl Introduction ===

impl Introduction {
    /// Each name once.
    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The same as HTTP/1.1 has them in a head.
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

impl fmt::Debug for Introduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introduction").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::model::Origin;
    use portcullis_config::snapshot::access::SessionKey;
    use portcullis_identity::caller::ann;

    use super::*;

    fn told(
        introductions: &Introductions,
        caller: &Caller,
        host: &str,
        now: SystemTime,
    ) -> Vec<Field> {
        introductions
            .of(caller, host, now)
            .map(|introduction| introduction.fields().to_vec())
            .unwrap_or_default()
    }

    #[test]
    fn a_word_is_given_again_for_two_minutes_and_about_nobody_else() {
        let introductions =
            Introductions::new(Some(Arc::new(Assertions::new("apps.test").unwrap())));
        let now = SystemTime::now();
        let first = told(&introductions, &ann(), "a", now);
        assert_eq!(
            told(&introductions, &ann(), "a", now + Duration::from_secs(100)),
            first,
            "of another token of hers too"
        );
        assert_ne!(told(&introductions, &ann(), "a", now + Duration::from_secs(130)), first);
        assert_ne!(told(&introductions, &ann(), "b", now), first);
        assert_ne!(told(&introductions, &Caller { application: None, ..ann() }, "a", now), first);
        assert!(told(&introductions, &Caller::default(), "a", now).is_empty());
        let mut others = vec![ann(); 5];
        let mut users =
            others.iter_mut().map(|caller| Arc::make_mut(caller.user.as_mut().unwrap()));
        users.next().unwrap().name = "ben@example.com".into();
        users.next().unwrap().email = None;
        users.next().unwrap().preferred_username = Some("ann".into());
        users.next().unwrap().groups = ["dev".into(), "ops".into()].into();
        users.next().unwrap().groups = ["ops".into()].into();
        for other in others {
            assert_ne!(told(&introductions, &other, "a", now), first, "{other:?}");
            assert_eq!(told(&introductions, &ann(), "a", now).len(), first.len());
        }
    }

    #[test]
    fn another_key_is_used_as_soon_as_it_signs() {
        let assertions = Arc::new(Assertions::new("apps.test").unwrap());
        let introductions = Introductions::new(Some(Arc::clone(&assertions)));
        let now = SystemTime::now();
        let key = |octet: u8, age: u64| SessionKey {
            origin: Origin::default(),
            key: vec![octet; 32].into(),
            created: Some(now - Duration::from_secs(age)),
        };
        assertions.learn(&[key(1, 1000), key(2, 10)]);
        let first = told(&introductions, &ann(), "a", now);
        assert_eq!(told(&introductions, &ann(), "a", now + Duration::from_secs(40)), first);
        assert_ne!(told(&introductions, &ann(), "a", now + Duration::from_secs(60)), first);
        let second = told(&introductions, &ann(), "a", now + Duration::from_secs(60));
        assertions.learn(&[key(3, 1000)]);
        assert_ne!(told(&introductions, &ann(), "a", now + Duration::from_secs(60)), second);
    }

    #[test]
    fn where_nothing_is_signed_the_rest_is_told() {
        let told = told(&Introductions::new(None), &ann(), "a", SystemTime::now());
        assert_eq!(
            told.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
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
