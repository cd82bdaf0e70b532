//! The precedence of routes, compared with a literal implementation of Gateway API's text
//! (`HTTPRouteRule.matches`).

use std::cmp::Ordering;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// A match with all that its precedence depends on.
#[derive(Debug, Clone)]
struct Candidate {
    matches: RouteMatch,
    created: i64,
    resource: NamespacedName,
    position: (usize, usize),
}

#[derive(Debug, Clone)]
struct Request {
    path: String,
    method: Method,
    headers: Vec<(HeaderName, String)>,
    query: Vec<(String, String)>,
}

impl Candidate {
    fn precedence(&self) -> Precedence {
        self.matches.precedence(self.created, self.resource.clone(), self.position)
    }

    fn matches(&self, request: &Request) -> bool {
        let matches = &self.matches;
        matches.path.matches(&request.path)
            && matches.method.as_ref().is_none_or(|method| *method == request.method)
            && matches.headers.iter().all(|wanted| {
                request
                    .headers
                    .iter()
                    .any(|(name, value)| *name == wanted.name && wanted.value.matches(value))
            })
            && matches.query.iter().all(|wanted| {
                request
                    .query
                    .iter()
                    .any(|(name, value)| **name == *wanted.name && wanted.value.matches(value))
            })
    }

    /// The specification, sentence by sentence; greater is the match with precedence.
    fn compare(&self, other: &Self) -> Ordering {
        let (one, two) = (&self.matches, &other.matches);
        let exact = |matches: &RouteMatch| matches!(matches.path, PathMatch::Exact(_));
        // The order of expressions is implementation-specific: here after exact paths, before
        // prefixes, the longest first.
        let expression = |matches: &RouteMatch| match &matches.path {
            PathMatch::Regex(pattern) => 1 + pattern.source.len(),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => 0,
        };
        let prefix = |matches: &RouteMatch| match &matches.path {
            PathMatch::Prefix(prefix) => prefix.as_str().chars().count(),
            PathMatch::Exact(_) | PathMatch::Regex(_) => 0,
        };
        exact(one)
            .cmp(&exact(two))
            .then_with(|| expression(one).cmp(&expression(two)))
            .then_with(|| prefix(one).cmp(&prefix(two)))
            .then_with(|| one.method.is_some().cmp(&two.method.is_some()))
            .then_with(|| one.headers.len().cmp(&two.headers.len()))
            .then_with(|| one.query.len().cmp(&two.query.len()))
            .then_with(|| other.created.cmp(&self.created))
            .then_with(|| other.resource.to_string().cmp(&self.resource.to_string()))
            .then_with(|| other.position.cmp(&self.position))
    }
}

fn path() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ab"]), 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let patterns: Vec<Pattern> = ["/.*", "/a.*", "/a|/b", "/(a|b)/.*"]
        .into_iter()
        .map(|source| Pattern::new(source).unwrap())
        .collect();
    prop_oneof![
        path().prop_map(|path| PathMatch::Exact(path.into())),
        path().prop_map(|path| PathMatch::Prefix(PathPrefix::new(&path).unwrap())),
        select(patterns).prop_map(PathMatch::Regex),
    ]
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    btree_map("[xyz]", "[01]", 0..3).prop_map(|pairs| pairs.into_iter().collect())
}

fn method() -> impl Strategy<Value = Method> {
    select(vec![Method::GET, Method::POST])
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let matches = (path_match(), proptest::option::of(method()), pairs(), pairs()).prop_map(
        |(path, method, headers, query)| RouteMatch {
            path,
            method,
            headers: headers
                .into_iter()
                .map(|(name, value)| HeaderMatch {
                    name: name.parse().unwrap(),
                    value: ValueMatch::Exact(value.into()),
                })
                .collect(),
            query: query
                .into_iter()
                .map(|(name, value)| QueryMatch {
                    name: name.into(),
                    value: ValueMatch::Exact(value.into()),
                })
                .collect(),
        },
    );
    let resource = (select(vec!["a", "a-b", "b"]), select(vec!["x", "y"]))
        .prop_map(|(namespace, name)| NamespacedName::new(namespace, name));
    (matches, 0..3_i64, resource, (0..2_usize, 0..2_usize)).prop_map(
        |(matches, created, resource, position)| Candidate { matches, created, resource, position },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let parsed = |headers: Vec<(String, String)>| {
        headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value)).collect()
    };
    (path(), method(), pairs(), pairs()).prop_map(move |(path, method, headers, query)| Request {
        path,
        method,
        headers: parsed(headers),
        query,
    })
}

proptest! {
    #[test]
    fn precedence_matches_the_specification(one in candidate(), two in candidate()) {
        prop_assert_eq!(one.precedence().cmp(&two.precedence()), two.compare(&one));
    }

    #[test]
    fn precedence_is_a_total_order(list in vec(candidate(), 3)) {
        let [one, two, three] = [0, 1, 2].map(|index| list[index].precedence());
        prop_assert_eq!(one.cmp(&two), two.cmp(&one).reverse());
        if one <= two && two <= three {
            prop_assert!(one <= three);
        }
    }

    #[test]
    fn the_first_match_is_the_one_with_precedence(candidates in vec(candidate(), 1..12), request in request()) {
        let best = candidates.iter().filter(|candidate| candidate.matches(&request)).max_by(|one, two| one.compare(two));
        let mut sorted = candidates.clone();
        sorted.sort_by_key(Candidate::precedence);
        let first = sorted.iter().find(|candidate| candidate.matches(&request));
        prop_assert_eq!(first.map(Candidate::precedence), best.map(Candidate::precedence));
    }

    #[test]
    fn the_order_of_input_makes_no_difference(candidates in vec(candidate(), 1..12), swaps in vec((any::<Index>(), any::<Index>()), 12)) {
        let sorted = |mut list: Vec<Candidate>| {
            list.sort_by_key(Candidate::precedence);
            list.iter().map(Candidate::precedence).collect::<Vec<_>>()
        };
        let mut shuffled = candidates.clone();
        for (one, two) in swaps {
            let (one, two) = (one.index(shuffled.len()), two.index(shuffled.len()));
            shuffled.swap(one, two);
        }
        prop_assert_eq!(sorted(shuffled), sorted(candidates));
    }

    #[test]
    fn a_prefix_matches_whole_elements(prefix in path(), path in path()) {
        let elements = |path: &str| path.split('/').filter(|element| !element.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let below = elements(&path).starts_with(&elements(&prefix));
        prop_assert_eq!(PathPrefix::new(&prefix).unwrap().matches(&path), below);
        prop_assert_eq!(PathPrefix::new(&format!("{}/", prefix.trim_end_matches('/'))).unwrap().matches(&path), below);
    }
}

#[test]
fn names_are_ordered_as_displayed() {
    // `-` is before `/`: by namespace alone the order would be reversed.
    assert!(NamespacedName::new("a-b", "x") < NamespacedName::new("a", "x"));
    assert_ne!(
        NamespacedName::new("a/b", "c").cmp(&NamespacedName::new("a", "b/c")),
        Ordering::Equal
    );
}

#[test]
fn a_prefix_matches_paths_below_it() {
    let prefix = PathPrefix::new("/abc/").unwrap();
    assert!(["/abc", "/abc/", "/abc/def"].into_iter().all(|path| prefix.matches(path)));
    assert!(
        !["/abcd", "/ab", "/", "", "/ABC", "/x/abc"].into_iter().any(|path| prefix.matches(path))
    );
    assert!(["/", "/abc"].into_iter().all(|path| PathPrefix::root().matches(path)));
    assert_eq!(PathPrefix::new("/"), Some(PathPrefix::root()));
}

#[test]
fn an_ambiguous_prefix_is_rejected() {
    for text in ["", "abc", "//", "/a//b", "/a//", " /a"] {
        assert_eq!(PathPrefix::new(text), None, "{text}");
    }
}

#[test]
fn an_expression_matches_the_whole_text() {
    let pattern = Pattern::new("/a|/b").unwrap();
    assert!(pattern.matches("/a") && pattern.matches("/b"));
    assert!(!["/ab", "x/a", "/a\n", "/b/", ""].into_iter().any(|text| pattern.matches(text)));
    assert!(!Pattern::new("(?m)^/a$").unwrap().matches("/a\n/b"));
}

#[test]
fn an_expression_cannot_escape_its_anchors() {
    for source in ["a)|(b", "(?x)a #", "a)|(?:b", "(", "[", "*"] {
        assert!(Pattern::new(source).is_err(), "{source}");
    }
}

#[test]
fn an_expression_is_bounded_in_size() {
    assert!(Pattern::new(&"a".repeat(Pattern::MAX_LENGTH)).is_ok());
    assert!(Pattern::new(&"a".repeat(Pattern::MAX_LENGTH + 1)).is_err());
    assert!(Pattern::new("(a{100}){100}{100}").is_err());
}
