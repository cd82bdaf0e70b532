//! Session tickets (RFC 5077, RFC 8446 §4.6.1) that every replica can open: a client can resume its
//! session on any replica.
//!
//! The keys are derived from those that seal login sessions, which all replicas share, and from the
//! time: each half day has its own key, and rotating the session keys rotates the ticket keys.
//! Without session keys they are derived from a secret of this process. A client certificate in a
//! ticket is verified at each request like one that was just presented; rustls resumes a session
//! only for the server name that it was started with.
//!
//! A ticket consists of a key name (16 octets), a nonce (12 octets), the session sealed with
//! AES-256-GCM-SIV (RFC 8452, whose random nonces need not be counted), and a tag (16 octets).

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

/// How long one key seals, in seconds. It opens for as long afterwards, so every ticket is valid
/// for at least this time.
const WINDOW: u64 = 12 * 3600;
/// How often the keys are refreshed for the current time.
const INTERVAL: Duration = Duration::from_secs(30);
/// The longest session that is sealed, in octets: with client certificates it is a few thousand. A
/// ticket's length is encoded in two octets.
const MAX_SESSION: usize = 16 * 1024;
const NAME_LEN: usize = 16;
const TAG_LEN: usize = 16;

/// Seals and opens tickets. Shared by all workers; each handshake reads it without a lock.
pub(crate) struct Tickets {
    ring: ArcSwap<Ring>,
    /// A secret of this process, used while there are no session keys.
    own: [u8; 32],
}

/// The keys for the current time.
struct Ring {
    seals: Key,
    /// Further keys that open: of other session keys, of the previous half day, and of the next
    /// one, for replicas whose clocks are ahead.
    open: Vec<Key>,
}

struct Key {
    name: [u8; NAME_LEN],
    key: RandomizedNonceKey,
}

/// The output length of the key derivation: a name and a key.
struct Material;

// === impl Tickets ===

impl Tickets {
    /// Creates tickets with a secret of this process, until session keys are loaded.
    pub(crate) fn new(now: SystemTime) -> Result<Self, NoRandomness> {
        let mut own = [0; 32];
        aws_lc_rs::rand::fill(&mut own).map_err(|_| NoRandomness)?;
        let ring = Ring::new(&own, &[], now).ok_or(NoRandomness)?;
        Ok(Self { ring: ArcSwap::from_pointee(ring), own })
    }

    /// Replaces all keys with those derived from `keys` for `now`.
    pub(crate) fn load(&self, keys: &[SessionKey], now: SystemTime) {
        if let Some(ring) = Ring::new(&self.own, keys, now) {
            self.ring.store(Arc::new(ring));
        }
    }

    /// Refreshes the keys when the snapshot's session keys change and over time; never returns.
    pub(crate) async fn watch(&self, live: &Live) {
        let load =
            |snapshot: &Snapshot| self.load(&snapshot.credentials.session_keys, SystemTime::now());
        let clock = async {
            loop {
                tokio::time::sleep(INTERVAL).await;
                load(&live.snapshot.load());
            }
        };
        tokio::join!(live.watch(load), clock);
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
    /// Derives the keys from `keys`, or from `own` if there are none.
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
    /// Derives the key of a secret for one half day.
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

    /// Creates a replica with `keys` and a clock at `now`.
    fn replica(keys: &[SessionKey], now: u64) -> Tickets {
        let tickets = Tickets::new(at(now)).unwrap();
        tickets.load(keys, at(now));
        tickets
    }

    fn opens(replica: &Tickets, ticket: &[u8]) -> bool {
        replica.decrypt(ticket).is_some_and(|session| session == b"session")
    }

    #[test]
    fn a_ticket_opens_on_any_replica_with_the_same_keys() {
        let ticket = replica(&[key(1, 0)], NOON).encrypt(b"session").unwrap();
        assert!(opens(&replica(&[key(1, 0)], NOON), &ticket));
        assert!(!opens(&replica(&[key(2, 0)], NOON), &ticket));
        assert!(!opens(&replica(&[], NOON), &ticket));
    }

    #[test]
    fn a_ticket_is_valid_for_half_a_day_to_a_day() {
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
    fn a_replica_whose_clock_is_behind_opens_tickets_of_the_next_half_day() {
        let ticket = replica(&[key(1, 0)], NOON).encrypt(b"session").unwrap();
        assert!(opens(&replica(&[key(1, 0)], NOON - 1), &ticket));
        assert!(!opens(&replica(&[key(1, 0)], NOON - WINDOW - 1), &ticket), "but no later one");
    }

    #[test]
    fn a_new_session_key_seals_only_after_every_replica_has_loaded_it() {
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
    fn a_removed_session_key_opens_no_tickets() {
        let replica = replica(&[key(1, 0)], NOON);
        let ticket = replica.encrypt(b"session").unwrap();
        replica.load(&[key(2, 0)], at(NOON));
        assert!(!opens(&replica, &ticket));
        replica.load(&[], at(NOON));
        assert!(!opens(&replica, &ticket), "the process' own key does not open it either");
    }

    #[test]
    fn without_session_keys_a_process_opens_its_own_tickets_and_no_others() {
        let (one, other) = (replica(&[], NOON), replica(&[], NOON));
        let ticket = one.encrypt(b"session").unwrap();
        assert!(opens(&one, &ticket) && !opens(&other, &ticket));
        one.load(&[], at(NOON + WINDOW));
        assert!(opens(&one, &ticket), "in the next half day too");
    }

    #[test]
    fn a_modified_or_truncated_ticket_is_rejected() {
        let replica = replica(&[key(1, 0)], NOON);
        let ticket = replica.encrypt(b"session").unwrap();
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert!(!opens(&replica, &changed), "octet {index}");
            assert!(!opens(&replica, &ticket[..index]), "{index} octets");
        }
        assert!(!opens(&replica, &[ticket.as_slice(), &[0]].concat()));
        assert_ne!(replica.encrypt(b"session").unwrap(), ticket, "no two are the same");
    }

    #[test]
    fn a_session_too_long_for_a_ticket_is_not_sealed() {
        let replica = replica(&[key(1, 0)], NOON);
        let longest = replica.encrypt(&[0; MAX_SESSION]).unwrap();
        assert!(u16::try_from(longest.len()).is_ok());
        assert!(replica.encrypt(&[0; MAX_SESSION + 1]).is_none());
    }
}
