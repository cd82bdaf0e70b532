//! The lookup of hostnames, against a naive search for the longest suffix.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::NamespacedName;
use crate::snapshot::backend::WeightedBackends;
use crate::snapshot::policy::Policy;
use crate::snapshot::rule::{PathPrefix, Pattern, Rule};

fn table(patterns: impl IntoIterator<Item = HostPattern>) -> HostTable {
    let host = |pattern| VirtualHost {
        pattern,
        environment: "".into(),
        origin: Origin::default(),
        routes: Arc::default(),
    };
    patterns.into_iter().map(host).map(Arc::new).collect()
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

fn path() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ab"]), 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        path().prop_map(|path| PathMatch::Exact(path.into())),
        path().prop_map(|path| PathMatch::Prefix(PathPrefix::new(&path).unwrap())),
        select(vec!["/a.*", "/a/b", "/.*b"])
            .prop_map(|pattern| PathMatch::Regex(Pattern::new(pattern).unwrap())),
    ]
}

/// A host with these routes in the order of precedence, named by their positions.
fn host_with(paths: Vec<PathMatch>) -> VirtualHost {
    let matches = paths.into_iter().map(|path| RouteMatch {
        path,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    });
    let of = |matches: &RouteMatch, position| {
        matches.precedence(0, NamespacedName::new("", ""), (position, 0))
    };
    let mut sorted: Vec<(usize, RouteMatch)> = matches.enumerate().collect();
    sorted.sort_by_key(|(position, matches)| of(matches, *position));
    let rule = |position: usize| Rule {
        origin: Origin::default(),
        service: position.to_string().into(),
        filters: Vec::new(),
        backends: WeightedBackends::default(),
        split: None,
        policy: Policy::default(),
    };
    let routes = sorted
        .into_iter()
        .map(|(position, matches)| Route { matches, rule: Arc::new(rule(position)) });
    VirtualHost {
        pattern: "a.example".parse().unwrap(),
        environment: "".into(),
        origin: Origin::default(),
        routes: routes.collect(),
    }
}

proptest! {
    #[test]
    fn the_route_is_the_first_by_precedence_that_matches(
        paths in vec(path_match(), 0..10),
        path in path(),
        odd in any::<bool>(),
    ) {
        let host = Arc::new(host_with(paths));
        let other = VirtualHost { pattern: "b.example".parse().unwrap(), ..host_with(vec![]) };
        let table: HostTable = [Arc::clone(&host), Arc::new(other)].into_iter().collect();
        // Another condition than the path: as a method or a header is.
        let is_match = |matches: &RouteMatch| {
            matches.path.matches(&path)
                && (odd || !matches!(&matches.path, PathMatch::Prefix(prefix) if prefix.as_str().len() > 2))
        };
        let expected = host.routes.iter().find(|route| is_match(&route.matches));
        let found = table.route(table.entry("a.example"), &path, is_match);
        prop_assert_eq!(
            found.map(|found| &*found.route.rule.service),
            expected.map(|route| &*route.rule.service)
        );
        prop_assert!(table.route(table.entry("b.example"), &path, is_match).is_none());
        prop_assert!(table.route(None, &path, is_match).is_none());
    }
}

#[test]
fn one_of_a_thousand_paths_is_found() {
    let paths = (0..1000).map(|number| format!("/api/{number}"));
    let paths = paths.map(|path| PathMatch::Prefix(PathPrefix::new(&path).unwrap()));
    let table: HostTable = [Arc::new(host_with(paths.collect()))].into_iter().collect();
    let found = |path: &str| {
        let entry = table.entry("a.example");
        let route = table.route(entry, path, |matches| matches.path.matches(path));
        route.map(|found| found.route.rule.service.to_string())
    };
    assert_eq!(found("/api/700/x").as_deref(), Some("700"));
    assert_eq!(found("/api/7"), Some("7".to_owned()));
    assert_eq!(found("/api/1000"), None);
    assert_eq!(found("/api"), None);
    assert!(table.entry("a.example").unwrap().has_path_rules());
}
