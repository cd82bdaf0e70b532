//! A store in one SQLite file: write-ahead log, one writer, every commit on disk.

mod audit;
mod deployments;
mod migrations;
mod placements;
mod releases;
mod row;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};

use super::leadership::Leadership;
use super::{
    Answer, AuditCursor, AuditEntry, By, Deployment, DeploymentOrder, Freeze, NewRelease,
    PlacementStatus, Release, ReleaseCursor, ReleaseSummary, Step, Store, StoreError,
};
use crate::manifest::ObjectRef;
use crate::model::{DeploymentId, EnvironmentName, Placement, ReleaseId, ServiceName, Time};
use crate::state::State;

/// How many lists are read at the same time.
const READERS: u32 = 4;
/// How long a call waits for the file and for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store in a file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    epoch: u64,
    _leadership: Leadership,
}

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens the file, or creates it; migrates its schema, and increments its epoch.
    ///
    /// # Errors
    /// Another builder has it open, or it cannot be read, written or migrated.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let leadership = Leadership::take(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE);
        let pool = |connections| {
            SqlitePoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE)
        };
        let writer = pool(1).connect_with(options.clone().create_if_missing(true)).await?;
        migrations::migrator().run(&writer).await?;
        let readers = pool(READERS).connect_with(options.read_only(true)).await?;
        let epoch: i64 = sqlx::query_scalar("UPDATE epoch SET epoch = epoch + 1 RETURNING epoch")
            .fetch_one(&writer)
            .await?;
        Ok(Self { writer, readers, epoch: epoch.unsigned_abs(), _leadership: leadership })
    }

    /// Starts a transaction that writes.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn read(&self) -> Result<sqlx::pool::PoolConnection<Sqlite>, StoreError> {
        Ok(self.readers.acquire().await?)
    }
}

impl Store for SqliteStore {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn create_release(&self, release: NewRelease) -> Answer<'_, ReleaseSummary> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            let created = releases::create(&mut transaction, release).await?;
            transaction.commit().await?;
            Ok(created)
        })
    }

    fn made_release<'a>(&'a self, by: &'a By) -> Answer<'a, Option<ReleaseSummary>> {
        Box::pin(async move { releases::made(&mut *self.read().await?, by).await })
    }

    fn release<'a>(&'a self, id: &'a ReleaseId) -> Answer<'a, Option<Release>> {
        Box::pin(async move { releases::find(&mut *self.read().await?, id).await })
    }

    fn releases<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
        after: Option<&'a ReleaseCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<ReleaseSummary>> {
        Box::pin(
            async move { releases::list(&mut *self.read().await?, services, after, limit).await },
        )
    }

    fn create_deployment(&self, order: DeploymentOrder) -> Answer<'_, Deployment> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            let created = deployments::create(&mut transaction, order).await?;
            transaction.commit().await?;
            Ok(created)
        })
    }

    fn deployment<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Deployment>> {
        Box::pin(async move { deployments::find(&mut *self.read().await?, id).await })
    }

    fn steps<'a>(&'a self, id: &'a DeploymentId, after: u32) -> Answer<'a, Vec<Step>> {
        Box::pin(async move { deployments::steps(&mut *self.read().await?, id, after).await })
    }

    fn deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        Box::pin(async move {
            deployments::list(&mut *self.read().await?, placement, before, limit).await
        })
    }

    fn open_deployments(&self) -> Answer<'_, Vec<Deployment>> {
        Box::pin(async move { deployments::open(&mut *self.read().await?).await })
    }

    fn advance<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: State,
        now: Time,
    ) -> Answer<'a, Option<Deployment>> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            let advanced = deployments::advance(&mut transaction, deployment, state, now).await?;
            transaction.commit().await?;
            Ok(advanced)
        })
    }

    fn plan<'a>(
        &'a self,
        deployment: &'a Deployment,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, bool> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            let planned =
                deployments::plan(&mut transaction, deployment, namespace, objects).await?;
            transaction.commit().await?;
            Ok(planned)
        })
    }

    fn inventory<'a>(&'a self, placement: &'a Placement) -> Answer<'a, Vec<ObjectRef>> {
        Box::pin(async move { placements::inventory(&mut *self.read().await?, placement).await })
    }

    fn pruned<'a>(&'a self, placement: &'a Placement, objects: &'a [ObjectRef]) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            placements::pruned(&mut transaction, placement, objects).await?;
            Ok(transaction.commit().await?)
        })
    }

    fn placements<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
    ) -> Answer<'a, Vec<PlacementStatus>> {
        Box::pin(async move { placements::list(&mut *self.read().await?, services).await })
    }

    fn pin<'a>(&'a self, placement: &'a Placement, pinned: bool, by: By) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            placements::pin(&mut transaction, placement, pinned, &by).await?;
            Ok(transaction.commit().await?)
        })
    }

    fn freeze<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        frozen: bool,
        expected: Option<String>,
        by: By,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            placements::freeze(&mut transaction, environment, frozen, expected, &by).await?;
            Ok(transaction.commit().await?)
        })
    }

    fn frozen(&self) -> Answer<'_, Vec<Freeze>> {
        Box::pin(async move { placements::frozen(&mut *self.read().await?).await })
    }

    fn audit<'a>(
        &'a self,
        after: Option<&'a AuditCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<AuditEntry>> {
        Box::pin(async move { audit::list(&mut *self.read().await?, after, limit).await })
    }
}

/// A connection that a query runs on.
type Connection = SqliteConnection;

#[cfg(test)]
mod tests;
