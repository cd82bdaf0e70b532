use portcullis_config::settings::Settings;
use portcullis_config::snapshot::Listener;
use portcullis_config::snapshot::access::Access;
use portcullis_config::snapshot::backend::WeightedBackends;
use portcullis_config::snapshot::host::HostTable;
use portcullis_config::snapshot::policy::Policy;
use portcullis_config::snapshot::rule::{PathMatch, Route, RouteMatch, Rule};
use proptest::prelude::*;

use super::*;

const ZONE: &str = "apps.test";

fn host(pattern: &str, environment: &str, require: &[Require]) -> VirtualHost {
    let route = |require: &Require| {
        let access = Access { require: *require, ..Access::default() };
        let rule = Rule {
            origin: Origin::default(),
            service: "service".into(),
            filters: Vec::new(),
            backends: WeightedBackends::default(),
            split: None,
            policy: Policy { access, ..Policy::default() },
        };
        let matches = RouteMatch {
            path: PathMatch::Exact("/".into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        };
        Route { matches, rule: Arc::new(rule) }
    };
    VirtualHost {
        pattern: pattern.parse().expect("a host"),
        environment: environment.into(),
        origin: Origin {
            kind: "Service",
            namespace: environment.into(),
            name: "service".into(),
            place: None,
        },
        routes: require.iter().map(route).collect(),
    }
}

fn snapshot(hosts: Vec<VirtualHost>) -> Snapshot {
    let table: HostTable = hosts.into_iter().map(Arc::new).collect();
    let listener = |name: &str, protocol| Listener {
        name: name.into(),
        protocol,
        hostname: None,
        hosts: Arc::new(table.clone()),
    };
    let listeners =
        vec![listener("http", ListenerProtocol::Http), listener("https", ListenerProtocol::Https)];
    Snapshot { listeners, ..Snapshot::default() }
}

fn acme(challenge: ChallengeKind) -> AcmeSettings {
    AcmeSettings { challenge, ..AcmeSettings::default() }
}

fn names(desired: &DesiredNames) -> Vec<String> {
    desired.names.keys().map(ToString::to_string).collect()
}

const OPEN: &[Require] = &[Require::Nothing];
const CLOSED: &[Require] = &[Require::Application];
/// With one path that needs no credentials.
const PARTLY: &[Require] = &[Require::Nothing, Require::User];

#[test]
fn with_dns_01_the_wildcard_of_the_zone_covers_most_hosts() {
    let snapshot = snapshot(vec![
        host("web--staging.apps.test", "staging", OPEN),
        host("cart--prod.apps.test", "prod", CLOSED),
    ]);
    let desired = desired(&snapshot, ZONE, &acme(ChallengeKind::Dns01), &[]);
    assert_eq!(names(&desired), ["*.apps.test"]);
    assert!(desired.left_out.is_empty());
}

#[test]
fn without_dns_01_only_open_hosts_are_ordered() {
    let hosts = vec![
        host("web--staging.apps.test", "staging", OPEN),
        host("cart--prod.apps.test", "prod", CLOSED),
        host("shop--prod.apps.test", "prod", PARTLY),
        host("none--prod.apps.test", "prod", &[]),
    ];
    let desired = desired(&snapshot(hosts), ZONE, &acme(ChallengeKind::Http01), &[]);
    assert_eq!(names(&desired), ["web--staging.apps.test"]);
    assert_eq!(
        desired.left_out[&Arc::from("prod")],
        (3, "cart--prod.apps.test".parse().expect("a host"))
    );
    assert_eq!(
        desired.problems(ChallengeKind::Http01).len(),
        1,
        "one for each environment, not for each host"
    );
}

#[test]
fn hosts_of_a_namespace_with_public_names_are_ordered() {
    let hosts = vec![
        host("cart--prod.apps.test", "prod", CLOSED),
        host("cart--dev.apps.test", "dev", CLOSED),
    ];
    let snapshot = Snapshot { public_names: ["prod".into()].into(), ..snapshot(hosts) };
    assert_eq!(
        names(&desired(&snapshot, ZONE, &acme(ChallengeKind::Http01), &[])),
        ["cart--prod.apps.test"]
    );
}

#[test]
fn a_name_deeper_than_the_wildcard_is_ordered_only_if_it_is_public() {
    let hosts = vec![
        host("web.staging.apps.test", "staging", OPEN),
        host("web.prod.apps.test", "prod", CLOSED),
        host("apps.test", "prod", CLOSED),
    ];
    let desired = desired(&snapshot(hosts), ZONE, &acme(ChallengeKind::Dns01), &[]);
    assert_eq!(
        names(&desired),
        ["apps.test", "web.staging.apps.test", "*.apps.test"],
        "the zone itself is in public logs anyway"
    );
    assert_eq!(desired.left_out.len(), 1);
}

#[test]
fn names_of_provided_certificates_are_not_ordered() {
    let snapshot = snapshot(vec![
        host("web--staging.apps.test", "staging", OPEN),
        host("web.example.com", "staging", OPEN),
    ]);
    let provided = ["*.apps.test".parse().expect("a name")];
    assert_eq!(
        names(&desired(&snapshot, ZONE, &acme(ChallengeKind::Dns01), &provided)),
        ["web.example.com"]
    );
    assert_eq!(
        names(&desired(&snapshot, ZONE, &acme(ChallengeKind::Http01), &provided)),
        ["web.example.com"]
    );
}

#[test]
fn a_wildcard_is_ordered_by_dns_01_alone() {
    let snapshot = snapshot(vec![host("*.example.com", "staging", OPEN)]);
    assert!(names(&desired(&snapshot, ZONE, &acme(ChallengeKind::TlsAlpn01), &[])).is_empty());
    assert_eq!(
        names(&desired(&snapshot, ZONE, &acme(ChallengeKind::Dns01), &[])),
        ["*.apps.test", "*.example.com"]
    );
}

#[test]
fn nothing_is_ordered_by_default() {
    let settings =
        Settings::parse(std::path::Path::new("x"), b"zone: apps.test\nsource: {directory: .}\n")
            .expect("settings");
    assert!(settings.acme.is_none(), "ACME must be enabled");
}

proptest! {
    #[test]
    fn no_restricted_environment_is_ever_ordered(
        hosts in proptest::collection::vec(("[a-z]{1,4}", "[a-c]", 0_usize..3, any::<bool>()), 0..20),
        dns: bool,
    ) {
        let kinds = [OPEN, CLOSED, PARTLY];
        let made = hosts.iter().map(|(service, environment, kind, deep)| {
            let dot = if *deep { "." } else { "--" };
            host(&format!("{service}{dot}{environment}.apps.test"), environment, kinds[*kind])
        });
        let snapshot = snapshot(made.collect());
        let challenge = if dns { ChallengeKind::Dns01 } else { ChallengeKind::Http01 };
        let desired = desired(&snapshot, ZONE, &acme(challenge), &[]);
        for name in desired.names.keys().map(ToString::to_string).filter(|name| name != "*.apps.test") {
            let served = snapshot.listener("https").expect("there").hosts.find(&name).expect("only served names are desired").clone();
            prop_assert!(served.routes.iter().all(|route| route.rule.policy.access.require == Require::Nothing), "{}", name);
        }
    }
}
