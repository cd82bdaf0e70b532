//! Which of a user's groups matter: those that grants name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use portcullis_config::snapshot::Snapshot;
use portcullis_config::snapshot::access::Subjects;

/// Maximum number of patterns in grants that are read; those of further grants are not.
const MAX_PATTERNS: usize = 256 * 1024;
/// Maximum number of patterns with a `*`, each of which is compared with all groups.
const MAX_WILDCARDS: usize = 256;

/// The importance of a group: the first are kept first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// A Namespace names it: only operators can do that.
    ByNamespace,
    /// A Service names it.
    ByService,
    /// A pattern other than `*` matches it.
    ByPattern,
    Unnamed,
}

/// Sorts groups by their importance, and keeps their order otherwise.
pub(super) fn arrange(snapshot: &Snapshot, groups: &mut [Box<str>]) {
    arrange_by(lists(snapshot), groups);
}

fn arrange_by<'s>(lists: impl Iterator<Item = (Rank, &'s Arc<Subjects>)>, groups: &mut [Box<str>]) {
    let mut ranks: HashMap<Box<str>, Rank> =
        groups.iter().map(|group| (key(group), Rank::Unnamed)).collect();
    let mut wildcards = Vec::new();
    for (rank, pattern) in lists
        .flat_map(|(rank, list)| list.groups.iter().map(move |pattern| (rank, pattern)))
        .take(MAX_PATTERNS)
    {
        match pattern.exact() {
            Some(name) => {
                if let Some(known) = ranks.get_mut(&key(name)) {
                    *known = rank.min(*known);
                }
            }
            None if wildcards.len() < MAX_WILDCARDS && !pattern.matches("") => {
                wildcards.push(pattern);
            }
            None => {}
        }
    }
    for (group, rank) in ranks.iter_mut().filter(|(_, rank)| **rank == Rank::Unnamed) {
        if wildcards.iter().any(|pattern| pattern.matches(group)) {
            *rank = Rank::ByPattern;
        }
    }
    groups.sort_by_cached_key(|group| ranks.get(&key(group)).copied().unwrap_or(Rank::Unnamed));
}

/// The lists of all grants, each once: those of Namespaces, which are the first of a rule, and then
/// those of Services, however many a tenant writes.
fn lists(snapshot: &Snapshot) -> impl Iterator<Item = (Rank, &Arc<Subjects>)> {
    let lists = || {
        let lists = snapshot.listeners.iter().flat_map(|listener| listener.hosts.route_lists());
        lists.flatten().map(|route| &route.rule.policy.access.users)
    };
    let of_namespaces =
        lists().flat_map(|users| users.first()).map(|list| (Rank::ByNamespace, list));
    let of_services =
        lists().flat_map(|users| users.iter().skip(1)).map(|list| (Rank::ByService, list));
    let mut seen = HashSet::new();
    of_namespaces.chain(of_services).filter(move |(_, list)| seen.insert(Arc::as_ptr(list)))
}

/// The name as grants compare it: e-mail addresses without regard to case.
fn key(name: &str) -> Box<str> {
    if name.contains('@') { name.to_ascii_lowercase().into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use portcullis_config::model::NamePattern;

    use super::*;

    #[test]
    fn groups_are_arranged_by_the_grants_that_name_them() {
        let list = |names: &[&str]| {
            let groups: Vec<NamePattern> = names.iter().map(|name| name.parse().unwrap()).collect();
            Arc::new(Subjects { groups, ..Subjects::default() })
        };
        let lists = [
            (Rank::ByNamespace, list(&["*", "ops", "Team@example.com"])),
            (Rank::ByService, list(&["dev", "ops", "proj-*"])),
        ];
        let mut groups: Vec<Box<str>> =
            ["other", "proj-a", "dev", "last", "team@Example.com", "ops"].map(Into::into).into();
        arrange_by(lists.iter().map(|(rank, list)| (*rank, list)), &mut groups);
        let groups: Vec<&str> = groups.iter().map(|group| &**group).collect();
        assert_eq!(groups, ["team@Example.com", "ops", "dev", "proj-a", "other", "last"]);
    }
}
