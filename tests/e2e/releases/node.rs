//! Releases on the test node: applied, ready, promoted, rolled back.
//!
//! The pods run the node's own image under the release's name and digest, because this registry's
//! certificate is not one that the node trusts.

use serde_json::{Value, json};
use tokio::process::Command;

use super::builder::Builder;
use super::registry::Registry;
use crate::harness::node::kubectl;

/// Creates an environment, anew.
async fn environment(name: &str) {
    kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait"], "").await;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "portcullis.dev/environment": name } },
    });
    kubectl(&["apply", "-f", "-"], &namespace.to_string()).await;
}

/// A Deployment of the placeholder, and ConfigMaps of these names.
fn template(configurations: &[&str]) -> Value {
    let mut objects = vec![json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "web", "image": "{{image}}", "imagePullPolicy": "IfNotPresent",
                    }],
                },
            },
        },
    })];
    objects.extend(configurations.iter().map(
        |name| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } }),
    ));
    objects.into()
}

async fn names(kind: &str, namespace: &str) -> Vec<String> {
    let text = kubectl(
        &["get", kind, "-n", namespace, "-l", "releases.portcullis.dev/service=web", "-o", "name"],
        "",
    )
    .await;
    text.lines().map(|line| line.rsplit('/').next().unwrap_or_default().to_owned()).collect()
}

/// When the builder changed the Deployment last.
async fn changed(namespace: &str) -> String {
    let path = "jsonpath={.metadata.managedFields[?(@.manager==\"portcullis-releases\")].time}";
    kubectl(&["get", "deployment", "web", "-n", namespace, "-o", path], "").await
}

/// Pushes an image, gives its name to the node's own one, and records a release of it.
async fn release(builder: &Builder, registry: &Registry, configurations: &[&str]) -> String {
    let digest = registry.push("web", "1").await;
    let image = format!("{}/web@{digest}", registry.host());
    let state = std::env::var("PORTCULLIS_CLUSTER_STATE").expect("the node's folder");
    let tagged = Command::new("ctr")
        .args([
            "--address",
            &format!("{state}/containerd.sock"),
            "--namespace",
            "k8s.io",
            "images",
            "tag",
            "docker.io/local/pause:1",
            &image,
        ])
        .status()
        .await
        .expect("ctr runs");
    assert!(tagged.success(), "{image}");
    let request = json!({
        "service": "web", "template": template(configurations), "image": registry.image("web", "1"),
    });
    let created = builder.post("ci", "/api/v1/releases", &request).await;
    assert_eq!(created.status, 201, "{}", created.text());
    image
}

async fn image(namespace: &str) -> String {
    let path = "jsonpath={.spec.template.spec.containers[0].image}";
    kubectl(&["get", "deployment", "web", "-n", namespace, "-o", path], "").await
}

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn releases_are_deployed_promoted_and_rolled_back_on_a_node() {
    let registry = Registry::start().await;
    let kubeconfig = std::env::var_os("KUBECONFIG").expect("the node's kubeconfig");
    let builder = Builder::start(&registry, Some(kubeconfig.as_ref())).await;
    for name in ["release-staging", "release-production"] {
        environment(name).await;
    }
    let run = async |arguments: &[&str]| builder.cli("ci", arguments).await;
    let first = release(&builder, &registry, &["old", "both"]).await;
    let second = release(&builder, &registry, &["both"]).await;

    let to_staging = ["--to", "release-staging", "--wait"];
    let deployed = run(&[&["deploy", "web.1"][..], &to_staging].concat()).await.unwrap();
    assert!(deployed.ends_with("\nready\n"), "{deployed}");
    assert_eq!(image("release-staging").await, first);

    // The same release again writes nothing.
    let before = changed("release-staging").await;
    run(&[&["deploy", "web.1"][..], &to_staging].concat()).await.unwrap();
    assert_ne!(before, "");
    assert_eq!(changed("release-staging").await, before);

    // What left the release is pruned; what no release brought stays.
    let ours = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "ours" } });
    kubectl(&["create", "-n", "release-staging", "-f", "-"], &ours.to_string()).await;
    run(&[&["deploy", "web.2"][..], &to_staging].concat()).await.unwrap();
    assert_eq!(image("release-staging").await, second);
    assert_eq!(names("configmap", "release-staging").await, ["both"]);
    kubectl(&["get", "configmap", "ours", "-n", "release-staging"], "").await;

    let promote =
        ["promote", "web", "--from", "release-staging", "--to", "release-production", "--wait"];
    run(&promote).await.unwrap();
    assert_eq!(image("release-production").await, second);

    run(&["rollback", "web", "--in", "release-staging", "--wait"]).await.unwrap();
    assert_eq!(image("release-staging").await, first);
    assert_eq!(names("configmap", "release-staging").await, ["both", "old"]);
    let pinned = run(&[&["deploy", "web.2"][..], &to_staging].concat()).await.unwrap_err();
    assert!(pinned.contains("were rolled back here"), "{pinned}");

    // A release that would change what is not its own.
    let request = json!({
        "service": "web", "template": template(&["ours"]), "image": registry.image("web", "1"),
    });
    builder.post("ci", "/api/v1/releases", &request).await;
    let refused = run(&[&["deploy", "web.3"][..], &to_staging].concat()).await.unwrap_err();
    assert!(refused.contains("no release brought it"), "{refused}");
    assert_eq!(image("release-staging").await, first);

    // A field that another manager holds.
    let patch = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":2}}"#;
    let arguments = ["--server-side", "--force-conflicts", "--field-manager=scaler"];
    let apply = ["apply", "-n", "release-staging", "-f", "-"];
    kubectl(&[&apply[..], &arguments].concat(), patch).await;
    release(&builder, &registry, &["both"]).await;
    let conflict = run(&[&["deploy", "web.4"][..], &to_staging].concat()).await.unwrap_err();
    assert!(conflict.contains("scaler") && conflict.contains(".spec.replicas"), "{conflict}");

    // An environment that does not exist.
    let nowhere = run(&["deploy", "web.4", "--to", "nowhere", "--wait"]).await.unwrap_err();
    assert!(nowhere.contains("no Namespace is the environment nowhere"), "{nowhere}");

    // A cluster-wide kind that only the server knows would need a CustomResourceDefinition; one
    // that is unknown is reported.
    let mut objects = template(&[]);
    let unknown =
        json!({ "apiVersion": "example.com/v1", "kind": "X", "metadata": { "name": "x" } });
    objects.as_array_mut().unwrap().push(unknown);
    let request =
        json!({ "service": "web", "template": objects, "image": registry.image("web", "1") });
    builder.post("ci", "/api/v1/releases", &request).await;
    let to_production = ["--to", "release-production", "--wait"];
    let failed = run(&[&["deploy", "web.5"][..], &to_production].concat()).await.unwrap_err();
    assert!(failed.contains("the cluster has no kind X"), "{failed}");

    // Pods that cannot start: the reason is that of the kubelet.
    registry.push("web", "broken").await;
    let request = json!({
        "service": "web", "template": template(&[]), "image": registry.image("web", "broken"),
    });
    builder.post("ci", "/api/v1/releases", &request).await;
    let id = builder.cli("ci", &["deploy", "web.6", "--to", "release-production"]).await.unwrap();
    let id = id.split(':').next().unwrap_or_default().to_owned();
    crate::harness::eventually("the reason is reported", || async {
        let shown = builder.get("ci", &format!("/api/v1/deployments/{id}")).await.json();
        shown["reason"].as_str().is_some_and(|reason| reason.contains("Image"))
    })
    .await;
    run(&["rollback", "web", "--in", "release-production", "--wait"]).await.unwrap();
    assert_eq!(image("release-production").await, second);
}
