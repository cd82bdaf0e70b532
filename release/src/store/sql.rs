//! The store in an SQL database.

mod audit;
mod builds;
mod deployments;
mod file_lock;
mod keys;
mod migrations;
mod placements;
mod postgres;
mod query;
mod releases;
mod rollouts;
mod row;
mod settings;
mod sqlite;
mod tags;
mod watched;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::timeout;

use self::postgres::PostgresDatabase;
use self::query::{Connection, query};
use self::sqlite::SqliteFile;
use super::{
    Answer, AuditCursor, AuditEntry, Autopush, Build, BuildChange, BuildStore, BuildTarget, By,
    Deployment, DeploymentOrder, Freeze, Look, NewRelease, PlacementStatus, Release, ReleaseCursor,
    ReleaseSummary, Rollout, RolloutChange, RolloutCursor, RolloutStep, SettingsChange, Step,
    Store, StoreError, WantedRollouts, WatchedObject,
};
use crate::manifest::{ObjectRef, Setting, Values};
use crate::model::{
    BuildId, DeploymentId, EnvironmentName, Placement, ReleaseId, RepositoryName, ServiceName, Time,
};
use crate::rollout::{self, Order};
use crate::settings::{PostgresSettings, StoreSettings};
use crate::state::State;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store in an SQL database.
pub struct SqlStore {
    database: Database,
    epoch: i64,
}

enum Database {
    Sqlite(SqliteFile),
    Postgres(PostgresDatabase),
}

// === impl SqlStore ===

impl SqlStore {
    /// Opens the store.
    ///
    /// # Errors
    /// As for [`open_file`](Self::open_file) and [`open_postgres`](Self::open_postgres).
    pub async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        match settings {
            StoreSettings::File(path) => Self::open_file(path).await,
            StoreSettings::Postgres(postgres) => Self::open_postgres(postgres).await,
        }
    }

    /// Opens a SQLite file, or creates it; migrates its schema, and increments its epoch.
    ///
    /// # Errors
    /// Another builder has it open, or it cannot be read, written or migrated.
    pub async fn open_file(path: &Path) -> Result<Self, StoreError> {
        Self::of(Database::Sqlite(SqliteFile::open(path).await?)).await
    }

    /// Opens a PostgreSQL database once no other builder uses it; migrates its schema, and increments
    /// its epoch.
    ///
    /// # Errors
    /// It cannot be reached, used or migrated.
    pub async fn open_postgres(settings: &PostgresSettings) -> Result<Self, StoreError> {
        let (database, connection) = PostgresDatabase::open(settings).await?;
        let mut store = Self::of(Database::Postgres(database)).await?;
        if let Database::Postgres(postgres) = &mut store.database {
            postgres.lead(connection, store.epoch);
        }
        Ok(store)
    }

    async fn of(database: Database) -> Result<Self, StoreError> {
        let mut transaction = database.write().await?;
        let epoch = query("UPDATE epoch SET epoch = epoch + 1 RETURNING epoch")
            .fetch_scalar(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(Self { database, epoch })
    }

    /// Starts a transaction that writes, unless another builder has opened the store since.
    async fn write(&self) -> Result<Connection, StoreError> {
        let mut transaction = self.database.write().await?;
        let epoch: i64 = query(self.database.epoch()).fetch_scalar(&mut transaction).await?;
        if epoch != self.epoch {
            return Err(StoreError::Superseded);
        }
        Ok(transaction)
    }

    /// Starts a transaction that reads one state.
    async fn read(&self) -> Result<Connection, StoreError> {
        match &self.database {
            Database::Sqlite(sqlite) => sqlite.read().await,
            Database::Postgres(postgres) => postgres.read().await,
        }
    }

    /// The answer, or an error if it takes too long.
    fn answer<'a, T: Send + 'a>(
        &'a self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            timeout(PATIENCE, work).await.unwrap_or_else(|_| {
                if let Database::Postgres(postgres) = &self.database {
                    postgres.reconnect();
                }
                Err(StoreError::TimedOut)
            })
        })
    }
}

// === impl Database ===

impl Database {
    async fn write(&self) -> Result<Connection, StoreError> {
        match self {
            Self::Sqlite(sqlite) => sqlite.write().await,
            Self::Postgres(postgres) => postgres.write().await,
        }
    }

    /// Reads the epoch. No other builder increments it before the transaction ends.
    fn epoch(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SELECT epoch FROM epoch",
            Self::Postgres(_) => "SELECT epoch FROM epoch FOR UPDATE",
        }
    }
}

impl Store for SqlStore {
    fn epoch(&self) -> u64 {
        self.epoch.unsigned_abs()
    }

    fn superseded(&self) -> BoxFuture<'_, ()> {
        match &self.database {
            // The lock on the file is held as long as the process runs.
            Database::Sqlite(_) => Box::pin(std::future::pending()),
            Database::Postgres(postgres) => Box::pin(postgres.superseded()),
        }
    }

    fn create_release(&self, release: NewRelease) -> Answer<'_, ReleaseSummary> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let created = releases::create(&mut transaction, release).await?;
            transaction.commit().await?;
            Ok(created)
        })
    }

    fn made_release<'a>(&'a self, by: &'a By) -> Answer<'a, Option<ReleaseSummary>> {
        self.answer(async move { releases::made(&mut self.read().await?, by).await })
    }

    fn release<'a>(&'a self, id: &'a ReleaseId) -> Answer<'a, Option<Release>> {
        self.answer(async move { releases::find(&mut self.read().await?, id).await })
    }

    fn releases<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
        after: Option<&'a ReleaseCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<ReleaseSummary>> {
        self.answer(
            async move { releases::list(&mut self.read().await?, services, after, limit).await },
        )
    }

    fn create_deployment(&self, order: DeploymentOrder) -> Answer<'_, Deployment> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let created = deployments::create(&mut transaction, order).await?;
            transaction.commit().await?;
            Ok(created)
        })
    }

    fn deployment<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Deployment>> {
        self.answer(async move { deployments::find(&mut self.read().await?, id).await })
    }

    fn steps<'a>(&'a self, id: &'a DeploymentId, after: u32) -> Answer<'a, Vec<Step>> {
        self.answer(async move { deployments::steps(&mut self.read().await?, id, after).await })
    }

    fn deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        self.answer(async move {
            deployments::list(&mut self.read().await?, placement, before, limit).await
        })
    }

    fn last_deployments<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        services: &'a [ServiceName],
    ) -> Answer<'a, Vec<Deployment>> {
        self.answer(async move {
            deployments::last(&mut self.read().await?, environment, services).await
        })
    }

    fn open_deployments(&self) -> Answer<'_, Vec<DeploymentId>> {
        self.answer(async move { deployments::open(&mut self.read().await?).await })
    }

    fn ready_deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: u32,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        self.answer(async move {
            deployments::ready(&mut self.read().await?, placement, before, limit).await
        })
    }

    fn advance<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: State,
        now: Time,
    ) -> Answer<'a, Option<Deployment>> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let advanced = deployments::advance(&mut transaction, deployment, state, now).await?;
            transaction.commit().await?;
            Ok(advanced)
        })
    }

    fn begin_rollout<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: rollout::Rollout,
        now: Time,
    ) -> Answer<'a, Option<Rollout>> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let begun = rollouts::begin(&mut transaction, deployment, state, now).await?;
            transaction.commit().await?;
            Ok(begun)
        })
    }

    fn open_rollouts(&self) -> Answer<'_, Vec<DeploymentId>> {
        self.answer(async move { rollouts::open(&mut self.read().await?).await })
    }

    fn rollout<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Rollout>> {
        self.answer(async move { rollouts::find(&mut self.read().await?, id).await })
    }

    fn rollouts<'a>(
        &'a self,
        wanted: &'a WantedRollouts,
        after: Option<&'a RolloutCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<Rollout>> {
        self.answer(
            async move { rollouts::list(&mut self.read().await?, wanted, after, limit).await },
        )
    }

    fn advance_rollout<'a>(
        &'a self,
        rollout: &'a Rollout,
        change: RolloutChange,
        now: Time,
    ) -> Answer<'a, Option<Rollout>> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let advanced = rollouts::advance(&mut transaction, rollout, change, now).await?;
            transaction.commit().await?;
            Ok(advanced)
        })
    }

    fn order_rollout<'a>(
        &'a self,
        id: &'a DeploymentId,
        order: Order,
        by: By,
    ) -> Answer<'a, Rollout> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let ordered = rollouts::order(&mut transaction, id, order, &by).await?;
            transaction.commit().await?;
            Ok(ordered)
        })
    }

    fn rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        after: u32,
    ) -> Answer<'a, Vec<RolloutStep>> {
        self.answer(async move { rollouts::steps(&mut self.read().await?, id, after).await })
    }

    fn last_rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<RolloutStep>> {
        self.answer(async move {
            rollouts::last_steps(&mut self.read().await?, id, before, limit).await
        })
    }

    fn looks<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<Time>,
        limit: u32,
    ) -> Answer<'a, Vec<Look>> {
        self.answer(
            async move { rollouts::looks(&mut self.read().await?, id, before, limit).await },
        )
    }

    fn pin_out<'a>(&'a self, rollout: &'a Rollout, by: By) -> Answer<'a, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            rollouts::pin_out(&mut transaction, rollout, &by).await?;
            transaction.commit().await
        })
    }

    fn plan<'a>(
        &'a self,
        deployment: &'a Deployment,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, bool> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let planned =
                deployments::plan(&mut transaction, deployment, namespace, objects).await?;
            transaction.commit().await?;
            Ok(planned)
        })
    }

    fn inventory<'a>(&'a self, placement: &'a Placement) -> Answer<'a, Vec<ObjectRef>> {
        self.answer(async move { placements::inventory(&mut self.read().await?, placement).await })
    }

    fn pruned<'a>(
        &'a self,
        placement: &'a Placement,
        namespace: &'a str,
        objects: &'a [ObjectRef],
        watched_until: Time,
    ) -> Answer<'a, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            placements::pruned(&mut transaction, placement, objects).await?;
            watched::add(&mut transaction, placement, namespace, objects, watched_until).await?;
            transaction.commit().await
        })
    }

    fn watched_placements(&self) -> Answer<'_, Vec<Placement>> {
        self.answer(async move { watched::placements(&mut self.read().await?).await })
    }

    fn watched<'a>(
        &'a self,
        placement: &'a Placement,
        now: Time,
    ) -> Answer<'a, Vec<WatchedObject>> {
        self.answer(async move { watched::list(&mut self.read().await?, placement, now).await })
    }

    fn unwatch<'a>(&'a self, watched: &'a WatchedObject, now: Time) -> Answer<'a, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            watched::forget(&mut transaction, watched, now).await?;
            transaction.commit().await
        })
    }

    fn placements<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
    ) -> Answer<'a, Vec<PlacementStatus>> {
        self.answer(async move { placements::list(&mut self.read().await?, services).await })
    }

    fn pin<'a>(&'a self, placement: &'a Placement, pinned: bool, by: By) -> Answer<'a, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            placements::pin(&mut transaction, placement, pinned, &by).await?;
            transaction.commit().await
        })
    }

    fn freeze<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        frozen: bool,
        expected: Option<String>,
        by: By,
    ) -> Answer<'a, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            placements::freeze(&mut transaction, environment, frozen, expected, &by).await?;
            transaction.commit().await
        })
    }

    fn values<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        service: Option<&'a ServiceName>,
    ) -> Answer<'a, Values> {
        self.answer(
            async move { settings::values(&mut self.read().await?, environment, service).await },
        )
    }

    fn change_settings(&self, change: SettingsChange, by: By) -> Answer<'_, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            settings::change(&mut transaction, change, &by).await?;
            transaction.commit().await
        })
    }

    fn settings<'a>(
        &'a self,
        release: &'a Release,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>> {
        self.answer(async move {
            deployments::settings(&mut self.read().await?, release, environment).await
        })
    }

    fn ready_settings<'a>(
        &'a self,
        release: &'a ReleaseId,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>> {
        self.answer(async move {
            deployments::ready_settings(&mut self.read().await?, release, environment).await
        })
    }

    fn frozen(&self) -> Answer<'_, Vec<Freeze>> {
        self.answer(async move { placements::frozen(&mut self.read().await?).await })
    }

    fn untagged<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        repository: &'a str,
    ) -> Answer<'a, Vec<(ServiceName, String)>> {
        self.answer(
            async move { tags::pending(&mut self.read().await?, environment, repository).await },
        )
    }

    fn tagged<'a>(
        &'a self,
        placement: &'a Placement,
        image: &'a str,
        tag: &'a str,
        by: By,
    ) -> Answer<'a, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            tags::moved(&mut transaction, placement, image, tag, &by).await?;
            transaction.commit().await
        })
    }

    fn use_key<'a>(&'a self, key: &'a str, at: Time) -> Answer<'a, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            keys::used(&mut transaction, key, at).await?;
            transaction.commit().await
        })
    }

    fn key_uses(&self) -> Answer<'_, BTreeMap<String, Time>> {
        self.answer(async move { keys::list(&mut self.read().await?).await })
    }

    fn audit<'a>(
        &'a self,
        after: Option<&'a AuditCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<AuditEntry>> {
        self.answer(async move { audit::list(&mut self.read().await?, after, limit).await })
    }
}

impl BuildStore for SqlStore {
    fn schedules(&self) -> Answer<'_, BTreeMap<RepositoryName, Value>> {
        self.answer(async move { builds::schedules(&mut self.read().await?).await })
    }

    fn record_schedule<'a>(
        &'a self,
        repository: &'a RepositoryName,
        schedule: Value,
        changes: Vec<BuildChange>,
        by: By,
    ) -> Answer<'a, Vec<Build>> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let changed =
                builds::record_schedule(&mut transaction, repository, &schedule, changes, &by)
                    .await?;
            transaction.commit().await?;
            Ok(changed)
        })
    }

    fn build<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Option<Build>> {
        self.answer(async move { builds::find(&mut self.read().await?, id).await })
    }

    fn made_build<'a>(&'a self, by: &'a By) -> Answer<'a, Option<Build>> {
        self.answer(async move { builds::made(&mut self.read().await?, by).await })
    }

    fn builds<'a>(
        &'a self,
        repository: &'a RepositoryName,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Build>> {
        self.answer(async move {
            builds::list(&mut self.read().await?, repository, before, limit).await
        })
    }

    fn open_builds<'a>(&'a self, repository: &'a RepositoryName) -> Answer<'a, Vec<Build>> {
        self.answer(async move { builds::open(&mut self.read().await?, repository).await })
    }

    fn build_targets<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Vec<BuildTarget>> {
        self.answer(async move { builds::targets(&mut self.read().await?, id).await })
    }

    fn record_target<'a>(
        &'a self,
        build: &'a Build,
        target: &'a BuildTarget,
        now: Time,
    ) -> Answer<'a, bool> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            let recorded = builds::record_target(&mut transaction, build, target, now).await?;
            transaction.commit().await?;
            Ok(recorded)
        })
    }

    fn released_target<'a>(
        &'a self,
        repository: &'a RepositoryName,
        service: &'a ServiceName,
        key: Option<&'a str>,
    ) -> Answer<'a, Option<BuildTarget>> {
        self.answer(async move {
            builds::released_target(&mut self.read().await?, repository, service, key).await
        })
    }

    fn open_autopushes(&self) -> Answer<'_, Vec<Autopush>> {
        self.answer(async move { builds::open_autopushes(&mut self.read().await?).await })
    }

    fn close_autopush<'a>(&'a self, autopush: &'a Autopush, outcome: &'a str) -> Answer<'a, ()> {
        self.answer(async move {
            let mut transaction = self.write().await?;
            builds::close_autopush(&mut transaction, autopush, outcome).await?;
            transaction.commit().await
        })
    }
}

#[cfg(test)]
mod tests;
