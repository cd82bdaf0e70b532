//! The Job of a build: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::pod::BASE;
use crate::builds::sandbox::Limits;
use crate::settings::JobSettings;

/// The label of all Jobs of builds.
pub(super) const MANAGED: &str = "app.kubernetes.io/managed-by=portcullis-builder";
/// The only container.
pub(super) const CONTAINER: &str = "build";
/// The program in the image.
pub(super) const PROGRAM: &str = "/usr/bin/portcullis";
/// The subcommand of its first process.
pub(super) const SUBCOMMAND: &str = "build-in-pod";
/// How long a pod may take until it runs: it may have to wait for a node, and for its image.
pub(in crate::builds) const START: Duration = Duration::from_secs(5 * 60);
/// How long a Job may take besides that, and besides the time of its build: for what is sent.
const TRANSFER: Duration = Duration::from_secs(15 * 60);
/// How long a Job is kept that no builder has removed, in seconds.
const KEPT: u32 = 300;
/// The memory of the program besides its build, in bytes.
const OWN_MEMORY: u64 = 256 * 1024 * 1024;
/// What the first process needs to make a sandbox: to mount, to take the users of the sandbox and to
/// write which they are, and to kill what runs under them. The build has none of them.
const CAPABILITIES: [&str; 5] = ["SYS_ADMIN", "SETUID", "SETGID", "DAC_OVERRIDE", "KILL"];

/// The Job of a build, under a name that no other one has.
pub(super) fn manifest(
    name: &str,
    annotations: &BTreeMap<String, String>,
    limits: &Limits,
    settings: &JobSettings,
) -> Value {
    let (key, value) = MANAGED.split_once('=').unwrap_or_default();
    let labels = json!({ key: value });
    let deadline = limits.time.saturating_add(START).saturating_add(TRANSFER).as_secs();
    let memory = limits.memory.saturating_add(limits.disk).saturating_add(OWN_MEMORY);
    let container = json!({
        "name": CONTAINER,
        "image": settings.image,
        "command": [PROGRAM, SUBCOMMAND],
        "resources": { "requests": { "cpu": "100m" }, "limits": { "memory": memory.to_string() } },
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": CAPABILITIES },
            "seccompProfile": { "type": "Unconfined" },
            "appArmorProfile": { "type": "Unconfined" },
        },
        "volumeMounts": [{ "name": "base", "mountPath": BASE }],
    });
    let pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // What is left of a build may be killed at once.
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{ "name": "base", "emptyDir": { "sizeLimit": limits.disk.to_string() } }],
        "nodeSelector": settings.node_selector,
        "tolerations": settings.tolerations,
    });
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": deadline,
            "ttlSecondsAfterFinished": KEPT,
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_GOLDEN=1 cargo test -p portcullis-release manifest` writes it anew: then review it.
    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/build_job.yaml");

    #[test]
    fn a_job_has_what_a_build_needs_and_no_more() {
        let limits = Limits {
            time: Duration::from_secs(1800),
            memory: 4 << 30,
            disk: 2 << 30,
            processes: 1000,
        };
        let settings: JobSettings = serde_json::from_value(json!({
            "namespace": "portcullis-builds",
            "image": "registry.example.com/portcullis-builder:0.1.0",
            "nodeSelector": { "builds": "true" },
            "tolerations": [{ "key": "builds", "operator": "Exists" }],
        }))
        .unwrap();
        let annotations =
            BTreeMap::from([("portcullis.dev/build".to_owned(), "shop.17".to_owned())]);
        let job = manifest("build-0123456789abcdef", &annotations, &limits, &settings);
        let written = serde_saphyr::to_string(&job).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(GOLDEN, &written).unwrap();
        }
        assert_eq!(written, std::fs::read_to_string(GOLDEN).unwrap_or_default());
        // It is what the server reads: no field has another name.
        let typed: k8s_openapi::api::batch::v1::Job = serde_json::from_value(job.clone()).unwrap();
        let typed = serde_json::to_value(typed).unwrap();
        assert_eq!(typed["spec"], job["spec"]);
    }
}
