//! Manifests in Kubernetes: applied, observed, pruned.
//!
//! [`Cluster`] is what the runner knows; [`Kubernetes`] is the real one.

mod apply;
mod objects;
mod pods;
mod readiness;
#[cfg(test)]
mod tests;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::manifest::ObjectRef;
use crate::model::{DeploymentId, EnvironmentName, ServiceName};
use crate::state::Readiness;

pub use self::apply::Kubernetes;

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

/// A cluster that releases are deployed to.
pub trait Cluster: Send + Sync {
    /// The Namespace of an environment.
    fn namespace<'a>(&'a self, environment: &'a EnvironmentName) -> Answer<'a, String>;

    /// Checks or applies one manifest. Applying it again changes nothing.
    fn apply<'a>(&'a self, manifest: &'a Value, owner: &'a Owner, mode: Mode) -> Answer<'a, ()>;

    /// Whether what was applied is ready.
    fn observe<'a>(&'a self, namespace: &'a str, objects: &'a [ObjectRef])
    -> Answer<'a, Readiness>;

    /// Deletes an object, if it exists and belongs to the owner.
    fn prune<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        owner: &'a Owner,
    ) -> Answer<'a, ()>;
}
