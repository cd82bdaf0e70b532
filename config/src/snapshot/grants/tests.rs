//! The index against the definition: every list is compared.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn pattern() -> impl Strategy<Value = NamePattern> {
    "\\*?[aA@]{1,3}|[aA@]{0,2}\\*".prop_map(|text| text.parse().unwrap())
}

fn access() -> impl Strategy<Value = Access> {
    let subjects = (vec(pattern(), 0..3), vec(pattern(), 0..3))
        .prop_map(|(users, groups)| Arc::new(Subjects { users, groups }));
    let applications = vec(vec(pattern(), 0..3).prop_map(Arc::from), 0..3);
    (applications, vec(subjects, 0..3)).prop_map(|(applications, users)| Access {
        applications,
        users,
        ..Access::default()
    })
}

fn by_definition(
    access: &Access,
    application: &str,
    user: &str,
    groups: &[String],
) -> (bool, bool) {
    let has = |list: &[NamePattern]| list.iter().any(|pattern| pattern.matches(application));
    let application = access.applications.iter().all(|list| has(list));
    let groups = || groups.iter().map(String::as_str);
    let user = access.users.iter().all(|subjects| subjects.has(user, groups()));
    (application && !access.applications.is_empty(), user && !access.users.is_empty())
}

proptest! {
    #[test]
    fn the_index_grants_what_the_lists_grant(
        all in vec(access(), 0..4),
        application in "[aA@]{0,4}",
        user in "[aA@]{0,4}",
        groups in vec("[aA@]{0,4}", 0..4),
    ) {
        let mut builder = GrantIndexBuilder::default();
        let grants: Vec<RouteGrants> = all.iter().map(|access| builder.add(access)).collect();
        let names = groups.iter().map(|group| group.as_str().into());
        let granted = builder.build().evaluate(
            Some(application.as_str().into()),
            Some(user.as_str().into()),
            names,
        );
        for (access, grants) in all.iter().zip(&grants) {
            prop_assert_eq!(
                (grants.has_application(&granted), grants.has_user(&granted)),
                by_definition(access, &application, &user, &groups),
                "{:?}", access
            );
        }
    }
}

fn list(text: &str) -> Arc<[NamePattern]> {
    text.split(',').map(|name| name.parse().unwrap()).collect()
}

#[test]
fn equal_lists_are_evaluated_once() {
    let mut builder = GrantIndexBuilder::default();
    let of = |text: &str| Access { applications: vec![list(text)], ..Access::default() };
    let (one, other) = (builder.add(&of("a,b")), builder.add(&of("a,b")));
    assert_eq!(one, other);
    assert_ne!(one, builder.add(&of("a")));
    assert_eq!(builder.build().lists.0, 2);
}

#[test]
fn an_anonymous_caller_and_the_grants_of_no_route_match_nothing() {
    let mut builder = GrantIndexBuilder::default();
    let grants = builder.add(&Access { applications: vec![list("*")], ..Access::default() });
    let index = builder.build();
    assert!(!grants.has_application(&Granted::default()));
    assert!(!Granted::default().is_by(&index));
    let granted = index.evaluate(Some("a".into()), Some("a".into()), ["a".into()].into_iter());
    assert!(granted.is_by(&index) && grants.has_application(&granted));
    assert!(!grants.has_user(&granted), "no list of users");
    let of_no_route = RouteGrants::of_no_route();
    assert!(!of_no_route.has_application(&granted) && !of_no_route.has_user(&granted));
}

#[test]
fn a_star_matches_no_prefix_of_an_issuer() {
    let is_granted = |patterns: &str, text: &str, prefix: usize| {
        let mut builder = GrantIndexBuilder::default();
        let users = Subjects { users: list(patterns).to_vec(), groups: Vec::new() };
        let groups = Subjects { users: Vec::new(), groups: list(patterns).to_vec() };
        let grants =
            [Access { applications: vec![list(patterns)], ..Access::default() }]
                .into_iter()
                .chain([users, groups].map(|subjects| Access {
                    users: vec![Arc::new(subjects)],
                    ..Access::default()
                }))
                .map(|access| builder.add(&access))
                .collect::<Vec<_>>();
        let index = builder.build();
        let name = Name::with_prefix(text, prefix);
        let application = index.evaluate(Some(name), None, std::iter::empty());
        let user = index.evaluate(None, Some(name), std::iter::empty());
        let group = index.evaluate(None, None, [name].into_iter());
        let is = [
            grants[0].has_application(&application),
            grants[1].has_user(&user),
            grants[2].has_user(&group),
        ];
        assert!(is.iter().all(|it| *it == is[0]), "{patterns} {text}: {is:?}");
        is[0]
    };
    for (patterns, text, prefix, expected) in [
        ("*@example.com", "ann@example.com", 0, true),
        ("*@example.com", "partner:ann@example.com", 8, false),
        ("*@Example.com", "partner:ann@example.com", 8, false),
        ("*ops", "partner:ops", 8, false),
        ("*:ops", "partner:ops", 8, false),
        ("*partner:ops", "partner:ops", 8, false),
        ("p*", "partner:ops", 8, false),
        ("partner*", "partner:ops", 8, false),
        ("p*,partner:*", "partner:ops", 8, true),
        ("partner:*", "partner:ann@example.com", 8, true),
        ("partner:o*", "partner:ops", 8, true),
        ("partner:ops", "partner:ops", 8, true),
        ("*", "partner:ops", 8, true),
        ("*", "partner:ann@example.com", 8, true),
        // Certificates and client keys have no issuer.
        ("*.example.com", "dns:a.example.com", 0, true),
    ] {
        assert_eq!(is_granted(patterns, text, prefix), expected, "{patterns} {text}");
    }
}

/// For a host there is one bit for each list, of which a route has as many as Namespace and Service
/// together, however long they are.
#[test]
fn the_work_for_a_route_does_not_depend_on_the_length_of_its_lists() {
    let names = |count: usize| {
        list(&(0..count).map(|number| format!("g{number}")).collect::<Vec<_>>().join(","))
    };
    let access = |count| Access {
        applications: vec![names(count)],
        users: vec![Arc::new(Subjects { users: Vec::new(), groups: names(count).to_vec() })],
        ..Access::default()
    };
    let mut builder = GrantIndexBuilder::default();
    let of_no_route = RouteGrants::of_no_route();
    for count in [1, 30, 1600] {
        let grants = builder.add(&access(count));
        assert_eq!(grants.applications.len(), of_no_route.applications.len());
        assert_eq!(grants.users.len(), of_no_route.users.len());
    }
}
