//! Sessions that were ended before their time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use portcullis_config::unix_time::seconds;

use super::{Id, Session};

/// The most that are remembered one by one. Were there more, all sessions that began before would be ended: closed when in doubt.
const MAX: usize = 64 * 1024;

/// What was ended, for as long as a session may last. Read without a lock.
pub(crate) struct Revocations {
    table: ArcSwap<Table>,
    lasting: Duration,
    generation: AtomicU64,
}

/// Whose sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revoked<'a> {
    /// This one, wherever its cookies are.
    Session(&'a Id),
    /// All of one person, in all browsers.
    User { issuer: &'a str, subject: &'a str },
    /// All that belong to one session at the provider.
    ProviderSession { issuer: &'a str, sid: &'a str },
}

#[derive(Clone, Default)]
struct Table {
    /// When it was ended, in seconds since 1970: what begins later is not meant.
    ended: HashMap<Key, u64>,
    /// What began before is ended.
    all_before: u64,
}

/// The first half of a SHA-256.
type Key = [u8; 16];

// === impl Revocations ===

impl Revocations {
    /// `lasting` is how long a session lasts at most.
    pub(crate) fn new(lasting: Duration) -> Self {
        Self { table: ArcSwap::default(), lasting, generation: AtomicU64::new(0) }
    }

    /// Ends sessions that began until now.
    pub(crate) fn revoke(&self, whose: Revoked<'_>, now: SystemTime) {
        let (key, now) = (whose.key(), seconds(now));
        self.table.rcu(|table| Arc::new(table.with(key, now, self.lasting.as_secs(), MAX)));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether this one was ended.
    pub(crate) fn have(&self, session: &Session) -> bool {
        let table = self.table.load();
        table.all_before > session.issued_at
            || !table.ended.is_empty() && keys(session).flatten().any(|key| table.has(&key, session.issued_at))
    }

    /// Grows when a session is ended.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// All by which a session may have been ended.
fn keys(session: &Session) -> impl Iterator<Item = Option<Key>> + '_ {
    let issuer = &*session.user.issuer;
    let sid = session.provider_session.as_deref().map(|sid| Revoked::ProviderSession { issuer, sid }.key());
    [Some(Revoked::Session(&session.id).key()), Some(Revoked::User { issuer, subject: &session.user.subject }.key()), sid].into_iter()
}

// === impl Table ===

impl Table {
    fn with(&self, key: Key, now: u64, lasting: u64, max: usize) -> Self {
        let mut table = self.clone();
        table.ended.retain(|_, at| now.saturating_sub(*at) <= lasting);
        if table.ended.len() >= max {
            tracing::warn!(max, "more sessions were ended than can be remembered: all are");
            return Self { ended: HashMap::new(), all_before: now.saturating_add(1) };
        }
        table.ended.insert(key, now);
        table
    }

    fn has(&self, key: &Key, issued_at: u64) -> bool {
        self.ended.get(key).is_some_and(|at| issued_at <= *at)
    }
}

// === impl Revoked ===

impl Revoked<'_> {
    fn key(self) -> Key {
        let (kind, one, other) = match self {
            Self::Session(id) => ("session", id.expose(), ""),
            Self::User { issuer, subject } => ("user", issuer, subject),
            Self::ProviderSession { issuer, sid } => ("provider", issuer, sid),
        };
        let text = format!("{kind} {} {one} {other}", one.len());
        digest(&SHA256, text.as_bytes()).as_ref().first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, session};
    use super::*;

    const LASTING: Duration = Duration::from_secs(1000);

    #[test]
    fn an_ended_session_is_ended_and_no_other_is() {
        let revocations = Revocations::new(LASTING);
        let (one, other) = (session("ann", 100), session("ann", 100));
        assert!(!revocations.have(&one));
        revocations.revoke(Revoked::Session(&one.id), at(200));
        assert!(revocations.have(&one));
        assert!(!revocations.have(&other));
        assert_eq!(revocations.generation(), 1);
    }

    #[test]
    fn all_sessions_of_a_person_end_but_not_those_that_she_begins_later() {
        let revocations = Revocations::new(LASTING);
        revocations.revoke(Revoked::User { issuer: "corp", subject: "ann" }, at(200));
        assert!(revocations.have(&session("ann", 100)));
        assert!(revocations.have(&session("ann", 200)));
        assert!(!revocations.have(&session("ann", 201)));
        assert!(!revocations.have(&session("bob", 100)));
    }

    #[test]
    fn a_provider_ends_what_belongs_to_its_own_session() {
        let revocations = Revocations::new(LASTING);
        let mut one = session("ann", 100);
        one.provider_session = Some("s1".into());
        revocations.revoke(Revoked::ProviderSession { issuer: "other", sid: "s1" }, at(200));
        assert!(!revocations.have(&one));
        revocations.revoke(Revoked::ProviderSession { issuer: "corp", sid: "s1" }, at(200));
        assert!(revocations.have(&one));
        assert!(!revocations.have(&session("ann", 100)));
    }

    #[test]
    fn what_cannot_be_remembered_ends_everything_that_began_before() {
        let mut table = Table::default();
        for number in 0..3_u8 {
            table = table.with([number; 16], 200, 1000, 3);
        }
        assert_eq!((table.ended.len(), table.all_before), (3, 0));
        let full = table.with([9; 16], 300, 1000, 3);
        assert_eq!((full.ended.len(), full.all_before), (0, 301));
        let later = table.with([9; 16], 1201, 1000, 3);
        assert_eq!((later.ended.len(), later.all_before), (1, 0), "those that are over make room");
    }
}
