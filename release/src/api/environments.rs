//! Environments, and the audit log.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::response::IntoResponse;
use http::request::Parts;
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Answer, Json, Query};
use super::{App, IdempotencyKey, Page, Problem, by};
use crate::access::Principal;
use crate::manifest::Values;
use crate::model::{EnvironmentName, Scope, ServiceName, Time};
use crate::store::{AuditCursor, AuditEntry, Deployment, Freeze, PlacementStatus};

/// An environment that releases were deployed to, or that is frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentStatus {
    /// The environment.
    pub name: EnvironmentName,
    /// Who froze it and why, if it is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Freeze>,
    /// Its services, and what runs.
    pub services: Vec<PlacementStatus>,
}

/// An environment with the last deployment of each service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentDetails {
    /// The environment.
    #[serde(flatten)]
    pub status: EnvironmentStatus,
    /// The last deployments, in the order of `services`.
    pub deployments: Vec<Deployment>,
    /// The values of settings for all its services, for callers that may read all of them.
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    #[schema(value_type = Object)]
    pub settings: Values,
}

/// A freeze that begins or ends.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FreezeChange {
    /// Whether the environment refuses deployments. Rollbacks are always accepted.
    pub frozen: bool,
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// List environments, and what runs in them
#[utoipa::path(
    get, path = "/api/v1/environments",
    responses((status = 200, description = "All of them", body = Page<EnvironmentStatus>))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> Result<Answer<Page<EnvironmentStatus>>, Problem> {
    let environments = readable(&app, &principal).await?;
    Ok(Answer(Page { items: environments.into_values().collect(), next: None }))
}

/// Show an environment with the last deployment of each service
#[utoipa::path(
    get, path = "/api/v1/environments/{name}",
    params(("name" = String, Path, description = "The environment")),
    responses(
        (status = 200, description = "The environment; its `ETag` is that of its settings",
            body = EnvironmentDetails),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let name: EnvironmentName = name.parse().map_err(|_| Problem::not_found())?;
    let status = readable(&app, &principal).await?.remove(&name).ok_or_else(Problem::not_found)?;
    let services: Vec<ServiceName> =
        status.services.iter().map(|service| service.placement.service.clone()).collect();
    let deployments = app.store.last_deployments(&name, &services).await?;
    let settings = match principal.may_all_of(Scope::Read, &name) {
        true => app.store.values(&name, None).await?,
        false => Values::new(),
    };
    let tag = format!("\"{}\"", Freeze::version(status.frozen.as_ref()));
    Ok(([(header::ETAG, tag)], Answer(EnvironmentDetails { status, deployments, settings })))
}

/// The environments that a caller may read.
async fn readable(
    app: &App,
    principal: &Principal,
) -> Result<BTreeMap<EnvironmentName, EnvironmentStatus>, Problem> {
    let mut environments: BTreeMap<EnvironmentName, EnvironmentStatus> = BTreeMap::new();
    let empty = |name: &EnvironmentName| EnvironmentStatus {
        name: name.clone(),
        frozen: None,
        services: Vec::new(),
    };
    for freeze in app.store.frozen().await? {
        if principal.may_any_of(Scope::Read, &freeze.environment) {
            let name = freeze.environment.clone();
            environments.entry(name).or_insert_with_key(empty).frozen = Some(freeze);
        }
    }
    let services = principal.services();
    for status in app.store.placements(services.as_deref()).await? {
        if principal.may(Scope::Read, &status.placement) {
            let name = status.placement.environment.clone();
            environments.entry(name).or_insert_with_key(empty).services.push(status);
        }
    }
    Ok(environments)
}

/// Freeze an environment, or end its freeze
#[utoipa::path(
    put, path = "/api/v1/environments/{name}", request_body = FreezeChange,
    params(("name" = String, Path, description = "The environment")),
    responses(
        (status = 204, description = "Done"),
        (status = 403, description = "It needs the scope admin for all services", body = Problem),
        (status = 412, description = "Its `ETag` is not that of `If-Match`", body = Problem),
    )
)]
pub(super) async fn freeze(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(name): Path<String>,
    IfMatch(expected): IfMatch,
    Json { value, fingerprint }: Json<FreezeChange>,
) -> Result<StatusCode, Problem> {
    let environment: EnvironmentName = name.parse().map_err(|_| Problem::not_found())?;
    authorize_all(&principal, &environment)?;
    let by = by(&principal, value.reason, IdempotencyKey(None), &fingerprint)?;
    app.store.freeze(&environment, value.frozen, expected, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Requires the scope admin for all services of an environment.
pub(super) fn authorize_all(
    principal: &Principal,
    environment: &EnvironmentName,
) -> Result<(), Problem> {
    let may_read = principal.may_any_of(Scope::Read, environment);
    match principal.may_all_of(Scope::Admin, environment) {
        true => Ok(()),
        false if may_read => Err(Problem::forbidden("admin for all services")),
        false => Err(Problem::not_found()),
    }
}

/// The version that `If-Match` names, if any (RFC 9110 §13.1.1). `*` matches every environment:
/// each has settings.
pub(super) struct IfMatch(Option<String>);

impl FromRequestParts<Arc<App>> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(header::IF_MATCH).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        let text = value.to_str().ok().filter(|_| values.next().is_none()).map(str::trim);
        if text == Some("*") {
            return Ok(Self(None));
        }
        let tag = text.and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
        let tag = tag
            .filter(|tag| !tag.contains('"'))
            .ok_or_else(|| Problem::bad_request("If-Match is not one entity tag in quotes"))?;
        Ok(Self(Some(tag.to_owned())))
    }
}

/// Read the audit log, the newest entry first
#[utoipa::path(
    get, path = "/api/v1/audit",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 50"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = Page<AuditEntry>),
        (status = 403, description = "It needs the scope admin for everything", body = Problem),
    )
)]
pub(super) async fn audit(
    State(app): State<Arc<App>>,
    principal: Principal,
    query: Query,
) -> Result<Answer<Page<AuditEntry>>, Problem> {
    if !principal.may_everything(Scope::Admin) {
        return Err(Problem::forbidden("admin for everything"));
    }
    let limit = query.limit()?;
    let after = match query.get::<String>("after")? {
        Some(text) => Some(cursor(&text)?),
        None => None,
    };
    let items = app.store.audit(after.as_ref(), limit).await?;
    Ok(Answer(Page::new(items, limit, |last| format!("{}.{}", last.at.0, last.id))))
}

fn cursor(text: &str) -> Result<AuditCursor, Problem> {
    let parsed = text.split_once('.').and_then(|(at, id)| Some((at.parse().ok()?, id)));
    let (at, id) =
        parsed.ok_or_else(|| Problem::bad_request("the parameter `after` is not valid"))?;
    Ok(AuditCursor { at: Time(at), id: id.to_owned() })
}
