//! The Kubernetes node that `tests/cluster/run` starts, for tests that are `#[ignore]`d without it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The Namespace in which the tests of the node install the gateway.
pub(crate) const NAMESPACE: &str = "portcullis";

/// Runs `kubectl` with an input, and returns what it printed.
pub(crate) async fn kubectl(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().expect("kubectl runs");
    child.stdin.take().expect("its input").write_all(input.as_bytes()).await.expect("it reads");
    let output = child.wait_with_output().await.expect("kubectl ends");
    assert!(output.status.success(), "kubectl {arguments:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Stops, starts and restores parts of the node: see `tests/cluster/control`.
pub(crate) async fn control(arguments: &[&str]) {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/control"));
    let status = command.args(arguments).status().await.expect("control runs");
    assert!(status.success(), "control {arguments:?}");
}

/// Gives an image of the node, such as `docker.io/local/pause:1`, one more name.
pub(crate) async fn name_image(image: &str, name: &str) {
    let state = std::env::var("PORTCULLIS_CLUSTER_STATE").expect("the node's folder");
    let socket = format!("{state}/containerd.sock");
    let mut ctr = Command::new("ctr");
    ctr.args(["--address", &socket, "--namespace", "k8s.io", "images", "tag", image, name]);
    assert!(ctr.status().await.expect("ctr runs").success(), "{name}");
}

/// Installs the RBAC resources of these manifests of the gateway, and writes a kubeconfig that
/// has no other permissions.
pub(crate) async fn rights(folder: &Path, manifests: &[&str]) -> PathBuf {
    let apply = ["apply", "--server-side", "--field-manager=tests"];
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    kubectl(&[&apply[..], &["-f", "-"]].concat(), &namespace.to_string()).await;
    for manifest in manifests {
        let path = format!("{}/deploy/kubernetes/{manifest}", env!("CARGO_MANIFEST_DIR"));
        kubectl(&[&apply[..], &["--namespace", NAMESPACE, "-f", &path]].concat(), "").await;
    }
    kubeconfig(folder, "portcullis", NAMESPACE).await
}

/// Writes a kubeconfig with the permissions of an account.
pub(crate) async fn kubeconfig(folder: &Path, account: &str, namespace: &str) -> PathBuf {
    let token = kubectl(&["create", "token", account, "--namespace", namespace], "").await;
    let text =
        kubectl(&["config", "view", "--raw", "--minify", "--flatten", "--output", "json"], "")
            .await;
    let mut config: Value = serde_json::from_str(&text).expect("a kubeconfig");
    config["users"][0]["user"] = json!({ "token": token.trim() });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, config.to_string()).expect("the kubeconfig");
    path
}
