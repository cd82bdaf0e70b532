//! The dynamic table (RFC 7541 §2.3.2).

use std::collections::VecDeque;

/// Maximum size of the table in octets: the default (RFC 9113 §6.5.2).
pub(super) const MAX_SIZE: usize = 4096;
/// Overhead of each entry in octets (RFC 7541 §4.1).
pub(super) const OVERHEAD: usize = 32;

/// What is stored of a field.
pub(super) trait Entry {
    /// The size of the field in octets, with its overhead.
    fn octets(&self) -> usize;
}

/// The most recent fields that the peer has added, within a size.
#[derive(Debug)]
pub(super) struct DynamicTable<E> {
    /// Newest first.
    entries: VecDeque<E>,
    /// Size of all entries in octets, and its current limit.
    size: usize,
    limit: usize,
}

// === impl DynamicTable ===

impl<E> Default for DynamicTable<E> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: MAX_SIZE }
    }
}

impl<E: Entry> DynamicTable<E> {
    /// Returns the entry with this index; 0 is the newest one.
    pub(super) fn get(&self, index: usize) -> Option<&E> {
        self.entries.get(index)
    }

    /// Changes the limit. Returns `None` if it exceeds the maximum.
    pub(super) fn resize(&mut self, limit: usize) -> Option<()> {
        if limit > MAX_SIZE {
            return None;
        }
        self.limit = limit;
        self.evict(0);
        Some(())
    }

    /// Adds an entry, and evicts old ones.
    pub(super) fn insert(&mut self, entry: E) {
        let octets = entry.octets();
        self.evict(octets);
        // An entry larger than the table empties it, which is not an error (RFC 7541 §4.4).
        if octets <= self.limit {
            self.size += octets;
            self.entries.push_front(entry);
        }
    }

    /// Evicts entries until there is room for `octets`.
    fn evict(&mut self, octets: usize) {
        while self.size + octets > self.limit
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.octets();
        }
    }

    #[cfg(test)]
    pub(super) fn assert_is_sound(&self) {
        assert_eq!(self.size, self.entries.iter().map(Entry::octets).sum::<usize>());
        assert!(self.size <= self.limit && self.limit <= MAX_SIZE);
    }
}
