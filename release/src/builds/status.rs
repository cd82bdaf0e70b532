//! What is known of repositories, for the API and the command line.

use portcullis_config::problem::{Problem, Severity};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::survey::{Survey, Surveyed};
use super::targets::Recipe;
use crate::model::{Branch, CommitId, GitUrl, RepositoryName, ServiceName, Time};

/// A repository that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositorySummary {
    /// Its name.
    pub name: RepositoryName,
    /// Where it is.
    #[schema(value_type = String)]
    pub url: GitUrl,
    /// The branch that is followed.
    #[schema(value_type = String)]
    pub branch: Branch,
    /// The newest commit of the branch, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub commit: Option<CommitId>,
    /// Since when the builder knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// When the repository was fetched last, with or without success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_at: Option<Time>,
    /// How many fetches have ended since the builder has started.
    #[serde(default)]
    pub fetches: u64,
    /// Why the last fetch failed, or the commit cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many targets the commit has.
    pub targets: usize,
    /// How many errors the commit has.
    pub errors: usize,
}

/// A fetch that was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestedFetch {
    /// It has ended, and has seen all that was pushed before the request, once the repository has had
    /// so many `fetches`.
    pub number: u64,
}

/// A repository that is followed, with what its newest commit would build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryDetails {
    /// The repository.
    #[serde(flatten)]
    pub summary: RepositorySummary,
    /// What its newest commit would build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<CommitStatus>,
}

/// What a commit would build, and every problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommitStatus {
    /// The commit.
    #[schema(value_type = String)]
    pub commit: CommitId,
    /// The targets without an error.
    pub targets: Vec<TargetStatus>,
    /// All problems, up to 100 of targets and 50 of each target's manifests.
    pub problems: Vec<CommitProblem>,
}

/// An image that a commit has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// The service whose image it is.
    pub service: ServiceName,
    /// How its image is made.
    #[serde(flatten)]
    pub recipe: RecipeStatus,
    /// The folder that its build gets.
    pub context: String,
    /// What else it depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Its files of manifests.
    pub manifests: Vec<String>,
    /// The key of the files that it depends on: as long as it is the same, the image is.
    pub key: String,
}

/// How an image is made, by exactly one builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "builder", rename_all = "camelCase")]
pub enum RecipeStatus {
    /// By a Dockerfile.
    Dockerfile {
        /// Its path.
        dockerfile: String,
    },
    /// By a command.
    Command {
        /// The program, and its arguments.
        command: Vec<String>,
        /// The OCI layout that it leaves.
        output: String,
    },
    /// By Bazel.
    Bazel {
        /// The label of the target.
        label: String,
    },
}

/// A problem of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommitProblem {
    /// Whether a target is not built because of it.
    pub is_error: bool,
    /// The file, its line and column.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub help: String,
}

// === impl CommitStatus ===

impl CommitStatus {
    /// How many problems are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.is_error).count()
    }
}

impl From<&Survey> for CommitStatus {
    fn from(survey: &Survey) -> Self {
        Self {
            commit: survey.commit.clone(),
            targets: survey.targets.iter().map(TargetStatus::from).collect(),
            problems: survey.problems.iter().map(CommitProblem::from).collect(),
        }
    }
}

impl From<&Surveyed> for TargetStatus {
    fn from(Surveyed { target, key, .. }: &Surveyed) -> Self {
        Self {
            service: target.service.clone(),
            recipe: RecipeStatus::from(&target.recipe),
            context: target.context.to_string(),
            inputs: target.inputs.iter().map(ToString::to_string).collect(),
            manifests: target.manifests.iter().map(ToString::to_string).collect(),
            key: key.to_string(),
        }
    }
}

impl From<&Recipe> for RecipeStatus {
    fn from(recipe: &Recipe) -> Self {
        match recipe {
            Recipe::Dockerfile(path) => Self::Dockerfile { dockerfile: path.to_string() },
            Recipe::Command { command, output } => {
                Self::Command { command: command.clone(), output: output.to_string() }
            }
            Recipe::Bazel(label) => Self::Bazel { label: label.to_string() },
        }
    }
}

impl From<&Problem> for CommitProblem {
    fn from(problem: &Problem) -> Self {
        Self {
            is_error: problem.severity == Severity::Error,
            place: problem.origin.to_string(),
            message: problem.message.clone(),
            help: problem.help.clone(),
        }
    }
}
