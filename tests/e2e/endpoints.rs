//! EndpointSlices that point to where their writer has no pod.

mod node;

use serde_json::{Value, json};

use crate::harness::{Gateway, World, echo, eventually};

const HOST: &str = "web--team.apps.test";

/// A Service `web` in `team`, with one endpoint at `address` that refers to the Pod `uid`.
fn manifests(address: std::net::SocketAddr, uid: &str, pods: &[Value]) -> World {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": "team",
            "labels": {"portcullis.dev/environment": "team"},
            "annotations": {"portcullis.dev/expose": "all", "portcullis.dev/require": "none"},
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "team"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1", "namespace": "team",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": address.port()}],
        "endpoints": [{
            "addresses": [address.ip()],
            "targetRef": {"kind": "Pod", "namespace": "team", "name": "web-1", "uid": uid},
        }],
    });
    let items: Vec<Value> =
        [namespace, service, slice].into_iter().chain(pods.iter().cloned()).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    World::empty().with_file("team.json", &list.to_string())
}

fn pod(namespace: &str, uid: &str, addresses: &[&str], host_network: bool) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": namespace, "uid": uid},
        "spec": {"hostNetwork": host_network},
        "status": {"phase": "Running", "podIPs": addresses},
    })
}

async fn status(gateway: &Gateway) -> u16 {
    gateway.curl(HOST, "/whoami").run().await.status
}

#[tokio::test]
async fn with_verification_only_the_pods_of_a_namespace_are_its_endpoints() {
    let backend = echo("pod-1").await;
    let address = backend.address();
    let ip = address.ip().to_string();
    let verify = json!({"endpoints": {"verify": "pods"}});
    let world = |pods: &[Value]| manifests(address, "one", pods);
    let gateway = Gateway::of(world(&[])).settings(verify).start().await;
    assert_eq!(status(&gateway).await, 503, "no Pod is known");
    for (others, reason) in [
        (pod("bank", "one", &[&ip], false), "a Pod of another Namespace"),
        (pod("team", "two", &[&ip], false), "another Pod"),
        (pod("team", "one", &["10.0.0.1"], false), "the Pod has another address"),
        (pod("team", "one", &[&ip], true), "the address is the node's"),
    ] {
        gateway.apply(&world(&[pod("team", "one", &[&ip], false)]));
        eventually("the Pod verifies its address", || async { status(&gateway).await == 200 })
            .await;
        gateway.apply(&world(&[others]));
        eventually(reason, || async { status(&gateway).await == 503 }).await;
        assert!(gateway.metric("portcullis_endpoints_rejected").await > 0.0, "{reason}");
    }
    gateway.has_written("is the address of its Pod's node").await;
}

#[tokio::test]
async fn another_pod_at_the_same_address_gets_connections_of_its_own() {
    let backend = echo("pod-1").await;
    let gateway = Gateway::of(manifests(backend.address(), "one", &[])).start().await;
    let opened = || gateway.metric("portcullis_upstream_connections_total");
    assert_eq!((status(&gateway).await, status(&gateway).await), (200, 200));
    assert_eq!(opened().await, 1.0, "the connection is kept");
    gateway.apply(&manifests(backend.address(), "two", &[]));
    eventually("it is not used for the other pod", || async {
        status(&gateway).await == 200 && opened().await == 2.0
    })
    .await;
}

#[tokio::test]
async fn endpoints_in_a_denied_network_get_no_requests_and_an_allowed_one_needs_no_pod() {
    let backend = echo("pod-1").await;
    let address = backend.address();
    let network = format!("{}/32", address.ip());
    let deny = json!({"endpoints": {"deny": [network]}});
    let allow = |namespace: &str| {
        let allowed = json!([{"network": network, "namespaces": [namespace]}]);
        json!({"endpoints": {"verify": "pods", "allow": allowed}})
    };
    for (settings, expected) in [(deny, 503), (allow("team"), 200), (allow("bank"), 503)] {
        let gateway =
            Gateway::of(manifests(address, "one", &[])).settings(settings.clone()).start().await;
        assert_eq!(status(&gateway).await, expected, "{settings}");
    }
}
