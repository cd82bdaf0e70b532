//! The user's check of a canary before its first request: a Job that calls the canary's own Service.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::Course;
use super::observe::Problems;
use crate::manifest::canary::SUFFIX;
use crate::manifest::{ObjectRef, release_annotation, service_label};
use crate::model::{DeploymentId, Time};
use crate::rollout::{Gate, GateSettings, Stage};
use crate::runner::{Runner, call};
use crate::state::Readiness;
use crate::store::{Deployment, GateResult, Rollout};

/// How long Kubernetes keeps a Job that nobody has removed, in seconds. It is read at once.
const KEPT: u64 = 3600;
/// The most of the service's name in that of the Job, which is 63 octets at most.
const MAX_NAME: usize = 40;
/// The name of the container.
const CONTAINER: &str = "gate";

// === impl Runner ===

impl Runner {
    /// How far the check is, and what it has just resulted in.
    pub(super) async fn gate(
        &self,
        course: &Course<'_>,
        rollout: &Rollout,
        problems: &mut Problems,
        now: Time,
    ) -> (Gate, Option<GateResult>) {
        let Some(job) = course.copies.gate.as_ref().and_then(ObjectRef::of) else {
            return (Gate::None, None);
        };
        if let Some(result) = &rollout.gate {
            return (verdict(result), None);
        }
        // It is not started before the canary is ready.
        if !matches!(rollout.state.stage, Stage::Gate { .. }) {
            return (Gate::Absent, None);
        }
        let objects = std::slice::from_ref(&job);
        let namespace = &course.service.namespace;
        let Some(found) = problems.note(call(self.cluster.inspect(namespace, objects)).await)
        else {
            return (Gate::Running, None);
        };
        // One that no release brought is not started over: the API server says why.
        let release = rollout.release.to_string();
        let is_own = |annotation: &String| *annotation == release;
        let found = found.into_iter().flatten().next();
        let found =
            found.filter(|one| one.annotations.get(&release_annotation()).is_some_and(is_own));
        let failure = match found.map(|found| found.readiness) {
            None => return (Gate::Absent, None),
            Some(Readiness::Progressing(_)) => return (Gate::Running, None),
            Some(Readiness::Ready) => None,
            Some(Readiness::Failed(why)) => Some(first_line(&why)),
        };
        let log = problems.note(call(self.cluster.log(namespace, &job)).await).unwrap_or_default();
        let result = GateResult { at: now, failure, log };
        (verdict(&result), Some(result))
    }
}

/// Why it failed, without the log lines, which are recorded beside it.
fn first_line(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default();
    line.trim_end_matches("; its last log lines:").to_owned()
}

fn verdict(result: &GateResult) -> Gate {
    result.failure.clone().map_or(Gate::Passed, Gate::Failed)
}

/// The Job of a deployment's check. It has no token, no rights beyond those of its image's user, and
/// labels that nothing of the release selects.
pub(super) fn job(
    gate: &GateSettings,
    deployment: &Deployment,
    image: &str,
    namespace: &str,
    canary: &[Value],
) -> Value {
    let service = deployment.id.placement.service.as_str();
    let mut container = json!({
        "name": CONTAINER,
        "image": gate.image.as_deref().unwrap_or(image),
        "env": [
            { "name": "PORTCULLIS_URL", "value": url(service, namespace, canary) },
            { "name": "PORTCULLIS_SERVICE", "value": service },
            { "name": "PORTCULLIS_RELEASE", "value": deployment.release.to_string() },
            { "name": "PORTCULLIS_ENVIRONMENT",
                "value": deployment.id.placement.environment.as_str() },
        ],
        "resources": { "limits": { "cpu": gate.cpu, "memory": gate.memory } },
        "securityContext": { "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] } },
    });
    for (key, words) in [("command", &gate.command), ("args", &gate.args)] {
        set(&mut container, key, (!words.is_empty()).then(|| json!(words)));
    }
    let mut security =
        json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
    set(&mut security, "runAsUser", gate.run_as_user.map(Value::from));
    let mut pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": security,
        "containers": [container],
    });
    // The registry of the release's image may need them.
    let secrets = canary.iter().find_map(|one| one.pointer("/spec/template/spec/imagePullSecrets"));
    set(&mut pod, "imagePullSecrets", secrets.filter(|_| gate.image.is_none()).cloned());
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name(&deployment.id), "namespace": namespace,
            "labels": { service_label(): service },
            "annotations": { release_annotation(): deployment.release.to_string() },
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": gate.timeout.div_ceil(1000),
            "ttlSecondsAfterFinished": KEPT,
            "template": {
                "metadata": { "labels": { label(): service } },
                "spec": pod,
            },
        },
    })
}

fn set(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(map), Some(value)) = (object.as_object_mut(), value) {
        map.insert(key.to_owned(), value);
    }
}

/// The only label of its pods.
fn label() -> String {
    format!("{}-gate", service_label())
}

/// Another one for each deployment, as a Job cannot be changed.
fn name(id: &DeploymentId) -> String {
    let hash = hex::encode(digest(&SHA256, id.to_string().as_bytes()));
    let hash = hash.get(..8).unwrap_or_default();
    let service = id.placement.service.as_str();
    let service = service.get(..MAX_NAME.min(service.len())).unwrap_or_default();
    format!("{}-gate-{hash}", service.trim_end_matches('-'))
}

/// The canary's own address within the cluster.
fn url(service: &str, namespace: &str, canary: &[Value]) -> String {
    let name = format!("{service}{SUFFIX}");
    let is_service = |one: &&Value| {
        ObjectRef::of(one).is_some_and(|object| object.kind == "Service" && object.name == name)
    };
    let ports =
        canary.iter().find(is_service).and_then(|one| one.pointer("/spec/ports")?.as_array());
    let ports = || ports.into_iter().flatten();
    let named = ports().find(|port| port.get("name") == Some(&json!("http")));
    let port = named.or_else(|| ports().next()).and_then(|port| port.get("port")?.as_u64());
    format!("http://{name}.{namespace}.svc:{}", port.unwrap_or(80))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs_are_short_and_of_one_deployment() {
        let long = format!("{}.staging.7", "a".repeat(56));
        let names = ["web.staging.7", "web.staging.8", &long].map(|id| name(&id.parse().unwrap()));
        assert!(names[0].starts_with("web-gate-") && names[0] != names[1], "{names:?}");
        assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
    }

    #[test]
    fn the_address_is_that_of_the_canarys_service() {
        let service = |ports: Value| {
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web-canary" },
                "spec": { "ports": ports } })
        };
        let of = |ports| url("web", "shop", &[service(ports)]);
        let both = json!([{ "name": "metrics", "port": 9000 }, { "name": "http", "port": 8080 }]);
        assert_eq!(of(both), "http://web-canary.shop.svc:8080");
        assert_eq!(of(json!([{ "port": 3000 }])), "http://web-canary.shop.svc:3000");
    }
}
