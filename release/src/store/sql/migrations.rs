//! The schema's migrations, forward only. A published one is never changed.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// All migrations: version, description, statements.
const MIGRATIONS: [(i64, &str, &str); 10] = [
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

/// The migrator to the newest schema.
pub(super) fn sqlite() -> Migrator {
    sqlite_to(MIGRATIONS.len())
}

/// The number of schemas.
#[cfg(test)]
pub(super) const COUNT: usize = MIGRATIONS.len();

/// The migrator to the schema after this many migrations.
pub(super) fn sqlite_to(count: usize) -> Migrator {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(MIGRATIONS.into_iter().take(count).map(migration).collect())
}
