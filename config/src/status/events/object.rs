//! The Event of a notice. Its name is a function of what it says, so that all replicas write one
//! Event between them, and two notices on one object are two Events.

use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use super::CONTROLLER;
use crate::status::Notice;

/// The longest note that the API server accepts, in bytes.
const MAX_NOTE: usize = 1024;
/// The longest `reportingInstance` that the API server accepts, in bytes.
const MAX_INSTANCE: usize = 128;
/// The most of the object's name in the Event's, which is 253 octets at most.
const MAX_NAME: usize = 200;
/// Where Events on objects without a Namespace are.
const CLUSTER_WIDE: &str = "default";

/// The Event of `notice` on the object `regarding`, written by `instance` at `now`.
pub(super) fn event(
    notice: &Notice,
    regarding: ObjectReference,
    instance: &str,
    now: SystemTime,
) -> Event {
    let note = truncated(&notice.note, MAX_NOTE);
    let namespace = regarding.namespace.clone().filter(|namespace| !namespace.is_empty());
    let metadata = ObjectMeta {
        name: Some(name(notice, &note, &regarding)),
        namespace: Some(namespace.unwrap_or_else(|| CLUSTER_WIDE.to_owned())),
        ..ObjectMeta::default()
    };
    Event {
        metadata,
        action: Some(notice.action.to_owned()),
        event_time: Timestamp::try_from(now).ok().map(MicroTime),
        note: Some(note),
        reason: Some(notice.reason.to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(truncated(instance, MAX_INSTANCE)),
        type_: Some(if notice.warns { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

/// The object's name and a digest of all that readers see.
fn name(notice: &Notice, note: &str, regarding: &ObjectReference) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let parts = [
        text(&regarding.kind),
        text(&regarding.namespace),
        text(&regarding.name),
        text(&regarding.uid),
        notice.reason.to_owned(),
        notice.action.to_owned(),
        notice.warns.to_string(),
        note.to_owned(),
    ];
    let mut digest = Context::new(&SHA256);
    for part in parts {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    let digest = digest.finish();
    let digest = hex::encode(digest.as_ref().get(..8).unwrap_or_default());
    let object = truncated(&text(&regarding.name), MAX_NAME);
    format!("{}.{digest}", object.trim_end_matches(['-', '.']))
}

fn truncated(text: &str, most: usize) -> String {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Origin;

    fn notice(note: &str) -> Notice {
        let origin =
            Origin { kind: "Service", namespace: "shop".into(), name: "cart".into(), place: None };
        Notice {
            warns: true,
            reason: "InvalidAnnotation",
            action: "Route",
            origin,
            note: note.to_owned(),
        }
    }

    fn regarding(namespace: Option<&str>) -> ObjectReference {
        ObjectReference {
            kind: Some("Service".to_owned()),
            name: Some("cart".to_owned()),
            namespace: namespace.map(ToOwned::to_owned),
            uid: Some("one".to_owned()),
            ..ObjectReference::default()
        }
    }

    fn of(note: &str, instance: &str) -> Event {
        event(&notice(note), regarding(Some("shop")), instance, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn two_notices_on_one_object_are_two_events() {
        let (one, other) = (of("`timout` is unknown", "a"), of("`retris` is unknown", "a"));
        assert_ne!(one.metadata.name, other.metadata.name);
        assert!(one.metadata.name.is_some_and(|name| name.starts_with("cart.")));
    }

    #[test]
    fn all_replicas_write_the_same_event() {
        assert_eq!(of("note", "a").metadata, of("note", "b").metadata);
        let recreated = ObjectReference { uid: Some("two".to_owned()), ..regarding(Some("shop")) };
        let later = event(&notice("note"), recreated, "a", SystemTime::UNIX_EPOCH);
        assert_ne!(later.metadata.name, of("note", "a").metadata.name);
    }

    #[test]
    fn events_on_objects_without_a_namespace_are_in_default() {
        let event = event(&notice("note"), regarding(None), "a", SystemTime::UNIX_EPOCH);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = ObjectReference {
            name: Some(format!("{}-{}", "a".repeat(199), "b".repeat(53))),
            ..regarding(Some("shop"))
        };
        let event = event(&notice(&"ä".repeat(600)), long, &"x".repeat(300), SystemTime::now());
        assert_eq!(event.note.map(|note| note.len()), Some(MAX_NOTE));
        assert_eq!(event.reporting_instance.map(|instance| instance.len()), Some(MAX_INSTANCE));
        let name = event.metadata.name.unwrap_or_default();
        assert!(name.len() <= 253 && name.contains("a.") && !name.contains("-."), "{name}");
    }
}
