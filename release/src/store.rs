//! What was accepted, durably.
//!
//! [`Store`] and [`BuildStore`] are what the rest of the crate knows; [`sql`] is their
//! implementation. A method returns after its change is on disk, or fails and has changed nothing.
//! Each change and its audit entry are one transaction.

mod builds;
mod record;
pub mod sql;
#[cfg(test)]
pub(crate) mod suite;

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use sqlx::migrate::MigrateError;

use crate::manifest::{ObjectRef, Setting, TemplateProblem, Values};
use crate::model::{DeploymentId, EnvironmentName, Placement, ReleaseId, ServiceName, Time};
use crate::rollout::{self, Order, OrderRefusal};
use crate::state::{Refusal, State};

pub use self::builds::BuildStore;
pub use self::record::{
    AuditCursor, AuditEntry, Autopush, Build, BuildChange, BuildState, BuildTarget, By, Deployment,
    DeploymentOrder, Freeze, GateResult, Idempotency, Look, NewRelease, PlacementStatus, Release,
    ReleaseCursor, ReleaseSummary, Rollout, RolloutChange, RolloutCursor, RolloutStep,
    SettingsChange, Step, TargetState, WantedRollouts, WatchedObject,
};

/// The result of a method of [`Store`].
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The most rows of one answer.
pub const MAX_PAGE: u32 = 200;

/// The most open rollouts of an environment that are worked on.
pub const MAX_ROLLOUTS: u32 = 1000;

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The change was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The order makes no sense for the rollout as it is.
    #[error(transparent)]
    Order(#[from] OrderRefusal),
    /// The subject does not exist.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// Settings are not declared, have no value, or one of another type.
    #[error("the settings are not valid")]
    Settings(Vec<TemplateProblem>),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The subject has another version than the change is for.
    #[error("it has been changed since it was read")]
    Outdated,
    /// The disk is full.
    #[error("the disk of the store is full")]
    Full,
    /// Another process has opened the store.
    #[error("another builder uses the store")]
    InUse,
    /// Another process has opened the store since.
    #[error("another builder has taken over the store")]
    Superseded,
    /// The database did not answer.
    #[error("the store did not answer in time")]
    TimedOut,
    /// The file has no URL of a database.
    #[error("{0} has no valid URL: {1}")]
    Url(String, String),
    /// The server cannot be used.
    #[error("PostgreSQL at {0}: {1}")]
    Server(String, #[source] sqlx::Error),
    /// The server has a version or an encoding that the store cannot be kept with.
    #[error("PostgreSQL has {0}")]
    Unsupported(String),
    /// A later version of Portcullis has migrated the schema.
    #[error(
        "the store has the schema {0} of a later version of Portcullis: run that version, or restore \
         a backup from before"
    )]
    Newer(i64),
    /// What is stored cannot be read.
    #[error("the store holds an invalid record: {0}")]
    Invalid(String),
    /// The database failed.
    #[error("the store failed: {0}")]
    Database(#[source] sqlx::Error),
    /// The schema cannot be migrated.
    #[error("the schema of the store cannot be migrated: {0}")]
    Migration(#[source] MigrateError),
    /// The file cannot be used.
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
}

/// The record of all releases and deployments.
pub trait Store: Send + Sync {
    /// The epoch of this opening: greater than that of any earlier one.
    fn epoch(&self) -> u64;

    /// Waits until another builder has opened the store: this one records nothing any more.
    fn superseded(&self) -> BoxFuture<'_, ()>;

    /// Records a release.
    fn create_release(&self, release: NewRelease) -> Answer<'_, ReleaseSummary>;

    /// The release that the caller's idempotency key made, if it did.
    fn made_release<'a>(&'a self, by: &'a By) -> Answer<'a, Option<ReleaseSummary>>;

    /// A release, with its template.
    fn release<'a>(&'a self, id: &'a ReleaseId) -> Answer<'a, Option<Release>>;

    /// Releases of these services or of all, the newest first, from after `after`. The time depends
    /// on these services alone.
    fn releases<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
        after: Option<&'a ReleaseCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<ReleaseSummary>>;

    /// Records a deployment, unless it is refused, and supersedes the open one of its placement.
    fn create_deployment(&self, order: DeploymentOrder) -> Answer<'_, Deployment>;

    /// A deployment.
    fn deployment<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Deployment>>;

    /// The states that a deployment had after its first `after` ones, in their order.
    fn steps<'a>(&'a self, id: &'a DeploymentId, after: u32) -> Answer<'a, Vec<Step>>;

    /// Deployments of a placement, the newest first, with numbers below `before`.
    fn deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>>;

    /// The last deployment of each of these services in an environment, by service. The time depends
    /// on these services alone.
    fn last_deployments<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        services: &'a [ServiceName],
    ) -> Answer<'a, Vec<Deployment>>;

    /// The open deployments, the oldest first, at most [`MAX_PAGE`] of each environment. Where a
    /// rollout is open, none of its service is among them: they wait for it.
    fn open_deployments(&self) -> Answer<'_, Vec<DeploymentId>>;

    /// Deployments of a placement that became ready, the newest first, with numbers below `before`.
    fn ready_deployments<'a>(
        &'a self,
        placement: &'a Placement,
        before: u32,
        limit: u32,
    ) -> Answer<'a, Vec<Deployment>>;

    /// Records a state of a deployment; `None` if it has changed since `deployment` was read.
    fn advance<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: State,
        now: Time,
    ) -> Answer<'a, Option<Deployment>>;

    /// Records the rollout of a deployment, which is checked; `None` if that has changed since it
    /// was read.
    fn begin_rollout<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: rollout::Rollout,
        now: Time,
    ) -> Answer<'a, Option<Rollout>>;

    /// The open rollouts, the oldest first, at most [`MAX_ROLLOUTS`] of each environment.
    fn open_rollouts(&self) -> Answer<'_, Vec<DeploymentId>>;

    /// The rollout of a deployment, if it has one.
    fn rollout<'a>(&'a self, id: &'a DeploymentId) -> Answer<'a, Option<Rollout>>;

    /// The rollouts that are wanted, the newest first, from after `after`. The time depends on their
    /// services alone.
    fn rollouts<'a>(
        &'a self,
        wanted: &'a WantedRollouts,
        after: Option<&'a RolloutCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<Rollout>>;

    /// Records a change of a rollout, and its end in its deployment, too; `None` if it has changed
    /// since `rollout` was read.
    fn advance_rollout<'a>(
        &'a self,
        rollout: &'a Rollout,
        change: RolloutChange,
        now: Time,
    ) -> Answer<'a, Option<Rollout>>;

    /// Records what a person orders a rollout to do, unless it is refused.
    fn order_rollout<'a>(
        &'a self,
        id: &'a DeploymentId,
        order: Order,
        by: By,
    ) -> Answer<'a, Rollout>;

    /// What became of a rollout after its first `after` steps, in their order, at most [`MAX_PAGE`].
    fn rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        after: u32,
    ) -> Answer<'a, Vec<RolloutStep>>;

    /// What became of a rollout, the newest step first, with numbers below `before`.
    fn last_rollout_steps<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<RolloutStep>>;

    /// The last looks of a rollout that began before `before`, the newest first.
    fn looks<'a>(
        &'a self,
        id: &'a DeploymentId,
        before: Option<Time>,
        limit: u32,
    ) -> Answer<'a, Vec<Look>>;

    /// Pins out the release of a rollout that has gone back, and those before it.
    fn pin_out<'a>(&'a self, rollout: &'a Rollout, by: By) -> Answer<'a, ()>;

    /// Records where a deployment applies which objects, before it applies them; `false` if it has
    /// changed since `deployment` was read.
    fn plan<'a>(
        &'a self,
        deployment: &'a Deployment,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, bool>;

    /// All objects that were applied to a placement and are not pruned yet.
    fn inventory<'a>(&'a self, placement: &'a Placement) -> Answer<'a, Vec<ObjectRef>>;

    /// Removes pruned objects from the inventory, and remembers them until `watched_until`: a call
    /// that is late may create them again.
    fn pruned<'a>(
        &'a self,
        placement: &'a Placement,
        namespace: &'a str,
        objects: &'a [ObjectRef],
        watched_until: Time,
    ) -> Answer<'a, ()>;

    /// The placements with pruned objects that a late call may create again.
    fn watched_placements(&self) -> Answer<'_, Vec<Placement>>;

    /// The pruned objects of a placement that a late call may create again, until they are
    /// forgotten.
    fn watched<'a>(&'a self, placement: &'a Placement, now: Time)
    -> Answer<'a, Vec<WatchedObject>>;

    /// Forgets a pruned object, unless it was pruned again and is not over at `now`.
    fn unwatch<'a>(&'a self, watched: &'a WatchedObject, now: Time) -> Answer<'a, ()>;

    /// Where these services or all run, ordered by environment and service. The time depends on
    /// these services alone.
    fn placements<'a>(
        &'a self,
        services: Option<&'a [ServiceName]>,
    ) -> Answer<'a, Vec<PlacementStatus>>;

    /// Pins the newest release of a service in an environment, or removes its pin.
    fn pin<'a>(&'a self, placement: &'a Placement, pinned: bool, by: By) -> Answer<'a, ()>;

    /// Freezes an environment, or ends its freeze; only if its settings have the version `expected`.
    fn freeze<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        frozen: bool,
        expected: Option<String>,
        by: By,
    ) -> Answer<'a, ()>;

    /// The values of settings that are set for an environment, or for a service in it.
    fn values<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        service: Option<&'a ServiceName>,
    ) -> Answer<'a, Values>;

    /// Sets and removes values of settings; fails if no newest release declares them so.
    fn change_settings(&self, change: SettingsChange, by: By) -> Answer<'_, ()>;

    /// The values that a deployment of a release would have now; fails if one is missing or not
    /// valid.
    fn settings<'a>(
        &'a self,
        release: &'a Release,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>>;

    /// The values that the last deployment of a release had that became ready in an environment.
    fn ready_settings<'a>(
        &'a self,
        release: &'a ReleaseId,
        environment: &'a EnvironmentName,
    ) -> Answer<'a, Vec<Setting>>;

    /// The frozen environments.
    fn frozen(&self) -> Answer<'_, Vec<Freeze>>;

    /// Some of the services that run in an environment with another image than the one that its tag
    /// was moved to last, with that image. Images outside of their service's `repository`, in which
    /// `{service}` stands for its name, are left out.
    fn untagged<'a>(
        &'a self,
        environment: &'a EnvironmentName,
        repository: &'a str,
    ) -> Answer<'a, Vec<(ServiceName, String)>>;

    /// Records that the tag of an environment was moved to an image of a service.
    fn tagged<'a>(
        &'a self,
        placement: &'a Placement,
        image: &'a str,
        tag: &'a str,
        by: By,
    ) -> Answer<'a, ()>;

    /// Records that a key was used, by its name.
    fn use_key<'a>(&'a self, key: &'a str, at: Time) -> Answer<'a, ()>;

    /// When keys were used last, by their names.
    fn key_uses(&self) -> Answer<'_, BTreeMap<String, Time>>;

    /// The audit log, the newest entry first, from after `after`.
    fn audit<'a>(
        &'a self,
        after: Option<&'a AuditCursor>,
        limit: u32,
    ) -> Answer<'a, Vec<AuditEntry>>;
}

// === impl StoreError ===

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        /// SQLITE_FULL (<https://sqlite.org/rescode.html#full>), and PostgreSQL's `disk_full`.
        const FULL: [&str; 2] = ["13", "53100"];
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_some_and(|code| FULL.contains(&&*code)) {
            Self::Full
        } else {
            Self::Database(error)
        }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::Newer(version),
            error => Self::Migration(error),
        }
    }
}
