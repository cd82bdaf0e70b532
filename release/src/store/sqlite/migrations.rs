//! The schema's migrations, forward only. A published one is never changed.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// All migrations: version, description, statements.
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "releases", include_str!("../migrations/0001_releases.sql"))];

/// The migrator to the newest schema.
pub(super) fn migrator() -> Migrator {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(MIGRATIONS.into_iter().map(migration).collect())
}
