//! A gateway that lacks permissions, on the test node: it names the rule to add, and goes on with
//! what it may.

use serde_json::{Value, json};

use crate::harness::node::{kubeconfig, kubectl};
use crate::harness::{Gateway, World, eventually};

/// The Namespace of the gateway's account.
const NAMESPACE: &str = "permissions";
const ACCOUNT: &str = "limited";
/// An environment, by its name.
const ENVIRONMENT: &str = "permitted";

async fn apply(objects: &[Value]) {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    kubectl(&["apply", "--server-side", "-f", "-"], &list.to_string()).await;
}

fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// Grants the account rules, in all Namespaces or in its own.
async fn grant(kind: &str, rules: Value) {
    let mut metadata = json!({ "name": ACCOUNT });
    if kind == "Role" {
        metadata["namespace"] = NAMESPACE.into();
    }
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    apply(&[
        json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules }),
        json!({
            "apiVersion": version, "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": kind, "name": ACCOUNT },
            "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }],
        }),
    ])
    .await;
}

/// A Service `NAME` for the pods of the echo server.
fn service(name: &str, annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": ENVIRONMENT, "annotations": annotations },
        "spec": { "selector": { "app": "web" },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

#[tokio::test]
#[ignore = "needs the node that tests/cluster/test starts"]
async fn what_a_gateway_may_not_do_is_named_with_the_rule_and_the_rest_goes_on() {
    let read = json!([
        { "apiGroups": [""], "resources": ["namespaces", "services"], "verbs": ["list", "watch"] },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
            "verbs": ["list", "watch"] },
    ]);
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": ACCOUNT, "namespace": NAMESPACE } });
    apply(&[namespace(NAMESPACE), account]).await;
    grant("ClusterRole", read.clone()).await;
    let mut environment = namespace(ENVIRONMENT);
    environment["metadata"]["labels"] = json!({ "portcullis.dev/environment": ENVIRONMENT });
    environment["metadata"]["annotations"] =
        json!({ "portcullis.dev/expose": "all", "portcullis.dev/require": "none" });
    let labels = json!({ "app": "web" });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web", "namespace": ENVIRONMENT, "labels": labels },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "echo", "image": "local/portcullis-echo:test",
            "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 } },
        }] },
    });
    let invalid = service("wrong", json!({ "portcullis.dev/require": "whatever" }));
    apply(&[environment, pod, service("web", json!({})), invalid]).await;

    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = kubeconfig(folder.path(), ACCOUNT, NAMESPACE).await;
    let gateway = Gateway::of(World::empty())
        .settings(json!({ "source": null }))
        .settings(json!({
            "source": { "kubernetes": { "kubeconfig": kubeconfig } },
            "certificates": [
                { "files": { "certificate": "tls.crt", "key": "tls.key" } },
                { "secret": { "namespace": NAMESPACE, "name": "own" } },
            ],
        }))
        .start()
        .await;

    // It may read the routes, but neither write an Event about the wrong one, nor read the Secret.
    let account = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    for (place, rule) in [
        (ENVIRONMENT, r#"{apiGroups: ["events.k8s.io"], resources: [events], verbs: [create]}"#),
        (
            NAMESPACE,
            r#"{apiGroups: [""], resources: [secrets], resourceNames: [own], verbs: [list, watch]}"#,
        ),
    ] {
        let help = format!(
            "add to a Role of the Namespace `{place}` that is bound to `{account}`: {rule}"
        );
        gateway.has_written(&help.replace('"', "\\\"")).await;
    }
    let is_answered = async || {
        let host = format!("web--{ENVIRONMENT}.apps.test");
        gateway.curl(&host, "/whoami").run().await.status == 200
    };
    eventually("the pod is ready, and answers", is_answered).await;
    assert!(gateway.is_ready().await);

    // What is granted later is used without a restart.
    grant(
        "Role",
        json!([{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"] }]),
    )
    .await;
    let mut with_events = read;
    with_events.as_array_mut().expect("rules").push(json!(
        { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"] }
    ));
    grant("ClusterRole", with_events).await;
    apply(&[service("late", json!({ "portcullis.dev/require": "whatever" }))]).await;
    eventually("an Event is about the wrong annotation", || async {
        let get = ["get", "events", "--namespace", ENVIRONMENT, "--output=name"];
        let of = ["--field-selector=involvedObject.name=late"];
        !kubectl(&[&get[..], &of].concat(), "").await.is_empty()
    })
    .await;
    assert!(is_answered().await);
    for name in [ENVIRONMENT, NAMESPACE] {
        kubectl(&["delete", "namespace", name, "--wait=false"], "").await;
    }
    kubectl(&["delete", "clusterrole,clusterrolebinding", ACCOUNT], "").await;
}
