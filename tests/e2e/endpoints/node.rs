//! Verification of endpoints on the test node: by the Pods that run there.

use serde_json::{Value, json};

use crate::harness::node::{kubectl, rights};
use crate::harness::{Gateway, World, eventually};

/// Their environments have their names.
const TEAM: &str = "verified-team";
const BANK: &str = "verified-bank";

fn metadata(namespace: &str, name: &str) -> Value {
    json!({ "name": name, "namespace": namespace })
}

/// A Service `web`; with a `selector`, Kubernetes writes its EndpointSlice.
fn service(namespace: &str, selector: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(namespace, "web"),
        "spec": { "selector": selector, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

fn deployment(namespace: &str) -> Value {
    let labels = json!({ "app": "web" });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata(namespace, "web"),
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "echo", "image": "local/portcullis-echo:test",
                        "ports": [{ "containerPort": 8080 }],
                        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 } },
                    }],
                },
            },
        },
    })
}

/// An EndpointSlice of the Service `web` with what a tenant writes: the address of a Pod, and a
/// reference to any Pod.
fn slice(namespace: &str, address: &Value, referred: &Value) -> Value {
    let mut metadata = metadata(namespace, "web-1");
    metadata["labels"] = json!({ "kubernetes.io/service-name": "web" });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": [{
            "addresses": [address], "conditions": { "ready": true },
            "targetRef": {
                "kind": "Pod", "namespace": referred["namespace"], "name": referred["name"],
                "uid": referred["uid"],
            },
        }],
    })
}

async fn apply(object: &Value) {
    kubectl(&["apply", "--server-side", "-f", "-"], &object.to_string()).await;
}

/// Creates an environment, anew.
async fn environment(name: &str) {
    kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait"], "").await;
    apply(&json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": { "portcullis.dev/environment": name },
            "annotations": { "portcullis.dev/expose": "all", "portcullis.dev/require": "none" },
        },
    }))
    .await;
}

/// The only Pod of a Deployment `web` that is ready.
async fn pod(namespace: &str) -> Value {
    let of = ["--namespace", namespace];
    let waiting = ["rollout", "status", "deployment/web", "--timeout=180s"];
    kubectl(&[&waiting[..], &of].concat(), "").await;
    let listing = ["get", "pods", "--selector=app=web", "--output=json"];
    let list: Value =
        serde_json::from_str(&kubectl(&[&listing[..], &of].concat(), "").await).expect("JSON");
    list["items"][0].clone()
}

async fn status(gateway: &Gateway, environment: &str) -> u16 {
    gateway.curl(&format!("web--{environment}.apps.test"), "/whoami").run().await.status
}

#[tokio::test]
#[ignore = "needs the node that tests/cluster/test starts"]
async fn only_the_pods_of_a_namespace_are_its_endpoints_on_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let manifests = ["access.yaml", "components/verify-endpoints/access.yaml"];
    let kubeconfig = rights(folder.path(), &manifests).await;
    for namespace in [TEAM, BANK] {
        environment(namespace).await;
        apply(&deployment(namespace)).await;
    }
    apply(&service(BANK, json!({ "app": "web" }))).await;
    apply(&service(TEAM, Value::Null)).await;
    let (own, other) = (pod(TEAM).await, pod(BANK).await);

    let settings = json!({
        "source": { "kubernetes": { "kubeconfig": kubeconfig } },
        "endpoints": { "verify": "pods" },
    });
    let gateway = Gateway::of(World::empty())
        .settings(json!({ "source": null }))
        .settings(settings)
        .start()
        .await;
    eventually("what Kubernetes writes is verified", || async {
        status(&gateway, BANK).await == 200
    })
    .await;
    let address = |pod: &Value| pod["status"]["podIP"].clone();
    apply(&slice(TEAM, &address(&own), &own["metadata"])).await;
    eventually("its own Pod is", || async { status(&gateway, TEAM).await == 200 }).await;
    for (referred, reason) in [
        (&other, "a Pod of another Namespace is not"),
        (&own, "nor is its address under the name of an own Pod"),
    ] {
        apply(&slice(TEAM, &address(&own), &own["metadata"])).await;
        eventually("its own Pod is", || async { status(&gateway, TEAM).await == 200 }).await;
        apply(&slice(TEAM, &address(&other), &referred["metadata"])).await;
        eventually(reason, || async { status(&gateway, TEAM).await == 503 }).await;
        assert!(gateway.metric("portcullis_endpoints_rejected").await > 0.0, "{reason}");
        assert_eq!(status(&gateway, BANK).await, 200);
    }

    // A Pod that takes the place of a deleted one is verified, too.
    let name = other["metadata"]["name"].as_str().expect("a name");
    kubectl(&["delete", "pod", name, "--namespace", BANK, "--wait"], "").await;
    let replaced = pod(BANK).await;
    assert_ne!(replaced["metadata"]["uid"], other["metadata"]["uid"]);
    eventually("the new Pod is verified", || async { status(&gateway, BANK).await == 200 }).await;
    for namespace in [TEAM, BANK] {
        kubectl(&["delete", "namespace", namespace, "--wait=false"], "").await;
    }
}
