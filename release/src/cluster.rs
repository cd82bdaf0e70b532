//! Manifests in Kubernetes: applied, observed, pruned.
//!
//! [`Cluster`] is what the runner knows; [`Kubernetes`] is the real one.

mod apply;
mod events;
mod exec;
mod objects;
mod pods;
mod readiness;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::manifest::ObjectRef;
use crate::model::{DeploymentId, EnvironmentName, ServiceName};
use crate::state::Readiness;

pub use self::apply::Kubernetes;
pub(crate) use self::exec::Program;
pub(crate) use self::pods::why_not_ready;

/// The field manager of manifests. Weights of traffic belong to another one.
pub const FIELD_MANAGER: &str = "portcullis-releases";

/// The result of a call.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ClusterError>>;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The server cannot be reached, or is overloaded: the call is repeated.
    #[error("the cluster cannot be reached: {0}")]
    Unreachable(String),
    /// The call was rejected: repeating it would not help.
    #[error("{0}")]
    Rejected(String),
}

/// Whether a manifest is applied or only checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The server checks it and changes nothing.
    DryRun,
    /// The server applies it.
    Apply,
}

/// What is applied on whose behalf.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The service that the object belongs to.
    pub service: ServiceName,
    /// The epoch of the builder. An object with a later one is not changed.
    pub epoch: u64,
    /// The deployment, if calls of earlier ones may still be under way: then its name is written
    /// into each object, also into one that needs no change. So the server rejects a call that
    /// arrives late, as it is for an earlier version of the object.
    pub fence: Option<DeploymentId>,
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// What tells it from an earlier or later object, or specification, of the same name.
    pub version: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The replicas that it is to have; 1 where it says nothing of them.
    pub replicas: u32,
    /// Whether it works.
    pub readiness: Readiness,
}

/// Something that happened to an object, for those who look at it with `kubectl describe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEvent {
    /// What tells it from all others about the object: reporting it again changes nothing.
    pub identity: String,
    /// Why, as a word such as `RolloutWatching`.
    pub reason: String,
    /// What was done.
    pub action: String,
    /// A sentence.
    pub note: String,
    /// Whether it warns.
    pub warns: bool,
}

/// A cluster that releases are deployed to.
pub trait Cluster: Send + Sync {
    /// The Namespace of an environment.
    fn namespace<'a>(&'a self, environment: &'a EnvironmentName) -> Answer<'a, String>;

    /// Checks or applies one manifest. Applying it again changes nothing.
    fn apply<'a>(&'a self, manifest: &'a Value, owner: &'a Owner, mode: Mode) -> Answer<'a, ()>;

    /// Whether what was applied is ready.
    fn observe<'a>(&'a self, namespace: &'a str, objects: &'a [ObjectRef])
    -> Answer<'a, Readiness>;

    /// What is known of objects, in their order; `None` for one that does not exist.
    fn inspect<'a>(
        &'a self,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, Vec<Option<Inspected>>>;

    /// The objects of a Namespace that select pods, such as Services, as they are.
    fn selecting<'a>(&'a self, namespace: &'a str) -> Answer<'a, Vec<Value>>;

    /// Deletes an object, if it exists and belongs to the owner.
    fn prune<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        owner: &'a Owner,
    ) -> Answer<'a, ()>;

    /// The end of the log of a workload's newest pod; empty if it has none.
    fn log<'a>(&'a self, namespace: &'a str, object: &'a ObjectRef) -> Answer<'a, String>;

    /// Writes an Event on an object, if the object exists.
    fn report<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        event: &'a ObjectEvent,
    ) -> Answer<'a, ()>;
}
