//! A bounded cache of verdicts about credentials, shared by all workers.
//!
//! Each credential costs one signature verification; the key is its fingerprint.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use dashmap::DashMap;
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::session::NoRandomness;

/// A keyed hash of a credential, the key of the cache.
pub type Fingerprint = [u8; 16];

/// Input up to this length, in octets, is concatenated without an allocation.
const SHORT: usize = 1024;

/// Computes fingerprints: GMAC (NIST SP 800-38D) under a key of this process.
///
/// The nonce is constant, which would reveal the key to a reader of fingerprints; they never leave
/// the process. GHASH serves as a universal hash: two texts collide with a probability below
/// 2^-110, whoever chose them. It costs a tenth of SHA-256 on processors without SHA instructions.
pub struct Fingerprints(LessSafeKey);

/// A bounded map with keys that clients cannot choose, in two generations.
///
/// A full young generation becomes the old one, and the old one is evicted. A hit moves the entry
/// to the young generation, so entries in use stay.
pub struct Cache<T, K = Fingerprint> {
    young: ArcSwap<DashMap<K, T, RandomState>>,
    old: ArcSwap<DashMap<K, T, RandomState>>,
    rotating: AtomicBool,
    /// Maximum number of entries of one generation.
    bound: usize,
}

// === impl Fingerprints ===

impl Fingerprints {
    /// Creates a random key for this process.
    ///
    /// # Errors
    /// The system returned no random numbers.
    pub fn new() -> Result<Self, NoRandomness> {
        let mut octets = [0; 32];
        aws_lc_rs::rand::fill(&mut octets).map_err(|_| NoRandomness)?;
        UnboundKey::new(&AES_256_GCM, &octets)
            .map(LessSafeKey::new)
            .map(Self)
            .map_err(|_| NoRandomness)
    }

    /// Returns the fingerprint of a credential; `None` only if the cryptography fails. `context`
    /// separates equal texts of different meaning, and each part is prefixed by its length, so
    /// parts cannot be confused.
    pub fn of(&self, context: &str, parts: &[&str]) -> Option<Fingerprint> {
        let mut text = SmallVec::<[u8; SHORT]>::new();
        for part in std::iter::once(&context).chain(parts) {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag =
            self.0.seal_in_place_separate_tag(nonce, Aad::from(text.as_slice()), &mut []).ok()?;
        tag.as_ref().first_chunk().copied()
    }
}

// === impl Cache ===

impl<T: Clone, K: Copy + Eq + Hash> Cache<T, K> {
    /// Creates a cache of at most `2 * bound` entries.
    pub fn new(bound: usize) -> Self {
        Self {
            young: ArcSwap::default(),
            old: ArcSwap::default(),
            rotating: AtomicBool::new(false),
            bound,
        }
    }

    /// Returns the entry of a key.
    pub fn get(&self, key: &K) -> Option<T> {
        if let Some(found) = self.young.load().get(key) {
            return Some(found.clone());
        }
        // It stays in the old generation too, so that it can be found at any time.
        let found = self.old.load().get(key)?.clone();
        let young = self.young.load();
        // A concurrent insert is newer.
        let found = young.entry(*key).or_insert(found).clone();
        self.rotate(&young);
        Some(found)
    }

    /// Inserts an entry; a full cache evicts older ones.
    pub fn insert(&self, key: K, value: T) {
        let young = self.young.load();
        young.insert(key, value);
        self.rotate(&young);
    }

    /// Starts a new generation if the young one is full.
    fn rotate(&self, young: &Arc<DashMap<K, T, RandomState>>) {
        if young.len() < self.bound || self.rotating.swap(true, Ordering::Acquire) {
            return;
        }
        // Another thread may have started one since `young` was read.
        if Arc::ptr_eq(&self.young.load(), young) {
            // Stored as the old generation first, so that its entries can be found at any time.
            self.old.store(Arc::clone(young));
            self.young.store(Arc::default());
        }
        self.rotating.store(false, Ordering::Release);
    }

    /// Number of entries.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.load().len() + self.old.load().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_and_keeps_entries_in_use() {
        let (cache, fingerprints) = (Cache::new(100), Fingerprints::new().unwrap());
        let of = |text: &str| fingerprints.of("token", &[text]).unwrap();
        cache.insert(of("used"), 7);
        for number in 0..10_000 {
            cache.insert(of(&number.to_string()), 0);
            assert_eq!(cache.get(&of("used")), Some(7), "after {number}");
            assert!(cache.len() <= 200);
        }
        assert_eq!(cache.get(&of("1")), None);
    }

    #[test]
    fn entries_in_use_are_found_at_any_time() {
        let (cache, fingerprints) = (Cache::new(16), Fingerprints::new().unwrap());
        let of = |text: &str| fingerprints.of("token", &[text]).unwrap();
        let (used, done) = (of("used"), AtomicBool::new(false));
        cache.insert(used, 7);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        while !done.load(Ordering::Relaxed) {
                            assert_eq!(cache.get(&used), Some(7));
                        }
                    })
                })
                .collect();
            for number in 0..20_000 {
                assert_eq!(cache.get(&used), Some(7));
                cache.insert(of(&number.to_string()), 0);
            }
            done.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    }

    #[test]
    fn fingerprints_differ_by_context() {
        let fingerprints = Fingerprints::new().unwrap();
        let of = |context: &str, parts: &[&str]| fingerprints.of(context, parts).unwrap();
        assert_eq!(of("token", &["a"]), of("token", &["a"]));
        assert_ne!(of("token", &["a"]), of("session", &["a"]));
        assert_ne!(of("a", &["b"]), of("ab", &[""]));
        assert_ne!(of("a", &["b", "c"]), of("a", &["bc", ""]));
        assert_ne!(of("a", &[]), of("a", &[""]));
        let long = "a".repeat(3 * SHORT);
        assert_ne!(of("token", &[&long]), of("token", &[&long[1..]]));
    }

    #[test]
    fn each_process_has_its_own_fingerprint_key() {
        let of = || Fingerprints::new().unwrap().of("token", &["a"]);
        assert_ne!(of(), of());
    }
}
