//! Whether an object is ready, by its status: a pure function.

use kube::api::DynamicObject;
use serde_json::Value;

use crate::manifest::ObjectRef;
use crate::state::Readiness;

/// The readiness of an object. Kinds that have no notion of it are ready when they exist.
pub(super) fn of(object: &ObjectRef, live: &DynamicObject) -> Readiness {
    let status = Status(live);
    match (object.group(), object.kind.as_str()) {
        ("apps", "Deployment") => status.deployment(object),
        ("apps", "StatefulSet") => status.stateful_set(object),
        ("apps", "DaemonSet") => status.daemon_set(object),
        ("batch", "Job") => status.job(object),
        _ => Readiness::Ready,
    }
}

/// An object's data, read by JSON pointers.
struct Status<'o>(&'o DynamicObject);

// === impl Status ===

impl Status<'_> {
    fn number(&self, pointer: &str) -> Option<u64> {
        self.0.data.pointer(pointer).and_then(Value::as_u64)
    }

    fn count(&self, field: &str) -> u64 {
        self.number(&format!("/status/{field}")).unwrap_or_default()
    }

    /// The controller has seen the newest specification.
    fn is_current(&self) -> bool {
        let generation = self.0.metadata.generation.unwrap_or_default().unsigned_abs();
        self.count("observedGeneration") >= generation
    }

    /// A condition with this status: its message.
    fn condition(&self, kind: &str, status: &str) -> Option<&Value> {
        self.0.data.pointer("/status/conditions")?.as_array()?.iter().find(|condition| {
            condition.get("type").and_then(Value::as_str) == Some(kind)
                && condition.get("status").and_then(Value::as_str) == Some(status)
        })
    }

    /// `expected` pods are of the newest specification, available, and the only ones.
    fn counted(&self, object: &ObjectRef, expected: u64, fields: &[&str]) -> Readiness {
        if !self.is_current() {
            return Readiness::Progressing(format!("{object}: its controller has not seen it yet"));
        }
        match fields.iter().find(|field| self.count(field) < expected) {
            Some(field) => Readiness::Progressing(format!(
                "{object}: {} of {expected} {}",
                self.count(field),
                words(field)
            )),
            None => Readiness::Ready,
        }
    }

    fn deployment(&self, object: &ObjectRef) -> Readiness {
        let expected = self.number("/spec/replicas").unwrap_or(1);
        match self.counted(object, expected, &["updatedReplicas", "availableReplicas"]) {
            Readiness::Ready if self.count("replicas") > self.count("updatedReplicas") => {
                Readiness::Progressing(format!("{object}: older pods are still running"))
            }
            // No reason to fail: after a rollback to a ReplicaSet that is still there, the condition
            // of the attempt before can stay for a while.
            Readiness::Progressing(reason) => match self.condition("Progressing", "False") {
                Some(condition) => {
                    Readiness::Progressing(format!("{reason}: {}", message(condition)))
                }
                None => Readiness::Progressing(reason),
            },
            readiness => readiness,
        }
    }

    fn stateful_set(&self, object: &ObjectRef) -> Readiness {
        let expected = self.number("/spec/replicas").unwrap_or(1);
        self.counted(object, expected, &["updatedReplicas", "readyReplicas"])
    }

    fn daemon_set(&self, object: &ObjectRef) -> Readiness {
        let expected = self.count("desiredNumberScheduled");
        self.counted(object, expected, &["updatedNumberScheduled", "numberAvailable"])
    }

    fn job(&self, object: &ObjectRef) -> Readiness {
        if let Some(condition) = self.condition("Failed", "True") {
            return Readiness::Failed(format!("{object}: {}", message(condition)));
        }
        match self.condition("Complete", "True") {
            Some(_) => Readiness::Ready,
            None => Readiness::Progressing(format!("{object} is running")),
        }
    }
}

fn message(condition: &Value) -> &str {
    condition.get("message").and_then(Value::as_str).unwrap_or("no reason was given")
}

fn words(field: &str) -> &str {
    match field {
        "updatedReplicas" | "updatedNumberScheduled" => "pods are updated",
        "readyReplicas" => "pods are ready",
        _ => "pods are available",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn readiness(kind: &str, api_version: &str, mut value: Value) -> Readiness {
        value["metadata"] = json!({"name": "web", "generation": 3});
        value["apiVersion"] = api_version.into();
        value["kind"] = kind.into();
        let object = ObjectRef::of(&value).unwrap();
        of(&object, &serde_json::from_value(value).unwrap())
    }

    fn is_progressing(readiness: &Readiness, text: &str) -> bool {
        matches!(readiness, Readiness::Progressing(reason) if reason.contains(text))
    }

    #[test]
    fn a_deployment_is_ready_when_only_its_newest_pods_run() {
        let of = |replicas, updated, available, observed| {
            readiness(
                "Deployment",
                "apps/v1",
                json!({"spec": {"replicas": 2}, "status": {
                    "replicas": replicas, "updatedReplicas": updated,
                    "availableReplicas": available, "observedGeneration": observed,
                }}),
            )
        };
        assert_eq!(of(2, 2, 2, 3), Readiness::Ready);
        assert!(is_progressing(&of(2, 2, 2, 2), "has not seen"));
        assert!(is_progressing(&of(2, 1, 2, 3), "1 of 2 pods are updated"));
        assert!(is_progressing(&of(2, 2, 1, 3), "1 of 2 pods are available"));
        assert!(is_progressing(&of(3, 2, 2, 3), "older pods"));
    }

    #[test]
    fn what_makes_no_progress_says_so_and_a_failed_job_has_failed() {
        let condition = json!([{"type": "Progressing", "status": "False", "message": "deadline"}]);
        let stuck = json!({"status": {"observedGeneration": 3, "conditions": condition}});
        assert!(is_progressing(
            &readiness("Deployment", "apps/v1", stuck),
            "are updated: deadline"
        ));
        let failed = json!([{"type": "Failed", "status": "True", "message": "backoff"}]);
        assert_eq!(
            readiness("Job", "batch/v1", json!({"status": {"conditions": failed}})),
            Readiness::Failed("Job web: backoff".to_owned())
        );
    }

    #[test]
    fn other_kinds_are_ready_when_they_exist() {
        assert_eq!(readiness("Service", "v1", json!({})), Readiness::Ready);
        let set = json!({"status": {"observedGeneration": 3, "desiredNumberScheduled": 0}});
        assert_eq!(readiness("DaemonSet", "apps/v1", set), Readiness::Ready);
        let set = json!({"status": {"observedGeneration": 3, "updatedReplicas": 1}});
        assert!(is_progressing(&readiness("StatefulSet", "apps/v1", set), "0 of 1 pods are ready"));
    }
}
