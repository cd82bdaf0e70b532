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

/// The answer of a query, called with the arguments after a transaction that reads one state.
macro_rules! read {
    ($self:ident, $module:ident::$query:ident($($argument:expr),*)) => {
        $self.answer(async move { $module::$query(&mut $self.read().await?, $($argument),*).await })
    };
}

/// The answer of a change, called with the arguments after a transaction that is committed if it
/// succeeds.
macro_rules! change {
    ($self:ident, $module:ident::$change:ident($($argument:expr),*)) => {
        $self.answer(async move {
            let mut transaction = $self.write().await?;
            let answer = $module::$change(&mut transaction, $($argument),*).await?;
            transaction.commit().await?;
            Ok(answer)
        })
    };
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
        change!(self, releases::create(release))
    }

    fn made_release<'a>(&'a self, by: &'a By) -> Answer<'a, Option<ReleaseSummary>> {
        read!(self, releases::made(by))
    }

    fn release<'a>(&'a self, id: &'a ReleaseId) -> Answer<'a, Option<Release>> {
        read!(self, releases::find(id))
    }

    fn releases<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
        after: Option<&'a ReleaseCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<ReleaseSummary>> {
        read!(self, releases::list(services, after, limit))
    }

    fn create_deployment(&self, order: DeploymentOrder) -> Answer<'_, Deployment> {
        change!(self, deployments::create(order))
    }

    fn deployment<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Deployment>> {
        read!(self, deployments::find(id))
    }

    fn steps<'a>(&'a self, id: &'a DeploymentId, after: u32) -> Answer<'a, Vec<Step>> {
        read!(self, deployments::steps(id, after))
    }

    fn deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        read!(self, deployments::list(placement, before, limit))
    }

    fn last_deployments<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        services: &'a [ServiceName],
    ) -> Answer<'a, Vec<Deployment>> {
        read!(self, deployments::last(environment, services))
    }

    fn open_deployments(&self) -> Answer<'_, Vec<DeploymentId>> {
        read!(self, deployments::open())
    }

    fn ready_deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: u32,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        read!(self, deployments::ready(placement, before, limit))
    }

    fn advance<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: State,
        now: Time,
    ) -> Answer<'a, Option<Deployment>> {
        change!(self, deployments::advance(deployment, state, now))
    }

    fn begin_rollout<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: rollout::Rollout,
        now: Time,
    ) -> Answer<'a, Option<Rollout>> {
        change!(self, rollouts::begin(deployment, state, now))
    }

    fn open_rollouts(&self) -> Answer<'_, Vec<DeploymentId>> {
        read!(self, rollouts::open())
    }

    fn rollout<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Rollout>> {
        read!(self, rollouts::find(id))
    }

    fn rollouts<'a>(
        &'a self,
        wanted: &'a WantedRollouts,
        after: Option<&'a RolloutCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<Rollout>> {
        read!(self, rollouts::list(wanted, after, limit))
    }

    fn advance_rollout<'a>(
        &'a self,
        rollout: &'a Rollout,
        change: RolloutChange,
        now: Time,
    ) -> Answer<'a, Option<Rollout>> {
        change!(self, rollouts::advance(rollout, change, now))
    }

    fn order_rollout<'a>(
        &'a self,
        id: &'a DeploymentId,
        order: Order,
        by: By,
    ) -> Answer<'a, Rollout> {
        change!(self, rollouts::order(id, order, &by))
    }

    fn rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        after: u32,
    ) -> Answer<'a, Vec<RolloutStep>> {
        read!(self, rollouts::steps(id, after))
    }

    fn last_rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<RolloutStep>> {
        read!(self, rollouts::last_steps(id, before, limit))
    }

    fn looks<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<Time>,
        limit: u32,
    ) -> Answer<'a, Vec<Look>> {
        read!(self, rollouts::looks(id, before, limit))
    }

    fn pin_out<'a>(&'a self, rollout: &'a Rollout, by: By) -> Answer<'a, ()> {
        change!(self, rollouts::pin_out(rollout, &by))
    }

    fn plan<'a>(
        &'a self,
        deployment: &'a Deployment,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, bool> {
        change!(self, deployments::plan(deployment, namespace, objects))
    }

    fn inventory<'a>(&'a self, placement: &'a Placement) -> Answer<'a, Vec<ObjectRef>> {
        read!(self, placements::inventory(placement))
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
        read!(self, watched::placements())
    }

    fn watched<'a>(
        &'a self,
        placement: &'a Placement,
        now: Time,
    ) -> Answer<'a, Vec<WatchedObject>> {
        read!(self, watched::list(placement, now))
    }

    fn unwatch<'a>(&'a self, watched: &'a WatchedObject, now: Time) -> Answer<'a, ()> {
        change!(self, watched::forget(watched, now))
    }

    fn placements<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
    ) -> Answer<'a, Vec<PlacementStatus>> {
        read!(self, placements::list(services))
    }

    fn pin<'a>(&'a self, placement: &'a Placement, pinned: bool, by: By) -> Answer<'a, ()> {
        change!(self, placements::pin(placement, pinned, &by))
    }

    fn freeze<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        frozen: bool,
        expected: Option<String>,
        by: By,
    ) -> Answer<'a, ()> {
        change!(self, placements::freeze(environment, frozen, expected, &by))
    }

    fn values<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        service: Option<&'a ServiceName>,
    ) -> Answer<'a, Values> {
        read!(self, settings::values(environment, service))
    }

    fn change_settings(&self, change: SettingsChange, by: By) -> Answer<'_, ()> {
        change!(self, settings::change(change, &by))
    }

    fn settings<'a>(
        &'a self,
        release: &'a Release,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>> {
        read!(self, deployments::settings(release, environment))
    }

    fn ready_settings<'a>(
        &'a self,
        release: &'a ReleaseId,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>> {
        read!(self, deployments::ready_settings(release, environment))
    }

    fn frozen(&self) -> Answer<'_, Vec<Freeze>> {
        read!(self, placements::frozen())
    }

    fn untagged<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        repository: &'a str,
    ) -> Answer<'a, Vec<(ServiceName, String)>> {
        read!(self, tags::pending(environment, repository))
    }

    fn tagged<'a>(
        &'a self,
        placement: &'a Placement,
        image: &'a str,
        tag: &'a str,
        by: By,
    ) -> Answer<'a, ()> {
        change!(self, tags::moved(placement, image, tag, &by))
    }

    fn use_key<'a>(&'a self, key: &'a str, at: Time) -> Answer<'a, ()> {
        change!(self, keys::used(key, at))
    }

    fn key_uses(&self) -> Answer<'_, BTreeMap<String, Time>> {
        read!(self, keys::list())
    }

    fn audit<'a>(
        &'a self,
        after: Option<&'a AuditCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<AuditEntry>> {
        read!(self, audit::list(after, limit))
    }
}

impl BuildStore for SqlStore {
    fn schedules(&self) -> Answer<'_, BTreeMap<RepositoryName, Value>> {
        read!(self, builds::schedules())
    }

    fn record_schedule<'a>(
        &'a self,
        repository: &'a RepositoryName,
        schedule: Value,
        changes: Vec<BuildChange>,
        by: By,
    ) -> Answer<'a, Vec<Build>> {
        change!(self, builds::record_schedule(repository, &schedule, changes, &by))
    }

    fn build<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Option<Build>> {
        read!(self, builds::find(id))
    }

    fn made_build<'a>(&'a self, by: &'a By) -> Answer<'a, Option<Build>> {
        read!(self, builds::made(by))
    }

    fn builds<'a>(
        &'a self,
        repository: &'a RepositoryName,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Build>> {
        read!(self, builds::list(repository, before, limit))
    }

    fn open_builds<'a>(&'a self, repository: &'a RepositoryName) -> Answer<'a, Vec<Build>> {
        read!(self, builds::open(repository))
    }

    fn build_targets<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Vec<BuildTarget>> {
        read!(self, builds::targets(id))
    }

    fn record_target<'a>(
        &'a self,
        build: &'a Build,
        target: &'a BuildTarget,
        now: Time,
    ) -> Answer<'a, bool> {
        change!(self, builds::record_target(build, target, now))
    }

    fn released_target<'a>(
        &'a self,
        repository: &'a RepositoryName,
        service: &'a ServiceName,
        key: Option<&'a str>,
    ) -> Answer<'a, Option<BuildTarget>> {
        read!(self, builds::released_target(repository, service, key))
    }

    fn open_autopushes(&self) -> Answer<'_, Vec<Autopush>> {
        read!(self, builds::open_autopushes())
    }

    fn close_autopush<'a>(&'a self, autopush: &'a Autopush, outcome: &'a str) -> Answer<'a, ()> {
        change!(self, builds::close_autopush(autopush, outcome))
    }
}

#[cfg(test)]
mod tests;
