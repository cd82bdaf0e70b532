//! Sessions that were ended before their time: here, or by another replica.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use portcullis_config::snapshot::access::EndedSessions;
use portcullis_config::snapshot::revoked_sessions::{Ended, Whose};
use portcullis_config::unix_time::seconds;

use super::{Id, Session};

/// The most that are remembered one by one. Were there more, all sessions that began before would
/// be ended: closed when in doubt.
const MAX: usize = 64 * 1024;

/// What was ended, for as long as a session may last. Read without a lock.
pub struct Revocations {
    table: ArcSwap<Table>,
    lasting: Duration,
    generation: AtomicU64,
    /// Whether something was told that could not be understood.
    garbled: AtomicBool,
}

/// Whose sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked<'a> {
    /// This one, wherever its cookies are.
    Session(&'a Id),
    /// All of one person, in all browsers.
    User {
        /// The issuer's name in the configuration.
        issuer: &'a str,
        /// The person's subject (`sub`).
        subject: &'a str,
    },
    /// All that belong to one session at the provider.
    ProviderSession {
        /// The issuer's name in the configuration.
        issuer: &'a str,
        /// The provider's session (`sid`).
        sid: &'a str,
    },
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
    pub fn new(lasting: Duration) -> Self {
        Self {
            table: ArcSwap::default(),
            lasting,
            generation: AtomicU64::new(0),
            garbled: AtomicBool::new(false),
        }
    }

    /// Ends sessions that began until now; gives what others must be told.
    pub fn revoke(&self, whose: Revoked<'_>, now: SystemTime) -> Ended {
        let ended = Ended { whose: Whose::Hash(whose.key()), at: seconds(now) };
        self.add(&[ended], now);
        ended
    }

    /// Ends what others have ended. What is ended stays so, whatever they tell afterwards.
    pub fn learn(&self, told: &[EndedSessions], now: SystemTime) {
        let table = self.table.load();
        let is_news = |ended: &Ended| !ended.is_over(self.lasting, now) && !table.tells(ended);
        let mut news: Vec<Ended> =
            told.iter().flat_map(|told| told.ended.iter()).copied().filter(is_news).collect();
        let garbled = told.iter().any(|told| told.is_garbled);
        if garbled && !self.garbled.load(Ordering::Relaxed) {
            // It may have been the end of any session.
            news.push(Ended { whose: Whose::Everybody, at: seconds(now) });
        }
        self.garbled.store(garbled, Ordering::Relaxed);
        if !news.is_empty() {
            self.add(&news, now);
        }
    }

    fn add(&self, ended: &[Ended], now: SystemTime) {
        self.table.rcu(|table| Arc::new(table.with(ended, self.lasting, now, MAX)));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether this one was ended.
    pub fn have(&self, session: &Session) -> bool {
        let table = self.table.load();
        table.all_before > session.issued_at
            || !table.ended.is_empty()
                && keys(session).flatten().any(|key| table.has(&key, session.issued_at))
    }

    /// Grows when a session is ended.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// All by which a session may have been ended.
fn keys(session: &Session) -> impl Iterator<Item = Option<Key>> + '_ {
    let issuer = &*session.user.issuer;
    let sid = session
        .provider_session
        .as_deref()
        .map(|sid| Revoked::ProviderSession { issuer, sid }.key());
    [
        Some(Revoked::Session(&session.id).key()),
        Some(Revoked::User { issuer, subject: &session.user.subject }.key()),
        sid,
    ]
    .into_iter()
}

// === impl Table ===

impl Table {
    fn with(&self, more: &[Ended], lasting: Duration, now: SystemTime, max: usize) -> Self {
        let mut table = self.clone();
        table
            .ended
            .retain(|key, at| !Ended { whose: Whose::Hash(*key), at: *at }.is_over(lasting, now));
        for ended in more {
            match ended.whose {
                Whose::Everybody => {
                    table.all_before = table.all_before.max(ended.at.saturating_add(1))
                }
                Whose::Hash(key) => {
                    let at = table.ended.entry(key).or_insert(ended.at);
                    *at = ended.at.max(*at);
                }
            }
        }
        if table.ended.len() > max {
            tracing::warn!(max, "more sessions were ended than can be remembered: all are");
            return Self {
                ended: HashMap::new(),
                all_before: table.all_before.max(seconds(now).saturating_add(1)),
            };
        }
        table
    }

    /// Whether that is known.
    fn tells(&self, ended: &Ended) -> bool {
        match ended.whose {
            Whose::Everybody => self.all_before > ended.at,
            Whose::Hash(key) => self.all_before > ended.at || self.has(&key, ended.at),
        }
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
    use portcullis_config::model::Origin;

    use super::super::testing::{at, session};
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
        let ended = |number: u8, at| Ended { whose: Whose::Hash([number; 16]), at };
        let mut table = Table::default();
        for number in 0..3 {
            table = table.with(&[ended(number, 200)], LASTING, at(200), 3);
        }
        assert_eq!((table.ended.len(), table.all_before), (3, 0));
        let full = table.with(&[ended(9, 300)], LASTING, at(300), 3);
        assert_eq!((full.ended.len(), full.all_before), (0, 301));
        let later = table.with(&[ended(9, 1201)], LASTING, at(1201), 3);
        assert_eq!((later.ended.len(), later.all_before), (1, 0), "those that are over make room");
    }

    fn told(ended: &[Ended]) -> EndedSessions {
        EndedSessions { origin: Origin::default(), ended: ended.into(), is_garbled: false }
    }

    #[test]
    fn what_another_replica_has_ended_is_ended_here() {
        let (here, there) = (Revocations::new(LASTING), Revocations::new(LASTING));
        let (one, other) = (session("ann", 100), session("ann", 100));
        let ended = there.revoke(Revoked::Session(&one.id), at(200));
        here.learn(&[told(&[]), told(&[ended])], at(201));
        assert!(here.have(&one) && !here.have(&other));
        assert_eq!(here.generation(), 1);
        here.learn(&[told(&[ended])], at(202));
        assert_eq!(here.generation(), 1, "it is no news");
        here.learn(&[], at(203));
        assert!(here.have(&one), "it stays ended, also where nobody tells it any more");
    }

    #[test]
    fn of_two_ends_the_later_counts_in_whatever_order_they_are_told() {
        let whose = Whose::Hash(Revoked::User { issuer: "corp", subject: "ann" }.key());
        let revocations = Revocations::new(LASTING);
        for at_second in [200, 300, 100] {
            revocations.learn(&[told(&[Ended { whose, at: at_second }])], at(400));
        }
        assert!(revocations.have(&session("ann", 300)) && !revocations.have(&session("ann", 301)));
        assert_eq!(revocations.generation(), 2);
        revocations.learn(&[told(&[Ended { whose: Whose::Everybody, at: 350 }])], at(400));
        assert!(revocations.have(&session("bob", 350)) && !revocations.have(&session("bob", 351)));
        revocations.learn(&[told(&[Ended { whose: Whose::Everybody, at: 50 }])], at(400));
        assert!(revocations.have(&session("bob", 350)), "an earlier one takes nothing back");
    }

    #[test]
    fn an_end_that_nobody_needs_any_more_is_not_learnt() {
        let revocations = Revocations::new(LASTING);
        let ended = Revocations::new(LASTING)
            .revoke(Revoked::User { issuer: "corp", subject: "ann" }, at(200));
        revocations.learn(&[told(&[ended])], at(1201));
        assert_eq!(revocations.generation(), 0);
    }

    #[test]
    fn what_cannot_be_understood_ends_all_sessions_that_had_begun() {
        let revocations = Revocations::new(LASTING);
        let garbled = [EndedSessions { is_garbled: true, ..told(&[]) }];
        revocations.learn(&garbled, at(200));
        assert!(revocations.have(&session("ann", 200)));
        revocations.learn(&garbled, at(300));
        assert!(!revocations.have(&session("ann", 300)), "once");
        revocations.learn(&[], at(400));
        revocations.learn(&garbled, at(500));
        assert!(revocations.have(&session("ann", 500)), "and again when it comes again");
    }
}
