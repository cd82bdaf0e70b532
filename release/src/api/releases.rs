//! Releases.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::body::{Answer, Json, Query};
use super::{App, IdempotencyKey, Page, Problem, by};
use crate::access::Principal;
use crate::manifest::{Declaration, Template};
use crate::model::{ReleaseId, Scope, ServiceName, Time};
use crate::releases::{self, RequestedRelease};
use crate::store::{ReleaseCursor, ReleaseSummary};

/// The longest name of an image or a commit.
const MAX_TEXT: usize = 512;

/// A release to record.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewReleaseRequest {
    /// The service; by default, the name of the only Service of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The image, by tag or digest, such as `registry.example.com/web:1.4`.
    pub image: String,
    /// The manifests: a text of YAML or JSON, an object, or a list of objects. `{{image}}` in it
    /// stands for the image.
    #[schema(value_type = Object)]
    pub template: Value,
    /// The source commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Why it cannot be undone, if it cannot, such as `migrates the orders`: rollbacks across it are
    /// refused unless they are forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irreversible: Option<String>,
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A release with its template.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReleaseDetails {
    /// The release.
    #[serde(flatten)]
    pub summary: ReleaseSummary,
    /// The settings that it declares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Declaration>,
    /// Its manifests.
    #[schema(value_type = Vec<Object>)]
    pub template: Value,
}

/// Record a release
#[utoipa::path(
    post, path = "/api/v1/releases", request_body = NewReleaseRequest,
    responses(
        (status = 201, description = "It is recorded", body = ReleaseSummary),
        (status = 422, description = "The template or the image is not valid", body = Problem),
        (status = 429, description = "Too many such requests are in progress", body = Problem),
        (status = 503, description = "The registry or the store cannot be used", body = Problem),
    )
)]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: IdempotencyKey,
    request: Json<NewReleaseRequest>,
) -> Result<(StatusCode, Answer<ReleaseSummary>), Problem> {
    let Json { value: request, fingerprint } = request;
    let by = by(&principal, request.reason, key, &fingerprint)?;
    check("/image", &request.image)?;
    for (pointer, text) in [("/commit", &request.commit), ("/irreversible", &request.irreversible)]
    {
        text.as_deref().map_or(Ok(()), |text| check(pointer, text))?;
    }
    authorize(&principal, request.service.as_ref())?;
    let template = Template::parse_unsealed(&request.template, !app.keys.is_empty())
        .map_err(Problem::template)?;
    let service = request.service.or_else(|| template.only_service()).ok_or_else(|| {
        Problem::invalid("/service", "it is missing, and the template has not exactly one Service")
    })?;
    authorize(&principal, Some(&service))?;
    let template = template
        .seal(&app.keys, &service)
        .map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let release = RequestedRelease {
        service,
        commit: request.commit,
        image: request.image,
        template,
        irreversible: request.irreversible,
    };
    let created = releases::record(&*app.store, &app.registries, release, by).await?;
    Ok((StatusCode::CREATED, Answer(created)))
}

/// Checks the scope for a service, or before the template names it, for any: who has none gets no
/// template read.
fn authorize(principal: &Principal, service: Option<&ServiceName>) -> Result<(), Problem> {
    let is_allowed = match service {
        Some(service) => principal.may_anywhere(Scope::Deploy, service),
        None => principal.may_anything(Scope::Deploy),
    };
    is_allowed.then_some(()).ok_or_else(|| Problem::forbidden("deploy"))
}

fn check(pointer: &str, text: &str) -> Result<(), Problem> {
    if text.len() <= MAX_TEXT && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Problem::invalid(
        pointer,
        format!("it has control characters, or more than {MAX_TEXT} bytes"),
    ))
}

/// List releases, the newest first
#[utoipa::path(
    get, path = "/api/v1/releases",
    params(
        ("service" = Option<String>, Query, description = "Only those of one service"),
        ("limit" = Option<u32>, Query, description = "1 to 50"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page", body = Page<ReleaseSummary>))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    query: Query,
) -> Result<Answer<Page<ReleaseSummary>>, Problem> {
    let limit = query.limit()?;
    let after = query.get::<Cursor>("after")?.map(|cursor| cursor.0);
    let services = match query.get::<ServiceName>("service")? {
        Some(service) if principal.may_anywhere(Scope::Read, &service) => Some(vec![service]),
        Some(_) => return Ok(Answer(Page { items: Vec::new(), next: None })),
        None => principal.services(),
    };
    let items = app.store.releases(services.as_deref(), after.as_ref(), limit).await?;
    Ok(Answer(Page::new(items, limit, |last| {
        Cursor(ReleaseCursor { created_at: last.created_at, id: last.id.clone() }).to_string()
    })))
}

/// Show a release with its template
#[utoipa::path(
    get, path = "/api/v1/releases/{id}",
    params(("id" = String, Path, description = "Such as `web.17`")),
    responses(
        (status = 200, description = "The release", body = ReleaseDetails),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Answer<ReleaseDetails>, Problem> {
    let id: ReleaseId = id.parse().map_err(|_| Problem::not_found())?;
    if !principal.may_anywhere(Scope::Read, &id.service) {
        return Err(Problem::not_found());
    }
    let release = app.store.release(&id).await?.ok_or_else(Problem::not_found)?;
    let template = release.template.redacted().into();
    let settings = release.template.settings();
    Ok(Answer(ReleaseDetails { summary: release.summary, settings, template }))
}

/// The text form of a position in the list.
struct Cursor(ReleaseCursor);

// === impl Cursor ===

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (time, id) = text.split_once('.').ok_or(())?;
        let created_at = Time(time.parse().map_err(|_| ())?);
        Ok(Self(ReleaseCursor { created_at, id: id.parse().map_err(|_| ())? }))
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0.created_at.0, self.0.id)
    }
}
