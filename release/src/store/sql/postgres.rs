//! A PostgreSQL database: one builder leads, and each of its changes is fenced by the epoch.

mod leader;
mod target;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};

use self::leader::Leader;
use self::target::Target;
use super::migrations;
use super::query::Connection;
use crate::settings::PostgresSettings;
use crate::store::StoreError;

/// How many lists are read at the same time.
const READERS: u32 = 4;
/// How long a call waits for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// What each connection of a pool sets. What a builder that is cut off holds is released by the
/// server, and a commit is on disk. The planner uses indexes alone: how long a list takes must not
/// depend on the rows of other services, and its estimates do.
const SESSION: &str = "SET statement_timeout = '20s'; SET lock_timeout = '15s'; \
     SET idle_in_transaction_session_timeout = '15s'; SET tcp_keepalives_idle = 10; \
     SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; SET enable_seqscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off; \
     SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') = 'off'";

/// An open database.
pub(super) struct PostgresDatabase {
    target: Target,
    pools: Mutex<Pools>,
    leader: Leader,
}

#[derive(Clone)]
struct Pools {
    writer: PgPool,
    readers: PgPool,
}

// === impl PostgresDatabase ===

impl PostgresDatabase {
    /// Waits until no other builder leads, and migrates the schema. Returns the connection that has
    /// the lock, too.
    pub(super) async fn open(
        settings: &PostgresSettings,
    ) -> Result<(Self, PgConnection), StoreError> {
        let target = Target::read(settings)?;
        let mut connection = leader::elect(&target).await?;
        check(&mut connection).await?;
        // A migration takes as long as it needs.
        let pool = pool(1).connect_lazy_with(target.options().clone());
        migrations::postgres().run(&pool).await?;
        pool.close().await;
        let pools = Mutex::new(Pools::of(&target));
        Ok((Self { leader: Leader::new(), target, pools }, connection))
    }

    /// Begins to watch that this builder still leads.
    pub(super) fn lead(&mut self, connection: PgConnection, epoch: i64) {
        self.leader.watch(connection, self.target.clone(), epoch);
    }

    /// Waits until another builder leads.
    pub(super) async fn superseded(&self) {
        self.leader.superseded().await;
    }

    /// Starts a transaction that writes.
    pub(super) async fn write(&self) -> Result<Connection, StoreError> {
        // Each statement sees what was committed before the lock on the epoch was had.
        let pool = self.pools().writer;
        Ok(Connection::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?))
    }

    /// Starts a transaction that reads.
    pub(super) async fn read(&self) -> Result<Connection, StoreError> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(Connection::Postgres(self.pools().readers.begin_with(BEGIN).await?))
    }

    /// Abandons all connections: one does not answer, and a pool would wait for it.
    pub(super) fn reconnect(&self) {
        *self.pools.lock().unwrap_or_else(PoisonError::into_inner) = Pools::of(&self.target);
    }

    fn pools(&self) -> Pools {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl Pools ===

impl Pools {
    fn of(target: &Target) -> Self {
        let pool = |connections| {
            pool(connections)
                .after_connect(|connection, _| {
                    Box::pin(
                        async move { sqlx::raw_sql(SESSION).execute(connection).await.map(drop) },
                    )
                })
                .connect_lazy_with(target.options().clone())
        };
        Self { writer: pool(1), readers: pool(READERS) }
    }
}

fn pool(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE)
}

/// Refuses a server that the store cannot be kept on.
async fn check(connection: &mut PgConnection) -> Result<(), StoreError> {
    /// The first version with `idle_session_timeout`.
    const OLDEST: i64 = 140_000;
    let (version, encoding): (i64, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::bigint, current_setting('server_encoding')",
    )
    .fetch_one(connection)
    .await?;
    if version < OLDEST {
        return Err(StoreError::Unsupported(format!("version {version}: it must be 14 or later")));
    }
    if encoding != "UTF8" {
        return Err(StoreError::Unsupported(format!("encoding {encoding}: it must be UTF8")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
