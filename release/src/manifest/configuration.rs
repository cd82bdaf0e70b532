//! ConfigMaps and Secrets named after their content, so that code and configuration go back together.
//!
//! Pods do not restart when a ConfigMap changes. So each one that pods of the template refer to gets
//! the hash of its content as a suffix, and the references are rewritten: other content is another
//! object, and a rollback refers to the earlier one. Jobs are named after their specification.

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

/// The longest name of a Job, which is a label of its pods, before the suffix.
const MAX_JOB: usize = 52;

/// What pods get their configuration from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

/// A ConfigMap or a Secret.
pub(super) type Configuration = (Kind, String);

/// The annotation of a ConfigMap or Secret that keeps its name, because others than pods refer to it.
pub(super) fn keep_name() -> String {
    format!("{OWN}{PREFIX}keep-name")
}

/// Renames the ConfigMaps and Secrets that pods of these manifests refer to, and the references.
pub(super) fn rename(manifests: &mut [Value]) {
    let mut used = BTreeSet::new();
    for manifest in manifests.iter_mut() {
        references(manifest, &mut |kind, name: &mut String| {
            used.insert((kind, name.clone()));
        });
    }
    let renamed: BTreeMap<Configuration, String> = manifests
        .iter()
        .filter_map(|manifest| Some((configuration(manifest)?, manifest)))
        .filter(|(configuration, manifest)| used.contains(configuration) && !keeps_name(manifest))
        .map(|(configuration, manifest)| {
            let suffixed = format!("{}-{}", configuration.1, hash(manifest));
            (configuration, suffixed)
        })
        .collect();
    for manifest in manifests {
        references(manifest, &mut |kind, name: &mut String| {
            if let Some(suffixed) = renamed.get(&(kind, name.clone())) {
                name.clone_from(suffixed);
            }
        });
        let suffixed = configuration(manifest).and_then(|known| renamed.get(&known));
        if let (Some(suffixed), Some(name)) = (suffixed, manifest.pointer_mut("/metadata/name")) {
            *name = suffixed.as_str().into();
        }
        rename_job(manifest);
    }
}

/// Renames a Job after its specification, which cannot be changed: that of another image is another
/// Job, and one that has run is not run again.
fn rename_job(manifest: &mut Value) {
    let Some(object) = ObjectRef::of(manifest) else { return };
    if (object.group(), object.kind.as_str()) != ("batch", "Job") || keeps_name(manifest) {
        return;
    }
    let start = object.name.get(..MAX_JOB).unwrap_or(&object.name).trim_end_matches(['-', '.']);
    let suffixed = format!("{start}-{}", hash_of(&json!(manifest.get("spec"))));
    if let Some(name) = manifest.pointer_mut("/metadata/name") {
        *name = suffixed.into();
    }
}

/// The kind and name of a ConfigMap or a Secret.
pub(super) fn configuration(manifest: &Value) -> Option<Configuration> {
    let object = ObjectRef::of(manifest)?;
    match (object.group(), object.kind.as_str()) {
        ("", "ConfigMap") => Some((Kind::ConfigMap, object.name)),
        ("", "Secret") => Some((Kind::Secret, object.name)),
        _ => None,
    }
}

pub(super) fn keeps_name(manifest: &Value) -> bool {
    let annotations = manifest.pointer("/metadata/annotations");
    annotations.and_then(|entries| entries.get(keep_name())) == Some(&json!("true"))
}

/// The first digits of the hash of the content: of a Secret, the hashes of its sealed values. The
/// keys of maps are in order.
fn hash(manifest: &Value) -> String {
    let mut content = json!([manifest.get("data"), manifest.get("binaryData")]);
    if configuration(manifest).is_some_and(|(kind, _)| kind == Kind::Secret) {
        super::secret::redact_values(&mut content);
    }
    hash_of(&content)
}

fn hash_of(content: &Value) -> String {
    let mut digits = hex::encode(digest(&SHA256, content.to_string().as_bytes()));
    digits.truncate(DIGITS);
    digits
}

/// Calls `change` with each name of a ConfigMap or Secret that the pods of a manifest refer to.
pub(super) fn references(manifest: &mut Value, change: &mut impl FnMut(Kind, &mut String)) {
    let Some(object) = ObjectRef::of(manifest) else { return };
    let kind = (object.group(), object.kind.as_str());
    let place = PODS.iter().find(|(group, name, _)| (*group, *name) == kind);
    let Some(pods) = place.and_then(|(_, _, place)| manifest.pointer_mut(place)) else { return };
    for containers in ["containers", "initContainers"] {
        for container in items(pods, containers) {
            for variable in items(container, "env") {
                name(variable, "/valueFrom/configMapKeyRef/name", Kind::ConfigMap, change);
                name(variable, "/valueFrom/secretKeyRef/name", Kind::Secret, change);
            }
            for source in items(container, "envFrom") {
                name(source, "/configMapRef/name", Kind::ConfigMap, change);
                name(source, "/secretRef/name", Kind::Secret, change);
            }
        }
    }
    for volume in items(pods, "volumes") {
        name(volume, "/configMap/name", Kind::ConfigMap, change);
        name(volume, "/secret/secretName", Kind::Secret, change);
        let projected = volume.get_mut("projected");
        for source in projected.into_iter().flat_map(|projected| items(projected, "sources")) {
            name(source, "/configMap/name", Kind::ConfigMap, change);
            name(source, "/secret/name", Kind::Secret, change);
        }
    }
    for secret in items(pods, "imagePullSecrets") {
        name(secret, "/name", Kind::Secret, change);
    }
}

fn items<'v>(value: &'v mut Value, key: &str) -> impl Iterator<Item = &'v mut Value> + use<'v> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn name(value: &mut Value, pointer: &str, kind: Kind, change: &mut impl FnMut(Kind, &mut String)) {
    if let Some(Value::String(name)) = value.pointer_mut(pointer) {
        change(kind, name);
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

    #[test]
    fn a_job_is_named_after_its_specification() {
        let renamed = |name: &str, image: &str, annotations: Value| {
            let mut manifests = [json!({"apiVersion": "batch/v1", "kind": "Job",
                "metadata": {"name": name, "annotations": annotations},
                "spec": {"template": {"spec": {"containers": [{"image": image}]}}}})];
            rename(&mut manifests);
            manifests[0]["metadata"]["name"].as_str().unwrap().to_owned()
        };
        let first = renamed("migrate", "web:1", json!({}));
        assert_eq!(first.len(), "migrate-".len() + DIGITS);
        assert_eq!(renamed("migrate", "web:1", json!({"release": "web.2"})), first);
        assert_ne!(renamed("migrate", "web:2", json!({})), first);
        assert!(renamed(&"x".repeat(63), "web:1", json!({})).len() <= 63);
        let keep = json!({"releases.portcullis.dev/keep-name": "true"});
        assert_eq!(renamed("migrate", "web:1", keep), "migrate");
    }

    #[test]
    fn a_secret_is_named_after_the_hashes_of_its_values() {
        let renamed = |sealed: &str| {
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "used"},
                "data": {"key": sealed}});
            let specification = json!({
                "containers": [{
                    "env": [{"valueFrom": {"secretKeyRef": {"name": "used", "key": "key"}}}],
                    "envFrom": [{"secretRef": {"name": "used"}}, {"configMapRef": {"name": "used"}}],
                }],
                "volumes": [{"secret": {"secretName": "used"}},
                    {"projected": {"sources": [{"secret": {"name": "used"}}]}}],
                "imagePullSecrets": [{"name": "used"}, {"name": "other"}],
            });
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "used"},
                "spec": specification});
            let mut manifests = [secret, pod];
            rename(&mut manifests);
            manifests
        };
        let [secret, pod] = renamed("sealed:0123:AAAA");
        let name = &secret["metadata"]["name"];
        assert_eq!(name.as_str().unwrap().len(), "used-".len() + DIGITS);
        let spec = &pod["spec"];
        for used in [
            &spec["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"],
            &spec["containers"][0]["envFrom"][0]["secretRef"]["name"],
            &spec["volumes"][0]["secret"]["secretName"],
            &spec["volumes"][1]["projected"]["sources"][0]["secret"]["name"],
            &spec["imagePullSecrets"][0]["name"],
        ] {
            assert_eq!(used, name);
        }
        let config_map = &spec["containers"][0]["envFrom"][1]["configMapRef"]["name"];
        assert_eq!(
            (config_map, &spec["imagePullSecrets"][1]["name"]),
            (&json!("used"), &json!("other"))
        );
        assert_eq!(&renamed("sealed:0123:BBBB")[0]["metadata"]["name"], name, "the same value");
        assert_ne!(&renamed("sealed:4567:AAAA")[0]["metadata"]["name"], name);
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
