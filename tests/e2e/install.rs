//! `portcullis install` and `portcullis doctor`, with a stand-in for kubectl that has a cluster's
//! objects in files. Those on a real cluster are in `tests/cluster/documentation/installer.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chart::{built, objects, overlay};

/// Answers `get KIND` by the file KIND, renders overlays as kubectl does, and allows every right.
const KUBECTL: &str = r#"#!/bin/bash
set -euo pipefail
cd "$(dirname "$0")"
while [[ $1 == --* ]]; do shift 2; done
case $1 in
  kustomize) exec "$KUSTOMIZE" build "$2" ;;
  create) jq --arg denied "$(cat denied 2> /dev/null || true)" \
    '.items[] | .status = {allowed: (.spec.resourceAttributes.resource != $denied)}' ;;
  get) cat "$2" 2> /dev/null || echo '{"items": []}' ;;
  *) echo "no $1 here" >&2; exit 1 ;;
esac
"#;

/// A cluster that the stand-in for kubectl serves.
struct Cluster(TempDir);

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("kubectl");
        fs::write(&program, KUBECTL).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
        Self(folder)
    }

    fn with(self, kind: &str, items: &Value) -> Self {
        fs::write(self.0.path().join(kind), json!({ "items": items }).to_string()).expect("a file");
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .env("PATH", format!("{}:{path}", self.0.path().display()))
            .env("KUSTOMIZE", built("kustomize"))
            .output()
            .expect("portcullis runs")
    }

    /// What `install` prints to standard output and standard error.
    fn install(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(&[&["install", "--zone", "apps.example.com"], arguments].concat());
        let text = |bytes| String::from_utf8(bytes).expect("text");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (text(output.stdout), text(output.stderr))
    }

    /// The findings of `doctor`, and its exit code.
    fn doctor(&self) -> (Vec<Value>, Option<i32>) {
        let output = self.run(&["doctor", "--output", "json"]);
        let findings = serde_json::from_slice(&output.stdout);
        (findings.unwrap_or_else(|error| panic!("{error}: {output:?}")), output.status.code())
    }
}

#[test]
fn the_manifests_of_install_are_those_of_the_overlay() {
    let cloud = json!([{ "spec": { "providerID": "aws:///eu-1a/i-0" } }]);
    let cluster = Cluster::new().with("nodes", &cloud);
    let (manifests, notes) = cluster.install(&[]);
    assert_eq!(objects(&manifests), objects(&overlay(&["load-balancer"], "")));
    assert!(notes.contains("because the nodes are of aws"), "{notes}");
    let (manifests, _) = cluster.install(&["--acme"]);
    assert_eq!(objects(&manifests), objects(&overlay(&["load-balancer", "acme"], "acme: {}\n")));

    // Without a balancer, clients use ports of nodes.
    let nodes = json!([{ "metadata": { "labels": { "portcullis.dev/gateway": "" } } }, {}]);
    let (manifests, _) = Cluster::new().with("nodes", &nodes).install(&[]);
    let mut expected = objects(&overlay(&["host-ports"], ""));
    let deployment = expected.get_mut(r#""Deployment" "portcullis""#).expect("a Deployment");
    deployment["spec"]["replicas"] = json!(1);
    assert_eq!(objects(&manifests), expected);
    let (manifests, notes) = Cluster::new().install(&["--exposure", "node-port"]);
    let (manifests, expected) = (objects(&manifests), objects(&overlay(&["node-port"], "")));
    let service = r#""Service" "portcullis""#;
    assert_eq!(manifests[service], expected[service]);
    assert!(notes.contains("To do: point the record *.apps.example.com"), "{notes}");
}

#[test]
fn wrong_arguments_of_install_are_reported_before_the_cluster_is_read() {
    for (arguments, reason) in [
        (&["install"][..], "--zone"),
        (&["install", "--zone", "Apps.example.com"], "not a valid domain"),
        (&["install", "--zone", "a.example.com", "--namespace", "A b"], "not a valid Namespace"),
        (&["install", "--zone", "a.example.com", "--acme", "--certificate", "x"], "cannot be used"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .env("PATH", "/nowhere")
            .output()
            .expect("portcullis runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains(reason), "{message}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["install", "--zone", "a.example.com"])
        .env("PATH", "/nowhere")
        .output()
        .expect("portcullis runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && message.contains("KUBECONFIG"), "{message}");
}

/// A gateway whose Service waits for a load balancer, in a zone without a record.
fn pending() -> Cluster {
    let pod = json!({
        "kind": "Pod",
        "metadata": { "name": "portcullis-0" },
        "spec": { "nodeName": "one", "containers": [{ "name": "gateway", "image": "localhost:1/portcullis:1" }] },
    });
    let deployment = json!({
        "kind": "Deployment",
        "metadata": { "name": "portcullis" },
        "spec": {
            "replicas": 1,
            "template": { "spec": {
                "serviceAccountName": "portcullis",
                "volumes": [{ "configMap": { "name": "portcullis-0" } }],
            }},
        },
        "status": { "readyReplicas": 1 },
    });
    let service = json!({ "kind": "Service", "spec": { "type": "LoadBalancer" } });
    let cluster =
        Cluster::new().with("deployments,services,pods", &json!([deployment, service, pod]));
    let configuration = json!({ "data": { "gateway.yaml": "zone: doctor.invalid\n" } });
    fs::write(cluster.0.path().join("configmap"), configuration.to_string()).expect("a file");
    cluster
}

#[test]
fn doctor_reports_what_is_wrong_and_how_to_mend_it() {
    let cluster = pending();
    let (findings, code) = cluster.doctor();
    assert_eq!(code, Some(1));
    let status = |check: &str| {
        let finding = findings.iter().find(|finding| finding["check"] == check);
        let finding = finding.unwrap_or_else(|| panic!("no {check}: {findings:#?}"));
        if ["error", "warning"].iter().any(|status| finding["status"] == *status) {
            assert!(finding["help"].is_string(), "{finding}");
        }
        finding["status"].as_str().expect("a status").to_owned()
    };
    let checks = ["pods", "version", "permissions", "registry", "address", "dns"];
    assert_eq!(checks.map(status), ["ok", "warning", "ok", "warning", "error", "error"]);
    assert_eq!(["ports", "certificate", "clock"].map(status), ["skipped"; 3]);
    fs::write(cluster.0.path().join("denied"), "services").expect("a file");
    let (findings, _) = cluster.doctor();
    let denied = findings.iter().find(|finding| finding["check"] == "permissions");
    let message = denied.expect("a finding")["message"].as_str().expect("a message");
    assert_eq!(message, "the gateway may not list services, watch services");
    let names = cluster.run(&["doctor", "-o", "name"]).stdout;
    assert_eq!(String::from_utf8_lossy(&names), "permissions\naddress\ndns\n");
    let text = cluster.run(&["doctor"]).stdout;
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains("error    address      the load balancer's address is pending\n"),
        "{text}"
    );
}

#[test]
fn doctor_without_a_gateway_says_how_to_install_one() {
    let (findings, code) = Cluster::new().doctor();
    assert_eq!((findings.len(), code), (1, Some(1)));
    assert!(findings[0]["help"].as_str().expect("help").contains("portcullis install"));
}

#[test]
fn doctor_says_what_a_builder_lacks_for_its_builds() {
    let deployment = json!({
        "metadata": { "name": "portcullis-builder", "namespace": "portcullis-builder" },
        "spec": { "template": { "spec": {
            "serviceAccountName": "portcullis-builder",
            "containers": [{ "name": "builder", "image": "r.test/portcullis-builder:1" }],
            "volumes": [{ "configMap": { "name": "portcullis-builder-0" } }],
        }}},
    });
    let cluster = pending().with("deployments", &json!([deployment]));
    let settings = json!({ "images": "r.test/{service}", "jobs": {
        "namespace": "builds", "image": "r.test/portcullis-builder:1" } });
    let data = json!({ "gateway.yaml": "zone: doctor.invalid\n",
        "builder.yaml": json!({ "builds": settings }).to_string() });
    let write = |name: &str, object: Value| {
        fs::write(cluster.0.path().join(name), object.to_string()).expect("a file");
    };
    write("configmap", json!({ "data": data }));
    let found = |level: &str| {
        let labels = json!({ "pod-security.kubernetes.io/enforce": level });
        write("namespace", json!({ "metadata": { "labels": labels } }));
        let (findings, _) = cluster.doctor();
        let builds = findings.into_iter().filter(|finding| finding["check"] == "builds");
        builds.map(|mut finding| finding["message"].take()).collect::<Vec<_>>()
    };
    assert_eq!(found("privileged"), ["the builder in portcullis-builder may build in builds"]);
    fs::write(cluster.0.path().join("denied"), "jobs").expect("a file");
    let denied = "the builder in portcullis-builder may not create jobs.batch in builds, delete \
                  jobs.batch in builds, list jobs.batch in builds";
    let level = "builds has the level baseline, which admits no build";
    assert_eq!(found("baseline"), [level, denied]);
}
