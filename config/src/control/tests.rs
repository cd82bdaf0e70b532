use std::net::SocketAddr;
use std::time::SystemTime;

use serde_json::json;

use super::*;
use crate::model::{NamespacedName, Origin};
use crate::problem::Severity;
use crate::resources::credential::Credential;
use crate::resources::{Change, EndpointSlice, Namespace, Object, ObjectId, Service};
use crate::snapshot::Snapshot;

const SHOP: usize = 0;
const OTHER: usize = 1;

fn control() -> Control {
    let settings =
        Settings::parse("gateway.yaml".as_ref(), b"zone: example.com\nsource: {kubernetes: {}}\n")
            .unwrap();
    let installation = Installation::default();
    Control::new(Arc::new(settings), Arc::default(), Reporter::default(), 2, installation)
}

fn synced(changes: Vec<Change>) -> Update {
    Update { changes, synced: true, ..Update::default() }
}

fn changed(changes: Vec<Change>) -> Update {
    Update { changes, ..Update::default() }
}

fn environment() -> Change {
    let metadata = json!({
        "name": "shop",
        "labels": {"portcullis.dev/environment": "staging"},
        "annotations": {"portcullis.dev/expose": "all", "portcullis.dev/require": "none"},
    });
    Change::Upsert(Object::Namespace(
        Namespace::from_object(
            &serde_json::from_value(json!({"metadata": metadata})).unwrap(),
            None,
        )
        .unwrap(),
    ))
}

fn service(name: &str) -> Change {
    let object =
        json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}});
    Change::Upsert(Object::Service(
        Service::from_object(&serde_json::from_value(object).unwrap(), None).unwrap(),
    ))
}

fn slice(service: &str, addresses: &[&str]) -> Change {
    let endpoints: Vec<_> =
        addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    let metadata = json!({"name": format!("{service}-1"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service}});
    let object = json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": endpoints});
    Change::Upsert(Object::EndpointSlice(
        EndpointSlice::from_object(&serde_json::from_value(object).unwrap(), None).unwrap(),
    ))
}

fn ready(snapshot: &Snapshot, host: &str) -> Vec<SocketAddr> {
    let host = snapshot.listeners[0].hosts.find(host).unwrap();
    let set = host.routes[0].rule.backends.all()[0].endpoints.load();
    set.ready.iter().map(|endpoint| endpoint.address).collect()
}

/// A control loop that has published one Service with one ready pod.
fn with_cart() -> Control {
    let mut control = control();
    control.apply(OTHER, synced(Vec::new()));
    control.apply(SHOP, synced(vec![environment(), service("cart"), slice("cart", &["10.0.0.1"])]));
    control.publish_changes();
    control.next_translation = Instant::now();
    control
}

#[test]
fn no_route_is_published_before_every_source_is_synced() {
    let mut control = control();
    control.apply(SHOP, synced(vec![environment(), service("cart")]));
    control.publish_changes();
    assert!(control.live.snapshot.load().listeners.is_empty());
    assert!(!control.live.is_synced());
    control.apply(OTHER, synced(Vec::new()));
    control.publish_changes();
    assert!(control.live.is_synced());
    assert!(
        control.live.snapshot.load().listeners[0].hosts.find("cart--staging.example.com").is_some()
    );
}

#[test]
fn a_change_of_endpoints_swaps_their_set_in_the_current_snapshot() {
    let mut control = with_cart();
    let before = control.live.snapshot.load_full();
    assert_eq!(ready(&before, "cart--staging.example.com"), ["10.0.0.1:8080".parse().unwrap()]);
    control.apply(SHOP, changed(vec![slice("cart", &["10.0.0.2", "10.0.0.3"])]));
    control.publish_changes();
    assert!(Arc::ptr_eq(&before, &control.live.snapshot.load_full()), "the table was rebuilt");
    assert_eq!(ready(&before, "cart--staging.example.com").len(), 2);
}

#[test]
fn a_new_table_reuses_the_endpoint_cells_of_the_previous_one() {
    let mut control = with_cart();
    let cell = |snapshot: &Snapshot| {
        snapshot.listeners[0].hosts.find("cart--staging.example.com").unwrap().routes[0]
            .rule
            .backends
            .all()[0]
            .endpoints
            .id()
    };
    let before = cell(&control.live.snapshot.load());
    control.apply(SHOP, changed(vec![service("shop"), slice("cart", &["10.0.0.9"])]));
    control.publish_changes();
    let after = control.live.snapshot.load_full();
    assert!(after.listeners[0].hosts.find("shop--staging.example.com").is_some());
    assert_eq!(cell(&after), before);
    assert_eq!(ready(&after, "cart--staging.example.com"), ["10.0.0.9:8080".parse().unwrap()]);
}

#[test]
fn an_update_without_changes_publishes_nothing() {
    let mut control = with_cart();
    let before = control.live.snapshot.load_full();
    control.apply(SHOP, synced(vec![environment(), service("cart"), slice("cart", &["10.0.0.1"])]));
    control.apply(
        SHOP,
        changed(vec![Change::Delete(ObjectId::Service(NamespacedName::new("shop", "unknown")))]),
    );
    control.publish_changes();
    assert!(Arc::ptr_eq(&before, &control.live.snapshot.load_full()));
}

#[test]
fn problems_of_a_source_are_published_and_cleared_without_a_new_table() {
    let mut control = with_cart();
    let before = control.live.snapshot.load_full();
    let origin =
        Origin { kind: "Service", namespace: "shop".into(), name: "cart".into(), place: None };
    let problem = Problem {
        severity: Severity::Error,
        reason: "Broken",
        origin,
        message: "it is broken".to_owned(),
        help: "fix it".to_owned(),
    };
    control.apply(SHOP, Update { problems: Some(vec![problem.clone()]), ..Update::default() });
    control.publish_changes();
    assert!(control.live.problems.load().contains(&problem));
    control.apply(SHOP, Update { problems: Some(Vec::new()), ..Update::default() });
    control.publish_changes();
    assert!(!control.live.problems.load().contains(&problem));
    assert!(Arc::ptr_eq(&before, &control.live.snapshot.load_full()));
}

#[test]
fn problems_are_reported_before_all_sources_are_synced() {
    let mut control = control();
    let problem = Problem {
        severity: Severity::Error,
        reason: "Refused",
        origin: Origin::default(),
        message: "secrets may not be read".to_owned(),
        help: "grant it".to_owned(),
    };
    control.apply(SHOP, Update { problems: Some(vec![problem.clone()]), ..Update::default() });
    control.publish_changes();
    assert_eq!(**control.live.problems.load(), [problem]);
    assert!(!control.live.is_synced());
}

#[test]
fn the_age_is_counted_from_the_last_response_of_the_source() {
    let mut control = control();
    assert_eq!(control.live.age(SystemTime::now()), None);
    let as_of = SystemTime::now() - Duration::from_secs(30);
    control.apply(SHOP, Update { as_of: Some(as_of), ..Update::default() });
    assert!(control.live.age(SystemTime::now()).unwrap() >= Duration::from_secs(30));
}

#[tokio::test]
async fn a_burst_of_services_costs_few_translations() {
    let mut control = with_cart();
    let (ends, mut updates) = Updates::channel(2);
    let live = control.live.clone();
    for name in 0..500 {
        ends[SHOP].send(changed(vec![service(&format!("burst-{name}"))])).await.unwrap();
    }
    drop(ends);
    let mut tables = 0;
    let mut last = live.snapshot.load_full();
    while let Some((source, update)) = updates.recv().await {
        control.apply(source, update);
        control.collect_batch(&mut updates).await;
        control.publish_changes();
        let now = live.snapshot.load_full();
        tables += usize::from(!Arc::ptr_eq(&now, &last));
        last = now;
    }
    control.next_translation = Instant::now();
    control.publish_changes();
    assert_eq!(live.snapshot.load().listeners[0].hosts.len(), 501);
    assert!(tables <= 10, "{tables} tables for a burst of 500 Services");
}

#[tokio::test]
async fn a_folder_and_its_changes_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = |service: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: \
             {{portcullis.dev/environment: staging}}, annotations: {{portcullis.dev/expose: \
             all}}}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: \
             shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
        )
    };
    std::fs::write(folder.path().join("shop.yaml"), manifest("cart")).unwrap();
    let text = format!("zone: example.com\nsource: {{directory: {}}}\n", folder.path().display());
    let settings = Arc::new(Settings::parse("gateway.yaml".as_ref(), text.as_bytes()).unwrap());
    let live = Arc::new(Live::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(run(settings, live.clone(), async { drop(stopped.await) }));
    let serves = |name: &str| {
        let (live, name) = (live.clone(), name.to_owned());
        async move {
            while !live
                .snapshot
                .load()
                .listeners
                .iter()
                .any(|listener| listener.hosts.find(&name).is_some())
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, serves("cart--staging.example.com"))
        .await
        .expect("the Service is served");
    assert!(live.is_synced());
    std::fs::write(folder.path().join("shop.yaml"), manifest("basket")).unwrap();
    tokio::time::timeout(patience, serves("basket--staging.example.com"))
        .await
        .expect("the change is served");
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

/// A Secret of revoked sessions with these entries.
fn revoked_sessions(entries: &[&str]) -> Change {
    let data: serde_json::Map<_, _> =
        entries.iter().map(|name| ((*name).to_owned(), json!(""))).collect();
    let metadata = json!({"name": "revoked", "namespace": "portcullis", "labels": {"portcullis.dev/credential": "ended-sessions"}});
    let object = serde_json::from_value(json!({"metadata": metadata, "data": data})).unwrap();
    Change::Upsert(Object::Credential(Credential::from_secret(&object, None).unwrap()))
}

#[test]
fn a_change_of_credentials_swaps_only_them() {
    let mut control = with_cart();
    let before = control.live.snapshot.load_full();
    control.apply(
        SHOP,
        changed(vec![
            revoked_sessions(&["everybody-100", "garbled"]),
            slice("cart", &["10.0.0.2"]),
        ]),
    );
    // A translation is not due yet.
    control.next_translation = Instant::now() + MAX_PAUSE;
    control.publish_changes();
    let after = control.live.snapshot.load_full();
    assert!(
        Arc::ptr_eq(&before.listeners[0].hosts, &after.listeners[0].hosts),
        "the table was rebuilt"
    );
    assert_eq!(after.credentials.revoked_sessions[0].revocations.len(), 1);
    assert_eq!(ready(&before, "cart--staging.example.com"), ["10.0.0.2:8080".parse().unwrap()]);
    assert_eq!(
        control
            .live
            .problems
            .load()
            .iter()
            .filter(|problem| problem.reason == "Unreadable")
            .count(),
        1
    );
    // A resolved problem is cleared, by a swap and by a translation.
    control.apply(SHOP, changed(vec![revoked_sessions(&["everybody-100"])]));
    control.publish_changes();
    assert!(control.live.problems.load().iter().all(|problem| problem.reason != "Unreadable"));
    let garbled = revoked_sessions(&["garbled"]);
    control.next_translation = Instant::now();
    control.apply(SHOP, changed(vec![garbled, service("shop")]));
    control.publish_changes();
    assert_eq!(
        control
            .live
            .problems
            .load()
            .iter()
            .filter(|problem| problem.reason == "Unreadable")
            .count(),
        1
    );
    control.apply(SHOP, changed(vec![revoked_sessions(&[])]));
    control.publish_changes();
    assert!(control.live.problems.load().iter().all(|problem| problem.reason != "Unreadable"));
}
