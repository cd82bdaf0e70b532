//! Seals the values of cookies and URLs: confidential, authenticated, and bound to one purpose and
//! one host.
//!
//! AES-256-GCM-SIV (RFC 8452), which tolerates random nonces without counting. Purpose and host are
//! additional authenticated data. A sealed value is the base64 of a key name (4 octets), a nonce
//! (12), the ciphertext, and a tag (16).

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::session::keys::in_use;
use portcullis_config::snapshot::access::SessionKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use smallvec::{SmallVec, smallvec};

use super::NoRandomness;

/// Maximum length of a sealed value, in octets.
const MAX_VALUE: usize = 12 * 1024;
const NAME_LEN: usize = 4;
/// The octets of a sealed value that are opened without an allocation: the cookie of an anonymous
/// browser has fewer, and is opened for each of its requests.
const SMALL_VALUE: usize = 192;
/// The octets of a purpose and a host, whose name has 253 at most.
const MAX_BOUND: usize = 320;

/// The purpose of a sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A session on the host of a service.
    Session,
    /// The session on the portal's own host.
    Portal,
    /// The provider's refresh token.
    Refresh,
    /// Binds a login in progress to its browser.
    Browser,
    /// A login in progress, during the redirect to the provider.
    State,
    /// The portal's intent to hand a session to a service's host.
    Intent,
    /// The proof of a browser at a service's host, on its way to the portal.
    Ticket,
    /// A session on its way from the portal to a service's host.
    Code,
    /// An anonymous browser on the host of a service.
    Visitor,
}

/// Text that is written to memory.
struct Octets(SmallVec<[u8; MAX_BOUND]>);

/// Seals and opens values, with the cluster's keys or else with a key of this process.
pub struct Sealer {
    ring: ArcSwap<Ring>,
    generation: AtomicU64,
    /// Seals while there are no others. What it sealed opens until one of the others is removed,
    /// which ends all that was sealed before.
    own: ArcSwap<Key>,
}

/// The keys; each can open.
struct Ring(Vec<Arc<Key>>);

struct Key {
    name: [u8; NAME_LEN],
    created: Option<SystemTime>,
    key: RandomizedNonceKey,
}

// === impl Purpose ===

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Portal => "portal",
            Self::Refresh => "refresh",
            Self::Browser => "browser",
            Self::State => "state",
            Self::Intent => "intent",
            Self::Ticket => "ticket",
            Self::Code => "code",
            Self::Visitor => "visitor",
        }
    }

    /// Each part is prefixed by its length: no two pairs of purpose and host have the same octets.
    fn bound_to(self, host: &str) -> SmallVec<[u8; MAX_BOUND]> {
        let (label, mut bound) = (self.label(), Octets(SmallVec::new()));
        // Writing to memory cannot fail.
        let _ = write!(bound, "portcullis 1 {} {label} {} {host}", label.len(), host.len());
        bound.0
    }
}

// === impl Octets ===

impl Write for Octets {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

// === impl Sealer ===

impl Sealer {
    /// Creates a sealer with a random key, until others are loaded.
    pub fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            ring: ArcSwap::from_pointee(Ring(Vec::new())),
            generation: AtomicU64::new(0),
            own: ArcSwap::from_pointee(Key::random()?),
        })
    }

    /// Replaces the keys by those of a snapshot.
    pub fn load(&self, keys: &[SessionKey]) {
        let ring = Ring(
            keys.iter()
                .filter_map(|key| Key::new(key.key.expose(), key.created))
                .map(Arc::new)
                .collect(),
        );
        let is_removed = |name: &[u8; NAME_LEN]| ring.names().all(|other| other != *name);
        if self.ring.load().names().any(|name| is_removed(&name)) {
            match Key::random() {
                Ok(key) => self.own.store(Arc::new(key)),
                Err(error) => tracing::error!(%error, "failed to replace this process' own key"),
            }
        }
        let before = self.ring.swap(Arc::new(ring));
        if before.names().ne(self.ring.load().names()) {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Grows when the keys change: values opened before may no longer open.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Seals a value for a purpose and host; `None` if the system returned no random numbers.
    pub fn seal(
        &self,
        purpose: Purpose,
        host: &str,
        what: &impl Serialize,
        now: SystemTime,
    ) -> Option<String> {
        let (ring, own) = (self.ring.load(), self.own.load());
        let key = in_use(&ring.0, |key| key.created, now).unwrap_or(&own);
        let mut text = serde_json::to_vec(what).ok()?;
        let nonce =
            key.key.seal_in_place_append_tag(Aad::from(purpose.bound_to(host)), &mut text).ok()?;
        let mut value = Vec::with_capacity(NAME_LEN + NONCE_LEN + text.len());
        value.extend_from_slice(&key.name);
        value.extend_from_slice(nonce.as_ref());
        value.extend_from_slice(&text);
        Some(URL_SAFE_NO_PAD.encode(value))
    }

    /// Opens a value sealed for this purpose and host. An invalid value takes as much deciphering
    /// as a valid one.
    pub fn open<T: DeserializeOwned>(
        &self,
        purpose: Purpose,
        host: &str,
        value: &str,
    ) -> Option<T> {
        let mut octets = decoded(value);
        let shortest = NAME_LEN + NONCE_LEN + AES_256_GCM_SIV.tag_len();
        if octets.len() < shortest {
            octets.resize(shortest, 0);
        }
        let (name, rest) = octets.split_at_mut_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_mut_checked(NONCE_LEN)?;
        let (ring, own) = (self.ring.load(), self.own.load());
        let named = ring.0.iter().chain([&*own]).find(|key| key.name == name);
        let key = named.unwrap_or(&own);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = key.key.open_in_place(nonce, Aad::from(purpose.bound_to(host)), sealed).ok()?;
        serde_json::from_slice(text).ok()
    }
}

/// Decodes a value; an invalid one becomes as many zeros.
fn decoded(value: &str) -> SmallVec<[u8; SMALL_VALUE]> {
    let length = value.len().min(MAX_VALUE);
    let mut octets: SmallVec<[u8; SMALL_VALUE]> =
        smallvec![0; base64::decoded_len_estimate(length)];
    let decoded = if value.len() > MAX_VALUE {
        None
    } else {
        URL_SAFE_NO_PAD.decode_slice(value, &mut octets).ok()
    };
    match decoded {
        Some(length) => octets.truncate(length),
        None => octets = smallvec![0; length / 4 * 3],
    }
    octets
}

// === impl Ring ===

impl Ring {
    fn names(&self) -> impl Iterator<Item = [u8; NAME_LEN]> + '_ {
        self.0.iter().map(|key| key.name)
    }
}

// === impl Key ===

impl Key {
    fn random() -> Result<Self, NoRandomness> {
        let mut octets = [0; 32];
        rand::fill(&mut octets).map_err(|_| NoRandomness)?;
        Self::new(&octets, None).ok_or(NoRandomness)
    }

    /// Returns `None` unless the key has 32 octets.
    fn new(octets: &[u8], created: Option<SystemTime>) -> Option<Self> {
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, octets).ok()?;
        let digest = digest(&SHA256, &[b"portcullis session key ", octets].concat());
        let name = digest.as_ref().first_chunk().copied()?;
        Some(Self { name, created, key })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use portcullis_config::model::Origin;

    use super::*;

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

    fn sealer(keys: &[SessionKey]) -> Sealer {
        let sealer = Sealer::new().unwrap();
        sealer.load(keys);
        sealer
    }

    fn open(sealer: &Sealer, purpose: Purpose, host: &str, value: &str) -> Option<String> {
        sealer.open(purpose, host, value)
    }

    #[test]
    fn a_value_opens_for_its_purpose_and_host_only() {
        let sealer = sealer(&[key(1, 0)]);
        let value = sealer.seal(Purpose::Session, "shop.example.com", &"ann", at(100)).unwrap();
        assert_eq!(
            open(&sealer, Purpose::Session, "shop.example.com", &value).as_deref(),
            Some("ann")
        );
        assert_eq!(open(&sealer, Purpose::Session, "crm.example.com", &value), None);
        for purpose in [
            Purpose::Portal,
            Purpose::Refresh,
            Purpose::Browser,
            Purpose::State,
            Purpose::Intent,
            Purpose::Ticket,
            Purpose::Code,
            Purpose::Visitor,
        ] {
            assert_eq!(open(&sealer, purpose, "shop.example.com", &value), None, "{purpose:?}");
        }
        assert!(!value.contains("ann"));
    }

    #[test]
    fn the_cookie_of_a_browser_opens_without_an_allocation() {
        let (host, largest) = ("x".repeat(253), (u64::MAX, u64::MAX, u64::MAX));
        let value = sealer(&[]).seal(Purpose::Visitor, &host, &largest, at(0)).unwrap();
        assert!(!decoded(&value).spilled(), "{} octets", value.len());
        assert!(!Purpose::Visitor.bound_to(&host).spilled());
        for invalid in ["", "a", "\u{e9}", &"x".repeat(13), &"x".repeat(MAX_VALUE + 4)] {
            let expected = invalid.len().min(MAX_VALUE) / 4 * 3;
            assert!(decoded(invalid).len().abs_diff(expected) <= 2, "{} octets", invalid.len());
        }
    }

    #[test]
    fn a_modified_value_does_not_open() {
        let sealer = sealer(&[key(1, 0)]);
        let value = sealer.seal(Purpose::Session, "a", &"ann", at(100)).unwrap();
        let octets = URL_SAFE_NO_PAD.decode(&value).unwrap();
        for index in 0..octets.len() {
            let mut changed = octets.clone();
            changed[index] ^= 1;
            assert_eq!(
                open(&sealer, Purpose::Session, "a", &URL_SAFE_NO_PAD.encode(changed)),
                None,
                "octet {index}"
            );
        }
        for length in 0..value.len() {
            assert_eq!(
                open(&sealer, Purpose::Session, "a", &value[..length]),
                None,
                "{length} characters"
            );
        }
        for odd in ["", "=", "....", "é", "AAAA", &"A".repeat(MAX_VALUE + 4)] {
            assert_eq!(open(&sealer, Purpose::Session, "a", odd), None, "{odd}");
        }
    }

    #[test]
    fn replicas_with_the_same_keys_open_each_others_values() {
        let keys = [key(1, 0), key(2, 50)];
        let value = sealer(&keys).seal(Purpose::Session, "a", &"ann", at(1000)).unwrap();
        assert_eq!(open(&sealer(&keys), Purpose::Session, "a", &value).as_deref(), Some("ann"));
        assert_eq!(open(&sealer(&[]), Purpose::Session, "a", &value), None, "but not without them");
    }

    #[test]
    fn a_new_key_seals_only_after_every_replica_has_loaded_it() {
        let (old, new) = (key(1, 0), key(2, 1000));
        let (with_both, with_old, with_new) = (
            sealer(&[old.clone(), new.clone()]),
            sealer(std::slice::from_ref(&old)),
            sealer(std::slice::from_ref(&new)),
        );
        let early = with_both.seal(Purpose::Session, "a", &"ann", at(1059)).unwrap();
        assert!(open(&with_old, Purpose::Session, "a", &early).is_some());
        let late = with_both.seal(Purpose::Session, "a", &"ann", at(1060)).unwrap();
        assert!(open(&with_new, Purpose::Session, "a", &late).is_some());
        assert!(open(&with_old, Purpose::Session, "a", &late).is_none());
        let only = with_new.seal(Purpose::Session, "a", &"ann", at(1000)).unwrap();
        assert!(
            open(&with_new, Purpose::Session, "a", &only).is_some(),
            "a single key seals however young it is"
        );
    }

    #[test]
    fn a_removed_key_opens_nothing() {
        let sealer = sealer(&[key(1, 0)]);
        let value = sealer.seal(Purpose::Session, "a", &"ann", at(100)).unwrap();
        sealer.load(&[key(2, 0)]);
        assert_eq!(open(&sealer, Purpose::Session, "a", &value), None);
    }

    #[test]
    fn without_keys_the_process_uses_its_own() {
        let (one, other) = (sealer(&[]), sealer(&[]));
        let value = one.seal(Purpose::Session, "a", &"ann", at(100)).unwrap();
        assert!(open(&one, Purpose::Session, "a", &value).is_some());
        assert!(open(&other, Purpose::Session, "a", &value).is_none());
        one.load(&[key(1, 0)]);
        assert!(
            open(&one, Purpose::Session, "a", &value).is_some(),
            "sessions from before the first key stay valid"
        );
        one.load(&[key(1, 0), key(2, 0)]);
        assert!(open(&one, Purpose::Session, "a", &value).is_some());
        one.load(&[key(2, 0)]);
        assert!(
            open(&one, Purpose::Session, "a", &value).is_none(),
            "removing a key ends all that was sealed before"
        );
        one.load(&[]);
        let next = one.seal(Purpose::Session, "a", &"ann", at(100)).unwrap();
        assert!(open(&one, Purpose::Session, "a", &next).is_some());
    }

    #[test]
    fn invalid_keys_are_ignored() {
        let short =
            SessionKey { origin: Origin::default(), key: vec![1; 31].into(), created: None };
        let sealer = sealer(std::slice::from_ref(&short));
        let value = sealer.seal(Purpose::Session, "a", &"ann", at(100)).unwrap();
        assert!(
            open(&sealer, Purpose::Session, "a", &value).is_some(),
            "the process' own key seals"
        );
    }
}
