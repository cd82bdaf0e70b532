use std::sync::Arc;

use portcullis_config::model::Origin;
use portcullis_config::snapshot::access::{Access, Require, Subjects};
use portcullis_config::snapshot::backend::{self, UpstreamProtocol, WeightedBackends};
use portcullis_config::snapshot::endpoints::{Endpoint, EndpointKey, EndpointSet, Endpoints};
use portcullis_config::snapshot::host::{HostTable, VirtualHost};
use portcullis_config::snapshot::policy::Policy;
use portcullis_config::snapshot::rule::{PathPrefix, RouteMatch};
use portcullis_config::snapshot::split::{Forced, ForcedBy, Generation, Ranges, VariantIndex};
use portcullis_config::snapshot::{ListenerProtocol, Snapshot, rule};

use super::*;

fn settings(mode: &str) -> Settings {
    let settings = serde_json::json!({
        "zone": "example.com",
        "source": { "directory": "." },
        "listeners": { "http": { "mode": mode } },
    });
    serde_json::from_value(settings).expect("settings")
}

/// One host: `/` is demanded credentials for, `/open` is open, `/empty` has no pod.
fn snapshot() -> Snapshot {
    let service = |name: &str| Origin {
        kind: "Service",
        namespace: "staging".into(),
        name: name.into(),
        place: None,
    };
    let route = |prefix: &str, require, ready: &[&str]| {
        let key = EndpointKey { namespace: "staging".into(), service: "shop".into(), port: 80 };
        let ready = ready
            .iter()
            .map(|address| Endpoint {
                address: address.parse().expect("an address"),
                zone: None,
                pod: None,
                near: false,
            })
            .collect();
        let endpoints =
            Arc::new(Endpoints::new(key, EndpointSet { ready, ..EndpointSet::default() }));
        let backend = backend::Backend {
            variant: "stable".into(),
            weight: 1,
            protocol: UpstreamProtocol::Http1,
            filters: Vec::new(),
            endpoints,
        };
        rule::Route {
            matches: RouteMatch::prefix(PathPrefix::new(prefix).expect("a prefix")),
            rule: Arc::new(Rule {
                origin: service("shop"),
                service: "shop".into(),
                filters: Vec::new(),
                backends: WeightedBackends::new(vec![backend]),
                split: None,
                policy: Policy {
                    access: Access {
                        require,
                        applications: vec![["billing".parse().unwrap()].into()],
                        users: vec![Arc::new(Subjects {
                            users: vec!["*@example.com".parse().unwrap()],
                            groups: vec!["ops".parse().unwrap()],
                        })],
                        ..Access::default()
                    },
                    ..Policy::default()
                },
            }),
        }
    };
    let split = |route: rule::Route| {
        let mut rule = (*route.rule).clone();
        let mut canary = rule.backends.all()[0].clone();
        canary.variant = "canary".into();
        let key = EndpointKey { namespace: "staging".into(), service: "canary".into(), port: 80 };
        canary.endpoints = Arc::new(Endpoints::new(key, EndpointSet::default()));
        rule.backends = WeightedBackends::new(vec![rule.backends.all()[0].clone(), canary]);
        let by = ForcedBy::Header(http::HeaderName::from_static("x-canary"));
        let variant = VariantIndex::new(1).unwrap();
        let forced = vec![Forced { by, value: "always".into(), variant }];
        let ranges = Ranges::by_weight(&[5_000]).unwrap();
        rule.split =
            Some(Arc::new(Split::new("rollout-5".into(), ranges, forced, Generation::new(3))));
        rule::Route { rule: Arc::new(rule), ..route }
    };
    let routes = vec![
        split(route("/split", Require::Nothing, &["10.0.0.1:8080"])),
        route("/open", Require::Nothing, &["10.0.0.1:8080", "10.0.0.2:8080"]),
        route("/empty", Require::Nothing, &[]),
        route("/", Require::ApplicationAndUser, &["10.0.0.1:8080"]),
    ];
    let pattern = "shop--staging.example.com".parse().expect("a pattern");
    let host = VirtualHost {
        pattern,
        environment: "staging".into(),
        origin: service("shop"),
        routes: routes.into(),
    };
    let hosts: Arc<HostTable> = Arc::new([Arc::new(host)].into_iter().collect());
    let listener = |name: &str, protocol| portcullis_config::snapshot::Listener {
        name: name.into(),
        protocol,
        hostname: None,
        hosts: Arc::clone(&hosts),
    };
    Snapshot {
        listeners: vec![
            listener(Listener::HTTP, ListenerProtocol::Http),
            listener(Listener::HTTPS, ListenerProtocol::Https),
        ],
        certificates: Vec::new(),
        ..Snapshot::default()
    }
}

fn live() -> Live {
    let live = Live::default();
    live.publish(Arc::new(snapshot()), Vec::new());
    live
}

fn explained(mode: &str, url: &str, headers: &[(&str, &str)]) -> Explanation {
    let headers =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let request =
        ExplainRequest { url: url.to_owned(), method: "GET".to_owned(), headers, caller: None };
    explain(&settings(mode), &live(), &request).expect("a valid request")
}

fn steps(explanation: &Explanation) -> Vec<&str> {
    explanation.steps.iter().map(|step| step.step.as_str()).collect()
}

#[test]
fn an_open_route_is_forwarded_to_its_endpoints() {
    let explanation =
        explained("redirect", "https://shop--staging.example.com/open/cart?id=1", &[]);
    assert_eq!(
        steps(&explanation),
        ["listener", "normalise", "caller", "host", "route", "access", "backend", "endpoint"]
    );
    let Verdict::Forwarded { backends } = &explanation.verdict else { panic!("{explanation:?}") };
    assert_eq!(backends[0].ready.len(), 2);
    assert_eq!(explanation.steps[4].origin.as_deref(), Some("Service staging/shop"));
}

#[test]
fn a_hidden_route_is_explained_although_clients_receive_404() {
    let explanation = explained("redirect", "https://shop--staging.example.com/", &[]);
    assert_eq!(explanation.verdict, HIDDEN);
    assert!(
        explanation
            .steps
            .last()
            .is_some_and(|step| step.step == "access" && step.decision.contains("app+user"))
    );
}

#[test]
fn an_unclaimed_host_ends_at_the_host_step() {
    let explanation = explained("redirect", "https://other.example.com/", &[]);
    assert_eq!((steps(&explanation).last(), explanation.verdict.clone()), (Some(&"host"), HIDDEN));
}

#[test]
fn the_gateway_s_own_paths_are_explained_as_they_are_served() {
    for (url, status) in [
        ("https://other.example.com/.well-known/portcullis/jwks.json", 200),
        ("https://shop--staging.example.com/.well-known/portcullis/jwks.json", 200),
        ("https://other.example.com/.well-known/portcullis/other", 404),
    ] {
        let explanation = explained("redirect", url, &[]);
        assert_eq!(explanation.verdict, Verdict::Answered { status }, "{url}");
    }
}

#[test]
fn open_challenges_are_explained_as_they_are_served() {
    let challenges = Arc::<Challenges>::default();
    challenges.open_http("token", "token.key");
    let settings = settings("redirect");
    let authenticator = Authenticator::new(&settings.access, None).unwrap();
    let local_paths = LocalPaths::new(&settings, challenges);
    let gateway = Gateway {
        settings: &settings,
        live: &live(),
        authenticator: &authenticator,
        local_paths: &local_paths,
    };
    for (token, status) in [("token", 200), ("other", 308)] {
        let request = ExplainRequest {
            url: format!("http://other.example.com/.well-known/acme-challenge/{token}"),
            method: "GET".to_owned(),
            headers: Vec::new(),
            caller: None,
        };
        let explanation = gateway.explain(&request).expect("a valid request");
        assert_eq!(explanation.verdict, Verdict::Answered { status }, "{token}");
    }
}

#[test]
fn an_assumed_caller_is_authorized_without_credentials() {
    let explained = |application: Option<&str>, user: Option<&str>, groups: &[&str]| {
        let caller = AssumedCaller {
            application: application.map(str::to_owned),
            user: user.map(str::to_owned),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        let request = ExplainRequest {
            url: "https://shop--staging.example.com/".to_owned(),
            method: "GET".to_owned(),
            headers: Vec::new(),
            caller: Some(caller),
        };
        explain(&settings("redirect"), &live(), &request).expect("a valid request")
    };
    let allowed = [
        explained(Some("billing"), Some("ann@example.com"), &[]),
        explained(Some("billing"), Some("bob@example.org"), &["dev", "ops"]),
        explained(Some("billing"), None, &["ops"]),
    ];
    for explanation in allowed {
        assert!(matches!(explanation.verdict, Verdict::Forwarded { .. }), "{explanation:?}");
    }
    for (explanation, reason) in [
        (explained(Some("billing"), None, &[]), "not_identified"),
        (explained(Some("crm"), Some("ann@example.com"), &[]), "not_granted"),
        (explained(Some("billing"), Some("bob@example.org"), &["dev"]), "not_granted"),
    ] {
        assert_eq!(explanation.verdict, HIDDEN);
        assert!(
            explanation.steps.last().is_some_and(|step| step.decision.contains(reason)),
            "{explanation:?}"
        );
    }
}

#[test]
fn the_variant_of_a_caller_is_explained_with_bucket_salt_and_reason() {
    let variant = |user: Option<&str>, headers: &[(&str, &str)]| {
        let caller = AssumedCaller { user: user.map(str::to_owned), ..AssumedCaller::default() };
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let request = ExplainRequest {
            url: "https://shop--staging.example.com/split".to_owned(),
            method: "GET".to_owned(),
            headers: headers.collect(),
            caller: Some(caller),
        };
        let explanation = explain(&settings("redirect"), &live(), &request).unwrap();
        let step = explanation.steps.into_iter().find(|step| step.step == "variant").unwrap();
        let Verdict::Forwarded { backends } = explanation.verdict else { panic!("forwarded") };
        let backends: Vec<String> = backends.into_iter().map(|backend| backend.variant).collect();
        (step.decision, backends)
    };
    let split = "salt `rollout-5`, generation 3";
    let both = vec!["canary".to_owned(), "stable".to_owned()];
    assert_eq!(
        variant(Some("ann"), &[]),
        (format!("canary: the user is in bucket 3726; {split}"), both.clone()),
        "the canary has no pod, so that the stable variant answers"
    );
    assert_eq!(
        variant(Some("bob"), &[]),
        (format!("stable: the user is in bucket 7134; {split}"), vec!["stable".to_owned()])
    );
    assert_eq!(
        variant(Some("bob"), &[("x-canary", "always")]),
        (format!("canary: a header asks for it; {split}"), both)
    );
    let (dealt, backends) = variant(None, &[]);
    assert_eq!(dealt, format!("one by weight, for each request anew; {split}"));
    assert_eq!(backends.len(), 2);
}

#[test]
fn a_service_without_pods_is_unavailable() {
    assert_eq!(
        explained("redirect", "https://shop--staging.example.com/empty", &[]).verdict,
        UNAVAILABLE
    );
}

#[test]
fn plain_http_is_redirected_or_served_per_settings() {
    let url = "http://shop--staging.example.com/open";
    assert_eq!(explained("redirect", url, &[]).verdict, Verdict::Answered { status: 308 });
    assert!(matches!(explained("serve", url, &[]).verdict, Verdict::Forwarded { .. }));
}

#[test]
fn rejections_of_the_request_path_are_explained() {
    let explanation = explained("redirect", "https://shop--staging.example.com/a/../b", &[]);
    assert_eq!(explanation.verdict, Verdict::Answered { status: 400 });
    assert_eq!(steps(&explanation), ["listener", "normalise"]);
    let another_host =
        explained("redirect", "https://192.0.2.1/open", &[("host", "shop--staging.example.com")]);
    assert!(matches!(another_host.verdict, Verdict::Forwarded { .. }));
}

#[test]
fn invalid_requests_are_errors() {
    for (url, method, header) in [
        ("shop", "GET", "a"),
        ("ftp://shop/", "GET", "a"),
        ("http://shop/", "G T", "a"),
        ("http://shop/", "GET", "a b"),
    ] {
        let request = ExplainRequest {
            url: url.to_owned(),
            method: method.to_owned(),
            headers: vec![(header.to_owned(), String::new())],
            caller: None,
        };
        assert!(explain(&settings("serve"), &live(), &request).is_err(), "{request:?}");
    }
}

#[test]
fn explanations_round_trip_through_json() {
    let explanation = explained("redirect", "https://shop--staging.example.com/open", &[]);
    let json = serde_json::to_string(&explanation).expect("JSON");
    assert_eq!(serde_json::from_str::<Explanation>(&json).expect("an explanation"), explanation);
}
