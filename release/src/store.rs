//! What was accepted, durably.
//!
//! [`Store`] is what the rest of the crate knows; [`sqlite`] is its implementation in one file. A
//! method returns after its change is on disk, or fails and has changed nothing. Each change and its
//! audit entry are one transaction.

pub mod leadership;
mod record;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

use futures::future::BoxFuture;

use crate::manifest::ObjectRef;
use crate::model::{DeploymentId, EnvironmentName, Placement, ReleaseId, ServiceName, Time};
use crate::state::{Refusal, State};

pub use self::record::{
    AuditCursor, AuditEntry, By, Deployment, DeploymentOrder, Freeze, Idempotency, NewRelease,
    PlacementStatus, Release, ReleaseCursor, ReleaseSummary, Step,
};

/// The result of a method of [`Store`].
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The most rows of one answer.
pub const MAX_PAGE: u32 = 200;

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The change was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The subject does not exist.
    #[error("there is no such {0}")]
    NotFound(&'static str),
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
    /// What is stored cannot be read.
    #[error("the store holds an invalid record: {0}")]
    Invalid(String),
    /// The database failed.
    #[error("the store failed: {0}")]
    Database(#[source] sqlx::Error),
    /// The schema cannot be migrated.
    #[error("the schema of the store cannot be migrated: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The file cannot be used.
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
}

/// The record of all releases and deployments.
pub trait Store: Send + Sync {
    /// The epoch of this opening: greater than that of any earlier one.
    fn epoch(&self) -> u64;

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

    /// All open deployments, the oldest first.
    fn open_deployments(&self) -> Answer<'_, Vec<Deployment>>;

    /// Records a state of a deployment; `None` if it has changed since `deployment` was read.
    fn advance<'a>(
        &'a self,
        deployment: &'a Deployment,
        state: State,
        now: Time,
    ) -> Answer<'a, Option<Deployment>>;

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

    /// Removes pruned objects from the inventory.
    fn pruned<'a>(&'a self, placement: &'a Placement, objects: &'a [ObjectRef]) -> Answer<'a, ()>;

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

    /// The frozen environments.
    fn frozen(&self) -> Answer<'_, Vec<Freeze>>;

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
        /// SQLITE_FULL (<https://sqlite.org/rescode.html#full>).
        const FULL: &str = "13";
        let code = error.as_database_error().and_then(|error| error.code());
        if code.as_deref() == Some(FULL) { Self::Full } else { Self::Database(error) }
    }
}
