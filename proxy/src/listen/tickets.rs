//! Session tickets (RFC 5077, RFC 8446 §4.6.1) that every replica opens: a client resumes its
//! session wherever its next connection ends up.
//!
//! The keys are derived from those that seal login sessions, which all replicas have, and from the
//! time: each half day has a key of its own, and rotating the one rotates the other. Without such
//! keys they are derived from a secret of this process. What a ticket holds of a client, its
//! certificate, is judged at each request like one that was just shown; rustls resumes a session
//! for the server's name alone that it was begun with.
//!
//! A ticket is: sixteen octets that name the key, a nonce of twelve, the session sealed by
//! AES-256-GCM-SIV (RFC 8452, whose random nonces need not be counted), and a tag of sixteen.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use portcullis_config::live::Live;
use portcullis_config::session::keys::in_use;
use portcullis_config::snapshot::Snapshot;
use portcullis_config::snapshot::access::SessionKey;
use portcullis_config::unix_time::seconds;
use rustls::server::ProducesTickets;

use portcullis_identity::session::NoRandomness;

/// How long one key seals, in seconds. It opens for as long again, so that every ticket is good for
/// this long at least.
const WINDOW: u64 = 12 * 3600;
/// How often it is looked which half day it is.
const LOOK: Duration = Duration::from_secs(30);
/// The longest session that is sealed, in octets: with a client's certificates it is some
/// thousands. A ticket's length is told in two octets.
const MAX_SESSION: usize = 16 * 1024;
const NAME_LEN: usize = 16;
const TAG_LEN: usize = 16;

/// Seals and opens tickets. Shared by all workers; each handshake reads it without a lock.
pub(crate) struct Tickets {
    ring: ArcSwap<Ring>,
    /// A secret of this process, for as long as there is no other.
    own: [u8; 32],
}

/// The keys of one time.
struct Ring {
    seals: Key,
    /// Further ones that open: those of other session keys, of the half day before, and of the
    /// next, for replicas whose clocks are ahead.
    open: Vec<Key>,
}

struct Key {
    name: [u8; NAME_LEN],
    key: RandomizedNonceKey,
}

/// As many octets as a name and a key have.
struct Material;

// === impl Tickets ===

impl Tickets {
    /// With a secret of this process, until others are learnt.
    pub(crate) fn new(now: SystemTime) -> Result<Self, NoRandomness> {
        let mut own = [0; 32];
        aws_lc_rs::rand::fill(&mut own).map_err(|_| NoRandomness)?;
        let ring = Ring::new(&own, &[], now).ok_or(NoRandomness)?;
        Ok(Self { ring: ArcSwap::from_pointee(ring), own })
    }

    /// Takes the keys that are derived from these for `now` into use, and puts all others out of
    /// use.
    pub(crate) fn learn(&self, keys: &[SessionKey], now: SystemTime) {
        if let Some(ring) = Ring::new(&self.own, keys, now) {
            self.ring.store(Arc::new(ring));
        }
    }

    /// Follows the keys of the snapshot and the time, forever: a task of the control plane.
    pub(crate) async fn follow(&self, live: &Live) {
        let learn =
            |snapshot: &Snapshot| self.learn(&snapshot.credentials.session_keys, SystemTime::now());
        let clock = async {
            loop {
                tokio::time::sleep(LOOK).await;
                learn(&live.snapshot.load());
            }
        };
        tokio::join!(live.follow(learn), clock);
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(WINDOW).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        if session.len() > MAX_SESSION {
            return None;
        }
        self.ring.load().seals.seal(session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        self.ring.load().named(name)?.open(nonce, sealed)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

// === impl Ring ===

impl Ring {
    /// Of `keys`, or of `own` where there are none.
    fn new(own: &[u8], keys: &[SessionKey], now: SystemTime) -> Option<Self> {
        let window = seconds(now) / WINDOW;
        let seals = in_use(keys, |key| key.created, now);
        let extract = |secret: &[u8]| Salt::new(HKDF_SHA256, b"portcullis").extract(secret);
        let first = extract(seals.map_or(own, |key| key.key.expose()));
        let mut open: Vec<Key> = [window.saturating_sub(1), window + 1]
            .into_iter()
            .filter_map(|other| Key::derive(&first, other))
            .collect();
        for other in keys.iter().filter(|key| seals.is_some_and(|seals| seals.key != key.key)) {
            let secret = extract(other.key.expose());
            open.extend(
                (window.saturating_sub(1)..=window + 1)
                    .filter_map(|window| Key::derive(&secret, window)),
            );
        }
        Some(Self { seals: Key::derive(&first, window)?, open })
    }

    fn named(&self, name: &[u8]) -> Option<&Key> {
        std::iter::once(&self.seals).chain(&self.open).find(|key| key.name == name)
    }
}

// === impl Key ===

impl Key {
    /// The key of a secret for one half day.
    fn derive(secret: &Prk, window: u64) -> Option<Self> {
        let mut octets = [0; Material::LEN];
        secret
            .expand(&[b"session ticket AES-256-GCM-SIV", &window.to_be_bytes()], Material)
            .ok()?
            .fill(&mut octets)
            .ok()?;
        let (name, key) = octets.split_first_chunk()?;
        Some(Self { name: *name, key: RandomizedNonceKey::new(&AES_256_GCM_SIV, key).ok()? })
    }

    fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        let start = NAME_LEN + NONCE_LEN;
        let mut ticket = Vec::with_capacity(start + session.len() + TAG_LEN);
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(&[0; NONCE_LEN]);
        ticket.extend_from_slice(session);
        let (head, text) = ticket.split_at_mut_checked(start)?;
        let (nonce, tag) = self.key.seal_in_place_separate_tag(Aad::from(self.name), text).ok()?;
        head.last_chunk_mut::<NONCE_LEN>()?.copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, nonce: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = sealed.to_vec();
        let length = self.key.open_in_place(nonce, Aad::from(self.name), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

// === impl Material ===

impl Material {
    const LEN: usize = NAME_LEN + 32;
}

impl KeyType for Material {
    fn len(&self) -> usize {
        Self::LEN
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use portcullis_config::model::Origin;

    use super::*;

    const NOON: u64 = 40_000 * WINDOW;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key(octet: u8, created: u64) -> SessionKey {
        SessionKey {
            origin: Origin::default(),
            key: vec![octet; 32].into(),
            created: Some(at(created)),
        }
    }

    /// One replica, which knows `keys` and takes it to be `now`.
    fn replica(keys: &[SessionKey], now: u64) -> Tickets {
        let tickets = Tickets::new(at(now)).unwrap();
        tickets.learn(keys, at(now));
        tickets
    }

    fn opens(replica: &Tickets, ticket: &[u8]) -> bool {
        replica.decrypt(ticket).is_some_and(|session| session == b"session")
    }

    #[test]
    fn a_ticket_of_one_replica_opens_at_any_other_with_the_same_keys() {
        let ticket = replica(&[key(1, 0)], NOON).encrypt(b"session").unwrap();
        assert!(opens(&replica(&[key(1, 0)], NOON), &ticket));
        assert!(!opens(&replica(&[key(2, 0)], NOON), &ticket));
        assert!(!opens(&replica(&[], NOON), &ticket));
    }

    #[test]
    fn a_ticket_is_good_for_half_a_day_at_least_and_for_a_day_at_most() {
        let keys = [key(1, 0)];
        let ticket = replica(&keys, NOON + 100).encrypt(b"session").unwrap();
        let lifetime = u64::from(replica(&keys, NOON).lifetime());
        assert_eq!(lifetime, WINDOW);
        for later in [0, 100, lifetime, 2 * WINDOW - 101] {
            assert!(opens(&replica(&keys, NOON + 100 + later), &ticket), "{later} seconds later");
        }
        assert!(!opens(&replica(&keys, NOON + 2 * WINDOW), &ticket));
    }

    #[test]
    fn a_replica_whose_clock_is_behind_opens_what_the_next_half_day_seals() {
        let ticket = replica(&[key(1, 0)], NOON).encrypt(b"session").unwrap();
        assert!(opens(&replica(&[key(1, 0)], NOON - 1), &ticket));
        assert!(!opens(&replica(&[key(1, 0)], NOON - WINDOW - 1), &ticket), "but no later one");
    }

    #[test]
    fn a_new_session_key_seals_only_when_every_replica_knows_it() {
        let (old, new) = (key(1, 0), key(2, NOON));
        let both = [old.clone(), new.clone()];
        let early = replica(&both, NOON + 59).encrypt(b"session").unwrap();
        assert!(opens(&replica(std::slice::from_ref(&old), NOON), &early));
        let late = replica(&both, NOON + 60).encrypt(b"session").unwrap();
        assert!(opens(&replica(std::slice::from_ref(&new), NOON + 60), &late));
        assert!(!opens(&replica(std::slice::from_ref(&old), NOON + 60), &late));
        assert!(
            opens(&replica(&both, NOON + WINDOW), &early)
                && opens(&replica(&both, NOON + WINDOW), &late),
            "both open"
        );
    }

    #[test]
    fn a_session_key_that_is_taken_away_opens_nothing_any_more() {
        let replica = replica(&[key(1, 0)], NOON);
        let ticket = replica.encrypt(b"session").unwrap();
        replica.learn(&[key(2, 0)], at(NOON));
        assert!(!opens(&replica, &ticket));
        replica.learn(&[], at(NOON));
        assert!(!opens(&replica, &ticket), "nor does the process' own");
    }

    #[test]
    fn without_session_keys_a_process_opens_its_own_tickets_and_no_others() {
        let (one, other) = (replica(&[], NOON), replica(&[], NOON));
        let ticket = one.encrypt(b"session").unwrap();
        assert!(opens(&one, &ticket) && !opens(&other, &ticket));
        one.learn(&[], at(NOON + WINDOW));
        assert!(opens(&one, &ticket), "in the next half day too");
    }

    #[test]
    fn a_changed_or_cut_ticket_is_worthless() {
        let replica = replica(&[key(1, 0)], NOON);
        let ticket = replica.encrypt(b"session").unwrap();
        for place in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[place] ^= 1;
            assert!(!opens(&replica, &changed), "octet {place}");
            assert!(!opens(&replica, &ticket[..place]), "{place} octets");
        }
        assert!(!opens(&replica, &[ticket.as_slice(), &[0]].concat()));
        assert_ne!(replica.encrypt(b"session").unwrap(), ticket, "no two are the same");
    }

    #[test]
    fn a_session_too_long_for_a_ticket_gets_none() {
        let replica = replica(&[key(1, 0)], NOON);
        let longest = replica.encrypt(&[0; MAX_SESSION]).unwrap();
        assert!(u16::try_from(longest.len()).is_ok());
        assert!(replica.encrypt(&[0; MAX_SESSION + 1]).is_none());
    }
}
