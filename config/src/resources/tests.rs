//! What changes of the store affect. That it is enough, `translate/tests.rs` shows.

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
        ports: vec![ServicePort { name: "".into(), port: 80, app_protocol: None }],
    }
}

fn upsert(slice: &EndpointSlice) -> Change {
    Change::Upsert(Object::EndpointSlice(slice.clone()))
}

fn endpoints(services: &[&str]) -> Affected {
    Affected::Endpoints(
        services.iter().map(|service| NamespacedName::new("shop", *service)).collect(),
    )
}

/// A store with a Service `cart` that has a slice `cart-1`.
fn store() -> Resources {
    let mut resources = Resources::default();
    resources.apply(Change::Upsert(Object::Service(service("cart"))));
    resources.apply(upsert(&slice("cart-1", "cart", &["10.0.0.1"])));
    resources
}

#[test]
fn what_comes_again_unchanged_affects_nothing() {
    let mut resources = store();
    assert_eq!(
        resources.apply(Change::Upsert(Object::Service(service("cart")))),
        Affected::Nothing
    );
    assert_eq!(resources.apply(upsert(&slice("cart-1", "cart", &["10.0.0.1"]))), Affected::Nothing);
}

#[test]
fn a_change_of_endpoints_affects_them_alone() {
    let mut resources = store();
    assert_eq!(
        resources.apply(upsert(&slice("cart-1", "cart", &["10.0.0.1", "10.0.0.2"]))),
        endpoints(&["cart"])
    );
    assert_eq!(
        resources.apply(upsert(&slice("cart-2", "cart", &["10.0.0.3"]))),
        endpoints(&["cart"])
    );
    assert_eq!(
        resources
            .apply(Change::Delete(ObjectId::EndpointSlice(NamespacedName::new("shop", "cart-2")))),
        endpoints(&["cart"])
    );
}

#[test]
fn a_change_of_slices_that_brings_or_ends_a_problem_affects_all() {
    let mut resources = store();
    assert_eq!(resources.apply(upsert(&slice("cart-1", "cart", &["127.0.0.1"]))), Affected::Routes);
    assert_eq!(resources.apply(upsert(&slice("cart-1", "cart", &["10.0.0.1"]))), Affected::Routes);
    let mut other_port = slice("cart-1", "cart", &["10.0.0.1"]);
    other_port.ports = vec![EndpointPort { name: "metrics".into(), port: 9090 }];
    assert_eq!(resources.apply(upsert(&other_port)), Affected::Routes);
}

#[test]
fn a_slice_that_changes_its_service_affects_both() {
    let mut resources = store();
    resources.apply(Change::Upsert(Object::Service(service("search"))));
    assert_eq!(
        resources.apply(upsert(&slice("cart-1", "search", &["10.0.0.1"]))),
        endpoints(&["cart", "search"])
    );
    assert_eq!(resources.slices(&NamespacedName::new("shop", "cart")).count(), 0);
    assert_eq!(resources.slices(&NamespacedName::new("shop", "search")).count(), 1);
}

#[test]
fn a_service_affects_all() {
    let mut resources = store();
    let mut changed = service("cart");
    changed.prefers_ipv6 = true;
    assert_eq!(resources.apply(Change::Upsert(Object::Service(changed))), Affected::Routes);
    assert_eq!(
        resources.apply(Change::Delete(ObjectId::Service(NamespacedName::new("shop", "cart")))),
        Affected::Routes
    );
}

#[test]
fn what_was_not_there_is_not_missed() {
    let mut resources = store();
    for id in [
        ObjectId::Namespace("elsewhere".into()),
        ObjectId::Service(NamespacedName::new("elsewhere", "cart")),
        ObjectId::EndpointSlice(NamespacedName::new("elsewhere", "cart-1")),
    ] {
        assert_eq!(resources.apply(Change::Delete(id)), Affected::Nothing);
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
        Affected::Nothing
    );
    let [_, last] = same;
    assert_eq!(
        resources.apply(Change::Replace(Kind::EndpointSlice, vec![last])),
        endpoints(&["cart"])
    );
    assert_eq!(resources.all_slices().count(), 1);
    assert_eq!(resources.services().count(), 1, "other kinds stay");
}

#[test]
fn a_value_that_is_too_long_is_not_kept() {
    let long = "x".repeat(1 << 20);
    let entries = [
        ("portcullis.dev/paths", &*long),
        ("portcullis.dev/expose", " true "),
        ("example.com/other", "x"),
    ];
    let annotations = Annotations::keep(Some(
        &entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    ));
    assert_eq!(annotations.get("paths"), Some(&Value::TooLong(1 << 20)));
    assert_eq!(annotations.get("expose"), Some(&Value::Text("true".into())));
    assert_eq!(annotations.iter().count(), 2);
}

#[test]
fn a_credential_affects_no_route() {
    let key = |octet: u8| {
        let metadata = serde_json::json!({"name": "key", "namespace": "portcullis", "labels": {"portcullis.dev/credential": "session-key"}});
        let data = serde_json::json!({"key": String::from(char::from(octet)).repeat(32)});
        let object =
            serde_json::from_value(serde_json::json!({"metadata": metadata, "stringData": data}))
                .unwrap();
        Change::Upsert(Object::Credential(Credential::from_secret(&object, None).unwrap()))
    };
    let mut resources = store();
    let credentials = Affected::Credentials(BTreeSet::new());
    assert_eq!(resources.apply(key(b'1')), credentials);
    assert_eq!(resources.apply(key(b'1')), Affected::Nothing);
    assert_eq!(resources.apply(key(b'2')), credentials);
    let gone = Change::Delete(ObjectId::Credential(NamespacedName::new("portcullis", "key")));
    assert_eq!(
        (resources.apply(gone.clone()), resources.apply(gone)),
        (credentials.clone(), Affected::Nothing)
    );
    let Affected::Endpoints(services) = endpoints(&["cart"]) else { unreachable!() };
    assert_eq!(endpoints(&["cart"]).and(credentials.clone()), Affected::Credentials(services));
    assert_eq!(credentials.and(Affected::Routes), Affected::Routes);
}
