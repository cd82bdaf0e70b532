//! Events on objects (`events.k8s.io/v1`).

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;

use super::ObjectEvent;
use crate::manifest::ObjectRef;

/// The longest note that the API server accepts, in bytes.
const MAX_NOTE: usize = 1024;
/// The most of the object's name in the Event's, which is 253 octets at most.
const MAX_NAME: usize = 200;
/// The `reportingController` of the Events.
const CONTROLLER: &str = "releases.portcullis.dev/builder";
/// The `reportingInstance`: there is one builder at a time.
const INSTANCE: &str = "builder";

/// The Event on an object. Its name follows from the object and the identity of what happened.
pub(super) fn event(
    happened: &ObjectEvent,
    object: &ObjectRef,
    live: &DynamicObject,
    now: std::time::SystemTime,
) -> Event {
    let uid = live.uid().unwrap_or_default();
    let hash = digest(&SHA256, format!("{uid} {}", happened.identity).as_bytes());
    let hash = hex::encode(hash.as_ref().get(..8).unwrap_or_default());
    let name = truncated(&object.name, MAX_NAME);
    let metadata = ObjectMeta {
        name: Some(format!("{}.{hash}", name.trim_end_matches(['-', '.']))),
        namespace: live.namespace(),
        ..ObjectMeta::default()
    };
    let regarding = ObjectReference {
        api_version: Some(object.api_version.clone()),
        kind: Some(object.kind.clone()),
        name: Some(object.name.clone()),
        namespace: live.namespace(),
        uid: Some(uid),
        resource_version: live.resource_version(),
        ..ObjectReference::default()
    };
    Event {
        metadata,
        action: Some(happened.action.clone()),
        event_time: Timestamp::try_from(now).ok().map(MicroTime),
        note: Some(truncated(&happened.note, MAX_NOTE).to_owned()),
        reason: Some(happened.reason.clone()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(INSTANCE.to_owned()),
        type_: Some(if happened.warns { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

fn truncated(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_has_a_name_of_its_own_and_bounded_texts() {
        let manifest = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "web", "namespace": "shop", "uid": "u1" } });
        let object = ObjectRef::of(&manifest).unwrap();
        let live: DynamicObject = serde_json::from_value(manifest).unwrap();
        let happened = |identity: &str| ObjectEvent {
            identity: identity.to_owned(),
            reason: "RolloutWatching".to_owned(),
            action: "Rollout".to_owned(),
            note: "ü".repeat(2000),
            warns: true,
        };
        let of = |identity| event(&happened(identity), &object, &live, std::time::UNIX_EPOCH);
        let first = of("web.shop.1 3");
        let name = first.name_any();
        assert_eq!(name, of("web.shop.1 3").name_any(), "the same one again");
        assert_ne!(name, of("web.shop.1 4").name_any());
        assert!(name.starts_with("web.") && name.len() == 20, "{name}");
        assert_eq!(first.note.as_ref().map(String::len), Some(MAX_NOTE));
        assert_eq!(first.regarding.and_then(|one| one.uid).as_deref(), Some("u1"));
        assert_eq!(
            (first.type_.as_deref(), first.metadata.namespace.as_deref()),
            (Some("Warning"), Some("shop"))
        );
    }
}
