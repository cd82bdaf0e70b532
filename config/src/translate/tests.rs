//! Properties of translation that hold for all resources; `tests/golden.rs` has an example of each
//! behaviour.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::installation::Installation;
use crate::model::NamespacedName;
use crate::model::vocabulary::{PREFIX, VOCABULARY};
use crate::resources::{
    Annotations, Change, Conditions, EndpointPort, EndpointSlice, Hints, Kind, Namespace, Object,
    ObjectId, Pod, Service, ServicePort, SliceEndpoint,
};
use crate::snapshot::access::{Access, Require};
use crate::snapshot::endpoints::{EndpointKey, EndpointSet, Endpoints};
use crate::snapshot::rule::PathMatch;

fn settings() -> Settings {
    serde_json::from_value(json!({"zone": "apps.example.com", "source": {"kubernetes": {}}}))
        .unwrap()
}

fn origin(kind: &'static str, namespace: &str, name: &str) -> Origin {
    Origin { kind, namespace: namespace.into(), name: name.into(), place: None }
}

fn annotations(entries: &[(&str, &str)]) -> Annotations {
    Annotations::filter(Some(
        &entries
            .iter()
            .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
            .collect(),
    ))
}

fn namespace(name: &str, entries: &[(&str, &str)]) -> Namespace {
    let labels = annotations(&[("environment", name)]);
    Namespace {
        origin: origin("Namespace", "", name),
        created: 0,
        labels,
        all_labels: BTreeMap::new(),
        annotations: annotations(entries),
    }
}

fn service(namespace: &str, name: &str, entries: &[(&str, &str)]) -> Service {
    Service {
        origin: origin("Service", namespace, name),
        created: 0,
        labels: Annotations::default(),
        annotations: annotations(entries),
        external: false,
        prefers_ipv6: false,
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        ports: vec![ServicePort { name: "".into(), port: 80, app_protocol: None }],
        traffic_distribution: None,
    }
}

fn slice(namespace: &str, name: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
    let conditions = Conditions { ready: true, serving: true, terminating: false };
    EndpointSlice {
        origin: origin("EndpointSlice", namespace, name),
        service: service.into(),
        names: false,
        ports: vec![EndpointPort { name: "".into(), port: 8080 }],
        endpoints: addresses
            .iter()
            .map(|text| SliceEndpoint {
                address: text.parse().unwrap(),
                conditions,
                zone: None,
                pod: None,
                hints: Hints::default(),
            })
            .collect(),
    }
}

/// A store of a gateway that verifies endpoints by Pods.
fn verifying() -> Resources {
    let mut settings = settings();
    settings.endpoints.verify = crate::settings::endpoints::EndpointVerification::Pods;
    Resources::new(Installation::default(), &settings)
}

fn store(objects: impl IntoIterator<Item = Object>) -> Resources {
    let mut resources = Resources::default();
    for object in objects {
        resources.apply(Change::Upsert(object));
    }
    resources
}

/// All cells of a snapshot.
fn cells(snapshot: &Snapshot) -> BTreeMap<EndpointKey, Arc<Endpoints>> {
    let hosts = snapshot.listeners.iter().flat_map(|listener| listener.hosts.iter());
    let backends =
        hosts.flat_map(|host| host.routes.iter()).flat_map(|route| route.rule.backends.all());
    backends.map(|backend| (backend.endpoints.key().clone(), backend.endpoints.clone())).collect()
}

/// A translation without its endpoints.
fn routes(translation: &Translation) -> Value {
    fn forget_endpoints(value: &mut Value) {
        match value {
            Value::Object(entries) => {
                entries.shift_remove("endpoints");
                entries.values_mut().for_each(forget_endpoints);
            }
            Value::Array(items) => items.iter_mut().for_each(forget_endpoints),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut value = json!([translation.snapshot, translation.problems]);
    forget_endpoints(&mut value);
    value
}

/// A gateway that translates only what is out of date.
#[derive(Default)]
struct Incremental {
    resources: Resources,
    dirty: Dirty,
    routes: Value,
    endpoints: BTreeMap<EndpointKey, EndpointSet>,
}

impl Incremental {
    fn apply(&mut self, change: Change) {
        let changed = self.resources.apply(change);
        self.dirty.record(changed, &self.resources);
        assert!(!self.dirty.credentials, "no change here is of credentials");
        let services = std::mem::take(&mut self.dirty.endpoints);
        for (key, set) in &mut self.endpoints {
            if services.contains(&NamespacedName::new(key.namespace.clone(), key.service.clone())) {
                *set = endpoint_set(&self.resources, key);
            }
        }
        if self.dirty.routes {
            self.dirty.translated(&self.resources);
            let translation = translate(&settings(), &self.resources);
            self.routes = routes(&translation);
            self.endpoints = sets(&translation);
        }
    }
}

fn sets(translation: &Translation) -> BTreeMap<EndpointKey, EndpointSet> {
    cells(&translation.snapshot)
        .into_iter()
        .map(|(key, cell)| (key, EndpointSet::clone(&cell.load())))
        .collect()
}

fn any_namespace() -> impl Strategy<Value = Namespace> {
    let expose = option::of(select(vec!["all", "opt-in", "?"]));
    (select(vec!["a", "b"]), any::<bool>(), expose).prop_map(|(name, is_environment, expose)| {
        let mut namespace = namespace(
            name,
            &expose.map(|expose| ("expose", expose)).into_iter().collect::<Vec<_>>(),
        );
        if !is_environment {
            namespace.labels = Annotations::default();
        }
        namespace
    })
}

fn any_service() -> impl Strategy<Value = Service> {
    let port = (
        select(vec!["", "http", "metrics"]),
        select(vec![80, 81]),
        option::of(select(vec!["http", "smtp"])),
    );
    let expose = option::of(select(vec!["true", "false", "?"]));
    let cluster_ip = option::weighted(0.2, select(vec!["10.0.0.1", "fd00::1"]));
    let shape = (0..2_i64, any::<bool>(), prop::bool::weighted(0.1), cluster_ip);
    (select(vec!["a", "b"]), select(vec!["x", "y"]), vec(port, 0..3), expose, shape).prop_map(
        |(namespace, name, ports, expose, (created, prefers_ipv6, external, cluster_ip))| {
            let port = |(name, port, protocol): (&str, u16, Option<&str>)| ServicePort {
                name: name.into(),
                port,
                app_protocol: protocol.map(Into::into),
            };
            let entries: Vec<_> = expose
                .map(|expose| ("expose", expose))
                .into_iter()
                .chain([("hostnames", "shared.example.com")])
                .collect();
            let ports = ports.into_iter().map(port).collect();
            let cluster_ips = cluster_ip.map(|address| address.parse().unwrap());
            Service {
                created,
                prefers_ipv6,
                external,
                cluster_ips: cluster_ips.into_iter().collect(),
                ports,
                ..service(namespace, name, &entries)
            }
        },
    )
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let address = select(vec!["10.0.0.1", "10.0.0.2", "fd00::1", "127.0.0.1"]);
    let pod = option::of(select(vec!["one", "two"]));
    let endpoint = (address, any::<[bool; 3]>(), pod).prop_map(
        |(address, [ready, serving, terminating], pod)| SliceEndpoint {
            address: address.parse().unwrap(),
            conditions: Conditions { ready, serving, terminating },
            zone: None,
            pod: pod.map(Into::into),
            hints: Hints::default(),
        },
    );
    let port = (select(vec!["", "http", "metrics"]), select(vec![8080, 8081]));
    let names = prop_oneof![
        6 => (select(vec!["a", "b"]), select(vec!["1", "2", "3"]), select(vec!["x", "y", ""])),
        1 => Just(("default", "kubernetes", "kubernetes")),
    ];
    let parts = (names, vec(endpoint, 0..3), vec(port, 0..3), prop::bool::weighted(0.1));
    // When an API server removes its own endpoint, the last one stays, which depends on history.
    let has_address =
        |((namespace, ..), endpoints, ports, _): &((&str, _, _), Vec<_>, Vec<_>, bool)| {
            *namespace != "default" || !(endpoints.is_empty() || ports.is_empty())
        };
    parts.prop_filter("it names an address", has_address).prop_map(
        |((namespace, name, service), endpoints, ports, names)| {
            let ports = ports
                .into_iter()
                .map(|(name, port)| EndpointPort { name: name.into(), port })
                .collect();
            EndpointSlice { names, ports, endpoints, ..slice(namespace, name, service, &[]) }
        },
    )
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let address = select(vec!["10.0.0.1", "10.0.0.2", "fd00::1"]);
    let parts = (select(vec!["a", "b"]), select(vec!["one", "two"]), vec(address, 0..3));
    (parts, prop::bool::weighted(0.2)).prop_map(|((namespace, uid, addresses), host_network)| Pod {
        origin: origin("Pod", namespace, uid),
        uid: uid.into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        host_network,
    })
}

fn any_object() -> impl Strategy<Value = Object> {
    prop_oneof![
        1 => any_namespace().prop_map(Object::Namespace),
        2 => any_service().prop_map(Object::Service),
        4 => any_slice().prop_map(Object::EndpointSlice),
        2 => any_pod().prop_map(Object::Pod),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    let id = |object: &Object| -> ObjectId { object.id() };
    prop_oneof![
        6 => any_object().prop_map(Change::Upsert),
        2 => any_object().prop_map(move |object| Change::Delete(id(&object))),
        1 => vec(any_slice(), 0..4).prop_map(|slices| Change::Replace(Kind::EndpointSlice, slices.into_iter().map(Object::EndpointSlice).collect())),
        1 => vec(any_service(), 0..3).prop_map(|services| Change::Replace(Kind::Service, services.into_iter().map(Object::Service).collect())),
    ]
}

/// Annotations of a Namespace or a Service; beside each list, which of [`NAMES`] it has.
#[derive(Debug, Clone)]
struct Grants {
    require: Option<&'static str>,
    apps: List,
    users: List,
    groups: List,
}

type List = (Option<&'static str>, &'static [&'static str]);

const NAMES: [&str; 3] = ["a", "b", "bc"];
const LISTS: [List; 7] = [
    (None, &[]),
    (Some("*"), &NAMES),
    (Some("a"), &["a"]),
    (Some("b* , a**"), &["b", "bc"]),
    (Some("*c,a"), &["bc", "a"]),
    (Some("**"), &[]),
    (Some(""), &[]),
];

/// The names of an application, a user, and the user's groups.
#[derive(Debug)]
struct Caller {
    application: Option<&'static str>,
    user: Option<(&'static str, Vec<&'static str>)>,
}

// === impl Grants ===

impl Grants {
    /// Whether they grant the caller all required credentials.
    fn grant(&self, require: Require, caller: &Caller) -> bool {
        let application = caller.application.is_some_and(|name| self.apps.1.contains(&name));
        let user = caller.user.as_ref().is_some_and(|(name, groups)| {
            self.users.1.contains(name) || groups.iter().any(|group| self.groups.1.contains(group))
        });
        (!require.application() || application) && (!require.user() || user)
    }

    /// The same, if what is not set is granted.
    fn grant_or_unset(&self, require: Require, caller: &Caller) -> bool {
        let granted =
            Require::of(self.apps.0.is_some(), self.users.0.is_some() || self.groups.0.is_some());
        self.grant(require.without(require.without(granted)), caller)
    }
}

fn any_grants() -> impl Strategy<Value = Grants> {
    let list = || select(LISTS.to_vec());
    let require = option::of(select(vec!["none", "app", "user", "app+user", "?"]));
    (require, list(), list(), list()).prop_map(|(require, apps, users, groups)| Grants {
        require,
        apps,
        users,
        groups,
    })
}

fn demand(require: &str) -> Require {
    match require {
        "none" => Require::Nothing,
        "app" => Require::Application,
        "user" => Require::User,
        _ => Require::ApplicationAndUser,
    }
}

fn callers() -> Vec<Caller> {
    let applications = NAMES.into_iter().map(Some).chain([None]);
    let groups = NAMES.into_iter().map(|group| vec![group]).chain([vec![], vec!["a", "bc"]]);
    let users: Vec<_> = groups
        .flat_map(|groups| NAMES.map(|user| Some((user, groups.clone()))))
        .chain([None])
        .collect();
    applications
        .flat_map(|application| {
            users.iter().map(move |user| Caller { application, user: user.clone() })
        })
        .collect()
}

fn allows(access: &Access, caller: &Caller) -> bool {
    let in_all = |name: &str| {
        access.applications.iter().all(|list| list.iter().any(|pattern| pattern.matches(name)))
    };
    let application = !access.applications.is_empty() && caller.application.is_some_and(in_all);
    let user = caller.user.as_ref().is_some_and(|(name, groups)| {
        access.users.iter().all(|subjects| subjects.has(name, groups.iter().copied()))
    });
    (!access.require.application() || application)
        && (!access.require.user() || user && !access.users.is_empty())
}

#[test]
fn slices_make_routes_out_of_date_only_if_problems_change() {
    let mut dirty = Dirty::default();
    let mut resources = store([Object::Service(service("shop", "cart", &[]))]);
    let mut is_routes = |slice: EndpointSlice| {
        let changed = resources.apply(Change::Upsert(Object::EndpointSlice(slice)));
        dirty.record(changed, &resources);
        assert_eq!(
            std::mem::take(&mut dirty.endpoints),
            [NamespacedName::new("shop", "cart")].into()
        );
        std::mem::take(&mut dirty.routes)
    };
    let good = |address| slice("shop", "cart-1", "cart", &[address]);
    let mut other_port = good("10.0.0.1");
    other_port.ports = vec![EndpointPort { name: "metrics".into(), port: 9090 }];
    assert!(!is_routes(good("10.0.0.1")));
    assert!(!is_routes(good("10.0.0.2")));
    assert!(is_routes(good("127.0.0.1")));
    assert!(is_routes(good("127.0.0.2")), "another address is another problem");
    assert!(is_routes(good("10.0.0.1")));
    assert!(is_routes(other_port));
}

#[test]
fn a_change_of_a_service_updates_the_problems_of_its_slices() {
    let mut dirty = Dirty::default();
    let mut resources = Resources::default();
    let mut is_routes = |object: Object| {
        let changed = resources.apply(Change::Upsert(object));
        dirty.record(changed, &resources);
        std::mem::take(&mut dirty.routes)
    };
    let of_port = |port: &str, address| {
        let mut slice = slice("shop", "cart-1", "cart", &[address]);
        slice.ports = vec![EndpointPort { name: port.into(), port: 8080 }];
        Object::EndpointSlice(slice)
    };
    let mut named = service("shop", "cart", &[]);
    named.ports[0].name = "web".into();
    assert!(!is_routes(of_port("", "10.0.0.1")));
    assert!(is_routes(Object::Service(named)), "the port `web` has no endpoint");
    assert!(!is_routes(of_port("", "10.0.0.2")));
    assert!(is_routes(of_port("web", "10.0.0.2")), "the port `web` has one");
    assert!(!is_routes(of_port("web", "10.0.0.1")));
}

proptest! {
    #[test]
    fn incremental_translation_equals_full_translation(changes in vec(any_change(), 1..24), verifies in any::<bool>()) {
        let resources = if verifies { verifying() } else { Resources::default() };
        let mut incremental = Incremental { resources, ..Incremental::default() };
        incremental.routes = routes(&translate(&settings(), &incremental.resources));
        for change in changes {
            incremental.apply(change);
            let translation = translate(&settings(), &incremental.resources);
            prop_assert_eq!(&incremental.routes, &routes(&translation));
            prop_assert_eq!(&incremental.endpoints, &sets(&translation));
        }
    }

    #[test]
    fn the_order_of_changes_makes_no_difference(objects in vec(any_object(), 0..16)) {
        let last: BTreeMap<ObjectId, Object> = objects.iter().map(|object| (object.id(), object.clone())).collect();
        let (one, other) = (translate(&settings(), &store(objects)), translate(&settings(), &store(last.into_values())));
        prop_assert_eq!(routes(&one), routes(&other));
        prop_assert_eq!(sets(&one), sets(&other));
    }

    #[test]
    fn each_verified_endpoint_has_the_address_of_a_pod_of_its_namespace(objects in vec(any_object(), 0..24)) {
        let mut resources = verifying();
        let mut pods = BTreeMap::new();
        for object in objects {
            if let Object::Pod(pod) = &object {
                pods.insert(pod.uid.clone(), pod.clone());
            }
            resources.apply(Change::Upsert(object));
        }
        for (key, set) in sets(&translate(&settings(), &resources)) {
            for endpoint in set.ready.iter().chain(&set.draining) {
                let is_of = |pod: &Pod| pod.origin.namespace == key.namespace && !pod.host_network && pod.addresses.contains(&endpoint.address.ip());
                prop_assert!(pods.values().any(is_of), "{:?} of {:?}", endpoint, key);
            }
        }
    }

    #[test]
    fn each_used_endpoint_is_usable_and_in_a_slice(objects in vec(any_object(), 0..16)) {
        let resources = store(objects);
        for (key, set) in sets(&translate(&settings(), &resources)) {
            let service = NamespacedName::new(key.namespace.clone(), key.service.clone());
            let offered = |address: std::net::SocketAddr, ready: bool| resources.slices(&service).any(|slice| {
                let found = slice.endpoints.iter().any(|endpoint| endpoint.address == address.ip() && (endpoint.conditions.ready || !ready));
                found && slice.ports.iter().any(|port| port.port == address.port())
            });
            prop_assert!(set.ready.iter().all(|endpoint| offered(endpoint.address, true)));
            prop_assert!(set.draining.iter().all(|endpoint| offered(endpoint.address, false)));
            let all: Vec<_> = set.ready.iter().chain(&set.draining).map(|endpoint| endpoint.address).collect();
            prop_assert!(all.iter().all(|address| !address.ip().is_loopback()));
            prop_assert!(all.windows(2).all(|pair| pair[0].is_ipv4() == pair[1].is_ipv4()), "one family");
            let mut once = all.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), all.len(), "each once");
        }
    }

    #[test]
    fn a_service_allows_no_caller_that_its_namespace_denies(one in any_grants(), other in any_grants(), public in any::<bool>()) {
        let entries = |grants: &Grants| -> Vec<(&str, &str)> {
            let all = [("require", grants.require), ("allow-apps", grants.apps.0), ("allow-users", grants.users.0), ("allow-groups", grants.groups.0)];
            all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
        };
        let mut of_service = entries(&other);
        of_service.extend([("expose", "true")].into_iter().chain(public.then_some(("public-paths", "/public"))));
        let resources = store([Object::Namespace(namespace("dev", &entries(&one))), Object::Service(service("dev", "x", &of_service))]);
        let snapshot = translate(&settings(), &resources).snapshot;
        let hosts = snapshot.listeners[0].hosts.iter();
        let routes: Vec<_> = hosts.flat_map(|host| host.routes.iter()).map(|route| (&route.matches.path, &route.rule.policy.access)).collect();
        let (root, open) = (routes.last().unwrap().1, &routes[..routes.len() - 1]);
        let required = |grants: &Grants| grants.require.map(demand);
        let least = required(&one).unwrap_or(Require::Nothing);
        prop_assert_eq!(root.require, required(&other).map_or(required(&one).unwrap_or_default(), |own| own.and(least)));
        prop_assert_eq!(open.len(), usize::from(public && least == Require::Nothing));
        prop_assert!(open.iter().all(|(_, access)| access.require == Require::Nothing));
        for caller in callers() {
            let expected = one.grant(root.require, &caller) && other.grant_or_unset(root.require, &caller);
            prop_assert_eq!(allows(root, &caller), expected, "{:?} and {:?} and {:?}", one, other, caller);
        }
    }

    #[test]
    fn invalid_annotations_open_nothing(entries in vec((select(VOCABULARY.to_vec()), "\\PC{0,24}|none |[a-z+, ]{0,12}"), 0..8)) {
        let entries: Vec<(&str, &str)> = entries.iter().map(|(key, value)| (key.name, value.as_str())).collect();
        let value_of = |wanted| entries.iter().rev().find(|(key, _)| *key == wanted).map_or("", |(_, value)| value.trim());
        let public: Vec<&str> = value_of("public-paths").split(',').map(|path| path.trim().trim_end_matches('/')).collect();
        let resources = store([Object::Namespace(namespace("dev", &[("expose", "all")])), Object::Service(service("dev", "x", &entries))]);
        let translation = translate(&settings(), &resources);
        for host in translation.snapshot.listeners.iter().flat_map(|listener| listener.hosts.iter()) {
            for route in &*host.routes {
                let is_public = matches!(&route.matches.path, PathMatch::Prefix(prefix) if public.contains(&prefix.as_str()));
                prop_assert!(route.rule.policy.access.require != Require::Nothing || value_of("require") == "none" || is_public);
                prop_assert!(route.rule.policy.access.require == Require::Nothing || value_of("require") != "none");
            }
        }
    }
}

#[test]
fn a_new_snapshot_reuses_the_cells_of_the_last_one() {
    let (namespace, cart) = (namespace("dev", &[("expose", "all")]), service("dev", "cart", &[]));
    let mut resources = store([
        Object::Namespace(namespace),
        Object::Service(cart),
        Object::EndpointSlice(slice("dev", "1", "cart", &["10.0.0.1"])),
    ]);
    let mut reused = EndpointCells::default();
    let before = cells(&translate_reusing(&settings(), &resources, &mut reused).snapshot);
    reused.commit();
    resources.apply(Change::Upsert(Object::EndpointSlice(slice(
        "dev",
        "1",
        "cart",
        &["10.0.0.2"],
    ))));
    resources.apply(Change::Upsert(Object::Service(service("dev", "search", &[]))));
    let after = cells(&translate_reusing(&settings(), &resources, &mut reused).snapshot);
    let [(key, cell)] = before.into_iter().collect::<Vec<_>>().try_into().unwrap();
    assert!(Arc::ptr_eq(&after[&key], &cell));
    assert_eq!(
        cell.load().ready[0].address,
        "10.0.0.1:8080".parse().unwrap(),
        "until it is published"
    );
    reused.commit();
    assert_eq!(cell.load().ready[0].address, "10.0.0.2:8080".parse().unwrap());
}

#[test]
fn the_endpoint_set_of_a_missing_service_or_port_is_empty() {
    let resources = store([
        Object::Service(service("dev", "cart", &[])),
        Object::EndpointSlice(slice("dev", "1", "cart", &["10.0.0.1"])),
    ]);
    let set = |service: &str, port| {
        endpoint_set(
            &resources,
            &EndpointKey { namespace: "dev".into(), service: service.into(), port },
        )
    };
    assert_eq!(set("cart", 80).ready.len(), 1);
    assert_eq!(set("cart", 81), EndpointSet::default());
    assert_eq!(set("search", 80), EndpointSet::default());
}

/// What a Service `web` and its variant `web-canary` have.
type Entries<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);

/// Snapshot and problems after Services had these annotations in turn.
fn after(versions: &[Entries<'_>]) -> (Value, String) {
    let open = namespace("a", &[("expose", "all"), ("require", "none")]);
    let mut resources = store([Object::Namespace(open)]);
    for (stable, variant) in versions {
        let variant = [&[("canary-of", "web")], *variant].concat();
        for service in [service("a", "web", stable), service("a", "web-canary", &variant)] {
            resources.apply(Change::Upsert(Object::Service(service)));
        }
    }
    let translation = translate(&settings(), &resources);
    let mut routes = routes(&translation);
    (routes[0].take(), format!("{:?}", translation.problems))
}

#[test]
fn an_annotation_that_becomes_invalid_keeps_its_last_valid_meaning() {
    let cases: [(Entries<'_>, Entries<'_>); 6] = [
        ((&[], &[("canary-weight", "50")]), (&[], &[("canary-weight", "abc")])),
        ((&[], &[("canary-header", "X-A")]), (&[], &[("canary-header", "Host")])),
        ((&[], &[("canary-cookie", "a")]), (&[], &[("canary-cookie", "a b")])),
        ((&[], &[("mirror-percent", "5")]), (&[], &[("mirror-percent", "5%")])),
        ((&[("split", "web-canary=0-9")], &[]), (&[("split", "web-canary=0-9,x")], &[])),
        ((&[("rate-limit", "5/s")], &[]), (&[("rate-limit", "5/s, 1/d")], &[])),
    ];
    for (valid, invalid) in cases {
        let (expected, problems) = after(&[valid]);
        assert_eq!(problems, "[]", "{valid:?}");
        let (kept, problems) = after(&[valid, invalid]);
        assert_eq!(kept, expected, "{invalid:?}");
        let (key, text) = valid.0.iter().chain(valid.1).next().unwrap();
        assert!(problems.contains(&format!("portcullis.dev/{key}")), "{problems}");
        assert!(
            problems.contains(&format!("the last valid value stays in effect: `{text}`")),
            "{problems}"
        );
        let (mended, problems) = after(&[valid, invalid, valid]);
        assert_eq!((mended, &*problems), (expected, "[]"));
    }
}

#[test]
fn a_split_whose_ranges_overlap_keeps_nothing() {
    let (stable, _) = after(&[(&[], &[("canary-weight", "0")])]);
    let (over, problems) = after(&[
        (&[], &[("canary-weight", "50")]),
        (&[("split", "web-canary=0-9,web-canary=5-19")], &[("canary-weight", "50")]),
    ]);
    assert!(problems.contains("overlap"), "{problems}");
    assert_eq!(over, stable);
}

#[test]
fn a_split_that_becomes_invalid_has_not_the_generation_of_the_new_one() {
    let split = ("split", "web-canary=0-9");
    let (expected, _) = after(&[(&[split], &[])]);
    let (first, _) = after(&[(&[split, ("split-generation", "6")], &[])]);
    assert_ne!(first, expected);
    let garbage = [("split", "web-canary=0-"), ("split-generation", "7")];
    let (kept, _) = after(&[(&[split, ("split-generation", "6")], &[]), (&garbage, &[])]);
    assert_eq!(kept, expected, "its generation is a hash of what is in effect");
}

#[test]
fn a_misspelled_annotation_gets_a_suggestion() {
    let resources = store([Object::Service(service(
        "dev",
        "cart",
        &[("timeouts", "1s"), ("pahts", "/"), ("zzz", "1")],
    ))]);
    let help: Vec<_> = translate(&settings(), &resources)
        .problems
        .into_iter()
        .map(|problem| problem.help)
        .collect();
    let expected = [
        "did you mean `portcullis.dev/paths`?",
        "did you mean `portcullis.dev/timeout`?",
        "docs/annotations.md lists all annotations",
    ];
    assert_eq!(help, expected);
}

/// Distinct items, joined to a value as long as is read.
fn longest_list(item: impl Fn(usize) -> String) -> String {
    let mut list = item(0);
    for number in 1.. {
        let item = item(number);
        if list.len() + 1 + item.len() > crate::resources::MAX_VALUE {
            break;
        }
        list = format!("{list},{item}");
    }
    list
}

#[test]
fn the_routes_of_a_service_are_bounded_and_shared_by_its_hostnames() {
    let hostnames = longest_list(|number| format!("h{number:x}"));
    let paths = longest_list(|number| format!("/{number:x}"));
    let entries: &[(&str, &str)] =
        &[("hostnames", &hostnames), ("paths", &paths), ("public-paths", &paths)];
    let resources = store([
        Object::Namespace(namespace("dev", &[("expose", "all")])),
        Object::Service(service("dev", "cart", entries)),
        Object::Service(service("dev", "few", &[("hostnames", &hostnames), ("paths", "/a,/b")])),
    ]);
    let Translation { snapshot, problems } = translate(&settings(), &resources);
    let hosts = &snapshot.listeners[0].hosts;
    let of =
        |name: &str| hosts.iter().filter(|host| &*host.origin.name == name).collect::<Vec<_>>();
    let (cart, few) = (of("cart"), of("few"));
    assert!(cart.iter().any(|host| host.pattern.to_string() == "cart--dev.apps.example.com"));
    assert!(cart.len() < 10 && few.len() > 1000, "{} and {}", cart.len(), few.len());
    for hosts in [cart, few] {
        assert!(hosts.len() * hosts[0].routes.len() <= 10_000);
        assert!(hosts.iter().all(|host| Arc::ptr_eq(&host.routes, &hosts[0].routes)));
    }
    assert_eq!(hosts.route_lists().count(), 2);
    let reasons: Vec<_> = problems.iter().map(|problem| problem.reason).collect();
    assert!(reasons.contains(&"TooManyRoutes"), "{reasons:?}");
}

#[test]
fn the_invalid_items_of_a_list_are_reported_in_a_few_problems() {
    let list = longest_list(|number| format!("*{number:x}"));
    let lists = ["hostnames", "paths", "public-paths", "allow-apps", "allow-users", "cors-origins"];
    let entries: Vec<(&str, &str)> = lists.iter().map(|key| (*key, &*list)).collect();
    let hostnames = longest_list(|number| format!("h{number:x}"));
    let taken = [("hostnames", &*hostnames)];
    let mut second = service("dev", "second", &taken);
    second.created = 1;
    let resources = store([
        Object::Namespace(namespace("dev", &[("expose", "all"), ("require", "none")])),
        Object::Service(service("dev", "cart", &entries)),
        Object::Service(service("dev", "first", &taken)),
        Object::Service(second),
    ]);
    let problems = translate(&settings(), &resources).problems;
    let of = |name: &str| problems.iter().filter(|one| &*one.origin.name == name).count();
    assert!(of("cart") <= 11 * lists.len() + 2, "{}", of("cart"));
    assert_eq!(of("second"), 11);
    assert!(problems.iter().any(|problem| problem.message.contains("more items of")));
}
