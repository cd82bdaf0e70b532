//! The record of builds.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Answer, Autopush, Build, BuildChange, BuildTarget, By, Store};
use crate::model::{BuildId, RepositoryName, ServiceName, Time};

/// The record of all builds, beside that of releases.
pub trait BuildStore: Store {
    /// What waits and runs of each repository, as it was recorded last.
    fn schedules(&self) -> Answer<'_, BTreeMap<RepositoryName, Value>>;

    /// Records what waits and runs of a repository, and how its builds change by it, at once. Returns
    /// the changed builds; fails with [`StoreError::Outdated`](super::StoreError::Outdated) if one was changed since it was read.
    fn record_schedule<'a>(
        &'a self,
        repository: &'a RepositoryName,
        schedule: Value,
        changes: Vec<BuildChange>,
        by: By,
    ) -> Answer<'a, Vec<Build>>;

    /// A build.
    fn build<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Option<Build>>;

    /// The build that the caller's idempotency key made, if it did.
    fn made_build<'a>(&'a self, by: &'a By) -> Answer<'a, Option<Build>>;

    /// Builds of a repository, the newest first, with numbers below `before`.
    fn builds<'a>(
        &'a self,
        repository: &'a RepositoryName,
        before: Option<u32>,
        limit: u32,
    ) -> Answer<'a, Vec<Build>>;

    /// The builds of a repository that wait or run, the oldest first.
    fn open_builds<'a>(&'a self, repository: &'a RepositoryName) -> Answer<'a, Vec<Build>>;

    /// The targets of a build, by service.
    fn build_targets<'a>(&'a self, id: &'a BuildId) -> Answer<'a, Vec<BuildTarget>>;

    /// Records what became of a target of a build that runs; `false` if the build has changed since
    /// it was read.
    fn record_target<'a>(
        &'a self,
        build: &'a Build,
        target: &'a BuildTarget,
        now: Time,
    ) -> Answer<'a, bool>;

    /// The last target of a service that a repository has released; with `key`, the last one with
    /// the same inputs.
    fn released_target<'a>(
        &'a self,
        repository: &'a RepositoryName,
        service: &'a ServiceName,
        key: Option<&'a str>,
    ) -> Answer<'a, Option<BuildTarget>>;

    /// The releases of builds that are still to be deployed, the newest of a placement first.
    fn open_autopushes(&self) -> Answer<'_, Vec<Autopush>>;

    /// Records what became of an autopush, and that all earlier ones of its placement are not
    /// performed.
    fn close_autopush<'a>(&'a self, autopush: &'a Autopush, outcome: &'a str) -> Answer<'a, ()>;
}
