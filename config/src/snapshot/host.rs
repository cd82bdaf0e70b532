//! Virtual hosts, and the table that finds them by hostname, and their routes by path.

mod path_index;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderName;
use serde::{Serialize, Serializer};

use self::path_index::{HostNumber, PathIndex};
use super::grants::{GrantIndex, GrantIndexBuilder, RouteGrants};
use super::rule::{PathMatch, Route, RouteMatch};
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
    exact: HashMap<Hostname, Arc<HostEntry>, RandomState>,
    wildcard: HashMap<Hostname, Arc<HostEntry>, RandomState>,
    paths: PathIndex,
    grants: GrantIndex,
}

/// A virtual host, and what is known of its routes.
#[derive(Debug)]
pub struct HostEntry {
    host: Arc<VirtualHost>,
    number: HostNumber,
    /// The grants of each route.
    grants: Box<[RouteGrants]>,
    /// The positions of routes that match paths by regular expressions.
    regexes: Box<[u32]>,
    has_path_rules: bool,
    /// The header fields that routes match.
    header_names: Arc<[HeaderName]>,
}

/// A route, and its grants.
#[derive(Debug, Clone, Copy)]
pub struct GrantedRoute<'t> {
    /// The route.
    pub route: &'t Route,
    /// The lists of its access policy.
    pub grants: &'t RouteGrants,
}

// === impl HostTable ===

impl HostTable {
    /// The virtual host for `host`: lower case, without port or trailing dot.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        self.entry(host).map(HostEntry::host)
    }

    /// Like [`find`](Self::find), with what is known of its routes.
    #[must_use]
    pub fn entry(&self, host: &str) -> Option<&HostEntry> {
        let exact = self.exact.get(host);
        if self.wildcard.is_empty() {
            return exact.map(|entry| &**entry);
        }
        // All are looked up, even after a match: the duration must not reveal which names exist.
        let mut longest = None;
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            longest = longest.or(self.wildcard.get(parent));
            rest = parent;
        }
        exact.or(longest).map(|entry| &**entry)
    }

    /// The first route of a host, by precedence, that has this path and meets `is_match`. Without a
    /// host there is none, which takes as long.
    pub fn route<'t>(
        &self,
        entry: Option<&'t HostEntry>,
        path: &str,
        is_match: impl Fn(&RouteMatch) -> bool,
    ) -> Option<GrantedRoute<'t>> {
        let number = entry.map_or(HostNumber::NONE, |entry| entry.number);
        let first = |positions: &[u32]| {
            let mut routes = positions.iter().filter_map(|position| entry?.route(*position));
            routes.find(|found| is_match(&found.route.matches))
        };
        let exact = self.paths.exact(number, path);
        // All prefixes are looked up, even after a match, and the longest counts.
        let mut longest = None;
        for positions in self.paths.prefixes(number, path) {
            longest = first(positions).or(longest);
        }
        // The precedence of Gateway API: exact paths, regular expressions, then prefixes.
        let regexes = entry.map_or(&[][..], |entry| &entry.regexes);
        first(exact).or_else(|| first(regexes)).or(longest)
    }

    /// The grants of all routes.
    #[must_use]
    pub fn grants(&self) -> &GrantIndex {
        &self.grants
    }

    /// The virtual host with exactly this pattern.
    #[must_use]
    pub fn get(&self, pattern: &HostPattern) -> Option<&Arc<VirtualHost>> {
        let entry = match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(name) => self.wildcard.get(name),
        };
        entry.map(|entry| entry.host())
    }

    /// All virtual hosts, in arbitrary order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        self.entries().map(HostEntry::host)
    }

    /// Like [`iter`](Self::iter), with what is known of their routes.
    pub fn entries(&self) -> impl Iterator<Item = &HostEntry> {
        self.exact.values().chain(self.wildcard.values()).map(|entry| &**entry)
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

impl FromIterator<Arc<VirtualHost>> for HostTable {
    /// Of several hosts with the same pattern, the last one counts.
    fn from_iter<I: IntoIterator<Item = Arc<VirtualHost>>>(hosts: I) -> Self {
        let (mut table, mut grants) = (Self::default(), GrantIndexBuilder::default());
        for (number, host) in (0..).map(HostNumber).zip(hosts) {
            for (position, route) in (0..).zip(&host.routes) {
                table.paths.add(number, &route.matches.path, position);
            }
            let pattern = host.pattern.clone();
            let entry = Arc::new(HostEntry::new(host, number, &mut grants));
            match pattern {
                HostPattern::Exact(name) => table.exact.insert(name, entry),
                HostPattern::Wildcard(name) => table.wildcard.insert(name, entry),
            };
        }
        table.grants = grants.build();
        table
    }
}

impl Serialize for HostTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sorted: BTreeMap<&HostPattern, &Arc<VirtualHost>> =
            self.iter().map(|host| (&host.pattern, host)).collect();
        serializer.collect_seq(sorted.values())
    }
}

// === impl HostEntry ===

impl HostEntry {
    fn new(host: Arc<VirtualHost>, number: HostNumber, grants: &mut GrantIndexBuilder) -> Self {
        let paths = || host.routes.iter().map(|route| &route.matches.path);
        let is_root = |path: &PathMatch| matches!(path, PathMatch::Prefix(prefix) if prefix.as_str().is_empty());
        let regexes = (0..).zip(paths()).filter(|(_, path)| matches!(path, PathMatch::Regex(_)));
        let headers = host.routes.iter().flat_map(|route| &route.matches.headers);
        let mut header_names: Vec<HeaderName> = headers.map(|header| header.name.clone()).collect();
        header_names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        header_names.dedup();
        Self {
            number,
            grants: host.routes.iter().map(|route| grants.add(&route.rule.policy.access)).collect(),
            regexes: regexes.map(|(position, _)| position).collect(),
            has_path_rules: !paths().all(is_root),
            header_names: header_names.into(),
            host,
        }
    }

    /// The virtual host.
    #[must_use]
    pub fn host(&self) -> &Arc<VirtualHost> {
        &self.host
    }

    /// Its routes, in the order in which they are matched.
    pub fn routes(&self) -> impl Iterator<Item = GrantedRoute<'_>> {
        let all = self.host.routes.iter().zip(&self.grants);
        all.map(|(route, grants)| GrantedRoute { route, grants })
    }

    /// Whether a route has a path other than `/`.
    #[must_use]
    pub fn has_path_rules(&self) -> bool {
        self.has_path_rules
    }

    /// The header fields that routes match.
    #[must_use]
    pub fn header_names(&self) -> &Arc<[HeaderName]> {
        &self.header_names
    }

    fn route(&self, position: u32) -> Option<GrantedRoute<'_>> {
        let position = position as usize;
        let (route, grants) = (self.host.routes.get(position)?, self.grants.get(position)?);
        Some(GrantedRoute { route, grants })
    }
}

#[cfg(test)]
mod tests;
