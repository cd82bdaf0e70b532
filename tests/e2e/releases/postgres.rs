//! Builders with a store in PostgreSQL: a real server, and a database for each test.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::api_server::{Kind, Trap, When};
use super::builder::Builder;
use super::killed::{Operation, kill_at};
use super::registry::Registry;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::soon;

/// A database, and the setting of a store in it.
struct Store {
    database: Database,
    folder: TempDir,
}

// === impl Store ===

impl Store {
    async fn new() -> Self {
        let database = Postgres::shared().await.database().await;
        Self { database, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The settings of a builder with this name.
    fn settings(&self, name: &str) -> Value {
        let url_file = self.folder.path().join(name);
        let url = format!("{}?application_name={name}", self.database.url());
        std::fs::write(&url_file, url).expect("the URL");
        json!({ "store": { "postgresql": { "urlFile": url_file } } })
    }
}

#[tokio::test]
async fn a_builder_killed_on_postgresql_is_followed_by_one_that_resumes() {
    let registry = Registry::start().await;
    for tag in ["1", "2", "3"] {
        registry.push("web", tag).await;
    }
    for (operation, kind, when) in [
        (Operation::Deploy, Kind::Apply, When::Before),
        (Operation::Promote, Kind::Apply, When::After),
        (Operation::Rollback, Kind::Delete, When::Before),
    ] {
        let store = Store::new().await;
        let trap = Trap { kind, skipped: 0, when };
        kill_at(&registry, operation, trap, &store.settings("first")).await;
    }
}

#[tokio::test]
async fn a_builder_that_was_taken_for_dead_records_nothing_any_more() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let store = Store::new().await;
    let request = |reason: &str| {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "web" },
            "data": { "image": "{{image}}" },
        });
        json!({ "service": "web", "template": [object], "image": registry.image("web", "1"),
            "reason": reason })
    };
    let path = "/api/v1/releases";
    let mut first = Builder::start_with(&registry, None, &store.settings("first")).await;
    assert_eq!(first.post("ci", path, &request("first")).await.status, 201);
    let settings = store.settings("second");
    let mut second = Box::pin(Builder::start_with(&registry, None, &settings));
    let waits = tokio::time::timeout(Duration::from_secs(2), &mut second).await;
    assert!(waits.is_err(), "two builders lead");
    assert_eq!(first.post("ci", path, &request("first")).await.status, 201);

    // It stands still, and PostgreSQL ends its connection, as it does by itself after half a minute.
    first.signal("STOP").await;
    store.database.take_lock_from("first").await;
    let second = soon("the second builder leads", second).await;
    assert_eq!(second.post("ci", path, &request("second")).await.json()["id"], "web.3");
    first.signal("CONT").await;
    let late = first.post("ci", path, &request("late")).await;
    assert!(matches!(late.status, 0 | 503), "{late:?}");
    assert!(!first.ended().await.success(), "it reports that another one has taken over");
    let releases = second.get("ci", path).await.json();
    assert_eq!(releases["items"].as_array().expect("a page").len(), 3);
    let audit = second.get("admin", "/api/v1/audit").await.json();
    let mut reasons: Vec<_> =
        audit["items"].as_array().expect("entries").iter().map(|entry| &entry["reason"]).collect();
    reasons.sort_by_key(|reason| reason.to_string());
    assert_eq!(reasons, ["first", "first", "second"]);
}
