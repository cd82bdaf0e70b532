//! The records of a store.

mod build;

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::analysis::Report;
use crate::manifest::{ObjectRef, Setting, Template};
use crate::model::{
    DeploymentId, EnvironmentName, Placement, Placements, ReleaseId, ServiceName, Time,
};
use crate::rollout::{self, Order, Stage};
use crate::state::{Intent, State};

pub use self::build::{Autopush, Build, BuildChange, BuildState, BuildTarget, TargetState};

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

// === impl By ===

impl By {
    /// The actor of what a rollout does by itself. Names of callers have no colon before them.
    const ROLLOUT: &str = "portcullis:rollout";
    /// The longest reason of it, in characters.
    const MAX_REASON: usize = 1000;

    /// A rollout that acts by itself, with the sentence of its state as the reason.
    #[must_use]
    pub fn rollout(sentence: &str, at: Time) -> Self {
        Self {
            actor: Self::ROLLOUT.to_owned(),
            reason: sentence.chars().take(Self::MAX_REASON).collect(),
            at,
            idempotency: None,
        }
    }
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
    /// Why it cannot be undone, if it cannot.
    pub irreversible: Option<String>,
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
    /// Why it cannot be undone, if it cannot: a rollback across it has to be forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irreversible: Option<String>,
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

/// Values of settings to set or to remove.
#[derive(Debug, Clone)]
pub struct SettingsChange {
    /// The environment.
    pub environment: EnvironmentName,
    /// The service in it; `None` for all.
    pub service: Option<ServiceName>,
    /// The values by name; `None` removes one.
    pub values: BTreeMap<String, Option<Value>>,
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
    /// Whether a rollback may cross releases that cannot be undone.
    pub force: bool,
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
    /// The deployment that ran there when this one was recorded, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<DeploymentId>,
    /// The state.
    #[serde(flatten)]
    pub state: State,
    /// Grows with each change of the state.
    pub version: u32,
    /// The values of the settings that the release declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
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

/// An object that was pruned, and that a late call may create again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedObject {
    /// The service and the environment whose it was.
    pub placement: Placement,
    /// Its Namespace.
    pub namespace: String,
    /// The object.
    pub object: ObjectRef,
    /// Whether a later deployment has brought it back.
    pub is_back: bool,
    /// Whether no late call can arrive any more.
    pub is_over: bool,
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

/// A rollout, as it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// The deployment that is rolled out.
    pub id: DeploymentId,
    /// Its release.
    pub release: ReleaseId,
    /// The release that has the rest of the traffic.
    pub stable: Option<ReleaseId>,
    /// How far it is.
    pub state: rollout::Rollout,
    /// What was counted so far, as its observer keeps it; null before the first look.
    pub evidence: Value,
    /// What keeps it from reading or acting, if anything does.
    pub problem: Option<String>,
    /// What the check before the first request resulted in, once it has.
    pub gate: Option<GateResult>,
    /// Grows with each change of the record.
    pub version: u32,
    /// When it began.
    pub created_at: Time,
    /// When its record changed last.
    pub updated_at: Time,
}

/// Which rollouts are listed.
#[derive(Debug, Clone, Default)]
pub struct WantedRollouts {
    /// Those of these services, which are read by an index; `None` for all.
    pub services: Option<Vec<ServiceName>>,
    /// Those in this environment; `None` for all.
    pub environment: Option<EnvironmentName>,
    /// Those that are in one of these.
    pub readable: Vec<Placements>,
}

/// A position in the list of rollouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutCursor {
    /// When the rollout began.
    pub created_at: Time,
    /// The rollout.
    pub id: DeploymentId,
}

/// What changes in the record of a rollout.
#[derive(Debug, Clone)]
pub struct RolloutChange {
    /// The state.
    pub state: rollout::Rollout,
    /// What was counted so far.
    pub evidence: Value,
    /// What keeps it from reading or acting, if anything does.
    pub problem: Option<String>,
    /// The looks since the change before.
    pub looks: Vec<Look>,
    /// What the check before the first request has just resulted in.
    pub gate: Option<GateResult>,
}

/// What the check before the first request resulted in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateResult {
    /// When that was seen.
    pub at: Time,
    /// Why the canary failed it; `None` if it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The end of its log.
    pub log: String,
}

/// A look at both sides, and what follows from all looks up to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// When its window began.
    pub at: Time,
    /// The canary's weight, in hundredths of a percent.
    pub weight: u16,
    /// Evidence, counts and verdict.
    #[serde(flatten)]
    pub report: Report,
}

/// What became of a rollout at one time: by itself, or by a person's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStep {
    /// Its number, from 1.
    pub number: u32,
    /// When.
    pub at: Time,
    /// How far the rollout was.
    #[serde(flatten)]
    pub stage: Stage,
    /// The canary's weight, in hundredths of a percent.
    pub weight: u16,
    /// What it waited for, or how it ended.
    pub sentence: String,
    /// What a person ordered, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Who ordered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
