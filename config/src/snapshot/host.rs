//! Virtual hosts, and the table that finds them by hostname.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::{Serialize, Serializer};

use super::rule::Route;
use crate::model::{HostPattern, Hostname, Origin};

/// All that is served under one hostname.
#[derive(Debug, Clone, Serialize)]
pub struct VirtualHost {
    /// The name or wildcard.
    pub pattern: HostPattern,
    /// The environment's name, for metrics and logs; empty where there is none.
    pub environment: Arc<str>,
    /// The resource that claims the name.
    pub origin: Origin,
    /// Its routes, in the order in which they are matched.
    pub routes: Vec<Route>,
}

/// Finds the virtual host of a name: the exact one, else that of the longest wildcard.
#[derive(Debug, Clone, Default)]
pub struct HostTable {
    exact: HashMap<Hostname, Arc<VirtualHost>, RandomState>,
    wildcard: HashMap<Hostname, Arc<VirtualHost>, RandomState>,
}

// === impl HostTable ===

impl HostTable {
    /// The virtual host for `host`: lower case, without port or trailing dot.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        let exact = self.exact.get(host);
        if self.wildcard.is_empty() {
            return exact;
        }
        // All are looked up, even after a match: the duration must not reveal which names exist.
        let mut longest = None;
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            longest = longest.or(self.wildcard.get(parent));
            rest = parent;
        }
        exact.or(longest)
    }

    /// The virtual host with exactly this pattern.
    #[must_use]
    pub fn get(&self, pattern: &HostPattern) -> Option<&Arc<VirtualHost>> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(name) => self.wildcard.get(name),
        }
    }

    /// Adds a virtual host; returns the one of the same pattern that it replaces.
    pub fn insert(&mut self, host: Arc<VirtualHost>) -> Option<Arc<VirtualHost>> {
        match &host.pattern {
            HostPattern::Exact(name) => self.exact.insert(name.clone(), host),
            HostPattern::Wildcard(name) => self.wildcard.insert(name.clone(), host),
        }
    }

    /// All virtual hosts, in arbitrary order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        self.exact.values().chain(self.wildcard.values())
    }

    /// How many virtual hosts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Serialize for HostTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sorted: BTreeMap<&HostPattern, &Arc<VirtualHost>> =
            self.iter().map(|host| (&host.pattern, host)).collect();
        serializer.collect_seq(sorted.values())
    }
}

#[cfg(test)]
mod tests;
