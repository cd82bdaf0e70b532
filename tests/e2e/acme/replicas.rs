//! Two replicas that share Secrets and a Lease of a real API server, with no more rights than `deploy/kubernetes/access.yaml` gives.
//!
//! They run as processes beside the node that `tests/cluster/run` starts: `tests/cluster/run E2E-TEST-BINARY --ignored acme::replicas`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::authority::{HTTP_PORT, HTTPS_PORT, Pebble};
use super::dns::{self, Bind};
use super::interposer::{Fault, Interposer};
use super::{is_served, served, start};
use crate::harness::{Gateway, WEB, World, eventually};

const LATER: &str = "later--staging.apps.test";

async fn kubectl(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().expect("kubectl runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).await.expect("it reads");
    let output = child.wait_with_output().await.expect("kubectl ends");
    assert!(output.status.success(), "kubectl {arguments:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Installs the gateway's rights, and writes a kubeconfig that has no others.
async fn rights(folder: &Path) -> PathBuf {
    kubectl(&["create", "namespace", "portcullis"], "").await;
    let access = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes/access.yaml");
    kubectl(&["apply", "--namespace", "portcullis", "-f", access], "").await;
    let token = kubectl(&["create", "token", "portcullis", "--namespace", "portcullis"], "").await;
    let text = kubectl(&["config", "view", "--raw", "--minify", "--flatten", "--output", "json"], "").await;
    let mut config: Value = serde_json::from_str(&text).expect("a kubeconfig");
    config["users"][0]["user"] = json!({ "token": token.trim() });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).expect("the kubeconfig");
    path
}

async fn expose(service: &str) {
    let manifests = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: staging\n  labels: {{portcullis.dev/environment: staging}}\n  \
         annotations: {{portcullis.dev/expose: all, portcullis.dev/require: none}}\n---\napiVersion: v1\nkind: Service\n\
         metadata: {{name: {service}, namespace: staging}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
    );
    kubectl(&["apply", "-f", "-"], &manifests).await;
}

async fn certificate_secrets() -> Vec<Value> {
    let text = kubectl(&["get", "secrets", "--namespace", "portcullis", "--selector=portcullis.dev/acme=certificate", "--output=json"], "");
    let list: Value = serde_json::from_str(&text.await).expect("a list");
    list["items"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
#[ignore = "needs the node that tests/cluster/run starts"]
async fn one_of_two_replicas_orders_both_answer_and_a_new_leader_goes_on_with_the_order() {
    let follower = dns::address();
    let dns = Bind::start_with(&format!("web--staging A {follower}")).await;
    let pebble = Pebble::start(&dns).await;
    let interposer = Interposer::start(&pebble, dns.address(), Fault::None).await;
    let place = tempfile::tempdir().expect("a folder");
    let kubeconfig = rights(place.path()).await;
    let cluster = json!({
        "source": { "kubernetes": { "kubeconfig": kubeconfig } },
        "acme": {
            "authorities": [{ "directory": interposer.directory(), "rootFile": interposer.root_file() }],
            "store": { "kubernetes": { "namespace": "portcullis" } },
        },
    });
    let none = json!({ "source": null, "acme": { "store": null } });
    let elsewhere = json!({ "listeners": {
        "http": { "address": format!("{follower}:{HTTP_PORT}") },
        "https": { "address": format!("{follower}:{HTTPS_PORT}") },
    }});
    let first = start(&pebble, World::empty(), &[pebble.settings("http-01"), none.clone(), cluster.clone()]).await;
    first.has_written("\"leads\":true").await;
    let second = start(&pebble, World::empty(), &[pebble.settings("http-01"), none, cluster, elsewhere]).await;

    // The name leads to the replica that does not lead.
    expose("web").await;
    is_served(&second, WEB).await;
    is_served(&first, WEB).await;
    assert_eq!(pebble.issued(), 1);
    assert!(!second.log().contains("\"leads\":true"));
    let secrets = certificate_secrets().await;
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0]["type"], "kubernetes.io/tls");
    assert_eq!(secrets[0]["metadata"]["annotations"]["portcullis.dev/alt-names"], WEB);

    garbled_and_deleted(&second, &pebble, secrets[0]["metadata"]["name"].as_str().unwrap()).await;

    // The leader dies when all is proven but the certificate is not made.
    let before = pebble.issued();
    interposer.set(Fault::Stall("/finalize-order/"));
    expose("later").await;
    interposer.has_stalled().await;
    drop(first);
    interposer.set(Fault::None);
    second.has_written("going on with the order that is under way").await;
    is_served(&second, LATER).await;
    assert_eq!(pebble.issued(), before + 1, "one order, one certificate");
    assert_eq!(certificate_secrets().await.len(), 2);
}

/// A Secret that is garbled, then one that is gone: what is served stays, and a new one comes.
async fn garbled_and_deleted(gateway: &Gateway, pebble: &Pebble, secret: &str) {
    let good = served(gateway, WEB).await;
    let issued = pebble.issued();
    let garbled = json!({ "data": { "tls.crt": "Z2FyYmxlZA==" } }).to_string();
    kubectl(&["patch", "secret", secret, "--namespace", "portcullis", "--patch", &garbled], "").await;
    renewed(gateway, pebble, issued + 1, good).await;
    let good = served(gateway, WEB).await;
    kubectl(&["delete", "secret", secret, "--namespace", "portcullis"], "").await;
    renewed(gateway, pebble, issued + 2, good).await;
}

async fn renewed(gateway: &Gateway, pebble: &Pebble, issued: usize, before: Option<rustls::pki_types::CertificateDer<'static>>) {
    eventually("another one is served", || async {
        let now = served(gateway, WEB).await;
        assert!(now.is_some(), "there is a good one at any time");
        now != before
    })
    .await;
    assert_eq!(pebble.issued(), issued);
}
