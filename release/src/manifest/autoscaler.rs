//! HorizontalPodAutoscalers of a release.

use serde_json::{Value, json};

use super::ObjectRef;

/// Removes the replicas of workloads that an autoscaler of the release scales: they are the
/// autoscaler's, and applying other ones would undo it.
pub(super) fn remove_replicas(manifests: &mut [Value]) {
    let targets: Vec<(String, String)> = manifests.iter().filter_map(target).collect();
    for manifest in manifests {
        let Some(ObjectRef { kind, name, .. }) = ObjectRef::of(manifest) else { continue };
        if targets.contains(&(kind, name)) {
            leave_replicas(manifest);
        }
    }
}

/// Removes the replicas of a workload, so that applying it leaves them as they are.
pub fn leave_replicas(manifest: &mut Value) {
    if let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("replicas");
    }
}

/// Raises the least replicas of the autoscalers among manifests to `replicas`, as far as their most
/// allow.
pub fn hold(manifests: &mut [Value], replicas: u32) {
    for manifest in manifests.iter_mut().filter(|manifest| target(manifest).is_some()) {
        let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut) else { continue };
        let count = |key: &str| spec.get(key).and_then(Value::as_u64);
        let most = count("maxReplicas").unwrap_or(u64::from(replicas));
        let least = count("minReplicas").unwrap_or(1).max(u64::from(replicas)).min(most);
        spec.insert("minReplicas".to_owned(), json!(least));
    }
}

/// Whether a manifest is an autoscaler.
#[must_use]
pub fn is_autoscaler(manifest: &Value) -> bool {
    target(manifest).is_some()
}

/// The kind and name of what an autoscaler scales.
fn target(manifest: &Value) -> Option<(String, String)> {
    let object = ObjectRef::of(manifest)?;
    if (object.group(), object.kind.as_str()) != ("autoscaling", "HorizontalPodAutoscaler") {
        return None;
    }
    let text = |key: &str| {
        manifest.pointer(&format!("/spec/scaleTargetRef/{key}"))?.as_str().map(str::to_owned)
    };
    Some((text("kind")?, text("name")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifests(least: &Value) -> Vec<Value> {
        let deployment = |name: &str| {
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
                "spec": { "replicas": 2 } })
        };
        let autoscaler = json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": { "name": "any" }, "spec": { "minReplicas": least, "maxReplicas": 6,
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" } } });
        vec![deployment("web"), deployment("other"), autoscaler]
    }

    #[test]
    fn replicas_are_the_autoscalers_where_there_is_one() {
        let mut all = manifests(&json!(1));
        remove_replicas(&mut all);
        assert_eq!((&all[0]["spec"], &all[1]["spec"]["replicas"]), (&json!({}), &json!(2)));
    }

    #[test]
    fn the_least_replicas_are_raised_and_not_beyond_the_most() {
        for (least, replicas, expected) in
            [(json!(1), 4, 4), (json!(5), 4, 5), (Value::Null, 3, 3), (json!(2), 9, 6)]
        {
            let mut all = manifests(&least);
            hold(&mut all, replicas);
            assert_eq!(all[2]["spec"]["minReplicas"], expected);
            assert_eq!(all[..2], manifests(&json!(1))[..2]);
        }
    }
}
