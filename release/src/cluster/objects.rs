//! Objects of any kind: their resources, their epoch, and errors about them.

use std::collections::HashMap;
use std::sync::Mutex;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, Error, ResourceExt};
use portcullis_config::model::vocabulary::PREFIX;
use serde_json::{Value, json};

use super::ClusterError;
use crate::causes::causes;
use crate::manifest::{OWN, ObjectRef};

/// The resources of kinds, as the server named them.
#[derive(Default)]
pub(super) struct Kinds(Mutex<HashMap<(String, String), ApiResource>>);

// === impl Kinds ===

impl Kinds {
    /// The resource of an object's kind, which belongs to namespaces.
    pub(super) async fn find(
        &self,
        client: &Client,
        object: &ObjectRef,
    ) -> Result<ApiResource, ClusterError> {
        /// More kinds than any cluster has.
        const MAX: usize = 10_000;
        let key = (object.api_version.clone(), object.kind.clone());
        let lock = || self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(resource) = lock().get(&key) {
            return Ok(resource.clone());
        }
        let (group, version) =
            object.api_version.split_once('/').unwrap_or(("", &object.api_version));
        let kind = GroupVersionKind::gvk(group, version, &object.kind);
        let unknown = || {
            ClusterError::Rejected(format!(
                "the cluster has no kind {} in {}: install its CustomResourceDefinition first",
                object.kind, object.api_version
            ))
        };
        let (resource, capabilities) = match pinned_kind(client, &kind).await {
            Ok(found) => found,
            Err(Error::Discovery(_)) => return Err(unknown()),
            Err(Error::Api(status)) if status.code == 404 => return Err(unknown()),
            Err(error) => return Err(failed(&error)),
        };
        if capabilities.scope == Scope::Cluster {
            return Err(ClusterError::Rejected(format!(
                "{object} belongs to the whole cluster: let an administrator apply it"
            )));
        }
        let mut known = lock();
        if known.len() < MAX {
            known.insert(key, resource.clone());
        }
        Ok(resource)
    }
}

/// The annotation of the epoch of the builder that wrote an object last.
pub(super) fn epoch_annotation() -> String {
    format!("{OWN}{PREFIX}epoch")
}

/// The annotation of the deployment that made earlier calls invalid.
pub(super) fn fence_annotation() -> String {
    format!("{OWN}{PREFIX}fence")
}

/// The epoch of the builder that wrote an object last.
pub(super) fn epoch(object: &DynamicObject) -> Option<u64> {
    object.annotations().get(&epoch_annotation())?.parse().ok()
}

/// Whether two states of an object differ in nothing but bookkeeping.
pub(super) fn is_same_content(a: &DynamicObject, b: &DynamicObject) -> bool {
    let content = |object: &DynamicObject| {
        let mut value = serde_json::to_value(object).unwrap_or_default();
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(key);
            }
        }
        value
    };
    content(a) == content(b)
}

/// Whether a write failed because the object has changed since it was read. A conflict between
/// field managers has causes; this one has none.
pub(super) fn has_changed(error: &Error) -> bool {
    let Error::Api(status) = error else { return false };
    let causes = status.details.as_ref().map_or(0, |details| details.causes.len());
    status.code == 409 && causes == 0
}

/// What of an object says which pods it selects, and whose it is. The rest may be large, and is the
/// tenant's. The items of a list say nothing of their kind.
pub(super) fn selecting(api_version: &str, kind: &str, object: &DynamicObject) -> Value {
    let keys: &[&str] = match kind {
        "NetworkPolicy" => &["podSelector", "ingress", "egress"],
        _ => &["selector"],
    };
    let spec = keys.iter().filter_map(|key| {
        let value = object.data.get("spec")?.get(*key)?;
        Some(((*key).to_owned(), value.clone()))
    });
    let spec: serde_json::Map<String, Value> = spec.collect();
    let metadata = json!({ "name": object.name_any(), "labels": object.labels() });
    json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec })
}

/// Whether a write failed only because an autoscaler sets the replicas: the one that is not in the
/// template, whose controller writes them by the subresource `scale`.
pub(super) fn is_scaled_by_autoscaler(error: &Error) -> bool {
    const CONTROLLER: &str = "conflict with \"kube-controller-manager\" with subresource \"scale\"";
    let Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut is_any = false;
    let is_by_it = causes.into_iter().all(|cause| {
        is_any = true;
        cause.field == ".spec.replicas" && cause.message.starts_with(CONTROLLER)
    });
    status.code == 409 && is_any && is_by_it
}

/// The failure of a call: the server's decision, or that there was none.
pub(super) fn failed(error: &Error) -> ClusterError {
    match error {
        // An outdated token, a full server and its failures pass by themselves.
        Error::Api(status)
            if !matches!(status.code, 401 | 408 | 429) && (400..500).contains(&status.code) =>
        {
            ClusterError::Rejected(bounded(&status.message))
        }
        Error::Api(status) => ClusterError::Unreachable(bounded(&status.message)),
        error => ClusterError::Unreachable(bounded(&causes(error))),
    }
}

/// A text of a length that is fit for a record.
pub(super) fn bounded(text: &str) -> String {
    const MAX: usize = 2000;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_selects_pods_nothing_else_is_kept() {
        let object = json!({ "metadata": { "name": "web", "labels": { "a": "b" },
            "annotations": { "large": "x" } }, "spec": { "selector": { "app": "web" }, "ports": [] } });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        assert_eq!(
            selecting("v1", "Service", &object),
            json!({ "apiVersion": "v1", "kind": "Service", "spec": { "selector": { "app": "web" } },
                "metadata": { "name": "web", "labels": { "a": "b" } } })
        );
    }

    #[test]
    fn replicas_are_left_to_an_autoscaler_and_to_nobody_else() {
        let conflict = |causes: &[(&str, &str)]| {
            let causes = causes.iter().map(|(field, message)| {
                json!({ "reason": "FieldManagerConflict", "field": field, "message": message })
            });
            let status = json!({ "status": "Failure", "code": 409, "reason": "Conflict",
                "message": "", "details": { "causes": causes.collect::<Vec<Value>>() } });
            let status = serde_json::from_value(status).unwrap();
            is_scaled_by_autoscaler(&Error::Api(Box::new(status)))
        };
        let by = |manager: &str| {
            format!("conflict with \"{manager}\" with subresource \"scale\" using apps/v1")
        };
        let (hpa, kubectl) = (by("kube-controller-manager"), by("kubectl"));
        assert!(conflict(&[(".spec.replicas", &hpa)]));
        assert!(!conflict(&[(".spec.replicas", &kubectl)]), "a person has scaled it");
        assert!(!conflict(&[(".spec.replicas", &hpa), (".spec.paused", &kubectl)]));
        assert!(!conflict(&[]), "it has changed since it was read");
    }
}
