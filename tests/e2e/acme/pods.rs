//! Two replicas as pods, installed as by a user, with Pebble and BIND beside the node: from an
//! exposed Service to curl.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;

use super::authority::Pebble;
use super::cluster::{certificate_secrets, expose, get, no_environments};
use super::dns::Bind;
use super::interposer::{Fault, Interposer};
use crate::harness::node::kubectl;
use crate::harness::{Curl, ZONE, eventually};

/// The Namespace of the gateway.
const NAMESPACE: &str = "acme";
const ENVIRONMENT: &str = "shop";
/// The ports of the listeners, which are the node's ports too, so that an authority finds a pod and
/// the node by the same ones. They are from the range that the API server does not assign itself.
const HTTP: u16 = 30080;
const HTTPS: u16 = 30043;
/// Ninety days, in seconds.
const VALIDITY: u64 = 90 * 24 * 3600;

/// A gateway of two pods.
struct Installation {
    folder: TempDir,
    node: std::net::Ipv4Addr,
    dns: Bind,
    pebble: Pebble,
    interposer: Interposer,
}

// === impl Installation ===

impl Installation {
    /// With nothing in it.
    async fn prepare() -> Self {
        let nodes = get(&["nodes"]).await;
        let addresses =
            nodes["items"][0]["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let internal = addresses
            .iter()
            .find(|address| address["type"] == "InternalIP")
            .expect("the node has an address");
        let node =
            internal["address"].as_str().and_then(|address| address.parse().ok()).expect("of IPv4");
        let dns = Bind::start_at(node, node, "").await;
        let pebble = Pebble::start_for(&dns, (HTTP, HTTPS), &[], VALIDITY).await;
        let interposer = Interposer::start(&pebble, node, Fault::None).await;
        let folder = tempfile::tempdir().expect("a folder");
        copy(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes")),
            &folder.path().join("base"),
        );
        let overlay = folder.path().join("overlay");
        fs::create_dir(&overlay).expect("a folder");
        fs::copy(interposer.root_file(), overlay.join("root.pem")).expect("the authority's root");
        fs::copy(dns.key_file(), overlay.join("tsig.key")).expect("the key");
        fs::write(overlay.join("kustomization.yaml"), kustomization().to_string())
            .expect("the kustomization");
        fs::write(folder.path().join("issued.pem"), pebble.issuing_root().await)
            .expect("the root of what is issued");
        Self { folder, node, dns, pebble, interposer }
    }

    /// Installs it, or replaces its pods by ones with another challenge type.
    async fn apply(&self, challenge: &str) {
        let mut dns = self.dns.settings()["acme"]["dns"].clone();
        dns["provider"]["rfc2136"]["keyFile"] = json!("/etc/portcullis/tsig.key");
        let gateway = json!({
            "zone": ZONE,
            "source": { "kubernetes": {} },
            "listeners": { "http": { "address": format!("[::]:{HTTP}"), "mode": "redirect" }, "https": { "address": format!("[::]:{HTTPS}") } },
            "telemetry": { "address": "[::]:9903" },
            "acme": {
                "authorities": [{ "directory": self.interposer.directory(), "rootFile": "/etc/portcullis/root.pem" }],
                "challenge": challenge,
                "retryAfter": "1s",
                "keepUnwanted": "1s",
                "dns": dns,
            },
            "drain": { "delay": "1s", "deadline": "5s" },
        });
        let overlay = self.folder.path().join("overlay");
        fs::write(overlay.join("gateway.yaml"), gateway.to_string()).expect("the configuration");
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        kubectl(
            &["apply", "--server-side", "--field-manager=tests", "-f", "-"],
            &namespace.to_string(),
        )
        .await;
        kubectl(&["apply", "--server-side", "-k", &overlay.to_string_lossy()], "").await;
        kubectl(
            &[
                "rollout",
                "status",
                "deployment/portcullis-acme",
                "--namespace",
                NAMESPACE,
                "--timeout=180s",
            ],
            "",
        )
        .await;
        // Those from before serve on for a while, and one of them may lead.
        eventually("there are two pods", || async { pods().await.len() == 2 }).await;
    }

    /// Exposes a Service, and waits until curl gets a response of it through the node's port,
    /// trusting Pebble's root and nothing else.
    async fn serves(&self, service: &str) {
        expose(ENVIRONMENT, &[service]).await;
        let host = format!("{service}--{ENVIRONMENT}.{ZONE}");
        let curl = Curl::new(&format!("https://{host}:{HTTPS}/whoami"))
            .args(["--resolve", &format!("{host}:{HTTPS}:{}", self.node)])
            .args(["--cacert", &self.folder.path().join("issued.pem").to_string_lossy()]);
        eventually(&format!("{host} answers 200"), || async {
            curl.clone().run().await.status == 200
        })
        .await;
    }

    /// The pod that orders, and the address of the other one.
    async fn leader_and_follower(&self) -> (String, String) {
        let lease = get(&["lease", "portcullis-acme", "--namespace", NAMESPACE]).await;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        let pods = pods().await;
        let is_leader = |name: &str| holder.split('_').next() == Some(name);
        let of = |leads: bool, pointer: &str| {
            let pod = pods.iter().find(|pod| {
                is_leader(pod["metadata"]["name"].as_str().unwrap_or_default()) == leads
            });
            pod.and_then(|pod| pod.pointer(pointer))
                .and_then(|value| value.as_str())
                .map(str::to_owned)
        };
        (
            of(true, "/metadata/name").expect("a pod leads"),
            of(false, "/status/podIP").expect("another does not"),
        )
    }
}

/// The pods of the gateway, those that terminate included.
async fn pods() -> Vec<serde_json::Value> {
    let selector = "--selector=app.kubernetes.io/component=gateway";
    let pods = get(&["pods", "--namespace", NAMESPACE, selector]).await;
    pods["items"].as_array().cloned().unwrap_or_default()
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut logs = std::process::Command::new("kubectl");
            logs.args([
                "logs",
                "--namespace",
                NAMESPACE,
                "--selector=app.kubernetes.io/component=gateway",
                "--tail=200",
                "--prefix",
            ]);
            let _ = logs.status();
        }
        let mut delete = std::process::Command::new("kubectl");
        let _ = delete
            .args(["delete", "namespace", NAMESPACE, ENVIRONMENT, "--wait=false"])
            .stdout(Stdio::null())
            .status();
    }
}

/// The differences to a regular installation: names, so that there can be another one; the
/// images; the ports.
fn kustomization() -> serde_json::Value {
    let replace = |kind: &str, path: &str, value: serde_json::Value| {
        let patch = json!([{ "op": "replace", "path": path, "value": value }]).to_string();
        json!({ "target": { "kind": kind, "name": "portcullis" }, "patch": patch })
    };
    let service = json!([
        { "name": "http", "port": 80, "targetPort": "http", "nodePort": HTTP },
        { "name": "https", "port": 443, "targetPort": "https", "nodePort": HTTPS },
    ]);
    let container = json!([
        { "name": "http", "containerPort": HTTP },
        { "name": "https", "containerPort": HTTPS },
        { "name": "probes", "containerPort": 9902 },
        { "name": "telemetry", "containerPort": 9903 },
    ]);
    json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "nameSuffix": "-acme",
        "resources": ["../base"],
        "components": ["../base/components/acme"],
        "images": [{ "name": "portcullis", "newName": "local/portcullis", "newTag": "test" }],
        "configMapGenerator": [{ "name": "portcullis", "behavior": "replace", "files": ["gateway.yaml", "root.pem", "tsig.key"] }],
        "patches": [replace("Service", "/spec/ports", service), replace("Deployment", "/spec/template/spec/containers/0/ports", container)],
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the manifests") {
        let entry = entry.expect("a manifest");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}

/// Pods of the echo server, to which all Services of the environment route.
async fn run_pods() {
    expose(ENVIRONMENT, &[]).await;
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "echo", "namespace": ENVIRONMENT },
        "spec": {
            "selector": { "matchLabels": { "app": "echo" } },
            "template": {
                "metadata": { "labels": { "app": "echo" } },
                "spec": { "containers": [{
                    "name": "echo",
                    "image": "local/portcullis-echo:test",
                    "ports": [{ "containerPort": 8080 }],
                    "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 }, "periodSeconds": 1 },
                }] },
            },
        },
    });
    kubectl(&["apply", "-f", "-"], &deployment.to_string()).await;
    kubectl(
        &["rollout", "status", "deployment/echo", "--namespace", ENVIRONMENT, "--timeout=180s"],
        "",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs the node that tests/cluster/test starts"]
async fn each_challenge_succeeds_although_a_replica_dies() {
    no_environments().await;
    let installation = Installation::prepare().await;
    let Installation { dns, pebble, interposer, .. } = &installation;
    run_pods().await;
    installation.apply("http-01").await;
    installation.serves("first").await;
    assert_eq!(pebble.issued(), 1);

    // The name resolves to the pod that is not the leader: only it can respond.
    let (leader, follower) = installation.leader_and_follower().await;
    dns.point(&format!("follower--{ENVIRONMENT}.{ZONE}"), &follower).await;
    installation.serves("follower").await;
    assert_eq!(pebble.issued(), 2);
    assert_eq!(installation.leader_and_follower().await.0, leader, "it still orders");

    // The leader is killed after validation, before the certificate is issued.
    interposer.set(Fault::Stall("/finalize-order/"));
    expose(ENVIRONMENT, &["later"]).await;
    interposer.has_stalled().await;
    kubectl(
        &["delete", "pod", &leader, "--namespace", NAMESPACE, "--grace-period=0", "--force"],
        "",
    )
    .await;
    interposer.set(Fault::None);
    installation.serves("later").await;
    assert_eq!(pebble.issued(), 3, "one order, one certificate");
    assert_eq!(certificate_secrets(NAMESPACE).await.len(), 3);
    assert_ne!(installation.leader_and_follower().await.0, leader);

    installation.apply("tls-alpn-01").await;
    installation.serves("by-handshake").await;
    installation.apply("dns-01").await;
    installation.serves("by-record").await;
    let names: Vec<_> = certificate_secrets(NAMESPACE)
        .await
        .iter()
        .map(|secret| secret["metadata"]["annotations"]["portcullis.dev/alt-names"].clone())
        .collect();
    assert!(names.contains(&json!(format!("*.{ZONE}"))), "{names:?}");
    eventually("what the wildcard has replaced is removed", || async {
        certificate_secrets(NAMESPACE).await.len() == 1
    })
    .await;
    eventually("the record is removed", || async {
        dns.look_up(&format!("_acme-challenge.{ZONE}"), "TXT").await.is_empty()
    })
    .await;
}
