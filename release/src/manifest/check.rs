//! What a template may contain.

use std::collections::BTreeMap;

use portcullis_config::model::check_label;
use portcullis_config::model::vocabulary::PREFIX;
use serde_json::Value;

use super::{MAX_OBJECTS, OWN, ObjectRef, TemplateProblem};

/// Kinds that Kubernetes itself defines for whole clusters. The server's own list decides about all
/// others when a release is deployed.
const CLUSTER_WIDE: [(&str, &str); 24] = [
    ("", "Namespace"),
    ("", "Node"),
    ("", "PersistentVolume"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("networking.k8s.io", "IngressClass"),
    ("node.k8s.io", "RuntimeClass"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("resource.k8s.io", "DeviceClass"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "StorageClass"),
    ("storage.k8s.io", "VolumeAttachment"),
];

/// Annotations that move traffic: a release that sets one would reset a rollout.
const TRAFFIC: [&str; 3] = ["canary-weight", "split", "mirror-percent"];

/// What only the server or its controllers write.
const SERVER_FIELDS: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Whether a document is a `List`, whose items are meant.
pub(super) fn is_list(document: &Value) -> bool {
    document.get("kind").and_then(Value::as_str) == Some("List")
        && document.get("apiVersion").and_then(Value::as_str) == Some("v1")
}

/// All problems of the objects, which are given with their pointers.
pub(super) fn objects(objects: &[(String, Value)]) -> Vec<TemplateProblem> {
    let mut problems = Vec::new();
    if objects.is_empty() {
        problems.push(TemplateProblem::whole(
            "the template has no manifest",
            "write at least a Deployment",
        ));
    }
    if objects.len() > MAX_OBJECTS {
        problems.push(TemplateProblem::whole(
            format!("the template has more than {MAX_OBJECTS} manifests"),
            "split it into several services",
        ));
        return problems;
    }
    let mut seen: BTreeMap<(String, String, String), &str> = BTreeMap::new();
    for (pointer, object) in objects {
        let Some(reference) = identified(pointer, object, &mut problems) else { continue };
        kind(pointer, &reference, &mut problems);
        metadata(pointer, object, &mut problems);
        let identity =
            (reference.group().to_owned(), reference.kind.clone(), reference.name.clone());
        if let Some(first) = seen.insert(identity, pointer) {
            problems.push(TemplateProblem::at(
                pointer.clone(),
                format!("{reference} is already at {first}"),
                "keep one of them",
            ));
        }
    }
    problems
}

/// The reference to an object that has all parts of one.
fn identified(
    pointer: &str,
    object: &Value,
    problems: &mut Vec<TemplateProblem>,
) -> Option<ObjectRef> {
    if !object.is_object() {
        problems.push(TemplateProblem::at(
            pointer.to_owned(),
            "it is not an object",
            "write a Kubernetes manifest",
        ));
        return None;
    }
    let before = problems.len();
    for key in ["apiVersion", "kind"] {
        if object.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
            problems.push(TemplateProblem::at(
                format!("{pointer}/{key}"),
                format!("`{key}` is missing, or not a text"),
                "write it as for `kubectl apply`",
            ));
        }
    }
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if !is_object_name(name) {
        problems.push(TemplateProblem::at(
            format!("{pointer}/metadata/name"),
            "the name is missing, or not the name of an object",
            "write a name of lower-case letters, digits, `-` and `.`",
        ));
    }
    if problems.len() > before { None } else { ObjectRef::of(object) }
}

/// RFC 1123 subdomains, and the colons of RBAC.
fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split(['.', ':']).all(|part| check_label(part).is_ok())
}

fn kind(pointer: &str, reference: &ObjectRef, problems: &mut Vec<TemplateProblem>) {
    let kind = (reference.group(), reference.kind.as_str());
    let (message, help) = if CLUSTER_WIDE.contains(&kind) {
        (
            format!("{} belongs to the whole cluster", reference.kind),
            "let an administrator apply it: a release may only bring what belongs to a Namespace",
        )
    } else if kind == ("", "Secret") {
        (
            "a release may not bring a Secret: templates are stored readably".to_owned(),
            "create the Secret in the Namespace, and refer to it by name",
        )
    } else {
        return;
    };
    problems.push(TemplateProblem::at(format!("{pointer}/kind"), message, help));
}

fn metadata(pointer: &str, object: &Value, problems: &mut Vec<TemplateProblem>) {
    let mut report = |path: String, message: String, help: &str| {
        problems.push(TemplateProblem::at(format!("{pointer}{path}"), message, help));
    };
    if object.pointer("/metadata/namespace").is_some() {
        report(
            "/metadata/namespace".to_owned(),
            "a release may not name a Namespace".to_owned(),
            "leave it out: the environment that the release is deployed to decides it",
        );
    }
    for field in SERVER_FIELDS {
        if object.pointer(&format!("/metadata/{field}")).is_some() {
            report(
                format!("/metadata/{field}"),
                format!("`{field}` is written by the server"),
                "leave it out",
            );
        }
    }
    for map in ["labels", "annotations"] {
        let path = format!("/metadata/{map}");
        let Some(entries) = object.pointer(&path) else { continue };
        let Some(entries) = entries.as_object() else {
            report(path, format!("`{map}` is not a mapping"), "write keys with texts");
            continue;
        };
        for (key, value) in entries {
            // RFC 6901 §3: `~` and `/` are escaped.
            let place = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
            if !value.is_string() {
                report(place, "the value is not a text".to_owned(), "write it in quotes");
            } else if key.strip_prefix(OWN).is_some_and(|key| key.starts_with(PREFIX)) {
                report(place, format!("`{key}` is written by the builder"), "leave it out");
            } else if key.strip_prefix(PREFIX).is_some_and(|name| TRAFFIC.contains(&name)) {
                report(
                    place,
                    format!(
                        "`{key}` moves traffic, and a release may not: it would reset a rollout"
                    ),
                    "leave it out, and set weights by `kubectl annotate`",
                );
            }
        }
    }
}
