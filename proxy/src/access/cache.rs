//! What was found out about credentials, so that it costs a signature once: kept by hash, for all workers, and bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256};
use dashmap::DashMap;

/// SHA-256 of a credential: what is kept of it.
pub(crate) type Hash = [u8; 32];

/// A bounded map in two generations: when the young one is full it becomes the old one, and what was the old one is forgotten. What is
/// asked for again is young again, so that what is in use stays.
pub(crate) struct Cache<T> {
    young: ArcSwap<DashMap<Hash, T>>,
    old: ArcSwap<DashMap<Hash, T>>,
    turning: AtomicBool,
    /// The most entries of one generation.
    bound: usize,
}

/// The hash by which what was found out is kept. `context` keeps apart what is the same in two meanings; no part can be taken for the end of
/// the one before it, nor a missing one for an empty one. None of it is copied.
pub(crate) fn hash<'a>(context: &'a str, parts: impl IntoIterator<Item = Option<&'a str>>) -> Hash {
    let mut digest = Context::new(&SHA256);
    for part in std::iter::once(Some(context)).chain(parts) {
        digest.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        digest.update(part.unwrap_or_default().as_bytes());
    }
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(digest.finish().as_ref()) {
        *to = *from;
    }
    hash
}

// === impl Cache ===

impl<T: Clone> Cache<T> {
    /// Of at most two times `bound` entries.
    pub(crate) fn new(bound: usize) -> Self {
        Self { young: ArcSwap::default(), old: ArcSwap::default(), turning: AtomicBool::new(false), bound }
    }

    pub(crate) fn get(&self, hash: &Hash) -> Option<T> {
        if let Some(found) = self.young.load().get(hash) {
            return Some(found.clone());
        }
        let found = self.old.load().remove(hash)?.1;
        self.insert(*hash, found.clone());
        Some(found)
    }

    pub(crate) fn insert(&self, hash: Hash, value: T) {
        let young = self.young.load();
        young.insert(hash, value);
        if young.len() >= self.bound && !self.turning.swap(true, Ordering::Acquire) {
            let full = self.young.swap(Arc::default());
            self.old.store(full);
            self.turning.store(false, Ordering::Release);
        }
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
        let cache = Cache::new(100);
        let used = hash("token", [Some("used")]);
        cache.insert(used, 7);
        for number in 0..10_000 {
            cache.insert(hash("token", [Some(number.to_string().as_str())]), 0);
            assert_eq!(cache.get(&used), Some(7), "after {number}");
            assert!(cache.len() <= 200);
        }
        assert_eq!(cache.get(&hash("token", [Some("1")])), None);
    }

    #[test]
    fn one_text_in_two_meanings_has_two_hashes() {
        let of = |context: &str, parts: &[Option<&str>]| hash(context, parts.iter().copied());
        assert_eq!(of("token", &[Some("a")]), of("token", &[Some("a")]));
        assert_ne!(of("token", &[Some("a")]), of("session", &[Some("a")]));
        assert_ne!(of("a", &[Some("b")]), of("ab", &[Some("")]));
        assert_ne!(of("a", &[Some("b"), Some("c")]), of("a", &[Some("bc"), Some("")]));
        assert_ne!(of("a", &[None]), of("a", &[Some("")]));
    }
}
