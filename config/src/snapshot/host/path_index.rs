//! Finds the routes of a path by its prefixes. The work depends on the request and on the whole
//! table, and not on the host or on how many routes it has.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

use crate::snapshot::rule::PathMatch;

/// The routes of all hosts, by their list and path.
#[derive(Debug, Clone, Default)]
pub(super) struct PathIndex {
    /// The positions of routes in their list, by the hash of list and path.
    positions: HashMap<u64, Vec<u32>, RandomState>,
    hasher: RandomState,
    /// Whether some route matches exact paths.
    has_exact: bool,
    /// The most segments of a prefix.
    depth: usize,
}

/// Which list of routes is looked up: one by its number in the table, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListNumber(pub(super) u32);

// === impl ListNumber ===

impl ListNumber {
    /// The number that no list has.
    pub(super) const NONE: Self = Self(u32::MAX);
}

// === impl PathIndex ===

impl PathIndex {
    /// Adds a route, after those of its list that come before it.
    pub(super) fn add(&mut self, list: ListNumber, path: &PathMatch, position: u32) {
        let hash = match path {
            PathMatch::Exact(path) => {
                self.has_exact = true;
                Some(self.exact_key(list, path))
            }
            PathMatch::Prefix(prefix) => {
                self.depth = self.depth.max(segments(prefix.as_str()).count());
                self.prefix_keys(list, prefix.as_str()).last()
            }
            PathMatch::Regex(_) => None,
        };
        if let Some(hash) = hash {
            self.positions.entry(hash).or_default().push(position);
        }
    }

    /// The positions of routes that may match the path exactly. A hash may collide: the caller
    /// compares the paths.
    pub(super) fn exact(&self, list: ListNumber, path: &str) -> &[u32] {
        if !self.has_exact {
            return &[];
        }
        self.positions.get(&self.exact_key(list, path)).map_or(&[], Vec::as_slice)
    }

    /// The positions of routes that may match a prefix of the path, shortest first. As many are
    /// looked up for every host.
    pub(super) fn prefixes(&self, list: ListNumber, path: &str) -> impl Iterator<Item = &[u32]> {
        let keys = self.prefix_keys(list, path);
        keys.map(|key| self.positions.get(&key).map_or(&[][..], Vec::as_slice))
    }

    fn exact_key(&self, list: ListNumber, path: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(list.0);
        hasher.write(path.as_bytes());
        hasher.finish()
    }

    /// The hashes of the path's prefixes: of the root, and after each segment. Each continues the
    /// one before, so that they take the time of hashing the path once.
    fn prefix_keys(&self, list: ListNumber, path: &str) -> impl Iterator<Item = u64> {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(list.0);
        let root = hasher.finish();
        let below = segments(path).take(self.depth).map(move |segment| {
            hasher.write(segment.as_bytes());
            hasher.write_u8(b'/');
            hasher.finish()
        });
        std::iter::once(root).chain(below)
    }
}

/// The segments of a path; none of the root, whose prefix is empty.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::rule::PathPrefix;

    #[test]
    fn the_number_of_lookups_is_the_same_for_every_host() {
        let prefix = |text: &str| PathMatch::Prefix(PathPrefix::new(text).unwrap());
        let mut index = PathIndex::default();
        for position in 0..1000 {
            index.add(ListNumber(0), &prefix(&format!("/api/{position}")), position);
        }
        index.add(ListNumber(1), &prefix("/"), 0);
        for path in ["/", "/api", "/api/7", "/api/7/x/y", "/nothing/at/all", "*"] {
            let lookups = |list| index.prefix_keys(list, path).count();
            assert_eq!(lookups(ListNumber(0)), lookups(ListNumber::NONE), "{path}");
            assert_eq!(lookups(ListNumber(1)), lookups(ListNumber::NONE), "{path}");
            assert!(lookups(ListNumber::NONE) <= 3, "{path}: no deeper than the deepest rule");
        }
    }
}
