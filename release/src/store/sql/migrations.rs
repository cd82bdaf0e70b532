//! The schema's migrations, forward only. A published one is never changed.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A version, its description and its statements.
type Statements = (i64, &'static str, &'static str);

/// All migrations of SQLite.
const SQLITE: [Statements; 10] = [
    (1, "releases", include_str!("../migrations/0001_releases.sql")),
    (2, "late calls", include_str!("../migrations/0002_late_calls.sql")),
    (3, "irreversible releases", include_str!("../migrations/0003_irreversible.sql")),
    (4, "settings", include_str!("../migrations/0004_settings.sql")),
    (5, "key uses", include_str!("../migrations/0005_key_uses.sql")),
    (6, "tags", include_str!("../migrations/0006_tags.sql")),
    (7, "replaced deployments", include_str!("../migrations/0007_replaces.sql")),
    (8, "rollouts", include_str!("../migrations/0008_rollouts.sql")),
    (9, "builds", include_str!("../migrations/0009_builds.sql")),
    (10, "gates", include_str!("../migrations/0010_gates.sql")),
];

/// All migrations of PostgreSQL, which begin with the schema that SQLite has after ten.
const POSTGRES: [Statements; 1] =
    [(10, "store", include_str!("../migrations/postgres/0010_store.sql"))];

/// The migrator to the newest schema of SQLite.
pub(super) fn sqlite() -> Migrator {
    migrator(&SQLITE)
}

/// The migrator to the newest schema of PostgreSQL.
pub(super) fn postgres() -> Migrator {
    migrator(&POSTGRES)
}

/// The number of schemas of SQLite.
#[cfg(test)]
pub(super) const COUNT: usize = SQLITE.len();

/// The migrator to the schema of SQLite after this many migrations.
#[cfg(test)]
pub(super) fn sqlite_to(count: usize) -> Migrator {
    migrator(&SQLITE[..count])
}

fn migrator(migrations: &[Statements]) -> Migrator {
    let migration = |(version, description, sql): &Statements| {
        let sql = sql.into_sql_str();
        Migration::new(*version, (*description).into(), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(migrations.iter().map(migration).collect())
}
