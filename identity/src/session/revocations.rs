//! Sessions that were revoked, here or by another replica.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use portcullis_config::snapshot::access::RevokedSessions;
use portcullis_config::snapshot::revoked_sessions::{Revocation, RevocationScope};
use portcullis_config::unix_time::seconds;

use super::{Id, Session};

/// Maximum number of single revocations. Beyond it all sessions that began before are revoked: fail
/// closed.
const MAX: usize = 64 * 1024;

/// The revocations, each stored for the maximum lifetime of a session. Reads take no lock.
pub struct Revocations {
    table: ArcSwap<Table>,
    lifetime: Duration,
    generation: AtomicU64,
    /// Whether the last load had an invalid revocation.
    invalid: AtomicBool,
}

/// The sessions to revoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked<'a> {
    /// One session, in all its cookies.
    Session(&'a Id),
    /// All sessions of a user.
    User {
        /// The issuer's name in the configuration.
        issuer: &'a str,
        /// The user's subject (`sub`).
        subject: &'a str,
    },
    /// All sessions that belong to one session at the provider.
    ProviderSession {
        /// The issuer's name in the configuration.
        issuer: &'a str,
        /// The provider's session (`sid`).
        sid: &'a str,
    },
    /// The sessions of a user that belong to an unknown session at the provider.
    UserWithoutSid {
        /// The issuer's name in the configuration.
        issuer: &'a str,
        /// The user's subject.
        subject: &'a str,
    },
    /// The sessions of all users that belong to an unknown session at the provider.
    WithoutSid {
        /// The issuer's name in the configuration.
        issuer: &'a str,
    },
}

#[derive(Clone, Default)]
struct Table {
    /// Time of the revocation, in seconds since 1970; later sessions are not affected.
    revoked: HashMap<Key, u64>,
    /// All sessions that began before this time are revoked.
    all_before: u64,
}

/// The first half of a SHA-256.
type Key = [u8; 16];

// === impl Revocations ===

impl Revocations {
    /// Creates an empty table; `lifetime` is the maximum lifetime of a session.
    pub fn new(lifetime: Duration) -> Self {
        Self {
            table: ArcSwap::default(),
            lifetime,
            generation: AtomicU64::new(0),
            invalid: AtomicBool::new(false),
        }
    }

    /// Revokes sessions that began until now, and returns the revocation to publish.
    pub fn revoke(&self, whose: Revoked<'_>, now: SystemTime) -> Revocation {
        self.revoke_until(whose, now, now)
    }

    /// Revokes sessions that began until `until`, and returns the revocation to publish.
    pub fn revoke_until(
        &self,
        whose: Revoked<'_>,
        until: SystemTime,
        now: SystemTime,
    ) -> Revocation {
        let scope = RevocationScope::Hash(whose.key());
        let revocation = Revocation { scope, at: seconds(until) };
        self.add(&[revocation], now);
        revocation
    }

    /// Loads the revocations of other replicas. A revocation is never undone by a later load.
    pub fn load(&self, published: &[RevokedSessions], now: SystemTime) {
        let table = self.table.load();
        let is_new = |revocation: &Revocation| {
            !revocation.is_expired(self.lifetime, now) && !table.covers(revocation)
        };
        let mut new: Vec<Revocation> = published
            .iter()
            .flat_map(|published| published.revocations.iter())
            .copied()
            .filter(is_new)
            .collect();
        let invalid = published.iter().any(|published| published.has_invalid_entries);
        if invalid && !self.invalid.load(Ordering::Relaxed) {
            // It may be the revocation of any session.
            new.push(Revocation { scope: RevocationScope::All, at: seconds(now) });
        }
        self.invalid.store(invalid, Ordering::Relaxed);
        if !new.is_empty() {
            self.add(&new, now);
        }
    }

    fn add(&self, revocations: &[Revocation], now: SystemTime) {
        self.table.rcu(|table| Arc::new(table.with(revocations, self.lifetime, now, MAX)));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether a session is revoked.
    pub fn contains(&self, session: &Session) -> bool {
        let table = self.table.load();
        table.all_before > session.issued_at
            || !table.revoked.is_empty()
                && keys(session).any(|key| table.has(&key, session.issued_at))
    }

    /// Grows with each revocation.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// The keys by which a session may be revoked.
fn keys(session: &Session) -> impl Iterator<Item = Key> + '_ {
    let (issuer, subject) = (&*session.user.issuer, &*session.user.subject);
    let by_provider = match session.provider_session.as_deref() {
        Some(sid) => [Some(Revoked::ProviderSession { issuer, sid }), None],
        None => [
            Some(Revoked::UserWithoutSid { issuer, subject }),
            Some(Revoked::WithoutSid { issuer }),
        ],
    };
    [Revoked::Session(&session.id), Revoked::User { issuer, subject }]
        .into_iter()
        .chain(by_provider.into_iter().flatten())
        .map(Revoked::key)
}

// === impl Table ===

impl Table {
    fn with(&self, more: &[Revocation], lifetime: Duration, now: SystemTime, max: usize) -> Self {
        let mut table = self.clone();
        table.revoked.retain(|key, at| {
            !Revocation { scope: RevocationScope::Hash(*key), at: *at }.is_expired(lifetime, now)
        });
        for revocation in more {
            match revocation.scope {
                RevocationScope::All => {
                    table.all_before = table.all_before.max(revocation.at.saturating_add(1))
                }
                RevocationScope::Hash(key) => {
                    let at = table.revoked.entry(key).or_insert(revocation.at);
                    *at = revocation.at.max(*at);
                }
            }
        }
        if table.revoked.len() > max {
            tracing::warn!(max, "revoked all sessions: too many single revocations");
            return Self {
                revoked: HashMap::new(),
                all_before: table.all_before.max(seconds(now).saturating_add(1)),
            };
        }
        table
    }

    /// Whether the table has this revocation already.
    fn covers(&self, revocation: &Revocation) -> bool {
        match revocation.scope {
            RevocationScope::All => self.all_before > revocation.at,
            RevocationScope::Hash(key) => {
                self.all_before > revocation.at || self.has(&key, revocation.at)
            }
        }
    }

    fn has(&self, key: &Key, issued_at: u64) -> bool {
        self.revoked.get(key).is_some_and(|at| issued_at <= *at)
    }
}

// === impl Revoked ===

impl Revoked<'_> {
    fn key(self) -> Key {
        let (kind, one, other) = match self {
            Self::Session(id) => ("session", id.expose(), ""),
            Self::User { issuer, subject } => ("user", issuer, subject),
            Self::ProviderSession { issuer, sid } => ("provider", issuer, sid),
            Self::UserWithoutSid { issuer, subject } => ("user without sid", issuer, subject),
            Self::WithoutSid { issuer } => ("without sid", issuer, ""),
        };
        let text = format!("{kind} {} {one} {other}", one.len());
        digest(&SHA256, text.as_bytes()).as_ref().first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::model::Origin;

    use super::super::testing::{at, session};
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(1000);

    #[test]
    fn a_revoked_session_is_revoked_and_no_other_is() {
        let revocations = Revocations::new(LIFETIME);
        let (one, other) = (session("ann", 100), session("ann", 100));
        assert!(!revocations.contains(&one));
        revocations.revoke(Revoked::Session(&one.id), at(200));
        assert!(revocations.contains(&one));
        assert!(!revocations.contains(&other));
        assert_eq!(revocations.generation(), 1);
    }

    #[test]
    fn all_sessions_of_a_user_are_revoked_except_later_ones() {
        let revocations = Revocations::new(LIFETIME);
        revocations.revoke(Revoked::User { issuer: "corp", subject: "ann" }, at(200));
        assert!(revocations.contains(&session("ann", 100)));
        assert!(revocations.contains(&session("ann", 200)));
        assert!(!revocations.contains(&session("ann", 201)));
        assert!(!revocations.contains(&session("bob", 100)));
    }

    #[test]
    fn a_provider_session_revokes_the_sessions_that_belong_to_it() {
        let revocations = Revocations::new(LIFETIME);
        let mut one = session("ann", 100);
        one.provider_session = Some("s1".into());
        revocations.revoke(Revoked::ProviderSession { issuer: "other", sid: "s1" }, at(200));
        assert!(!revocations.contains(&one));
        revocations.revoke(Revoked::ProviderSession { issuer: "corp", sid: "s1" }, at(200));
        assert!(revocations.contains(&one));
        assert!(!revocations.contains(&session("ann", 100)));
    }

    #[test]
    fn sessions_without_a_provider_session_are_revoked_by_user_or_issuer() {
        let (without, mut with) = (session("ann", 100), session("ann", 100));
        with.provider_session = Some("s1".into());
        for (whose, is_meant) in [
            (Revoked::UserWithoutSid { issuer: "corp", subject: "ann" }, true),
            (Revoked::UserWithoutSid { issuer: "corp", subject: "bob" }, false),
            (Revoked::WithoutSid { issuer: "corp" }, true),
            (Revoked::WithoutSid { issuer: "other" }, false),
        ] {
            let revocations = Revocations::new(LIFETIME);
            revocations.revoke(whose, at(200));
            assert_eq!(revocations.contains(&without), is_meant, "{whose:?}");
            assert!(!revocations.contains(&with), "{whose:?}");
        }
    }

    #[test]
    fn too_many_revocations_revoke_all_earlier_sessions() {
        let revocation =
            |number: u8, at| Revocation { scope: RevocationScope::Hash([number; 16]), at };
        let mut table = Table::default();
        for number in 0..3 {
            table = table.with(&[revocation(number, 200)], LIFETIME, at(200), 3);
        }
        assert_eq!((table.revoked.len(), table.all_before), (3, 0));
        let full = table.with(&[revocation(9, 300)], LIFETIME, at(300), 3);
        assert_eq!((full.revoked.len(), full.all_before), (0, 301));
        let later = table.with(&[revocation(9, 1201)], LIFETIME, at(1201), 3);
        assert_eq!((later.revoked.len(), later.all_before), (1, 0), "expired ones make room");
    }

    fn published(revocations: &[Revocation]) -> RevokedSessions {
        RevokedSessions {
            origin: Origin::default(),
            revocations: revocations.into(),
            has_invalid_entries: false,
        }
    }

    #[test]
    fn revocations_of_other_replicas_are_applied() {
        let (here, there) = (Revocations::new(LIFETIME), Revocations::new(LIFETIME));
        let (one, other) = (session("ann", 100), session("ann", 100));
        let revocation = there.revoke(Revoked::Session(&one.id), at(200));
        here.load(&[published(&[]), published(&[revocation])], at(201));
        assert!(here.contains(&one) && !here.contains(&other));
        assert_eq!(here.generation(), 1);
        here.load(&[published(&[revocation])], at(202));
        assert_eq!(here.generation(), 1, "it is not new");
        here.load(&[], at(203));
        assert!(here.contains(&one), "it stays revoked when it is no longer published");
    }

    #[test]
    fn the_latest_revocation_counts_in_any_order() {
        let whose = RevocationScope::Hash(Revoked::User { issuer: "corp", subject: "ann" }.key());
        let revocations = Revocations::new(LIFETIME);
        for at_second in [200, 300, 100] {
            revocations.load(&[published(&[Revocation { scope: whose, at: at_second }])], at(400));
        }
        assert!(
            revocations.contains(&session("ann", 300))
                && !revocations.contains(&session("ann", 301))
        );
        assert_eq!(revocations.generation(), 2);
        revocations
            .load(&[published(&[Revocation { scope: RevocationScope::All, at: 350 }])], at(400));
        assert!(
            revocations.contains(&session("bob", 350))
                && !revocations.contains(&session("bob", 351))
        );
        revocations
            .load(&[published(&[Revocation { scope: RevocationScope::All, at: 50 }])], at(400));
        assert!(revocations.contains(&session("bob", 350)), "an earlier one undoes nothing");
    }

    #[test]
    fn expired_revocations_are_not_loaded() {
        let revocations = Revocations::new(LIFETIME);
        let revocation = Revocations::new(LIFETIME)
            .revoke(Revoked::User { issuer: "corp", subject: "ann" }, at(200));
        revocations.load(&[published(&[revocation])], at(1201));
        assert_eq!(revocations.generation(), 0);
    }

    #[test]
    fn an_invalid_revocation_revokes_all_earlier_sessions() {
        let revocations = Revocations::new(LIFETIME);
        let invalid = [RevokedSessions { has_invalid_entries: true, ..published(&[]) }];
        revocations.load(&invalid, at(200));
        assert!(revocations.contains(&session("ann", 200)));
        revocations.load(&invalid, at(300));
        assert!(!revocations.contains(&session("ann", 300)), "once");
        revocations.load(&[], at(400));
        revocations.load(&invalid, at(500));
        assert!(revocations.contains(&session("ann", 500)), "and again after a valid load");
    }
}
