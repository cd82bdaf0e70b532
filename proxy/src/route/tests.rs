use portcullis_config::model::Origin;
use portcullis_config::snapshot::ListenerProtocol;
use portcullis_config::snapshot::backend::WeightedBackends;
use portcullis_config::snapshot::host::{HostTable, VirtualHost};
use portcullis_config::snapshot::policy::Policy;
use portcullis_config::snapshot::rule::{PathMatch, Pattern, ValueMatch};

use super::*;
use crate::normalize::tests::read;

fn prefix(path: &str) -> RouteMatch {
    RouteMatch::prefix(PathPrefix::new(path).unwrap())
}

/// A listener with one host and routes with these names.
fn listener(host: &str, only: Option<&str>, routes: Vec<(&str, RouteMatch)>) -> Listener {
    let rule = |name: &str| {
        Arc::new(Rule {
            origin: Origin::default(),
            service: name.into(),
            filters: Vec::new(),
            backends: WeightedBackends::default(),
            split: None,
            policy: Policy::default(),
        })
    };
    let host = VirtualHost {
        pattern: host.parse().unwrap(),
        environment: "".into(),
        origin: Origin::default(),
        routes: routes
            .into_iter()
            .map(|(name, matches)| Route { matches, rule: rule(name) })
            .collect(),
    };
    let hosts: HostTable = [Arc::new(host)].into_iter().collect();
    let hostname = only.map(|only| only.parse().unwrap());
    Listener {
        name: "https".into(),
        protocol: ListenerProtocol::Https,
        hostname,
        hosts: Arc::new(hosts),
    }
}

fn found(listener: &Listener, text: &str) -> Option<String> {
    let lookup = lookup_uniform(listener, RouteInput::from(&read(text).unwrap()));
    lookup.is_found.then(|| lookup.granted.route.rule.service.to_string())
}

#[test]
fn the_first_matching_route_is_selected() {
    let exact = RouteMatch { path: PathMatch::Exact("/api".into()), ..prefix("/") };
    let listener = listener(
        "a.example",
        None,
        vec![("exact", exact), ("api", prefix("/api")), ("root", prefix("/"))],
    );
    for (path, service) in [
        ("/api", "exact"),
        ("/api/", "api"),
        ("/api/x?y", "api"),
        ("/apix", "root"),
        ("/", "root"),
        ("/API", "root"),
    ] {
        assert_eq!(
            found(&listener, &format!("GET {path} HTTP/1.1\nHost: a.example")).as_deref(),
            Some(service),
            "{path}"
        );
    }
}

#[test]
fn unclaimed_hosts_and_paths_do_not_match() {
    let listener = listener("a.example", None, vec![("api", prefix("/api"))]);
    for text in [
        "GET /api HTTP/1.1\nHost: b.example",
        "GET /api HTTP/1.1\nHost: x.a.example",
        "GET /api HTTP/1.1\nHost: 127.0.0.1",
        "GET /api HTTP/1.1\nHost: [::1]",
        "GET /other HTTP/1.1\nHost: a.example",
        "OPTIONS * HTTP/1.1\nHost: a.example",
    ] {
        assert_eq!(found(&listener, text), None, "{text}");
    }
}

#[test]
fn a_listener_serves_only_its_hostname() {
    let route = || vec![("root", prefix("/"))];
    for (only, host, serves) in [
        (Some("a.example"), "a.example", true),
        (Some("b.example"), "a.example", false),
        (Some("*.example"), "a.example", true),
        (Some("*.a.example"), "a.example", false),
        (Some("*.ample"), "ex.ample", true),
        (Some("*.ple"), "ex.ample", false),
        (None, "a.example", true),
    ] {
        let text = format!("GET / HTTP/1.1\nHost: {host}");
        assert_eq!(
            found(&listener(host, only, route()), &text).is_some(),
            serves,
            "{only:?} {host}"
        );
    }
}

#[test]
fn method_headers_and_query_must_all_match() {
    let header = HeaderMatch {
        name: http::HeaderName::from_static("x-canary"),
        value: ValueMatch::Exact("a,b".into()),
    };
    let query =
        QueryMatch { name: "v".into(), value: ValueMatch::Regex(Pattern::new("[0-9]+").unwrap()) };
    let all = RouteMatch {
        method: Some(http::Method::POST),
        headers: vec![header],
        query: vec![query],
        ..prefix("/")
    };
    let listener = listener("a", None, vec![("all", all)]);
    for (text, takes) in [
        ("POST /?v=12 HTTP/1.1\nHost: a\nX-Canary: a,b", true),
        ("POST /?x&v=12&v=x HTTP/1.1\nHost: a\nX-Canary: a\nX-Canary: b", true),
        ("GET /?v=12 HTTP/1.1\nHost: a\nX-Canary: a,b", false),
        ("POST /?v=12x HTTP/1.1\nHost: a\nX-Canary: a,b", false),
        ("POST /?v=x&v=12 HTTP/1.1\nHost: a\nX-Canary: a,b", false),
        ("POST /?V=12 HTTP/1.1\nHost: a\nX-Canary: a,b", false),
        ("POST /?v HTTP/1.1\nHost: a\nX-Canary: a,b", false),
        ("POST / HTTP/1.1\nHost: a\nX-Canary: a,b", false),
        ("POST /?v=12 HTTP/1.1\nHost: a\nX-Canary: a", false),
        ("POST /?v=12 HTTP/1.1\nHost: a\nX-Canary: a, b", false),
        ("POST /?v=12 HTTP/1.1\nHost: a", false),
    ] {
        assert_eq!(found(&listener, text).is_some(), takes, "{text}");
    }
}

#[test]
fn ambiguous_paths_match_only_hosts_without_path_rules() {
    let open = listener("a", None, vec![("root", prefix("/"))]);
    let with_path_rules =
        listener("a", None, vec![("admin", prefix("/admin")), ("root", prefix("/"))]);
    for path in ["/x%2fadmin", "/x%5cadmin", "//admin", "/;x/admin", "/%61dmin", "/admin;x"] {
        let text = format!("GET {path} HTTP/1.1\nHost: a");
        assert_eq!(found(&open, &text).as_deref(), Some("root"), "{path}");
        assert_eq!(found(&with_path_rules, &text), None, "{path}");
    }
}
