//! The effects of changes, as the store returns them; `translate/tests.rs` tests the consequences.

use super::*;
use crate::model::vocabulary::{CANARY_WEIGHT, PREFIX, RATE_LIMIT, VOCABULARY};

pub(super) fn slice(name: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
    let conditions = Conditions { ready: true, serving: true, terminating: false };
    EndpointSlice {
        origin: Origin {
            kind: "EndpointSlice",
            namespace: "shop".into(),
            name: name.into(),
            place: None,
        },
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

fn service(name: &str) -> Service {
    Service {
        origin: Origin {
            kind: "Service",
            namespace: "shop".into(),
            name: name.into(),
            place: None,
        },
        created: 0,
        labels: Annotations::default(),
        annotations: Annotations::default(),
        external: false,
        prefers_ipv6: false,
        cluster_ips: Vec::new(),
        external_ips: Vec::new(),
        ports: vec![ServicePort { name: "".into(), port: 80, app_protocol: None }],
        traffic_distribution: None,
    }
}

fn upsert(slice: &EndpointSlice) -> Change {
    Change::Upsert(Object::EndpointSlice(slice.clone()))
}

fn names(services: &[&str]) -> BTreeSet<NamespacedName> {
    services.iter().map(|service| NamespacedName::new("shop", *service)).collect()
}

fn slices(services: &[&str]) -> Changed {
    Changed { slices: names(services), ..Changed::default() }
}

fn services(services: &[&str]) -> Changed {
    Changed { services: names(services), ..Changed::default() }
}

/// A store with a Service `cart` that has a slice `cart-1`.
fn store() -> Resources {
    let mut resources = Resources::default();
    resources.apply(Change::Upsert(Object::Service(service("cart"))));
    resources.apply(upsert(&slice("cart-1", "cart", &["10.0.0.1"])));
    resources
}

#[test]
fn an_unchanged_object_has_no_effect() {
    let mut resources = store();
    assert_eq!(
        resources.apply(Change::Upsert(Object::Service(service("cart")))),
        Changed::default()
    );
    assert_eq!(
        resources.apply(upsert(&slice("cart-1", "cart", &["10.0.0.1"]))),
        Changed::default()
    );
}

#[test]
fn a_slice_is_reported_by_its_service() {
    let mut resources = store();
    assert_eq!(
        resources.apply(upsert(&slice("cart-1", "cart", &["10.0.0.1", "10.0.0.2"]))),
        slices(&["cart"])
    );
    assert_eq!(resources.apply(upsert(&slice("cart-2", "cart", &["10.0.0.3"]))), slices(&["cart"]));
    assert_eq!(
        resources
            .apply(Change::Delete(ObjectId::EndpointSlice(NamespacedName::new("shop", "cart-2")))),
        slices(&["cart"])
    );
}

#[test]
fn a_slice_that_changes_its_service_is_reported_by_both() {
    let mut resources = store();
    resources.apply(Change::Upsert(Object::Service(service("search"))));
    assert_eq!(
        resources.apply(upsert(&slice("cart-1", "search", &["10.0.0.1"]))),
        slices(&["cart", "search"])
    );
    assert_eq!(resources.slices(&NamespacedName::new("shop", "cart")).count(), 0);
    assert_eq!(resources.slices(&NamespacedName::new("shop", "search")).count(), 1);
}

/// A slice of the API server's Service.
fn api_server(addresses: &[&str]) -> EndpointSlice {
    let mut slice = slice("kubernetes", "kubernetes", addresses);
    slice.origin.namespace = "default".into();
    slice.ports = vec![EndpointPort { name: "https".into(), port: 6443 }];
    slice
}

fn reserved(resources: &Resources, address: &str) -> Option<Reserved> {
    resources.reserved().find(address.parse().unwrap(), false)
}

#[test]
fn the_reserved_addresses_follow_the_api_server() {
    let mut resources = store();
    assert_eq!(reserved(&resources, "172.18.0.2:6443"), None);
    assert!(resources.apply(upsert(&api_server(&["172.18.0.2"]))).reserved);
    assert_eq!(reserved(&resources, "172.18.0.2:6443"), Some(Reserved::ApiServer));
    assert_eq!(reserved(&resources, "[::ffff:172.18.0.2]:6443"), Some(Reserved::ApiServer));
    assert_eq!(reserved(&resources, "172.18.0.2:8080"), None);
    assert!(resources.apply(upsert(&api_server(&["172.18.0.3", "172.18.0.4"]))).reserved);
    assert!(!resources.apply(upsert(&api_server(&["172.18.0.4", "172.18.0.3"]))).reserved);
    assert_eq!(reserved(&resources, "172.18.0.2:6443"), None);
    assert_eq!(reserved(&resources, "172.18.0.4:6443"), Some(Reserved::ApiServer));
}

#[test]
fn an_api_server_without_endpoints_stays_reserved() {
    let mut resources = store();
    resources.apply(upsert(&api_server(&["172.18.0.2"])));
    resources.apply(upsert(&api_server(&[])));
    assert_eq!(reserved(&resources, "172.18.0.2:6443"), Some(Reserved::ApiServer));
    let name = NamespacedName::new("default", "kubernetes");
    resources.apply(Change::Delete(ObjectId::EndpointSlice(name)));
    assert_eq!(reserved(&resources, "172.18.0.2:6443"), Some(Reserved::ApiServer));
}

#[test]
fn the_api_server_of_the_gateways_own_client_is_reserved() {
    let installation = Installation {
        api_server: ["10.96.0.1:443", "[::ffff:192.0.2.1]:6443"]
            .map(|address| address.parse().unwrap())
            .into(),
        ..Installation::default()
    };
    let resources = Resources::new(installation, &settings(""));
    assert_eq!(reserved(&resources, "10.96.0.1:443"), Some(Reserved::ApiServer));
    assert_eq!(reserved(&resources, "[64:ff9b::10.96.0.1]:443"), Some(Reserved::ApiServer));
    assert_eq!(reserved(&resources, "192.0.2.1:6443"), Some(Reserved::ApiServer));
    assert_eq!(reserved(&resources, "192.0.2.1:443"), None);
}

#[test]
fn a_cluster_ip_is_reserved_while_a_service_has_it() {
    let mut resources = store();
    let with = |name: &str, address: &str| {
        let service = Service { cluster_ips: vec![address.parse().unwrap()], ..service(name) };
        Change::Upsert(Object::Service(service))
    };
    let delete = |name: &str| Change::Delete(ObjectId::Service(NamespacedName::new("shop", name)));
    resources.apply(with("cart", "10.96.0.7"));
    assert!(resources.apply(with("search", "10.96.0.7")).reserved);
    resources.apply(delete("search"));
    assert_eq!(reserved(&resources, "10.96.0.7:80"), Some(Reserved::ClusterIp));
    resources.apply(with("cart", "10.96.0.8"));
    assert_eq!(reserved(&resources, "10.96.0.7:80"), None);
    assert_eq!(reserved(&resources, "10.96.0.8:80"), Some(Reserved::ClusterIp));
    resources.apply(delete("cart"));
    assert_eq!(reserved(&resources, "10.96.0.8:80"), None);
}

#[test]
fn a_service_is_reported_by_its_name() {
    let mut resources = store();
    let mut changed = service("cart");
    changed.prefers_ipv6 = true;
    assert_eq!(resources.apply(Change::Upsert(Object::Service(changed))), services(&["cart"]));
    assert_eq!(
        resources.apply(Change::Delete(ObjectId::Service(NamespacedName::new("shop", "cart")))),
        services(&["cart"])
    );
}

#[test]
fn deleting_an_unknown_object_has_no_effect() {
    let mut resources = store();
    for id in [
        ObjectId::Namespace("elsewhere".into()),
        ObjectId::Service(NamespacedName::new("elsewhere", "cart")),
        ObjectId::EndpointSlice(NamespacedName::new("elsewhere", "cart-1")),
    ] {
        assert_eq!(resources.apply(Change::Delete(id)), Changed::default());
    }
}

#[test]
fn a_replacement_of_all_removes_what_is_not_in_it() {
    let mut resources = store();
    resources.apply(upsert(&slice("cart-2", "cart", &["10.0.0.2"])));
    let same = [slice("cart-1", "cart", &["10.0.0.1"]), slice("cart-2", "cart", &["10.0.0.2"])]
        .map(Object::EndpointSlice);
    assert_eq!(
        resources.apply(Change::Replace(Kind::EndpointSlice, same.to_vec())),
        Changed::default()
    );
    let [_, last] = same;
    assert_eq!(
        resources.apply(Change::Replace(Kind::EndpointSlice, vec![last])),
        slices(&["cart"])
    );
    assert_eq!(resources.all_slices().count(), 1);
    assert_eq!(resources.services().count(), 1, "other kinds stay");
}

#[test]
fn a_value_that_is_too_long_is_not_stored() {
    let long = "x".repeat(1 << 20);
    let entries = [
        ("portcullis.dev/paths", &*long),
        ("portcullis.dev/expose", " true "),
        ("example.com/other", "x"),
    ];
    let annotations = Annotations::filter(Some(
        &entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    ));
    assert_eq!(annotations.get("paths"), Some(&Value::TooLong(1 << 20)));
    assert_eq!(annotations.get("expose"), Some(&Value::Text("true".into())));
    assert_eq!(annotations.iter().count(), 2);
}

#[test]
fn a_credential_changes_nothing_else() {
    let key = |octet: u8| {
        let metadata = serde_json::json!({"name": "key", "namespace": "portcullis", "labels": {"portcullis.dev/credential": "session-key"}});
        let data = serde_json::json!({"key": String::from(char::from(octet)).repeat(32)});
        let object =
            serde_json::from_value(serde_json::json!({"metadata": metadata, "stringData": data}))
                .unwrap();
        Change::Upsert(Object::Credential(Credential::from_secret(&object, None).unwrap()))
    };
    let mut resources = store();
    let credentials = Changed { credentials: true, ..Changed::default() };
    assert_eq!(resources.apply(key(b'1')), credentials);
    assert_eq!(resources.apply(key(b'1')), Changed::default());
    assert_eq!(resources.apply(key(b'2')), credentials);
    let deletion = Change::Delete(ObjectId::Credential(NamespacedName::new("portcullis", "key")));
    assert_eq!(
        (resources.apply(deletion.clone()), resources.apply(deletion)),
        (credentials, Changed::default())
    );
}

fn settings(endpoints: &str) -> Settings {
    let text = format!("zone: apps.test\nsource: {{kubernetes: {{}}}}\n{endpoints}");
    Settings::parse(std::path::Path::new("gateway.yaml"), text.as_bytes()).unwrap()
}

fn pod(namespace: &str, uid: &str, address: &str) -> Pod {
    Pod {
        origin: Origin { kind: "Pod", namespace: namespace.into(), name: uid.into(), place: None },
        uid: uid.into(),
        addresses: vec![address.parse().unwrap()],
        host_network: false,
    }
}

fn verifying() -> Resources {
    let allow = "allow: [{network: 10.9.0.0/16, namespaces: [shop]}]";
    let settings = settings(&format!("endpoints: {{verify: pods, {allow}}}\n"));
    Resources::new(Installation::default(), &settings)
}

/// A slice whose only endpoint refers to the Pod `uid`.
fn slice_of_pod(name: &str, uid: &str, address: &str) -> EndpointSlice {
    let mut slice = slice(name, "cart", &[address]);
    slice.endpoints[0].pod = Some(uid.into());
    slice
}

fn verdict(resources: &Resources, slice: &EndpointSlice) -> Result<(), Unverified> {
    resources.verify(slice, &slice.endpoints[0])
}

#[test]
fn an_endpoint_is_verified_by_the_pod_of_its_namespace_that_it_refers_to() {
    let mut resources = verifying();
    for pod in [
        pod("shop", "one", "10.0.0.1"),
        pod("other", "two", "10.0.0.2"),
        Pod { host_network: true, ..pod("shop", "three", "10.0.0.3") },
        Pod { addresses: Vec::new(), ..pod("shop", "four", "10.0.0.4") },
    ] {
        resources.apply(Change::Upsert(Object::Pod(pod)));
    }
    for (uid, address, expected) in [
        ("one", "10.0.0.1", Ok(())),
        ("one", "10.0.0.2", Err(Unverified::OtherAddress)),
        ("two", "10.0.0.2", Err(Unverified::UnknownPod)),
        ("three", "10.0.0.3", Err(Unverified::HostNetwork)),
        ("four", "10.0.0.4", Err(Unverified::UnknownPod)),
        ("five", "10.0.0.5", Err(Unverified::UnknownPod)),
        ("five", "10.9.0.5", Ok(())),
    ] {
        let slice = slice_of_pod("cart-1", uid, address);
        assert_eq!(verdict(&resources, &slice), expected, "{uid} {address}");
    }
    let mut elsewhere = slice("cart-1", "cart", &["10.9.0.5"]);
    assert_eq!(verdict(&resources, &elsewhere), Ok(()));
    elsewhere.origin.namespace = "other".into();
    assert_eq!(verdict(&resources, &elsewhere), Err(Unverified::NoPod));
}

#[test]
fn a_pod_affects_the_services_whose_endpoints_refer_to_it() {
    let mut resources = verifying();
    let upsert_pod = |pod: Pod| Change::Upsert(Object::Pod(pod));
    resources.apply(upsert(&slice_of_pod("cart-1", "one", "10.0.0.1")));
    resources.apply(upsert(&slice_of_pod("cart-2", "one", "10.0.0.1")));
    assert_eq!(resources.apply(upsert_pod(pod("shop", "one", "10.0.0.1"))), slices(&["cart"]));
    assert_eq!(
        resources.apply(upsert_pod(pod("shop", "one", "10.0.0.1"))),
        Changed::default(),
        "it has not changed"
    );
    assert_eq!(
        resources.apply(upsert_pod(pod("shop", "two", "10.0.0.2"))),
        Changed::default(),
        "no endpoint refers to it"
    );
    resources.apply(upsert(&slice_of_pod("cart-1", "two", "10.0.0.2")));
    let delete = |uid: &str| Change::Delete(ObjectId::Pod(uid.into()));
    assert_eq!(resources.apply(delete("one")), slices(&["cart"]), "`cart-2` refers to it");
    resources.apply(upsert_pod(pod("shop", "one", "10.0.0.1")));
    resources.apply(upsert(&slice_of_pod("cart-2", "two", "10.0.0.2")));
    assert_eq!(resources.apply(delete("one")), Changed::default());
    assert_eq!(
        resources.apply(Change::Replace(Kind::Pod, Vec::new())),
        slices(&["cart"]),
        "`two` is gone"
    );
}

#[test]
fn without_verification_pods_are_not_stored() {
    let mut resources = store();
    let mut changed = resources.apply(upsert(&slice_of_pod("cart-9", "one", "10.0.0.1")));
    assert_eq!(std::mem::take(&mut changed.slices), names(&["cart"]));
    let slice = resources.all_slices().find(|slice| *slice.origin.name == *"cart-9").unwrap();
    assert_eq!(slice.endpoints[0].pod.as_deref(), Some("one"), "the endpoint's identity");
    let pod = Change::Upsert(Object::Pod(pod("shop", "one", "10.0.0.1")));
    assert_eq!(resources.apply(pod), Changed::default());
}

#[test]
fn the_gateways_own_addresses_and_those_of_its_replicas_are_reserved() {
    let own = Installation {
        namespace: "gateway".into(),
        addresses: ["10.0.0.7".parse().unwrap()].into(),
        ..Installation::default()
    };
    let listeners = "listeners: {https: {address: \"10.0.0.8:8443\"}}\n";
    let mut resources = Resources::new(own, &settings(listeners));
    for address in ["10.0.0.7:80", "[::ffff:10.0.0.7]:80", "[64:ff9b::a00:7]:80", "10.0.0.8:1"] {
        assert_eq!(reserved(&resources, address), Some(Reserved::Gateway), "{address}");
    }
    let mut of_gateway = slice("gateway-1", "gateway", &["10.0.0.7", "10.0.0.9"]);
    assert!(!resources.apply(upsert(&of_gateway)).reserved, "it is of another Namespace");
    assert_eq!(reserved(&resources, "10.0.0.9:80"), None);
    of_gateway.origin.namespace = "gateway".into();
    assert!(resources.apply(upsert(&of_gateway)).reserved);
    assert_eq!(reserved(&resources, "10.0.0.9:9903"), Some(Reserved::Gateway));
    of_gateway.endpoints.remove(0);
    assert!(resources.apply(upsert(&of_gateway)).reserved, "of another program there");
    assert_eq!(reserved(&resources, "10.0.0.9:9903"), None);
}

#[test]
fn external_addresses_are_reserved_for_services_of_the_gateways_namespace_alone() {
    let mut resources = store();
    let mut balanced = service("gateway");
    balanced.external_ips = vec!["192.0.2.1".parse().unwrap()];
    resources.apply(Change::Upsert(Object::Service(balanced.clone())));
    assert_eq!(reserved(&resources, "192.0.2.1:443"), None);
    balanced.origin.namespace = Installation::default().namespace;
    resources.apply(Change::Upsert(Object::Service(balanced)));
    assert_eq!(reserved(&resources, "192.0.2.1:443"), Some(Reserved::Gateway));
}

#[test]
fn an_address_of_this_machine_is_reserved_for_manifests_only_at_the_gateways_listeners() {
    let own =
        Installation { addresses: ["10.0.0.7".parse().unwrap()].into(), ..Installation::default() };
    let resources = Resources::new(own, &settings(""));
    let find = |address: &str| resources.reserved().find(address.parse().unwrap(), true);
    for address in ["10.0.0.7:8443", "127.0.0.1:8443", "127.0.0.1:9901"] {
        assert_eq!(find(address), Some(Reserved::Gateway), "{address}");
    }
    for address in ["10.0.0.7:80", "127.0.0.1:80", "10.0.0.8:8443", "127.0.0.2:9901"] {
        assert_eq!(find(address), None, "{address}");
    }
}

/// What a Service `cart` keeps of `key` after it had these values in turn; `None` is no annotation.
fn kept(key: &str, values: &[Option<&str>]) -> Option<String> {
    let mut resources = store();
    for value in values {
        let annotation = value.map(|value| (format!("{PREFIX}{key}"), value.to_owned()));
        let mut cart = service("cart");
        cart.annotations = Annotations::filter(Some(&annotation.into_iter().collect()));
        resources.apply(Change::Upsert(Object::Service(cart)));
    }
    let key = VOCABULARY.into_iter().find(|known| known.name == key).unwrap();
    let cart = resources.service(&NamespacedName::new("shop", "cart")).unwrap();
    cart.annotations.last_valid(key).map(str::to_owned)
}

#[test]
fn an_annotation_that_becomes_invalid_keeps_its_last_valid_value() {
    let too_long = "1".repeat(MAX_VALUE + 1);
    for (key, valid, other, invalid) in [
        ("canary-weight", "50", "10", "abc"),
        ("canary-weight", "0", "100", "-1"),
        ("canary-header", "X-Canary", "X-Beta", "Authorization"),
        ("canary-header-value", "beta", "b", "\u{e9}"),
        ("canary-cookie", "canary", "beta", "__Host-portcullis"),
        ("canary-salt", "one", "two", ""),
        ("mirror-percent", "0.25", "1", "5%"),
        ("split", "a=0-9,b=10-19", "a=0-9", "a=0-9,b=10"),
        ("rate-limit", "5/s, 9/m per service", "1/h", "5/s, fast"),
        ("rate-limit", "5/s", "1/h", "1/s,2/s,3/s,4/s,5/s"),
        ("rate-limit", "5/s", "1/h", "5/s per namespace"),
    ] {
        let (valid, other, invalid) = (Some(valid), Some(other), Some(invalid));
        let last = |values: &[Option<&str>]| kept(key, values);
        assert_eq!(last(&[valid, invalid]).as_deref(), valid, "{key}");
        assert_eq!(last(&[other, valid, invalid, Some(&too_long), invalid]).as_deref(), valid);
        assert_eq!(last(&[valid, invalid, other]), None, "a valid one replaces it");
        assert_eq!(last(&[valid, invalid, other, invalid]).as_deref(), other, "{key}");
        assert_eq!(last(&[valid, invalid, None, invalid]), None, "a removed one is forgotten");
        assert_eq!(last(&[invalid, invalid]), None, "none was ever valid");
    }
}

#[test]
fn annotations_that_control_access_keep_nothing() {
    for (key, valid, invalid) in
        [("require", "none", "nobody"), ("expose", "true", "yes"), ("public-paths", "/a", "a")]
    {
        assert_eq!(kept(key, &[Some(valid), Some(invalid)]), None, "{key}");
    }
}

#[test]
fn an_object_that_was_created_anew_keeps_nothing_of_the_old_one() {
    let with = |weight: &str, created| {
        let annotation = (format!("{PREFIX}canary-weight"), weight.to_owned());
        let annotations = Annotations::filter(Some(&[annotation].into()));
        Object::Service(Service { created, annotations, ..service("cart") })
    };
    let id = ObjectId::Service(NamespacedName::new("shop", "cart"));
    let last = |resources: &Resources| {
        let cart = resources.service(&NamespacedName::new("shop", "cart")).unwrap();
        cart.annotations.last_valid(CANARY_WEIGHT).map(str::to_owned)
    };
    let mut resources = store();
    resources.apply(Change::Upsert(with("50", 1)));
    resources.apply(Change::Replace(Kind::Service, vec![with("abc", 1)]));
    assert_eq!(last(&resources).as_deref(), Some("50"), "a new list of all objects");
    assert_eq!(resources.apply(Change::Upsert(with("abc", 1))), Changed::default());
    resources.apply(Change::Upsert(with("abc", 2)));
    assert_eq!(last(&resources), None, "it was created later");
    resources.apply(Change::Upsert(with("50", 2)));
    resources.apply(Change::Delete(id));
    resources.apply(Change::Upsert(with("abc", 2)));
    assert_eq!(last(&resources), None, "it was deleted");
}

#[test]
fn a_namespace_keeps_its_last_valid_rate_limits() {
    let with = |limits: &str| {
        let annotation = (format!("{PREFIX}rate-limit"), limits.to_owned());
        Object::Namespace(Namespace {
            origin: Origin { kind: "Namespace", name: "shop".into(), ..Origin::default() },
            created: 0,
            labels: Annotations::default(),
            all_labels: BTreeMap::new(),
            annotations: Annotations::filter(Some(&[annotation].into())),
        })
    };
    let mut resources = store();
    for limits in ["5/s per namespace", "fast"] {
        resources.apply(Change::Upsert(with(limits)));
    }
    let shop = resources.namespace("shop").unwrap();
    assert_eq!(shop.annotations.last_valid(RATE_LIMIT), Some("5/s per namespace"));
}
