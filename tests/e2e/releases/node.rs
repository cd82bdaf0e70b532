//! Releases on the test node: applied, ready, promoted, rolled back.
//!
//! The pods run the node's own image under the release's name and digest, because this registry's
//! certificate is not one that the node trusts.

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use super::builder::Builder;
use super::registry::Registry;
use crate::harness::node::{kubectl, name_image, rights};
use crate::harness::{Gateway, WEB, World, eventually};

/// The image of pods that do nothing.
const PAUSE: &str = "docker.io/local/pause:1";

/// Creates an environment, anew.
async fn environment(name: &str) {
    kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait"], "").await;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "portcullis.dev/environment": name } },
    });
    kubectl(&["apply", "-f", "-"], &namespace.to_string()).await;
}

/// The same, with all of its services exposed to everyone.
pub(super) async fn open_environment(name: &str) {
    environment(name).await;
    let open = ["portcullis.dev/expose=all", "portcullis.dev/require=none"];
    kubectl(&[&["annotate", "namespace", name][..], &open].concat(), "").await;
}

/// A gateway in front of the node.
pub(super) async fn gateway(kubeconfig: &Path) -> Gateway {
    Gateway::of(World::empty())
        .settings(json!({ "source": null }))
        .settings(json!({ "source": { "kubernetes": { "kubeconfig": kubeconfig } } }))
        .start()
        .await
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

pub(super) async fn names(kind: &str, namespace: &str) -> Vec<String> {
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
    release_of(builder, registry, template(configurations), PAUSE).await
}

/// The same of any template, and of another image of the node.
pub(super) async fn release_of(
    builder: &Builder,
    registry: &Registry,
    template: Value,
    program: &str,
) -> String {
    let digest = registry.push("web", "1").await;
    let image = format!("{}/web@{digest}", registry.host());
    name_image(program, &image).await;
    let request = json!({
        "service": "web", "template": template, "image": registry.image("web", "1"),
    });
    let created = builder.post("ci", "/api/v1/releases", &request).await;
    assert_eq!(created.status, 201, "{}", created.text());
    image
}

pub(super) async fn image(namespace: &str) -> String {
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

    // A frozen environment accepts rollbacks alone.
    let admin = async |arguments: &[&str]| builder.cli("admin", arguments).await.unwrap();
    admin(&["env", "freeze", "release-staging", "--reason", "an audit"]).await;
    let frozen = run(&[&["deploy", "web.1"][..], &to_staging].concat()).await.unwrap_err();
    assert!(frozen.contains("the environment is frozen"), "{frozen}");
    run(&["rollback", "web", "--in", "release-staging", "--wait"]).await.unwrap();
    assert_eq!(image("release-staging").await, first);
    admin(&["env", "thaw", "release-staging"]).await;
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
    eventually("the reason is reported", || async {
        let shown = builder.get("ci", &format!("/api/v1/deployments/{id}")).await.json();
        shown["reason"].as_str().is_some_and(|reason| reason.contains("Image"))
    })
    .await;
    run(&["rollback", "web", "--in", "release-production", "--wait"]).await.unwrap();
    assert_eq!(image("release-production").await, second);
}

/// A Service with pods that a Namespace of the level `restricted` admits, and a check that does not
/// start.
fn checked_template() -> Value {
    let pod = json!({
        "terminationGracePeriodSeconds": 0,
        "securityContext": { "runAsNonRoot": true, "runAsUser": 65534,
            "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{ "name": "web", "image": "{{image}}", "imagePullPolicy": "IfNotPresent",
            "securityContext": { "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] } } }],
    });
    json!([
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" },
                "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } },
        { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": pod } } },
        { "apiVersion": "releases.portcullis.dev/v1", "kind": "Rollout",
            "metadata": { "name": "web" },
            "rollout": { "steps": [{ "weight": 50 }, { "weight": 100 }], "warmUp": "0s",
                "gate": { "command": ["/no-such-program"], "timeout": "60s",
                    "runAsUser": 65534 } } },
    ])
}

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn a_check_runs_as_a_job_on_a_node_and_takes_the_canary_back() {
    open_environment("staging").await;
    let folder = tempfile::tempdir().expect("a folder");
    let rights = rights(folder.path(), &["access.yaml"]).await;
    let gateways = [gateway(&rights).await, gateway(&rights).await];
    let registry = Registry::start().await;
    let kubeconfig = std::env::var_os("KUBECONFIG").expect("the node's kubeconfig");
    let replicas = gateways.each_ref().map(Gateway::telemetry);
    let settings = json!({ "gateway": { "replicas": replicas } });
    let builder = Builder::start_with(&registry, Some(kubeconfig.as_ref()), &settings).await;
    let level = "pod-security.kubernetes.io/enforce=restricted";
    kubectl(&["label", "namespace", "staging", level], "").await;
    for _ in 0..2 {
        release_of(&builder, &registry, checked_template(), PAUSE).await;
    }
    let run = async |arguments: &[&str]| builder.cli("ci", arguments).await;
    run(&["deploy", "web.1", "--to", "staging", "--wait"]).await.expect("it is ready");
    // The feed has services that have had a request, whatever became of it.
    for gateway in &gateways {
        eventually("the gateway has the service", || async {
            gateway.curl(WEB, "/").run().await.status != 404
        })
        .await;
    }
    let failed = run(&["deploy", "web.2", "--to", "staging", "--wait"]).await.unwrap_err();
    assert!(failed.contains("the check before the first request failed"), "{failed}");
    let rollout = builder.get("ci", "/api/v1/rollouts/web.staging.2").await.json();
    assert_eq!(rollout["cause"]["cause"], "gate", "{rollout}");
    assert!(rollout["gate"]["failure"].is_string(), "{rollout}");
    for kind in ["jobs", "deployments", "services"] {
        let left = names(kind, "staging").await;
        assert!(left.iter().all(|name| name == "web"), "{kind}: {left:?}");
    }
    let events = kubectl(&["events", "-n", "staging", "--for", "deployment/web"], "").await;
    assert!(events.contains("RolloutGate") && events.contains("RolloutRolledBack"), "{events}");
    kubectl(&["delete", "namespace", "staging", "--wait=false"], "").await;
}

/// What `kubectl apply --server-side` says of a ConfigMap `late` with these metadata.
async fn apply(namespace: &str, metadata: Value) -> String {
    let mut object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
    object["metadata"]["name"] = "late".into();
    let mut command = Command::new("kubectl");
    command
        .args(["apply", "--server-side", "--field-manager=portcullis-releases", "-f", "-"])
        .args(["-n", namespace, "-o", "jsonpath={.metadata.uid} {.metadata.resourceVersion}"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("kubectl runs");
    let mut input = child.stdin.take().expect("its input");
    tokio::io::AsyncWriteExt::write_all(&mut input, object.to_string().as_bytes())
        .await
        .expect("it reads");
    drop(input);
    let output = child.wait_with_output().await.expect("kubectl ends");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn a_real_server_rejects_what_arrives_late() {
    environment("release-late").await;
    let creation = json!({ "resourceVersion": "1", "labels": { "by": "creation" } });
    let created = apply("release-late", creation.clone()).await;
    let (uid, version) = created.split_once(' ').expect("it is created");
    // It is there now: a late creation of it is rejected.
    let again = apply("release-late", creation).await;
    assert!(again.contains("the object has been modified"), "{again}");
    kubectl(&["delete", "configmap", "late", "-n", "release-late"], "").await;
    // It is gone: a late change of it does not create it.
    let change = json!({ "uid": uid, "resourceVersion": version, "labels": { "by": "change" } });
    let late = apply("release-late", change).await;
    assert!(late.contains("uid mismatch"), "{late}");
    let left = kubectl(&["get", "configmap", "-n", "release-late", "-o", "name"], "").await;
    assert!(!left.contains("late"), "{left}");
}
