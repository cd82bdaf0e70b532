//! The Kubernetes node that `tests/cluster/run` starts, for tests of ACME: they are `#[ignore]`d
//! elsewhere, and run one after the other.

use serde_json::Value;

use crate::harness::node::kubectl;

/// The output of `kubectl get`, in JSON.
pub(super) async fn get(arguments: &[&str]) -> Value {
    let text = kubectl(&[&["get", "--output=json"], arguments].concat(), "").await;
    serde_json::from_str(&text).expect("JSON")
}

/// Removes all environments of earlier tests, and waits until they are deleted: nothing
/// else is ordered then.
pub(super) async fn no_environments() {
    kubectl(
        &["delete", "namespaces", "--selector=portcullis.dev/environment", "--timeout=180s"],
        "",
    )
    .await;
}

/// Applies the open environment `name` with these Services. Those with a `pod` are backed by
/// the echo server.
pub(super) async fn expose(name: &str, services: &[&str]) {
    let mut manifests = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: \
         {{portcullis.dev/environment: {name}}}\n  annotations: {{portcullis.dev/expose: all, \
         portcullis.dev/require: none}}\n"
    );
    for service in services {
        manifests.push_str(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: \
             {name}}}\nspec: {{selector: {{app: echo}}, ports: [{{name: http, port: 80, \
             targetPort: 8080}}]}}\n"
        ));
    }
    kubectl(&["apply", "-f", "-"], &manifests).await;
}

/// The Secrets of ordered certificates in a Namespace.
pub(super) async fn certificate_secrets(namespace: &str) -> Vec<Value> {
    let list =
        get(&["secrets", "--namespace", namespace, "--selector=portcullis.dev/acme=certificate"])
            .await;
    list["items"].as_array().cloned().unwrap_or_default()
}
