//! The store on a real server.

#[path = "../../../../../tests/e2e/harness/postgres.rs"]
mod server;

use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex};

use tempfile::TempDir;

use self::server::{Database, PASSWORD, Postgres};
use super::*;
use crate::model::EnvironmentName;
use crate::settings::PostgresSettings;
use crate::store::sql::{SqlStore, deployments, placements, releases, rollouts};
use crate::store::suite::{self, by, release};
use crate::store::{BuildStore, Store, StoreError};

/// The longest wait. Never reached in a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database, and a folder for the files with its URL.
struct World {
    database: Database,
    folder: TempDir,
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let database = Postgres::shared().await.database().await;
        Self { database, folder: tempfile::tempdir().unwrap() }
    }

    /// Settings with this URL.
    fn settings(&self, url: &str) -> PostgresSettings {
        let url_file = self.folder.path().join("url");
        std::fs::write(&url_file, format!("{url}\n")).unwrap();
        PostgresSettings { url_file, certificate_authorities: None }
    }

    /// Opens the store as a builder with this name.
    async fn open_as(&self, name: &str) -> Result<SqlStore, StoreError> {
        let url = format!("{}?application_name={name}", self.database.url());
        SqlStore::open_postgres(&self.settings(&url)).await
    }

    async fn open(&self) -> SqlStore {
        soon(self.open_as("first")).await.expect("the store opens")
    }

    /// What is wrong with a database at this URL.
    async fn problem(&self, url: &str) -> String {
        let opened = soon(SqlStore::open_postgres(&self.settings(url))).await;
        let Err(error) = opened else { panic!("{url} can be used") };
        let problem = error.to_string();
        assert!(
            !problem.contains(PASSWORD) && !format!("{error:?}").contains(PASSWORD),
            "{problem}"
        );
        problem
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it does not take that long")
}

async fn create(store: &SqlStore, at: u64) -> Result<String, StoreError> {
    Ok(store.create_release(release("web", by(at, ""), &[])).await?.id.to_string())
}

#[tokio::test]
async fn the_suite_of_all_stores() {
    let worlds = StdMutex::new(Vec::new());
    suite::run(|| async {
        let world = World::new().await;
        let store = world.open().await;
        worlds.lock().unwrap().push(world);
        Arc::new(store) as Arc<dyn BuildStore>
    })
    .await;
}

#[tokio::test]
async fn what_was_recorded_is_there_after_reopening_with_a_later_epoch() {
    let world = World::new().await;
    let store = world.open().await;
    assert_eq!(store.epoch(), 1);
    let created = store.create_release(release("web", by(1, ""), &[])).await.unwrap();
    drop(store);
    let store = world.open().await;
    assert_eq!(store.epoch(), 2);
    assert_eq!(store.release(&created.id).await.unwrap().unwrap().summary, created);
}

#[tokio::test]
async fn a_second_builder_waits_until_the_first_has_gone() {
    let world = World::new().await;
    let first = world.open().await;
    let mut second = Box::pin(world.open_as("second"));
    // It goes on for as long as the first one does: what it tries last is the lock.
    for at in 1..=3 {
        let moment = tokio::time::timeout(RETRIED, &mut second).await;
        assert!(moment.is_err(), "two builders lead");
        create(&first, at).await.unwrap();
    }
    drop(first);
    let second = soon(second).await.unwrap();
    assert_eq!((second.epoch(), create(&second, 4).await.unwrap()), (2, "web.4".to_owned()));
}

/// Longer than a builder that waits does before it tries again.
const RETRIED: Duration = Duration::from_millis(1200);

/// Opens the store as a second builder, while the first one loses its lock again and again.
async fn take_over(world: &World) -> SqlStore {
    let cut = async {
        loop {
            world.database.take_lock_from("first").await;
        }
    };
    tokio::select! {
        second = world.open_as("second") => second.unwrap(),
        () = cut => unreachable!("it does not end"),
    }
}

#[tokio::test]
async fn a_builder_that_lost_the_lock_records_nothing_once_another_leads() {
    let world = World::new().await;
    let first = world.open().await;
    let second = soon(take_over(&world)).await;
    assert!(matches!(create(&first, 1).await, Err(StoreError::Superseded)));
    soon(first.superseded()).await;
    assert_eq!(create(&second, 2).await.unwrap(), "web.1");
    assert_eq!(second.audit(None, 9).await.unwrap().len(), 1);
    // It stays so when the second one has gone.
    drop(second);
    assert!(matches!(create(&first, 3).await, Err(StoreError::Superseded)));
}

#[tokio::test]
async fn a_change_that_is_under_way_ends_before_another_builder_leads() {
    let world = World::new().await;
    let first = world.open().await;
    let transaction = first.write().await.unwrap();
    let mut second = Box::pin(take_over(&world));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND application_name = 'second'";
    let blocked = async { while world.database.query(waits).await.unwrap() != "1" {} };
    tokio::select! {
        _ = &mut second => panic!("it leads while the first one changes the record"),
        () = soon(blocked) => {}
    }
    transaction.commit().await.unwrap();
    let second = soon(second).await;
    assert_eq!(second.epoch(), 2);
    assert!(matches!(create(&first, 1).await, Err(StoreError::Superseded)));
}

#[tokio::test]
async fn a_builder_goes_on_after_it_has_lost_its_connections() {
    let world = World::new().await;
    let store = world.open().await;
    create(&store, 1).await.unwrap();
    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = \
               'first' AND datname = current_database()";
    world.database.query(all).await.unwrap();
    assert_eq!(create(&store, 2).await.unwrap(), "web.2");
    let locks = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = \
                 'advisory' AND datname = current_database()";
    let has_lock = async { while world.database.query(locks).await.unwrap() != "1" {} };
    soon(has_lock).await;
    assert_eq!((create(&store, 3).await.unwrap(), store.epoch()), ("web.3".to_owned(), 1));
}

#[tokio::test]
async fn a_hundred_releases_at_once_are_all_recorded() {
    let world = World::new().await;
    let store = Arc::new(world.open().await);
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..100 {
        let store = Arc::clone(&store);
        tasks.spawn(async move { store.create_release(release("web", by(at, ""), &[])).await });
    }
    let created = tasks.join_all().await;
    let mut numbers: Vec<u32> =
        created.into_iter().map(|created| created.unwrap().id.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_audit_log_cannot_be_changed() {
    let world = World::new().await;
    let store = world.open().await;
    create(&store, 1).await.unwrap();
    for statement in ["DELETE FROM audit", "UPDATE audit SET actor = 'another'", "TRUNCATE audit"] {
        let error = world.database.query(statement).await.unwrap_err();
        assert!(error.contains("append only"), "{error}");
    }
    assert_eq!(store.audit(None, 9).await.unwrap()[0].actor, "ci");
}

#[tokio::test]
async fn a_text_with_nul_is_recorded_without_it() {
    let world = World::new().await;
    let store = world.open().await;
    let dev: EnvironmentName = "dev".parse().unwrap();
    let mut frozen_by = by(1, "");
    frozen_by.reason = "a\0b".to_owned();
    store.freeze(&dev, true, None, frozen_by).await.unwrap();
    assert_eq!(store.frozen().await.unwrap()[0].reason, "a\u{fffd}b");
}

/// Rows of 200 services. The planner has no statistics about them yet.
const FILL: &str = r#"
INSERT INTO releases SELECT 'service-' || s, n, NULL, 'r', 'i', '[]', s * n, 'ci'
    FROM generate_series(1, 200) s, generate_series(1, 20) n;
INSERT INTO placements SELECT 'service-' || s, e, 1, NULL, '[]'
    FROM generate_series(1, 200) s, unnest(ARRAY['dev', 'staging', 'production']) e;
INSERT INTO deployments SELECT service, e, number, number, '"deploy"', 1, 0, '{"state":"ready"}', NULL,
    'ci', '', created_at, created_at FROM releases, unnest(ARRAY['dev', 'staging', 'production']) e;
INSERT INTO rollouts SELECT service, environment, number, 1, 0, '{}', 'null', NULL, created_at, created_at
    FROM deployments;
"#;

#[tokio::test]
async fn lists_read_no_row_of_another_service() {
    let world = World::new().await;
    world.open().await;
    world.database.query(FILL).await.unwrap();
    for (types, query) in [
        ("text, bigint, text, bigint, bigint", releases::LIST_OF),
        ("text", placements::LIST_OF),
        ("text, text", deployments::LAST_OF),
        ("text, text, text, bigint, text, text, bigint, bigint", rollouts::LIST_OF),
    ] {
        let values = types.split(", ").map(|_| "NULL").collect::<Vec<_>>().join(", ");
        let session = SESSION.split_once("; SELECT").map_or(SESSION, |(settings, _)| settings);
        let explain = format!(
            "{session}; SET plan_cache_mode = force_generic_plan; PREPARE list ({types}) AS {query}; \
             EXPLAIN EXECUTE list ({values})"
        );
        let plan = world.database.query(&explain).await.unwrap();
        let scans = plan.lines().filter(|line| line.contains("Scan") && !line.contains("Function"));
        let is_search = |line: &&str| {
            line.contains("Index Cond: (service = ") || line.contains("Index Cond: ((service = ")
        };
        let searches = plan.lines().filter(is_search).count();
        assert!(searches > 0 && scans.count() == searches, "{plan}");
    }
}

#[tokio::test]
async fn the_schema_is_that_of_sqlite() {
    let world = World::new().await;
    world.open().await;
    let columns = "SELECT table_name || '.' || column_name || ' ' || upper(data_type) || ' ' || \
                   is_nullable FROM information_schema.columns WHERE table_schema = 'public' AND \
                   table_name NOT LIKE '\\_sqlx%'";
    let mut postgres: Vec<String> =
        world.database.query(columns).await.unwrap().lines().map(str::to_owned).collect();
    let file = SqlStore::open_file(&world.folder.path().join("releases.db")).await.unwrap();
    let mut connection = file.read().await.unwrap();
    let columns = "SELECT tables.name || '.' || columns.name || ' ' || \
                   replace(columns.type, 'INTEGER', 'BIGINT') || CASE WHEN columns.\"notnull\" OR \
                   columns.pk THEN ' NO' ELSE ' YES' END AS line FROM sqlite_schema AS tables \
                   JOIN pragma_table_info(tables.name) AS columns WHERE tables.type = 'table' AND \
                   tables.name NOT LIKE '\\_sqlx%' ESCAPE '\\'";
    let rows = crate::store::sql::query::query(columns).fetch_all(&mut connection).await.unwrap();
    let mut sqlite: Vec<String> = rows.iter().map(|row| row.get("line").unwrap()).collect();
    postgres.sort();
    sqlite.sort();
    assert_eq!(postgres, sqlite);
    let collations = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public' \
                      AND data_type = 'text' AND table_name NOT LIKE '\\_sqlx%' AND \
                      collation_name IS DISTINCT FROM 'C'";
    assert_eq!(world.database.query(collations).await.unwrap(), "0", "text is ordered by bytes");
}

#[tokio::test]
async fn what_cannot_be_used_is_said_without_the_password() {
    let world = World::new().await;
    let url = world.database.url();
    let wrong = format!("postgresql://postgres:wrong@{}", url.split_once('@').unwrap().1);
    assert!(world.problem(&wrong).await.contains("password authentication failed"));
    let missing = url.replace(&world.database.name, "missing");
    assert!(world.problem(&missing).await.contains("database \"missing\" does not exist"));
    let away = format!("postgresql://u:{PASSWORD}@127.0.0.1:1/d");
    let problem = world.problem(&away).await;
    assert!(problem.starts_with("PostgreSQL at 127.0.0.1:1/d: "), "{problem}");
    assert!(problem.contains("refused"), "{problem}");
    assert!(world.problem("nonsense").await.contains("has no valid URL: it is not of the form"));
    let absent = PostgresSettings {
        url_file: Path::new("/nowhere/url").to_owned(),
        certificate_authorities: None,
    };
    assert!(matches!(SqlStore::open_postgres(&absent).await, Err(StoreError::File(..))));
    world.open().await;
    let later = "INSERT INTO _sqlx_migrations SELECT 99, description, installed_on, success, checksum, \
                 execution_time FROM _sqlx_migrations";
    world.database.query(later).await.unwrap();
    assert!(matches!(world.open_as("first").await, Err(StoreError::Newer(99))));
    let latin = "CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'";
    world.database.query(latin).await.unwrap();
    let problem = world.problem(&url.replace(&world.database.name, "latin")).await;
    assert_eq!(problem, "PostgreSQL has encoding LATIN1: it must be UTF8");
}

#[tokio::test]
async fn a_server_elsewhere_is_verified() {
    let world = World::new().await;
    let server = Postgres::shared().await;
    let at = |host: &str| {
        format!(
            "postgresql://postgres:{PASSWORD}@{host}:{}/{}?sslmode=verify-full",
            server.port, world.database.name
        )
    };
    // Nobody that browsers trust has signed it.
    assert!(world.problem(&at("localhost")).await.contains("certificate"));
    let authority = server.folder.join("ca.pem");
    let settings = |host: &str| PostgresSettings {
        certificate_authorities: Some(authority.clone()),
        ..world.settings(&at(host))
    };
    let other = SqlStore::open_postgres(&settings("127.0.0.1")).await;
    assert!(matches!(other, Err(StoreError::Server(..))), "it is the certificate of another host");
    let store = SqlStore::open_postgres(&settings("localhost")).await.unwrap();
    create(&store, 1).await.unwrap();
    let encrypted = "SELECT count(*), bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'portcullis-builder' AND datname = current_database()";
    assert_eq!(world.database.query(encrypted).await.unwrap(), "2|t");
}
