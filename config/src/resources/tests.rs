//! The effects of changes, as the store returns them; `translate/tests.rs` tests the consequences.

use super::*;

fn slice(name: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
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
            .map(|text| SliceEndpoint { address: text.parse().unwrap(), conditions, zone: None })
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
        ports: vec![ServicePort { name: "".into(), port: 80, app_protocol: None }],
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
    resources.reserved().find(address.parse().unwrap())
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
    let resources = Resources::new(Installation {
        api_server: ["10.96.0.1:443", "[::ffff:192.0.2.1]:6443"]
            .map(|address| address.parse().unwrap())
            .into(),
        ..Installation::default()
    });
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
