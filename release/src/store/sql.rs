//! The store in an SQL database.

mod audit;
mod builds;
mod deployments;
mod file_lock;
mod keys;
mod migrations;
mod placements;
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

use serde_json::Value;

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
use crate::state::State;

/// A store in an SQL database.
pub struct SqlStore {
    database: SqliteFile,
    epoch: u64,
}

// === impl SqlStore ===

impl SqlStore {
    /// Opens the SQLite file, or creates it; migrates its schema, and increments its epoch.
    ///
    /// # Errors
    /// Another builder has it open, or it cannot be read, written or migrated.
    pub async fn open_file(path: &Path) -> Result<Self, StoreError> {
        let database = SqliteFile::open(path).await?;
        let mut transaction = database.write().await?;
        let epoch: i64 = query("UPDATE epoch SET epoch = epoch + 1 RETURNING epoch")
            .fetch_scalar(&mut transaction)
            .await?;
        transaction.commit().await?;
        Ok(Self { database, epoch: epoch.unsigned_abs() })
    }

    /// Starts a transaction that writes.
    async fn write(&self) -> Result<Connection, StoreError> {
        self.database.write().await
    }

    /// Starts a transaction that reads one state.
    async fn read(&self) -> Result<Connection, StoreError> {
        self.database.read().await
    }
}

impl Store for SqlStore {
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
        Box::pin(async move { releases::made(&mut self.read().await?, by).await })
    }

    fn release<'a>(&'a self, id: &'a ReleaseId) -> Answer<'a, Option<Release>> {
        Box::pin(async move { releases::find(&mut self.read().await?, id).await })
    }

    fn releases<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
        after: Option<&'a ReleaseCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<ReleaseSummary>> {
        Box::pin(
            async move { releases::list(&mut self.read().await?, services, after, limit).await },
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
        Box::pin(async move { deployments::find(&mut self.read().await?, id).await })
    }

    fn steps<'a>(&'a self, id: &'a DeploymentId, after: u32) -> Answer<'a, Vec<Step>> {
        Box::pin(async move { deployments::steps(&mut self.read().await?, id, after).await })
    }

    fn deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        Box::pin(async move {
            deployments::list(&mut self.read().await?, placement, before, limit).await
        })
    }

    fn last_deployments<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        services: &'a [ServiceName],
    ) -> Answer<'a, Vec<Deployment>> {
        Box::pin(
            async move { deployments::last(&mut self.read().await?, environment, services).await },
        )
    }

    fn open_deployments(&self) -> Answer<'_, Vec<DeploymentId>> {
        Box::pin(async move { deployments::open(&mut self.read().await?).await })
    }

    fn ready_deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: u32,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>> {
        Box::pin(async move {
            deployments::ready(&mut self.read().await?, placement, before, limit).await
        })
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

    fn begin_rollout<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: rollout::Rollout,
        now: Time,
    ) -> Answer<'a, Option<Rollout>> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            let begun = rollouts::begin(&mut transaction, deployment, state, now).await?;
            transaction.commit().await?;
            Ok(begun)
        })
    }

    fn open_rollouts(&self) -> Answer<'_, Vec<DeploymentId>> {
        Box::pin(async move { rollouts::open(&mut self.read().await?).await })
    }

    fn rollout<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Rollout>> {
        Box::pin(async move { rollouts::find(&mut self.read().await?, id).await })
    }

    fn rollouts<'a>(
        &'a self,
        wanted: &'a WantedRollouts,
        after: Option<&'a RolloutCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<Rollout>> {
        Box::pin(async move { rollouts::list(&mut self.read().await?, wanted, after, limit).await })
    }

    fn advance_rollout<'a>(
        &'a self,
        rollout: &'a Rollout,
        change: RolloutChange,
        now: Time,
    ) -> Answer<'a, Option<Rollout>> {
        Box::pin(async move {
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
        Box::pin(async move {
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
        Box::pin(async move { rollouts::steps(&mut self.read().await?, id, after).await })
    }

    fn last_rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<RolloutStep>> {
        Box::pin(
            async move { rollouts::last_steps(&mut self.read().await?, id, before, limit).await },
        )
    }

    fn looks<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<Time>,
        limit: u32,
    ) -> Answer<'a, Vec<Look>> {
        Box::pin(async move { rollouts::looks(&mut self.read().await?, id, before, limit).await })
    }

    fn pin_out<'a>(&'a self, rollout: &'a Rollout, by: By) -> Answer<'a, ()> {
        Box::pin(async move {
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
        Box::pin(async move {
            let mut transaction = self.write().await?;
            let planned =
                deployments::plan(&mut transaction, deployment, namespace, objects).await?;
            transaction.commit().await?;
            Ok(planned)
        })
    }

    fn inventory<'a>(&'a self, placement: &'a Placement) -> Answer<'a, Vec<ObjectRef>> {
        Box::pin(async move { placements::inventory(&mut self.read().await?, placement).await })
    }

    fn pruned<'a>(
        &'a self,
        placement: &'a Placement,
        namespace: &'a str,
        objects: &'a [ObjectRef],
        watched_until: Time,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            placements::pruned(&mut transaction, placement, objects).await?;
            watched::add(&mut transaction, placement, namespace, objects, watched_until).await?;
            transaction.commit().await
        })
    }

    fn watched_placements(&self) -> Answer<'_, Vec<Placement>> {
        Box::pin(async move { watched::placements(&mut self.read().await?).await })
    }

    fn watched<'a>(
        &'a self,
        placement: &'a Placement,
        now: Time,
    ) -> Answer<'a, Vec<WatchedObject>> {
        Box::pin(async move { watched::list(&mut self.read().await?, placement, now).await })
    }

    fn unwatch<'a>(&'a self, watched: &'a WatchedObject, now: Time) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            watched::forget(&mut transaction, watched, now).await?;
            transaction.commit().await
        })
    }

    fn placements<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
    ) -> Answer<'a, Vec<PlacementStatus>> {
        Box::pin(async move { placements::list(&mut self.read().await?, services).await })
    }

    fn pin<'a>(&'a self, placement: &'a Placement, pinned: bool, by: By) -> Answer<'a, ()> {
        Box::pin(async move {
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
        Box::pin(async move {
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
        Box::pin(
            async move { settings::values(&mut self.read().await?, environment, service).await },
        )
    }

    fn change_settings(&self, change: SettingsChange, by: By) -> Answer<'_, ()> {
        Box::pin(async move {
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
        Box::pin(async move {
            deployments::settings(&mut self.read().await?, release, environment).await
        })
    }

    fn ready_settings<'a>(
        &'a self,
        release: &'a ReleaseId,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>> {
        Box::pin(async move {
            deployments::ready_settings(&mut self.read().await?, release, environment).await
        })
    }

    fn frozen(&self) -> Answer<'_, Vec<Freeze>> {
        Box::pin(async move { placements::frozen(&mut self.read().await?).await })
    }

    fn untagged<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        repository: &'a str,
    ) -> Answer<'a, Vec<(ServiceName, String)>> {
        Box::pin(
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
        Box::pin(async move {
            let mut transaction = self.write().await?;
            tags::moved(&mut transaction, placement, image, tag, &by).await?;
            transaction.commit().await
        })
    }

    fn use_key<'a>(&'a self, key: &'a str, at: Time) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            keys::used(&mut transaction, key, at).await?;
            transaction.commit().await
        })
    }

    fn key_uses(&self) -> Answer<'_, BTreeMap<String, Time>> {
        Box::pin(async move { keys::list(&mut self.read().await?).await })
    }

    fn audit<'a>(
        &'a self,
        after: Option<&'a AuditCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<AuditEntry>> {
        Box::pin(async move { audit::list(&mut self.read().await?, after, limit).await })
    }
}

impl BuildStore for SqlStore {
    fn schedules(&self) -> Answer<'_, BTreeMap<RepositoryName, Value>> {
        Box::pin(async move { builds::schedules(&mut self.read().await?).await })
    }

    fn record_schedule<'a>(
        &'a self,
        repository: &'a RepositoryName,
        schedule: Value,
        changes: Vec<BuildChange>,
        by: By,
    ) -> Answer<'a, Vec<Build>> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            let changed =
                builds::record_schedule(&mut transaction, repository, &schedule, changes, &by)
                    .await?;
            transaction.commit().await?;
            Ok(changed)
        })
    }

    fn build<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Option<Build>> {
        Box::pin(async move { builds::find(&mut self.read().await?, id).await })
    }

    fn made_build<'a>(&'a self, by: &'a By) -> Answer<'a, Option<Build>> {
        Box::pin(async move { builds::made(&mut self.read().await?, by).await })
    }

    fn builds<'a>(
        &'a self,
        repository: &'a RepositoryName,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Build>> {
        Box::pin(
            async move { builds::list(&mut self.read().await?, repository, before, limit).await },
        )
    }

    fn open_builds<'a>(&'a self, repository: &'a RepositoryName) -> Answer<'a, Vec<Build>> {
        Box::pin(async move { builds::open(&mut self.read().await?, repository).await })
    }

    fn build_targets<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Vec<BuildTarget>> {
        Box::pin(async move { builds::targets(&mut self.read().await?, id).await })
    }

    fn record_target<'a>(
        &'a self,
        build: &'a Build,
        target: &'a BuildTarget,
        now: Time,
    ) -> Answer<'a, bool> {
        Box::pin(async move {
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
        Box::pin(async move {
            builds::released_target(&mut self.read().await?, repository, service, key).await
        })
    }

    fn open_autopushes(&self) -> Answer<'_, Vec<Autopush>> {
        Box::pin(async move { builds::open_autopushes(&mut self.read().await?).await })
    }

    fn close_autopush<'a>(&'a self, autopush: &'a Autopush, outcome: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.write().await?;
            builds::close_autopush(&mut transaction, autopush, outcome).await?;
            transaction.commit().await
        })
    }
}

#[cfg(test)]
mod tests;
