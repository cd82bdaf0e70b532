//! The records of a store.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::manifest::Template;
use crate::model::{DeploymentId, EnvironmentName, Placement, ReleaseId, ServiceName, Time};
use crate::state::{Intent, State};

/// A caller, why it acts, and when.
#[derive(Debug, Clone)]
pub struct By {
    /// The caller.
    pub actor: String,
    /// Its reason; may be empty.
    pub reason: String,
    /// The time.
    pub at: Time,
    /// Its idempotency key, if any.
    pub idempotency: Option<Idempotency>,
}

/// An idempotency key: what it made is returned for the same request again.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// The key.
    pub key: String,
    /// The hash of the request.
    pub fingerprint: String,
}

/// A release to record.
#[derive(Debug, Clone)]
pub struct NewRelease {
    /// The service.
    pub service: ServiceName,
    /// The source commit, if known.
    pub commit: Option<String>,
    /// The image as it was requested.
    pub requested: String,
    /// The image by digest.
    pub image: String,
    /// The template.
    pub template: Template,
    /// Who creates it.
    pub by: By,
}

/// A release.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// All of it except the template.
    pub summary: ReleaseSummary,
    /// The template.
    pub template: Template,
}

/// A release, without its template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseSummary {
    /// Its identifier.
    pub id: ReleaseId,
    /// The source commit, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The image as it was requested.
    pub requested: String,
    /// The image by its verified digest.
    pub image: String,
    /// When it was recorded.
    pub created_at: Time,
    /// Who recorded it.
    pub created_by: String,
}

/// A position in the list of releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseCursor {
    /// When the release was recorded.
    pub created_at: Time,
    /// The release.
    pub id: ReleaseId,
}

/// A deployment to record.
#[derive(Debug, Clone)]
pub struct DeploymentOrder {
    /// Where to.
    pub placement: Placement,
    /// The number of the release; for a rollback, the default is the release before.
    pub release: Option<u32>,
    /// Why.
    pub intent: Intent,
    /// Who orders it.
    pub by: By,
}

/// A deployment: one release put into one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Its identifier.
    pub id: DeploymentId,
    /// The release.
    pub release: ReleaseId,
    /// Why.
    pub intent: Intent,
    /// The state.
    #[serde(flatten)]
    pub state: State,
    /// Grows with each change of the state.
    pub version: u32,
    /// The Namespace that it is applied to, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Who requested it.
    pub requested_by: String,
    /// Why they did; may be empty.
    pub requested_because: String,
    /// When it was recorded.
    pub created_at: Time,
    /// When its state changed last.
    pub updated_at: Time,
}

/// A state that a deployment had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// The state.
    #[serde(flatten)]
    pub state: State,
    /// Since when.
    pub at: Time,
}

/// A service in an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacementStatus {
    /// The service and the environment.
    #[serde(flatten)]
    pub placement: Placement,
    /// The release of the last deployment that became ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<ReleaseId>,
    /// This release and older ones are not deployed again until a newer one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<ReleaseId>,
}

/// A frozen environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Freeze {
    /// The environment.
    pub environment: EnvironmentName,
    /// Why.
    pub reason: String,
    /// Who froze it.
    pub frozen_by: String,
    /// When.
    pub at: Time,
}

// === impl Freeze ===

impl Freeze {
    /// The version of an environment's settings: another one for each freeze.
    #[must_use]
    pub fn version(freeze: Option<&Self>) -> String {
        let text = serde_json::to_string(&freeze).unwrap_or_default();
        let mut digits = hex::encode(digest(&SHA256, text.as_bytes()));
        digits.truncate(16);
        digits
    }
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its identifier.
    pub id: String,
    /// When.
    pub at: Time,
    /// Who.
    pub actor: String,
    /// What they did, such as `release.create`.
    pub action: String,
    /// The service, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The environment, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// What they did it to.
    pub subject: String,
    /// Why; may be empty.
    pub reason: String,
    /// What was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What is there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A position in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditCursor {
    /// The time of the entry.
    pub at: Time,
    /// Its identifier.
    pub id: String,
}
