//! Which pod gets a request: by its latency, in turn, or because it is near.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Gateway, Raw, Recording, Service, Step, WEB, World, echo, eventually};

/// A pod that responds after a time with its name, which has four letters.
async fn pod(name: &str, after: Duration) -> Recording {
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{name}");
    let steps = vec![Step::head(), Step::Pause(after), Step::write(response), Step::Restart];
    Recording::script(steps).await.expect("a free port")
}

/// Sends requests one after the other, on one connection; returns how many each pod got.
async fn spread(gateway: &Gateway, requests: usize) -> BTreeMap<String, usize> {
    let mut connection = Raw::connect(gateway.http()).await;
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        connection.send(format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        let response = connection.response().await.expect("a response");
        assert_eq!(response.status, 200);
        *counts.entry(response.text().trim().to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn a_slow_pod_gets_few_requests() {
    let (first, second) = (echo("first").await, echo("second").await);
    let slow = pod("slow", Duration::from_secs(1)).await;
    let service = Service::new("web").pod(&first).pod(&slow).pod(&second);
    let gateway = Gateway::start(World::empty().with(service)).await;
    let counts = spread(&gateway, 200).await;
    assert!(counts.get("slow").is_none_or(|count| *count <= 10), "{counts:?}");
    assert!(counts["first"] > 0 && counts["second"] > 0, "{counts:?}");
}

#[tokio::test]
async fn pods_get_requests_in_turn_where_a_service_says_so() {
    let pods = [echo("first").await, echo("second").await, echo("third").await];
    let service = Service::new("web").annotation("load-balancing", "round-robin");
    let service = pods.iter().fold(service, Service::pod);
    let gateway = Gateway::start(World::empty().with(service)).await;
    let counts = spread(&gateway, 30).await;
    assert_eq!(counts.values().collect::<Vec<_>>(), [&10; 3], "{counts:?}");
}

/// The service `web`, with pods in zones.
fn in_zones(pods: &[(SocketAddr, &str)]) -> World {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": "staging",
            "labels": {"portcullis.dev/environment": "staging"},
            "annotations": {"portcullis.dev/expose": "all", "portcullis.dev/require": "none"},
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "staging"},
        "spec": {"ports": [{"name": "http", "port": 80}], "trafficDistribution": "PreferSameZone"},
    });
    let slices = pods.iter().enumerate().map(|(number, (address, zone))| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("web-{number}"), "namespace": "staging",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": address.port()}],
            "endpoints": [{"addresses": [address.ip()], "zone": zone}],
        })
    });
    let items: Vec<_> = [namespace, service].into_iter().chain(slices).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    World::empty().with_file("web.json", &list.to_string())
}

#[tokio::test]
async fn requests_stay_in_the_zone_while_a_pod_there_responds() {
    let (near, far) = (pod("near", Duration::ZERO).await, echo("far").await);
    let (near_address, far_address) = (near.address(), far.address());
    let world = in_zones(&[(near_address, "a"), (far_address, "b")]);
    let gateway = Gateway::of(world).variable("POD_ZONE", "a").start().await;
    // A few may go far, where the pod that is near is slow for a moment.
    let counts = spread(&gateway, 50).await;
    assert!(counts.get("near").is_some_and(|near| *near >= 40), "{counts:?}");
    assert!(gateway.metric("portcullis_upstream_far_total").await <= 10.0);
    drop(near);
    let counts = spread(&gateway, 20).await;
    assert!(counts.keys().eq(["far"]), "{counts:?}");
    gateway.apply(&in_zones(&[(far_address, "a"), (near_address, "b")]));
    eventually("the pod has moved", || async {
        let before = gateway.metric("portcullis_upstream_far_total").await;
        spread(&gateway, 5).await;
        gateway.metric("portcullis_upstream_far_total").await == before
    })
    .await;
}
