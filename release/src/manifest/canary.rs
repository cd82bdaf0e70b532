//! The manifests of a canary, made from those of a release.
//!
//! A canary is a second Deployment beside the stable one, and a Service of its own. Nothing may
//! select both: each label key that a selector of the release uses gets another value in the
//! canary's pods, and in the selectors, affinities and policies of the copies. What cannot run
//! twice is refused.

mod copy;
mod refusal;
mod selector;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::copy::Copier;
use super::ObjectRef;

pub use self::refusal::Refusal;

/// What is appended to names and to values of labels.
pub const SUFFIX: &str = "-canary";
/// The longest name of a Service and the longest value of a label.
const MAX_LABEL: usize = 63;

/// The labels of pods.
type Labels = BTreeMap<String, String>;

/// The manifests of a canary.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// The objects to apply: ConfigMaps first, then policies, Deployments, and the Service.
    pub manifests: Vec<Value>,
    /// The labels of the canary's pods, for each of its Deployments.
    pub labels: Vec<BTreeMap<String, String>>,
    /// The PersistentVolumeClaims of its pods that are not in the release: they must be shared by
    /// several nodes.
    pub claims: Vec<String>,
}

/// Makes the canary of a service from the rendered manifests of a release, with this number of
/// replicas in each Deployment. Pure.
///
/// # Errors
/// All reasons for which it cannot run beside the stable pods.
pub fn canary(manifests: &[Value], service: &str, replicas: u32) -> Result<Canary, Vec<Refusal>> {
    let Some(stable) = manifests.iter().find(|one| is(one, "", "Service") && name(one) == service)
    else {
        return Err(vec![Refusal::NoService(service.to_owned())]);
    };
    let copier = Copier::new(manifests, stable, replicas)?;
    let canary = copier.copy();
    let refusals = copier.check(&canary);
    if refusals.is_empty() { Ok(canary) } else { Err(refusals) }
}

/// The objects of a Namespace, beside the release, that select pods with these labels: each is reported
/// by its kind and name. They select the canary's pods as well as the stable ones.
#[must_use]
pub fn selected_by(labels: &BTreeMap<String, String>, outside: &[Value]) -> Vec<ObjectRef> {
    let selects = |object: &&Value| {
        let mut selects = false;
        selector::own(object, &mut |selector| selects |= selector.matches(labels));
        selects
    };
    outside.iter().filter(selects).filter_map(ObjectRef::of).collect()
}

fn is(manifest: &Value, group: &str, kind: &str) -> bool {
    ObjectRef::of(manifest)
        .is_some_and(|object| (object.group(), object.kind.as_str()) == (group, kind))
}

fn name(manifest: &Value) -> &str {
    manifest.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// The labels of a workload's pods.
fn pod_labels(manifest: &Value) -> Option<Labels> {
    let pointer = match manifest.get("kind")?.as_str()? {
        "Pod" => "/metadata/labels",
        "CronJob" => "/spec/jobTemplate/spec/template/metadata/labels",
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => "/spec/template/metadata/labels",
        _ => return None,
    };
    let empty = json!({});
    let labels = manifest.pointer(pointer).unwrap_or(&empty).as_object()?;
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    Some(labels.iter().filter_map(text).collect())
}

#[cfg(test)]
mod tests;
