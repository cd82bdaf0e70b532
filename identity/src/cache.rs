//! What was found out about credentials, so that it costs a signature once: kept by fingerprint,
//! for all workers, and bounded.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use dashmap::DashMap;
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::session::NoRandomness;

/// What is kept of a credential.
pub type Fingerprint = [u8; 16];

/// Parts of this length together are put together without an allocation, in octets.
const SHORT: usize = 1024;

/// Makes fingerprints: GMAC (NIST SP 800-38D) under a key of its own.
///
/// The nonce is always the same. That would show the key to whoever sees fingerprints; nobody does,
/// since they leave neither the process nor this room. Then GHASH is what it is chosen for, a
/// universal hash: two texts have one fingerprint with a probability of less than 2^-110,
/// whoever chose them. It costs a tenth of SHA-256 where the processor has no instructions for
/// that.
pub struct Fingerprints(LessSafeKey);

/// A bounded map, by keys that nobody outside can choose, in two generations: when the young one is
/// full it becomes the old one, and what was the old one is forgotten. What is asked for again is
/// young again, so that what is in use stays.
pub struct Cache<T, K = Fingerprint> {
    young: ArcSwap<DashMap<K, T, RandomState>>,
    old: ArcSwap<DashMap<K, T, RandomState>>,
    turning: AtomicBool,
    /// The most entries of one generation.
    bound: usize,
}

// === impl Fingerprints ===

impl Fingerprints {
    /// Fingerprints under a key of this process.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new() -> Result<Self, NoRandomness> {
        let mut octets = [0; 32];
        aws_lc_rs::rand::fill(&mut octets).map_err(|_| NoRandomness)?;
        UnboundKey::new(&AES_256_GCM, &octets)
            .map(LessSafeKey::new)
            .map(Self)
            .map_err(|_| NoRandomness)
    }

    /// The fingerprint by which what was found out is kept; `None` only where the cryptography
    /// fails. `context` keeps apart what is the same in two meanings; no part can be taken for
    /// the end of the one before it, nor a missing one for an empty one.
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
    /// Of at most two times `bound` entries.
    pub fn new(bound: usize) -> Self {
        Self {
            young: ArcSwap::default(),
            old: ArcSwap::default(),
            turning: AtomicBool::new(false),
            bound,
        }
    }

    /// What is stored under a key.
    pub fn get(&self, key: &K) -> Option<T> {
        if let Some(found) = self.young.load().get(key) {
            return Some(found.clone());
        }
        // It stays in the old generation too, so that there is no moment in which it is in none.
        let found = self.old.load().get(key)?.clone();
        let young = self.young.load();
        // What was put in meanwhile is newer.
        let found = young.entry(*key).or_insert(found).clone();
        self.turn(&young);
        Some(found)
    }

    /// Stores a value; where the cache is full, older ones make room.
    pub fn insert(&self, key: K, value: T) {
        let young = self.young.load();
        young.insert(key, value);
        self.turn(&young);
    }

    /// Begins a new generation, where the young one is full.
    fn turn(&self, young: &Arc<DashMap<K, T, RandomState>>) {
        if young.len() < self.bound || self.turning.swap(true, Ordering::Acquire) {
            return;
        }
        // Another thread may have begun a new one since `young` was read.
        if Arc::ptr_eq(&self.young.load(), young) {
            // First it is the old one, then no longer the young one: what is in it can be found
            // all the time.
            self.old.store(Arc::clone(young));
            self.young.store(Arc::default());
        }
        self.turning.store(false, Ordering::Release);
    }

    /// How many entries there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.load().len() + self.old.load().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_grows_beyond_its_bound_and_keeps_what_is_in_use() {
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
    fn what_is_in_use_is_found_at_every_moment() {
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
    fn one_text_in_two_meanings_has_two_fingerprints() {
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
    fn each_process_has_fingerprints_of_its_own() {
        let of = || Fingerprints::new().unwrap().of("token", &["a"]);
        assert_ne!(of(), of());
    }
}
