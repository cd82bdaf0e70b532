//! Deployments, promotions, rollbacks and pins.

use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Answer, Json, Query};
use super::{App, IdempotencyKey, Page, Problem, by};
use crate::access::Principal;
use crate::model::{DeploymentId, EnvironmentName, Placement, ReleaseId, Scope, ServiceName};
use crate::state::Intent;
use crate::store::{Deployment, DeploymentOrder, Step};

/// A release to deploy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewDeployment {
    /// The release.
    pub release: ReleaseId,
    /// Where to.
    pub environment: EnvironmentName,
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A service whose release is promoted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewPromotion {
    /// The service.
    pub service: ServiceName,
    /// The environment where its release runs.
    pub from: EnvironmentName,
    /// Where to.
    pub to: EnvironmentName,
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A service that is rolled back.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewRollback {
    /// The service.
    pub service: ServiceName,
    /// The environment.
    pub environment: EnvironmentName,
    /// A release that ran there; by default, the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// Whether it may undo releases that are marked as ones that cannot be undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A pin that is set or removed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewPin {
    /// The service.
    pub service: ServiceName,
    /// The environment.
    pub environment: EnvironmentName,
    /// Whether all releases up to now are pinned out.
    pub pinned: bool,
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A deployment with the states that it had.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeploymentDetails {
    /// The deployment.
    #[serde(flatten)]
    pub deployment: Deployment,
    /// The states, the first one first.
    pub steps: Vec<Step>,
}

type Created = Result<(StatusCode, Answer<Deployment>), Problem>;

/// Deploy a release
#[utoipa::path(
    post, path = "/api/v1/deployments", request_body = NewDeployment,
    responses(
        (status = 202, description = "It is recorded and will be performed", body = Deployment),
        (status = 404, description = "There is no such release", body = Problem),
        (status = 409, description = "The environment is frozen, or the release is pinned out",
            body = Problem),
    )
)]
pub(super) async fn deploy(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: IdempotencyKey,
    Json { value, fingerprint }: Json<NewDeployment>,
) -> Created {
    let by = by(&principal, value.reason, key, &fingerprint)?;
    let placement = Placement { service: value.release.service, environment: value.environment };
    let (release, intent) = (Some(value.release.number), Intent::Deploy);
    let order = DeploymentOrder { placement, release, intent, force: false, by };
    create(&app, &principal, order).await
}

/// Promote the release that runs in one environment to another
#[utoipa::path(
    post, path = "/api/v1/promotions", request_body = NewPromotion,
    responses(
        (status = 202, description = "It is recorded and will be performed", body = Deployment),
        (status = 409, description = "No release runs there, or it is refused", body = Problem),
    )
)]
pub(super) async fn promote(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: IdempotencyKey,
    Json { value, fingerprint }: Json<NewPromotion>,
) -> Created {
    let by = by(&principal, value.reason, key, &fingerprint)?;
    let source = Placement { service: value.service.clone(), environment: value.from };
    if !principal.may(Scope::Read, &source) {
        return Err(Problem::not_found());
    }
    let running = running(&app, &source).await?.ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            format!("no release of {} runs in {}", source.service, source.environment),
        )
    })?;
    let placement = Placement { service: value.service, environment: value.to };
    let (release, intent) = (Some(running.number), Intent::Promote);
    let order = DeploymentOrder { placement, release, intent, force: false, by };
    create(&app, &principal, order).await
}

/// Roll a service back to a release that ran there before
#[utoipa::path(
    post, path = "/api/v1/rollbacks", request_body = NewRollback,
    responses(
        (status = 202, description = "It is recorded and will be performed", body = Deployment),
        (status = 409, body = Problem,
            description = "There is no such earlier release, or a later one cannot be undone"),
    )
)]
pub(super) async fn roll_back(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: IdempotencyKey,
    Json { value, fingerprint }: Json<NewRollback>,
) -> Created {
    let by = by(&principal, value.reason, key, &fingerprint)?;
    if value.release.as_ref().is_some_and(|release| release.service != value.service) {
        return Err(Problem::invalid("/release", "it is a release of another service"));
    }
    let release = value.release.map(|release| release.number);
    let placement = Placement { service: value.service, environment: value.environment };
    let (intent, force) = (Intent::Rollback, value.force);
    create(&app, &principal, DeploymentOrder { placement, release, intent, force, by }).await
}

/// The release that runs in an environment; `None` if none of the service does.
pub(super) async fn running(
    app: &App,
    placement: &Placement,
) -> Result<Option<ReleaseId>, Problem> {
    let service = std::slice::from_ref(&placement.service);
    let placements = app.store.placements(Some(service)).await?;
    let status = placements.into_iter().find(|status| status.placement == *placement);
    Ok(status.and_then(|status| status.running))
}

async fn create(app: &App, principal: &Principal, order: DeploymentOrder) -> Created {
    authorize(principal, Scope::Deploy, "deploy", &order.placement)?;
    let deployment = app.store.create_deployment(order).await?;
    app.runner.wake();
    Ok((StatusCode::ACCEPTED, Answer(deployment)))
}

pub(super) fn authorize(
    principal: &Principal,
    scope: Scope,
    name: &str,
    placement: &Placement,
) -> Result<(), Problem> {
    if principal.may(scope, placement) {
        Ok(())
    } else if principal.may(Scope::Read, placement) {
        Err(Problem::forbidden(name))
    } else {
        Err(Problem::not_found())
    }
}

/// Pin out all releases up to now, or remove the pin
#[utoipa::path(
    post, path = "/api/v1/pins", request_body = NewPin,
    responses(
        (status = 204, description = "Done"),
        (status = 404, description = "The service was never deployed there", body = Problem),
    )
)]
pub(super) async fn pin(
    State(app): State<Arc<App>>,
    principal: Principal,
    Json { value, fingerprint }: Json<NewPin>,
) -> Result<StatusCode, Problem> {
    let by = by(&principal, value.reason, IdempotencyKey(None), &fingerprint)?;
    let placement = Placement { service: value.service, environment: value.environment };
    authorize(&principal, Scope::Admin, "admin", &placement)?;
    app.store.pin(&placement, value.pinned, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the deployments of a service in an environment, the newest first
#[utoipa::path(
    get, path = "/api/v1/deployments",
    params(
        ("service" = String, Query, description = "The service"),
        ("environment" = String, Query, description = "The environment"),
        ("limit" = Option<u32>, Query, description = "1 to 50"),
        ("after" = Option<u32>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page", body = Page<Deployment>))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    query: Query,
) -> Result<Answer<Page<Deployment>>, Problem> {
    let limit = query.limit()?;
    let before = query.get("after")?;
    let placement = Placement {
        service: query.require("service")?,
        environment: query.require("environment")?,
    };
    if !principal.may(Scope::Read, &placement) {
        return Ok(Answer(Page { items: Vec::new(), next: None }));
    }
    let items = app.store.deployments(&placement, before, limit).await?;
    let next = items.last().map(|last| last.id.number).filter(|number| *number > 1);
    Ok(Answer(Page { items, next: next.map(|number| number.to_string()) }))
}

/// Show a deployment with the states that it had
#[utoipa::path(
    get, path = "/api/v1/deployments/{id}",
    params(("id" = String, Path, description = "Such as `web.staging.3`")),
    responses(
        (status = 200, description = "The deployment", body = DeploymentDetails),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Answer<DeploymentDetails>, Problem> {
    let deployment = find(&app, &principal, &id).await?;
    let steps = app.store.steps(&deployment.id, 0).await?;
    Ok(Answer(DeploymentDetails { deployment, steps }))
}

/// A deployment that the caller may read.
pub(super) async fn find(
    app: &App,
    principal: &Principal,
    id: &str,
) -> Result<Deployment, Problem> {
    let id: DeploymentId = id.parse().map_err(|_| Problem::not_found())?;
    if !principal.may(Scope::Read, &id.placement) {
        return Err(Problem::not_found());
    }
    app.store.deployment(&id).await?.ok_or_else(Problem::not_found)
}
