//! What a template may contain.

use std::collections::BTreeMap;

use portcullis_config::model::check_label;
use portcullis_config::model::vocabulary::PREFIX;
use serde_json::Value;

use super::placeholder::{self, Part, written};
use super::rollout;
use super::secret;
use super::setting::{self, Declaration, SettingType};
use super::{
    MAX_OBJECTS, OWN, ObjectRef, TemplateProblem, bounds, configuration, each_text, pointer_part,
};

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

/// Kinds of a Namespace by which it reaches beyond itself, and why.
const BEYOND: [(&str, &str, &str); 3] = [
    // Kubernetes' own role `edit` does not have them since CVE-2021-25740.
    ("", "Endpoints", "it sends requests to any address, also of another Namespace"),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        "it sends requests to any address, also of another Namespace",
    ),
    ("gateway.networking.k8s.io", "ReferenceGrant", "it opens the Namespace to others"),
];

/// The most placeholders: each becomes as long as the name of an image.
const MAX_PLACEHOLDERS: usize = 1000;

/// Annotations that move traffic: a release that sets one would reset a rollout.
const TRAFFIC: [&str; 3] = ["canary-weight", "split", "mirror-percent"];

/// What only the server or its controllers write.
const SERVER_FIELDS: [&str; 11] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    // An object with one stays when it leaves the release.
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    // An object with one is deleted with an object that the release may not bring.
    "ownerReferences",
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
pub(super) fn objects(objects: &[(String, Value)], may_have_secrets: bool) -> Vec<TemplateProblem> {
    let mut problems = Vec::new();
    if objects.is_empty() {
        problems.push(TemplateProblem::whole(
            "the template has no manifest",
            "write at least a Deployment",
        ));
    }
    if objects.len() > MAX_OBJECTS {
        problems.push(bounds::too_many_objects());
        return problems;
    }
    let mut seen: BTreeMap<(String, String, String), &str> = BTreeMap::new();
    let services = services(objects);
    let (mut declarations, mut rollouts) = (None, None);
    for (pointer, object) in objects {
        let Some(reference) = identified(pointer, object, &mut problems) else { continue };
        if setting::is_declaration(object) {
            problems.extend(setting::problems(pointer, object));
            if declarations.replace(pointer).is_some() {
                let message = "the settings are declared twice";
                problems.push(TemplateProblem::at(pointer.clone(), message, "declare them once"));
            }
            continue;
        }
        if rollout::is_declaration(object) {
            problems.extend(rollout::problems(pointer, object));
            if rollouts.replace(pointer).is_some() {
                let message = "the rollout is declared twice";
                problems.push(TemplateProblem::at(pointer.clone(), message, "declare it once"));
            }
            continue;
        }
        if may_have_secrets && secret::is_secret(object) {
            problems.extend(secret::problems(pointer, object));
        } else {
            kind(pointer, &reference, &mut problems);
        }
        metadata(pointer, object, &mut problems);
        service(pointer, object, &reference, &services, &mut problems);
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
    for (key, is_valid) in [("apiVersion", is_api_version as fn(&str) -> bool), ("kind", is_kind)] {
        // Both become parts of URLs of the API server.
        if !object.get(key).and_then(Value::as_str).is_some_and(is_valid) {
            problems.push(TemplateProblem::at(
                format!("{pointer}/{key}"),
                format!("`{key}` is missing, or not one of Kubernetes"),
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

/// A version, with a group before it unless it is the core group: `v1`, `apps/v1`.
fn is_api_version(text: &str) -> bool {
    let is_group =
        |group: &str| group.len() <= 253 && group.split('.').all(|part| check_label(part).is_ok());
    let (group, version) =
        text.split_once('/').map_or((None, text), |(group, version)| (Some(group), version));
    group.is_none_or(is_group) && check_label(version).is_ok()
}

/// A name of one word: `Deployment`.
fn is_kind(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// RFC 1123 subdomains, and the colons of RBAC.
pub(super) fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split(['.', ':']).all(|part| check_label(part).is_ok())
}

fn kind(pointer: &str, reference: &ObjectRef, problems: &mut Vec<TemplateProblem>) {
    let kind = (reference.group(), reference.kind.as_str());
    let beyond = BEYOND.iter().find(|(group, name, _)| (*group, *name) == kind);
    let (message, help) = if let Some((_, name, why)) = beyond {
        (
            format!("a release may not bring {name}: {why}"),
            "let an administrator of the Namespace apply it",
        )
    } else if CLUSTER_WIDE.contains(&kind) {
        (
            format!("{} belongs to the whole cluster", reference.kind),
            "let an administrator apply it: a release may only bring what belongs to a Namespace",
        )
    } else if kind == ("", "Secret") {
        (
            "the builder has no key that seals Secrets, and stores none readably".to_owned(),
            "configure `sealingKeys`, or create the Secret in the Namespace, and refer to it by name",
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
            let place = format!("{path}/{}", pointer_part(key));
            if !value.is_string() {
                report(place, "the value is not a text".to_owned(), "write it in quotes");
            } else if map == "annotations" && *key == configuration::keep_name() {
                if !matches!(value.as_str(), Some("true" | "false")) {
                    report(place, "the value is neither true nor false".to_owned(), "correct it");
                }
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

/// The names of the Services of a template.
fn services(objects: &[(String, Value)]) -> Vec<&str> {
    let services = objects.iter().filter(|(_, object)| {
        ["apiVersion", "kind"].map(|key| object.get(key).and_then(Value::as_str))
            == [Some("v1"), Some("Service")]
    });
    services.filter_map(|(_, object)| object.pointer("/metadata/name")?.as_str()).collect()
}

/// What a Service may not do with traffic that is not its own.
fn service(
    pointer: &str,
    object: &Value,
    reference: &ObjectRef,
    services: &[&str],
    problems: &mut Vec<TemplateProblem>,
) {
    if (reference.group(), reference.kind.as_str()) != ("", "Service") {
        return;
    }
    // CVE-2020-8554: every node sends packets for these addresses to the Service.
    if object.pointer("/spec/externalIPs").is_some() {
        problems.push(TemplateProblem::at(
            format!("{pointer}/spec/externalIPs"),
            "`externalIPs` take over addresses of the whole cluster",
            "leave them out",
        ));
    }
    let key = format!("{PREFIX}canary-of");
    let target =
        object.pointer("/metadata/annotations").and_then(|entries| entries.get(&key)?.as_str());
    if let Some(target) = target.filter(|target| !services.contains(&target.trim())) {
        problems.push(TemplateProblem::at(
            format!("{pointer}/metadata/annotations/{}", pointer_part(&key)),
            format!("`{key}`: {target:?} is not a Service of this template, so its traffic is not the release's"),
            "name a Service of the same template",
        ));
    }
}

/// The problems of placeholders: the image needs one, settings have to be declared, and there are
/// not so many that rendering grows the template much.
pub(super) fn placeholders(objects: &[(String, Value)]) -> Vec<TemplateProblem> {
    let declared: BTreeMap<String, Declaration> = objects
        .iter()
        .filter(|(_, object)| setting::is_declaration(object))
        .flat_map(|(_, object)| setting::declarations(object))
        .collect();
    let (mut problems, mut count, mut images) = (Vec::new(), 0, 0);
    let manifests = objects
        .iter()
        .filter(|(_, object)| !setting::is_declaration(object) && !secret::is_secret(object));
    for (pointer, object) in manifests {
        each_text(pointer, object, &mut |place, text| {
            let parts = placeholder::parts(text);
            for part in &parts {
                let Part::Placeholder(name) = part else { continue };
                count += 1;
                images += usize::from(*name == placeholder::IMAGE);
                let problem = undeclared(name, parts.len() == 1, &declared);
                problems.extend(
                    problem.map(|(message, help)| {
                        TemplateProblem::at(place.to_owned(), message, help)
                    }),
                );
            }
            problems.extend(placeholder::misspelled(text).map(|start| {
                let message = format!("{start:?} is not a placeholder");
                TemplateProblem::at(place.to_owned(), message, "write `{{settings.NAME}}`")
            }));
        });
    }
    if images == 0 {
        problems.insert(
            0,
            TemplateProblem::whole(
                "the placeholder `{{image}}` is missing",
                "write `image: \"{{image}}\"` where the image of the release belongs",
            ),
        );
    }
    if count > MAX_PLACEHOLDERS {
        problems.push(TemplateProblem::whole(
            format!("there are more than {MAX_PLACEHOLDERS} placeholders"),
            "write them only where they belong",
        ));
    }
    problems
}

/// What is wrong with a placeholder of a setting, and how to fix it.
fn undeclared(
    name: &str,
    is_alone: bool,
    declared: &BTreeMap<String, Declaration>,
) -> Option<(String, &'static str)> {
    let setting = placeholder::setting(name)?;
    match declared.get(setting) {
        None => Some((
            format!("the setting `{setting}` is not declared"),
            "declare it in a document of the kind Settings of this template",
        )),
        Some(Declaration { kind: SettingType::Secret, .. }) if !is_alone => Some((
            format!("`{}` refers to a Secret, and cannot be a part of a text", written(name)),
            "write it alone, as the value of `secretKeyRef`",
        )),
        Some(_) => None,
    }
}
