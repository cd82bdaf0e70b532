//! The lookup of hostnames, against a naive search for the longest suffix.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn table(patterns: impl IntoIterator<Item = HostPattern>) -> HostTable {
    let mut table = HostTable::default();
    for pattern in patterns {
        table.insert(Arc::new(VirtualHost {
            pattern,
            environment: "".into(),
            origin: Origin::default(),
            routes: Vec::new(),
        }));
    }
    table
}

fn name() -> impl Strategy<Value = Hostname> {
    vec(select(vec!["a", "b", "ab"]), 1..5).prop_map(|labels| labels.join(".").parse().unwrap())
}

fn pattern() -> impl Strategy<Value = HostPattern> {
    prop_oneof![name().prop_map(HostPattern::Exact), name().prop_map(HostPattern::Wildcard)]
}

proptest! {
    #[test]
    fn a_lookup_finds_the_exact_name_else_the_longest_wildcard(patterns in btree_set(pattern(), 0..12), host in name()) {
        let exact = patterns.iter().find(|pattern| **pattern == HostPattern::Exact(host.clone()));
        let wildcards = patterns.iter().filter(|pattern| match pattern {
            HostPattern::Wildcard(parent) => host.as_str().ends_with(&format!(".{parent}")),
            HostPattern::Exact(_) => false,
        });
        let expected = exact.or(wildcards.max_by_key(|pattern| pattern.to_string().len()));
        let table = table(patterns.clone());
        prop_assert_eq!(table.find(host.as_str()).map(|host| &host.pattern), expected);
        prop_assert_eq!(table.len(), patterns.len());
    }

    #[test]
    fn a_lookup_accepts_any_text(patterns in btree_set(pattern(), 0..4), host in "[ab.*:/\\[\\]é]{0,12}") {
        if let Some(found) = table(patterns).find(&host) {
            prop_assert!(found.pattern.to_string() == host || host.ends_with(found.pattern.to_string().trim_start_matches('*')));
        }
    }
}

#[test]
fn a_wildcard_matches_one_or_more_labels() {
    let table = table(["*.example.com".parse().unwrap()]);
    assert!(table.find("a.example.com").is_some());
    assert!(table.find("a.b.example.com").is_some());
    assert!(table.find("example.com").is_none());
    assert!(table.find("aexample.com").is_none());
}
