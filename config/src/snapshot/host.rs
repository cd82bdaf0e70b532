//! Virtual hosts, and the table that finds them by hostname, and their routes by path.

mod path_index;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderName;
use serde::{Serialize, Serializer};

use self::path_index::{ListNumber, PathIndex};
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
    /// Its routes, in the order in which they are matched. All hosts of a Service share one list: a
    /// Service may have thousands of both.
    pub routes: Arc<[Route]>,
}

/// Finds the virtual host of a name: the exact one, else that of the longest wildcard.
#[derive(Debug, Clone, Default)]
pub struct HostTable {
    exact: HashMap<Hostname, Arc<HostEntry>, RandomState>,
    wildcard: HashMap<Hostname, Arc<HostEntry>, RandomState>,
    paths: PathIndex,
    grants: GrantIndex,
    lists: Vec<Arc<[Route]>>,
}

/// A virtual host, and what is known of its routes.
#[derive(Debug)]
pub struct HostEntry {
    host: Arc<VirtualHost>,
    routes: KnownRoutes,
}

/// What is known of a list of routes. Hosts that share the list share this.
#[derive(Debug, Clone)]
struct KnownRoutes {
    number: ListNumber,
    /// The grants of each route.
    grants: Arc<[RouteGrants]>,
    /// The positions of routes that match paths by regular expressions.
    regexes: Arc<[u32]>,
    has_path_rules: bool,
    /// The header fields that routes match.
    header_names: Arc<[HeaderName]>,
}

/// Indexes each list of routes once.
#[derive(Default)]
struct Builder {
    paths: PathIndex,
    grants: GrantIndexBuilder,
    /// By the address of the list, which is kept, so that no address is reused.
    lists: HashMap<usize, (Arc<[Route]>, KnownRoutes), RandomState>,
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
        let number = entry.map_or(ListNumber::NONE, |entry| entry.routes.number);
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
        let regexes = entry.map_or(&[][..], |entry| &entry.routes.regexes);
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

    /// The routes of all hosts: each list once, however many hosts share it.
    pub fn route_lists(&self) -> impl Iterator<Item = &[Route]> {
        self.lists.iter().map(|list| &**list)
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
        let (mut table, mut builder) = (Self::default(), Builder::default());
        for host in hosts {
            let routes = builder.known(&host.routes);
            let pattern = host.pattern.clone();
            let entry = Arc::new(HostEntry { host, routes });
            match pattern {
                HostPattern::Exact(name) => table.exact.insert(name, entry),
                HostPattern::Wildcard(name) => table.wildcard.insert(name, entry),
            };
        }
        (table.paths, table.grants) = (builder.paths, builder.grants.build());
        table.lists = builder.lists.into_values().map(|(list, _)| list).collect();
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

// === impl Builder ===

impl Builder {
    /// What is known of a list of routes.
    fn known(&mut self, list: &Arc<[Route]>) -> KnownRoutes {
        let address = Arc::as_ptr(list).addr();
        if let Some((_, known)) = self.lists.get(&address) {
            return known.clone();
        }
        let number = ListNumber(u32::try_from(self.lists.len()).unwrap_or(u32::MAX));
        for (position, route) in (0..).zip(&**list) {
            self.paths.add(number, &route.matches.path, position);
        }
        let known = KnownRoutes::new(list, number, &mut self.grants);
        self.lists.insert(address, (Arc::clone(list), known.clone()));
        known
    }
}

// === impl KnownRoutes ===

impl KnownRoutes {
    fn new(list: &[Route], number: ListNumber, grants: &mut GrantIndexBuilder) -> Self {
        let paths = || list.iter().map(|route| &route.matches.path);
        let is_root = |path: &PathMatch| matches!(path, PathMatch::Prefix(prefix) if prefix.as_str().is_empty());
        let regexes = (0..).zip(paths()).filter(|(_, path)| matches!(path, PathMatch::Regex(_)));
        let headers = list.iter().flat_map(|route| &route.matches.headers);
        let mut header_names: Vec<HeaderName> = headers.map(|header| header.name.clone()).collect();
        header_names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        header_names.dedup();
        Self {
            number,
            grants: list.iter().map(|route| grants.add(&route.rule.policy.access)).collect(),
            regexes: regexes.map(|(position, _)| position).collect(),
            has_path_rules: !paths().all(is_root),
            header_names: header_names.into(),
        }
    }
}

// === impl HostEntry ===

impl HostEntry {
    /// The virtual host.
    #[must_use]
    pub fn host(&self) -> &Arc<VirtualHost> {
        &self.host
    }

    /// Its routes, in the order in which they are matched.
    pub fn routes(&self) -> impl Iterator<Item = GrantedRoute<'_>> {
        let all = self.host.routes.iter().zip(&*self.routes.grants);
        all.map(|(route, grants)| GrantedRoute { route, grants })
    }

    /// Whether a route has a path other than `/`.
    #[must_use]
    pub fn has_path_rules(&self) -> bool {
        self.routes.has_path_rules
    }

    /// The header fields that routes match.
    #[must_use]
    pub fn header_names(&self) -> &Arc<[HeaderName]> {
        &self.routes.header_names
    }

    fn route(&self, position: u32) -> Option<GrantedRoute<'_>> {
        let position = position as usize;
        let (route, grants) = (self.host.routes.get(position)?, self.routes.grants.get(position)?);
        Some(GrantedRoute { route, grants })
    }
}

#[cfg(test)]
mod tests;
