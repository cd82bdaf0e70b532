//! Sets of buckets: the parts of all identities that are dealt to one variant or another.

use serde::{Deserialize, Serialize};

const BITS: usize = u64::BITS as usize;

/// A set of buckets, at most 8 KiB. Two sets are equal if they have the same buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Buckets(Vec<u64>);

// === impl Buckets ===

impl Buckets {
    /// Adds a bucket.
    pub fn insert(&mut self, bucket: u16) {
        let (word, bit) = (usize::from(bucket) / BITS, usize::from(bucket) % BITS);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    /// The number of buckets.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether it has no bucket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Adds all buckets of another set.
    pub fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    /// Removes all buckets of another set.
    pub fn remove(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= !other);
        self.trim();
    }

    /// The buckets that are in both sets.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let words = self.0.iter().zip(&other.0).map(|(word, other)| word & other);
        let mut common = Self(words.collect());
        common.trim();
        common
    }

    /// Equal sets have equal words: no zeros at the end.
    fn trim(&mut self) {
        let used = self.0.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        self.0.truncate(used);
    }
}

impl FromIterator<u16> for Buckets {
    fn from_iter<I: IntoIterator<Item = u16>>(buckets: I) -> Self {
        let mut set = Self::default();
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}
