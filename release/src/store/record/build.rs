//! Builds.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{BuildId, CommitId, EnvironmentName, Placement, ReleaseId, ServiceName, Time};

/// A build of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// Its identifier.
    pub id: BuildId,
    /// The commit.
    #[schema(value_type = String)]
    pub commit: CommitId,
    /// Whether it was requested, rather than pushed.
    pub is_requested: bool,
    /// The state.
    #[serde(flatten)]
    pub state: BuildState,
    /// Why it failed, is not built, or waits once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How often it was started.
    pub attempts: u32,
    /// Grows with each change of the state.
    pub version: u32,
    /// Who requested it; `portcullis:build` for a push.
    pub created_by: String,
    /// When it was recorded.
    pub created_at: Time,
    /// When it was started last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its state changed last.
    pub updated_at: Time,
}

/// How far a build is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum BuildState {
    /// It waits for its turn.
    Waiting,
    /// It runs.
    Running,
    /// All of its targets are released, or unchanged.
    Succeeded,
    /// A target failed, or the commit has none that can be built.
    Failed,
    /// It is not built, since a newer commit is.
    Superseded {
        /// The newer commit.
        #[schema(value_type = String)]
        superseded_by: CommitId,
    },
    /// It was cancelled.
    Cancelled,
}

/// How the builds of a repository change.
#[derive(Debug, Clone)]
pub enum BuildChange {
    /// A new one waits.
    Create {
        /// The commit.
        commit: CommitId,
        /// Whether it was requested, rather than pushed.
        is_requested: bool,
    },
    /// One has another state; one that runs, and runs on, is ordered to stop.
    Advance {
        /// The build as it was read.
        build: Build,
        /// Its next state.
        state: BuildState,
        /// Why.
        reason: Option<String>,
    },
}

/// An image of a build, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildTarget {
    /// The service whose image it is.
    pub service: ServiceName,
    /// The key of the files that the image depends on.
    pub key: String,
    /// The key of its files of manifests.
    pub manifests: String,
    /// The state.
    pub state: TargetState,
    /// The image by digest, once the registry has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// The release whose image was taken over, since no input has changed since it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unchanged_since: Option<ReleaseId>,
    /// What failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Where its release is still to be deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autopush: Option<EnvironmentName>,
    /// What became of that: the deployment, or why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autopushed: Option<String>,
}

/// How far a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum TargetState {
    /// Its image is built.
    Building,
    /// The registry has its image.
    Pushed,
    /// It has a release.
    Released,
    /// Neither its image nor its manifests have changed since its last release.
    Unchanged,
    /// It failed.
    Failed,
}

/// A release of a build that is still to be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autopush {
    /// The build.
    pub build: BuildId,
    /// Where to.
    pub placement: Placement,
    /// The release.
    pub release: ReleaseId,
}

// === impl BuildState ===

impl BuildState {
    /// Whether it waits or runs.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Waiting | Self::Running)
    }
}

// === impl BuildTarget ===

impl BuildTarget {
    /// Whether it has the same inputs and the same manifests.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.key, &self.manifests) == (&other.key, &other.manifests)
    }
}
