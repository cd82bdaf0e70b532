use std::path::PathBuf;
use std::sync::Mutex;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

use super::query::Row;
use super::*;
use crate::store::suite::{self, by, release};

async fn open(folder: &TempDir) -> SqlStore {
    SqlStore::open_file(&folder.path().join("releases.db")).await.expect("the store opens")
}

/// The pool of a store in a file that writes.
fn writer(store: &SqlStore) -> &SqlitePool {
    match &store.database {
        Database::Sqlite(file) => &file.writer,
        Database::Postgres(_) => panic!("it is in PostgreSQL"),
    }
}

#[tokio::test]
async fn the_suite_of_all_stores() {
    let folder = tempfile::tempdir().unwrap();
    let number = Mutex::new(0);
    suite::run(|| {
        let mut number = number.lock().unwrap();
        *number += 1;
        let path: PathBuf = folder.path().join(format!("{number}.db"));
        async move { std::sync::Arc::new(SqlStore::open_file(&path).await.unwrap()) as _ }
    })
    .await;
}

#[tokio::test]
async fn what_was_recorded_is_there_after_reopening_with_a_later_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    assert_eq!(store.epoch(), 1);
    let created = store.create_release(release("web", by(1, ""), &[])).await.unwrap();
    drop(store);
    let store = open(&folder).await;
    assert_eq!(store.epoch(), 2);
    assert_eq!(store.release(&created.id).await.unwrap().unwrap().summary, created);
}

#[tokio::test]
async fn a_second_builder_is_refused_until_the_first_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let second = SqlStore::open_file(&folder.path().join("releases.db")).await;
    assert!(matches!(second, Err(StoreError::InUse)));
    drop(store);
    open(&folder).await;
}

#[tokio::test]
async fn every_commit_is_synchronized_to_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let pragma = |name: &'static str| {
        let writer = writer(&store).clone();
        async move { Row::Sqlite(sqlx::query(name).fetch_one(&writer).await.unwrap()) }
    };
    assert_eq!(
        row::get::<String>(&pragma("PRAGMA journal_mode").await, "journal_mode").unwrap(),
        "wal"
    );
    // 2 is FULL (<https://sqlite.org/pragma.html#pragma_synchronous>).
    assert_eq!(row::get::<i64>(&pragma("PRAGMA synchronous").await, "synchronous").unwrap(), 2);
}

#[tokio::test]
async fn the_audit_log_cannot_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    store.create_release(release("web", by(1, ""), &[])).await.unwrap();
    for statement in ["DELETE FROM audit", "UPDATE audit SET actor = 'another'"] {
        let error = sqlx::query(statement).execute(writer(&store)).await.unwrap_err();
        assert!(error.to_string().contains("append only"), "{error}");
    }
    assert_eq!(store.audit(None, 9).await.unwrap()[0].actor, "ci");
}

#[tokio::test]
async fn lists_read_no_row_of_another_service() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    for query in [releases::LIST_OF, placements::LIST_OF, deployments::LAST_OF, rollouts::LIST_OF] {
        let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}"));
        let plan = sqlx::query(explained).fetch_all(writer(&store)).await.unwrap();
        let steps: Vec<String> =
            plan.into_iter().map(|step| Row::Sqlite(step).get("detail").unwrap()).collect();
        let is_search = |step: &String| step.starts_with("SEARCH") && step.contains("(service=?");
        assert!(steps.iter().any(is_search), "{steps:?}");
        let is_scan = |step: &String| step.starts_with("SCAN") && !step.starts_with("SCAN wanted");
        let is_scan = |step: &String| is_scan(step) && !step.starts_with("SCAN json_each");
        let is_scan = |step: &String| is_scan(step) && !step.starts_with("SCAN readable");
        assert!(!steps.iter().any(is_scan), "{steps:?}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_the_change_and_leaves_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    store.create_release(release("web", by(1, ""), &[])).await.unwrap();
    let pages: i64 =
        sqlx::query_scalar("PRAGMA page_count").fetch_one(writer(&store)).await.unwrap();
    let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    sqlx::query(limit).execute(writer(&store)).await.unwrap();
    let mut recorded = 1;
    let error = loop {
        let names: Vec<String> =
            (0..50).map(|name| format!("{0}.{0}.{0}-{name}", "x".repeat(60))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match store.create_release(release("web", by(2, ""), &names)).await {
            Ok(_) => recorded += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full), "{error}");
    assert_eq!(store.releases(None, None, 50).await.unwrap().len(), recorded);
    assert_eq!(store.audit(None, 50).await.unwrap().len(), recorded);
}

#[tokio::test]
async fn a_hundred_releases_at_once_are_all_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(open(&folder).await);
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..100 {
        let store = std::sync::Arc::clone(&store);
        tasks.spawn(async move { store.create_release(release("web", by(at, ""), &[])).await });
    }
    let created = tasks.join_all().await;
    let mut numbers: Vec<u32> =
        created.into_iter().map(|created| created.unwrap().id.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_store_of_every_earlier_schema_is_migrated_and_loses_nothing() {
    for count in 1..migrations::COUNT {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("releases.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        migrations::sqlite_to(count).run(&pool).await.unwrap();
        // The columns of the first schema, which all later ones have.
        for statement in [
            "UPDATE epoch SET epoch = 5",
            "INSERT INTO releases (service, number, requested, image, template, created_at, \
             created_by) VALUES ('web', 1, 'r.test/web:1', 'r.test/web@sha256:1', '[]', 1, 'ci')",
            "INSERT INTO placements (service, environment, running, inventory) VALUES ('web', \
             'dev', 1, '[]')",
            "INSERT INTO deployments (service, environment, number, release, intent, version, \
             is_open, state, requested_by, reason, created_at, updated_at) VALUES ('web', 'dev', \
             1, 1, '\"deploy\"', 4, 0, '{\"state\":\"ready\"}', 'ci', '', 1, 1)",
        ] {
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
        pool.close().await;
        let store = open(&folder).await;
        assert_eq!(store.epoch(), 6, "schema {count}");
        let id = "web.1".parse().unwrap();
        assert_eq!(store.release(&id).await.unwrap().unwrap().summary.created_by, "ci");
        let placements = store.placements(None).await.unwrap();
        assert_eq!(placements[0].running, Some(id));
        let deployment = "web.dev.1".parse().unwrap();
        assert_eq!(store.deployment(&deployment).await.unwrap().unwrap().state, State::Ready);
    }
}
