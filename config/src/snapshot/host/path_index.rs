//! Finds the routes of a path by its prefixes. The work depends on the request and on the whole
//! table, and not on the host or on how many routes it has.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

use crate::snapshot::rule::PathMatch;

/// The routes of all hosts, by host and path.
#[derive(Debug, Clone, Default)]
pub(super) struct PathIndex {
    /// The positions of routes among those of their host, by the hash of host and path.
    positions: HashMap<u64, Vec<u32>, RandomState>,
    hasher: RandomState,
    /// Whether some route matches exact paths.
    has_exact: bool,
    /// The most segments of a prefix.
    depth: usize,
}

/// Whose routes are looked up: a host by its number in the table, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostNumber(pub(super) u32);

// === impl HostNumber ===

impl HostNumber {
    /// The number that no host has.
    pub(super) const NONE: Self = Self(u32::MAX);
}

// === impl PathIndex ===

impl PathIndex {
    /// Adds a route, after those of its host that come before it.
    pub(super) fn add(&mut self, host: HostNumber, path: &PathMatch, position: u32) {
        let hash = match path {
            PathMatch::Exact(path) => {
                self.has_exact = true;
                Some(self.exact_key(host, path))
            }
            PathMatch::Prefix(prefix) => {
                self.depth = self.depth.max(segments(prefix.as_str()).count());
                self.prefix_keys(host, prefix.as_str()).last()
            }
            PathMatch::Regex(_) => None,
        };
        if let Some(hash) = hash {
            self.positions.entry(hash).or_default().push(position);
        }
    }

    /// The positions of routes that may match the path exactly. A hash may collide: the caller
    /// compares the paths.
    pub(super) fn exact(&self, host: HostNumber, path: &str) -> &[u32] {
        if !self.has_exact {
            return &[];
        }
        self.positions.get(&self.exact_key(host, path)).map_or(&[], Vec::as_slice)
    }

    /// The positions of routes that may match a prefix of the path, shortest first. As many are
    /// looked up for every host.
    pub(super) fn prefixes(&self, host: HostNumber, path: &str) -> impl Iterator<Item = &[u32]> {
        let keys = self.prefix_keys(host, path);
        keys.map(|key| self.positions.get(&key).map_or(&[][..], Vec::as_slice))
    }

    fn exact_key(&self, host: HostNumber, path: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(host.0);
        hasher.write(path.as_bytes());
        hasher.finish()
    }

    /// The hashes of the path's prefixes: of the root, and after each segment. Each continues the
    /// one before, so that they take the time of hashing the path once.
    fn prefix_keys(&self, host: HostNumber, path: &str) -> impl Iterator<Item = u64> {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(host.0);
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
            index.add(HostNumber(0), &prefix(&format!("/api/{position}")), position);
        }
        index.add(HostNumber(1), &prefix("/"), 0);
        for path in ["/", "/api", "/api/7", "/api/7/x/y", "/nothing/at/all", "*"] {
            let lookups = |host| index.prefix_keys(host, path).count();
            assert_eq!(lookups(HostNumber(0)), lookups(HostNumber::NONE), "{path}");
            assert_eq!(lookups(HostNumber(1)), lookups(HostNumber::NONE), "{path}");
            assert!(lookups(HostNumber::NONE) <= 3, "{path}: no deeper than the deepest rule");
        }
    }
}
