//! What a release would change.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::body::{Answer, Json, Query};
use super::deployments::{self, authorize, running};
use super::{App, Problem};
use crate::access::Principal;
use crate::manifest::{ObjectDiff, Setting, diff};
use crate::model::{EnvironmentName, Placement, ReleaseId, Scope};
use crate::store::Release;

/// The differences between two releases of a service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReleaseDiff {
    /// The earlier release; without it, everything is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ReleaseId>,
    /// The later release.
    pub to: ReleaseId,
    /// The objects that differ.
    pub objects: Vec<ObjectDiff>,
}

/// A deployment that is only checked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewDryRun {
    /// The release.
    pub release: ReleaseId,
    /// Where to.
    pub environment: EnvironmentName,
}

/// What a deployment would change.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// The differences from the release that runs there.
    #[serde(flatten)]
    pub diff: ReleaseDiff,
    /// Why the cluster would not accept it, or cannot say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Compare two releases of a service
#[utoipa::path(
    get, path = "/api/v1/diffs",
    params(
        ("from" = String, Query, description = "Such as `web.16`"),
        ("to" = String, Query, description = "Such as `web.17`"),
    ),
    responses(
        (status = 200, description = "What differs", body = ReleaseDiff),
        (status = 404, description = "There is no such release", body = Problem),
        (status = 429, description = "Too many such requests are in progress", body = Problem),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    principal: Principal,
    query: Query,
) -> Result<Answer<ReleaseDiff>, Problem> {
    let _slot = app.slots.take(&principal)?;
    let from = readable(&app, &principal, &query.require("from")?).await?;
    let to = readable(&app, &principal, &query.require("to")?).await?;
    Ok(Answer(compare(Some((&from, &[])), (&to, &[]))))
}

/// Show what a deployment changed, or would have
#[utoipa::path(
    get, path = "/api/v1/deployments/{id}/diff",
    params(("id" = String, Path, description = "Such as `web.staging.3`")),
    responses(
        (status = 200, description = "The differences from what ran there", body = ReleaseDiff),
        (status = 404, description = "There is no such deployment", body = Problem),
        (status = 429, description = "Too many such requests are in progress", body = Problem),
    )
)]
pub(super) async fn of_deployment(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Answer<ReleaseDiff>, Problem> {
    let _slot = app.slots.take(&principal)?;
    let deployment = deployments::find(&app, &principal, &id).await?;
    let replaced = match &deployment.replaces {
        Some(replaced) => app.store.deployment(replaced).await?,
        None => None,
    };
    let from = match &replaced {
        Some(replaced) => Some((release(&app, &replaced.release).await?, &replaced.settings)),
        None => None,
    };
    let to = release(&app, &deployment.release).await?;
    let from = from.as_ref().map(|(release, settings)| (release, settings.as_slice()));
    Ok(Answer(compare(from, (&to, &deployment.settings))))
}

/// Show what a deployment would change, and let the cluster check it
#[utoipa::path(
    post, path = "/api/v1/dry-runs", request_body = NewDryRun,
    responses(
        (status = 200, description = "What would change. Nothing is recorded", body = DryRun),
        (status = 404, description = "There is no such release", body = Problem),
        (status = 422, description = "A setting has no value, or one of another type", body = Problem),
        (status = 429, description = "Too many dry runs are in progress", body = Problem),
    )
)]
pub(super) async fn dry_run(
    State(app): State<Arc<App>>,
    principal: Principal,
    Json { value, .. }: Json<NewDryRun>,
) -> Result<Answer<DryRun>, Problem> {
    let service = value.release.service.clone();
    let placement = Placement { service, environment: value.environment };
    authorize(&principal, Scope::Deploy, "deploy", &placement)?;
    let _slot = app.slots.take(&principal)?;
    let to = readable(&app, &principal, &value.release).await?;
    let environment = &placement.environment;
    let settings = app.store.settings(&to, environment).await?;
    let from = match running(&app, &placement).await? {
        Some(running) => match app.store.release(&running).await? {
            Some(release) => {
                Some((release, app.store.ready_settings(&running, environment).await?))
            }
            None => None,
        },
        None => None,
    };
    let checked = app.runner.dry_run(&to, &settings, environment).await;
    let problem = checked.err().map(|error| error.to_string());
    let from = from.as_ref().map(|(release, settings)| (release, settings.as_slice()));
    Ok(Answer(DryRun { diff: compare(from, (&to, &settings)), problem }))
}

async fn readable(app: &App, principal: &Principal, id: &ReleaseId) -> Result<Release, Problem> {
    if !principal.may_anywhere(Scope::Read, &id.service) {
        return Err(Problem::not_found());
    }
    release(app, id).await
}

async fn release(app: &App, id: &ReleaseId) -> Result<Release, Problem> {
    app.store.release(id).await?.ok_or_else(Problem::not_found)
}

/// A release with the values of its settings.
type WithSettings<'r> = (&'r Release, &'r [Setting]);

fn manifests((release, settings): WithSettings<'_>) -> Vec<Value> {
    release.template.with_values(&release.summary.image, settings)
}

fn compare(from: Option<WithSettings<'_>>, to: WithSettings<'_>) -> ReleaseDiff {
    ReleaseDiff {
        objects: diff(&from.map(manifests).unwrap_or_default(), &manifests(to)),
        from: from.map(|(release, _)| release.summary.id.clone()),
        to: to.0.summary.id.clone(),
    }
}
