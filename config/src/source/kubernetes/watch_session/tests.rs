use serde_json::json;

use super::*;

fn service(name: &str, version: u64) -> core::Service {
    let object = json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": version.to_string()}, "spec": {"ports": [{"port": 80}]}});
    serde_json::from_value(object).unwrap()
}

/// An invalid Service, which a real API server would not return.
fn broken(name: &str, version: u64) -> core::Service {
    let mut service = service(name, version);
    service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].port = 0;
    service
}

fn bookmark(version: u64, annotations: &serde_json::Value) -> WatchEvent<core::Service> {
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    WatchEvent::Bookmark(
        serde_json::from_value(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata}),
        )
        .unwrap(),
    )
}

fn error(code: u16) -> WatchEvent<core::Service> {
    WatchEvent::Error(Status { code, ..Status::default() }.boxed())
}

fn listed(names: &[&str], version: u64) -> WatchSession {
    let mut session = WatchSession::default();
    session.begin_list();
    names.iter().for_each(|name| session.listed(&[service(name, 1)]));
    session.end_list::<core::Service>(version.to_string(), false).unwrap();
    session
}

fn names(changes: &[Change]) -> Vec<String> {
    let name = |id: &ObjectId| match id {
        ObjectId::Service(name) => name.to_string(),
        other => format!("{other:?}"),
    };
    changes
        .iter()
        .map(|change| match change {
            Change::Upsert(object) => format!("+{}", name(&object.id())),
            Change::Delete(id) => format!("-{}", name(id)),
            Change::Replace(..) => "replaced".to_owned(),
        })
        .collect()
}

fn changes(step: Step) -> Vec<String> {
    match step {
        Step::Changed { changes, .. } => names(&changes),
        other => panic!("{other:?} is not a change"),
    }
}

#[test]
fn a_streamed_list_takes_effect_only_when_it_is_complete() {
    let mut session = listed(&["old", "kept"], 5);
    session.begin_list();
    assert_eq!(session.version(), None);
    assert_eq!(session.event(WatchEvent::Added(service("kept", 6)), false), Ok(Step::NoChange));
    assert_eq!(session.event(WatchEvent::Added(service("new", 7)), false), Ok(Step::NoChange));
    assert_eq!(session.event(bookmark(7, &json!({})), false), Ok(Step::NoChange));
    assert_eq!(session.version(), None);
    let end = session.event(bookmark(9, &json!({INITIAL_EVENTS_END: "true"})), false).unwrap();
    assert_eq!(changes(end), ["-shop/old", "+shop/kept", "+shop/new"]);
    assert_eq!(session.version(), Some("9"));
}

#[test]
fn an_incomplete_list_is_discarded() {
    let mut session = listed(&["a", "b"], 5);
    session.begin_list();
    session.listed(&[service("stray", 6)]);
    session.begin_list();
    session.listed(&[service("a", 7)]);
    assert_eq!(
        names(&session.end_list::<core::Service>("8".to_owned(), false).unwrap()),
        ["-shop/b", "+shop/a"]
    );
}

#[test]
fn an_empty_or_unversioned_list_is_rejected() {
    let mut session = listed(&["a"], 5);
    session.begin_list();
    assert_eq!(
        session.end_list::<core::Service>("8".to_owned(), false),
        Err(ImplausibleList::Empty)
    );
    session.begin_list();
    session.listed(&[service("a", 7)]);
    assert_eq!(
        session.end_list::<core::Service>(String::new(), false),
        Err(ImplausibleList::Unversioned)
    );
    assert_eq!(session.version(), None);
    session.begin_list();
    session.listed(&[service("b", 9)]);
    assert_eq!(
        names(&session.end_list::<core::Service>("9".to_owned(), false).unwrap()),
        ["-shop/a", "+shop/b"]
    );
}

#[test]
fn a_list_of_a_single_named_object_may_be_empty() {
    let mut session = WatchSession::default();
    session.begin_list();
    assert_eq!(session.end_list::<core::Secret>("8".to_owned(), true), Ok(Vec::new()));
}

#[test]
fn events_change_objects_and_advance_the_version() {
    let mut session = listed(&["a"], 5);
    assert_eq!(
        changes(session.event(WatchEvent::Modified(service("a", 6)), false).unwrap()),
        ["+shop/a"]
    );
    assert_eq!(
        changes(session.event(WatchEvent::Added(service("b", 7)), false).unwrap()),
        ["+shop/b"]
    );
    assert_eq!(
        changes(session.event(WatchEvent::Deleted(service("a", 8)), false).unwrap()),
        ["-shop/a"]
    );
    assert_eq!(session.version(), Some("8"));
    assert_eq!(session.event(bookmark(12, &json!({})), false), Ok(Step::NoChange));
    assert_eq!(session.version(), Some("12"));
}

#[test]
fn only_an_expired_version_causes_a_new_list() {
    let mut session = listed(&["a"], 5);
    assert!(matches!(session.event(error(500), false), Ok(Step::Failed(_))));
    assert_eq!(session.version(), Some("5"));
    assert_eq!(session.event(error(410), false), Ok(Step::Lost));
    assert_eq!(session.version(), None);
}

#[test]
fn an_invalid_object_keeps_its_last_valid_state() {
    let mut session = listed(&["a", "b"], 5);
    assert_eq!(
        changes(session.event(WatchEvent::Modified(broken("a", 6)), false).unwrap()),
        Vec::<String>::new()
    );
    assert_eq!(
        session.problems().map(|problem| problem.origin.to_string()).collect::<Vec<_>>(),
        ["Service shop/a"]
    );
    session.begin_list();
    session.listed(&[broken("a", 6)]);
    assert_eq!(
        names(&session.end_list::<core::Service>("9".to_owned(), false).unwrap()),
        ["-shop/b"]
    );
    assert_eq!(session.problems().count(), 1);
    assert_eq!(
        changes(session.event(WatchEvent::Modified(service("a", 10)), false).unwrap()),
        ["+shop/a"]
    );
    assert_eq!(session.problems().count(), 0);
    session.begin_list();
    session.listed(&[service("c", 11)]);
    assert_eq!(
        names(&session.end_list::<core::Service>("12".to_owned(), false).unwrap()),
        ["-shop/a", "+shop/c"]
    );
}

#[test]
fn a_restored_backup_is_detected_by_its_older_version() {
    assert!(is_older("99", "100"));
    assert!(!is_older("100", "100"));
    assert!(!is_older("abc", "100"));
}

fn credential(name: &str, version: u64, application: &str) -> CredentialSecret {
    let labels = json!({"portcullis.dev/credential": "client-key"});
    let metadata = json!({"name": name, "namespace": "gateway", "resourceVersion": version.to_string(), "labels": labels});
    let data = json!({"application": application, "hash": format!("sha256:{}", "0".repeat(64))});
    serde_json::from_value(json!({"metadata": metadata, "stringData": data})).unwrap()
}

#[test]
fn an_invalid_credential_is_removed() {
    let mut session = WatchSession::default();
    session.begin_list();
    session.listed(&["a", "b", "c"].map(|name| credential(name, 1, "billing")));
    session.end_list::<CredentialSecret>("5".to_owned(), true).unwrap();
    let delete =
        |name: &str| Change::Delete(ObjectId::Credential(NamespacedName::new("gateway", name)));
    let broken = WatchEvent::Modified(credential("a", 6, "*"));
    assert_eq!(
        session.event(broken, true),
        Ok(Step::Changed { changes: vec![delete("a")], whole: false })
    );
    assert_eq!(
        session.problems().map(|problem| problem.origin.to_string()).collect::<Vec<_>>(),
        ["Secret gateway/a"]
    );
    session.begin_list();
    session.listed(&[
        credential("a", 6, "*"),
        credential("b", 7, "*"),
        credential("c", 1, "billing"),
    ]);
    let changes = session.end_list::<CredentialSecret>("8".to_owned(), true).unwrap();
    let [deleted, Change::Upsert(kept)] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((deleted, kept.origin().to_string().as_str()), (&delete("b"), "Secret gateway/c"));
    assert_eq!(session.problems().count(), 2);
}

#[test]
fn debug_of_a_watched_secret_prints_only_its_name() {
    assert_eq!(format!("{:?}", credential("a", 1, "billing")), "Secret gateway/a");
}
