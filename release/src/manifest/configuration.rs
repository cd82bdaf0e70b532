//! ConfigMaps named after their content, so that code and configuration go back together.
//!
//! Pods do not restart when a ConfigMap changes. So each one that pods of the template refer to gets
//! the hash of its content as a suffix, and the references are rewritten: other content is another
//! object, and a rollback refers to the earlier one.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use portcullis_config::model::vocabulary::PREFIX;
use serde_json::{Value, json};

use super::{OWN, ObjectRef};

/// How many digits of the hash the name gets.
const DIGITS: usize = 10;

/// The kinds that have pods, and where their specifications are.
const PODS: [(&str, &str, &str); 8] = [
    ("", "Pod", "/spec"),
    ("", "ReplicationController", "/spec/template/spec"),
    ("apps", "DaemonSet", "/spec/template/spec"),
    ("apps", "Deployment", "/spec/template/spec"),
    ("apps", "ReplicaSet", "/spec/template/spec"),
    ("apps", "StatefulSet", "/spec/template/spec"),
    ("batch", "CronJob", "/spec/jobTemplate/spec/template/spec"),
    ("batch", "Job", "/spec/template/spec"),
];

/// The annotation of a ConfigMap that keeps its name, because others than pods refer to it.
pub(super) fn keep_name() -> String {
    format!("{OWN}{PREFIX}keep-name")
}

/// Renames the ConfigMaps that pods of these manifests refer to, and the references.
pub(super) fn rename(manifests: &mut [Value]) {
    let mut used = BTreeSet::new();
    for manifest in manifests.iter_mut() {
        references(manifest, &mut |name: &mut String| {
            used.insert(name.clone());
        });
    }
    let renamed: BTreeMap<String, String> = manifests
        .iter()
        .filter_map(|manifest| Some((config_map(manifest)?, manifest)))
        .filter(|(name, manifest)| used.contains(name) && !keeps_name(manifest))
        .map(|(name, manifest)| {
            let suffixed = format!("{name}-{}", hash(manifest));
            (name, suffixed)
        })
        .collect();
    for manifest in manifests {
        references(manifest, &mut |name: &mut String| {
            if let Some(suffixed) = renamed.get(name) {
                name.clone_from(suffixed);
            }
        });
        let suffixed = config_map(manifest).and_then(|name| renamed.get(&name));
        if let (Some(suffixed), Some(name)) = (suffixed, manifest.pointer_mut("/metadata/name")) {
            *name = suffixed.as_str().into();
        }
    }
}

/// The name of a ConfigMap.
fn config_map(manifest: &Value) -> Option<String> {
    let object = ObjectRef::of(manifest)?;
    ((object.group(), object.kind.as_str()) == ("", "ConfigMap")).then_some(object.name)
}

fn keeps_name(manifest: &Value) -> bool {
    let annotations = manifest.pointer("/metadata/annotations");
    annotations.and_then(|entries| entries.get(keep_name())) == Some(&json!("true"))
}

/// The first digits of the hash of a ConfigMap's content. The keys of maps are in order.
fn hash(manifest: &Value) -> String {
    let content = json!([manifest.get("data"), manifest.get("binaryData")]);
    let mut digits = hex::encode(digest(&SHA256, content.to_string().as_bytes()));
    digits.truncate(DIGITS);
    digits
}

/// Calls `change` with each name of a ConfigMap that the pods of a manifest refer to.
fn references(manifest: &mut Value, change: &mut impl FnMut(&mut String)) {
    let Some(object) = ObjectRef::of(manifest) else { return };
    let kind = (object.group(), object.kind.as_str());
    let place = PODS.iter().find(|(group, name, _)| (*group, *name) == kind);
    let Some(pods) = place.and_then(|(_, _, place)| manifest.pointer_mut(place)) else { return };
    for containers in ["containers", "initContainers"] {
        for container in items(pods, containers) {
            for variable in items(container, "env") {
                name(variable, "/valueFrom/configMapKeyRef/name", change);
            }
            for source in items(container, "envFrom") {
                name(source, "/configMapRef/name", change);
            }
        }
    }
    for volume in items(pods, "volumes") {
        name(volume, "/configMap/name", change);
        let projected = volume.get_mut("projected");
        for source in projected.into_iter().flat_map(|projected| items(projected, "sources")) {
            name(source, "/configMap/name", change);
        }
    }
}

fn items<'v>(value: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> + use<'v> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn name(value: &mut Value, pointer: &str, change: &mut impl FnMut(&mut String)) {
    if let Some(Value::String(name)) = value.pointer_mut(pointer) {
        change(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(name: &str, annotations: Value, data: &str) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"key": data},
            "metadata": {"name": name}});
        object["metadata"]["annotations"] = annotations;
        object
    }

    fn pods(names: [&str; 4]) -> Value {
        let [key, all, volume, projected] = names;
        json!({
            "initContainers": [{"envFrom": [{"configMapRef": {"name": all}}]}],
            "containers": [{"env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": key, "key": "key"}}},
                {"name": "B", "value": key},
            ]}],
            "volumes": [
                {"configMap": {"name": volume}},
                {"projected": {"sources": [{"configMap": {"name": projected}}]}},
                {"secret": {"secretName": key}},
            ],
        })
    }

    fn rendered(data: &str) -> Vec<Value> {
        let mut manifests = vec![
            config_map("used", json!({}), data),
            config_map("kept", json!({"releases.portcullis.dev/keep-name": "true"}), data),
            config_map("unused", json!({}), data),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "used"},
                "spec": {"template": {"spec": pods(["used", "used", "kept", "used"])}}}),
            json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec":
                {"jobTemplate": {"spec": {"template": {"spec": pods(["used", "x", "x", "x"])}}}}}),
        ];
        rename(&mut manifests);
        manifests
    }

    #[test]
    fn a_config_map_that_pods_refer_to_is_named_after_its_content() {
        let manifests = rendered("1");
        let name = |index: usize| manifests[index]["metadata"]["name"].as_str().unwrap();
        let used = name(0);
        assert_eq!(
            (used.strip_prefix("used-").map(str::len), name(1), name(2)),
            (Some(10), "kept", "unused")
        );
        assert_eq!(name(3), "used", "another kind of that name");
        let mut expected = pods([used, used, "kept", used]);
        expected["containers"][0]["env"][1]["value"] = "used".into();
        expected["volumes"][2]["secret"]["secretName"] = "used".into();
        assert_eq!(manifests[3]["spec"]["template"]["spec"], expected);
        let job = &manifests[4]["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        assert_eq!(job["containers"][0]["env"][0]["valueFrom"]["configMapKeyRef"]["name"], used);
        assert_eq!(rendered("1"), manifests, "the same content has the same name");
        assert_ne!(rendered("2")[0]["metadata"]["name"], used);
    }
}
