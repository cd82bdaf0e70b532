//! Rollouts: how far they are, what was counted, and what people order.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Answer, Json, Query};
use super::{App, IdempotencyKey, PAGE, Page, Problem, by, deployments, picture};
use crate::access::Principal;
use crate::model::{DeploymentId, ReleaseId, Scope, ServiceName, Time};
use crate::rollout::{Order, Settings, Stage};
use crate::store::{GateResult, Look, Rollout, RolloutCursor, RolloutStep, WantedRollouts};

/// The looks that are shown with a rollout: those of the last ten minutes.
const SHOWN_LOOKS: u32 = 60;

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Its identifier, which is that of its deployment.
    pub id: DeploymentId,
    /// The release that is rolled out.
    pub release: ReleaseId,
    /// The release that has the rest of the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<ReleaseId>,
    /// How far it is: `stage` is its name, and `step` the index of its step.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub stage: Stage,
    /// Whether there is something left to do.
    pub is_open: bool,
    /// The canary's weight, in hundredths of a percent.
    pub weight: u16,
    /// What it waits for, or how it ended.
    pub sentence: String,
    /// What a person is asked to decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Why it is paused, if a person has paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// What keeps it from reading or acting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What was noticed when it began, such as selectors that match the canary's pods, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What `abort` would do now.
    pub if_aborted: String,
    /// Its steps, objectives and error rates. Times are in milliseconds.
    #[schema(value_type = Object)]
    pub settings: Settings,
    /// Grows with each change of the record.
    pub version: u32,
    /// When it began.
    pub created_at: Time,
    /// When its record changed last.
    pub updated_at: Time,
}

/// A rollout with what became of it lately, and its last looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutDetails {
    /// The rollout.
    #[serde(flatten)]
    pub status: RolloutStatus,
    /// Its last 50 stages and weights, and orders of people, the newest one last.
    #[schema(value_type = Vec<Object>)]
    pub history: Vec<RolloutStep>,
    /// The looks of the last ten minutes, the newest first. Evidence is the natural logarithm of an
    /// e-value.
    #[schema(value_type = Vec<Object>)]
    pub looks: Vec<Look>,
    /// What the check before the first request resulted in, with the end of its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateResult>,
}

/// What a rollout is ordered to do.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewOrder {
    /// `pause`, `resume`, `skip`, `abort` or `promote`.
    #[schema(value_type = String, example = "pause")]
    pub order: Order,
    /// Why.
    pub reason: String,
}

// === impl RolloutStatus ===

impl From<Rollout> for RolloutStatus {
    fn from(rollout: Rollout) -> Self {
        let Rollout {
            id, release, stable, state, problem, version, created_at, updated_at, ..
        } = rollout;
        Self {
            if_aborted: state.if_aborted(&release, stable.as_ref()),
            id,
            release,
            stable,
            is_open: state.is_open(),
            weight: state.weight(),
            stage: state.stage,
            sentence: state.sentence,
            question: state.question,
            paused: state.paused,
            problem,
            warnings: state.warnings,
            settings: state.settings,
            version,
            created_at,
            updated_at,
        }
    }
}

/// List rollouts, the newest first
#[utoipa::path(
    get, path = "/api/v1/rollouts",
    params(
        ("service" = Option<String>, Query, description = "Only those of one service"),
        ("environment" = Option<String>, Query, description = "Only those in one environment"),
        ("limit" = Option<u32>, Query, description = "1 to 50"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page", body = Page<RolloutStatus>))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    query: Query,
) -> Result<Answer<Page<RolloutStatus>>, Problem> {
    let limit = query.limit()?;
    let after = query.get::<Cursor>("after")?.map(|cursor| cursor.0);
    let environment = query.get("environment")?;
    let services = match query.get::<ServiceName>("service")? {
        Some(service) if principal.may_anywhere(Scope::Read, &service) => Some(vec![service]),
        Some(_) => return Ok(Answer(Page { items: Vec::new(), next: None })),
        None => principal.services(),
    };
    let wanted = WantedRollouts { services, environment, readable: principal.readable() };
    let items = app.store.rollouts(&wanted, after.as_ref(), limit).await?;
    let items = items.into_iter().map(RolloutStatus::from).collect();
    Ok(Answer(Page::new(items, limit, |last: &RolloutStatus| {
        Cursor(RolloutCursor { created_at: last.created_at, id: last.id.clone() }).to_string()
    })))
}

/// Show a rollout: how far it is, what became of it lately, and its last looks
#[utoipa::path(
    get, path = "/api/v1/rollouts/{id}",
    params(("id" = String, Path, description = "Such as `web.staging.3`")),
    responses(
        (status = 200, description = "The rollout", body = RolloutDetails),
        (status = 404, description = "There is no such rollout", body = Problem),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Answer<RolloutDetails>, Problem> {
    details(&app, &principal, &id).await.map(Answer)
}

async fn details(app: &App, principal: &Principal, id: &str) -> Result<RolloutDetails, Problem> {
    let rollout = find(app, principal, id).await?;
    let mut history = app.store.last_rollout_steps(&rollout.id, None, PAGE).await?;
    history.reverse();
    let looks = app.store.looks(&rollout.id, None, SHOWN_LOOKS).await?;
    let gate = rollout.gate.clone();
    Ok(RolloutDetails { status: rollout.into(), history, looks, gate })
}

/// Draw a rollout: its steps, the evidence of the last ten minutes, and its sentence
#[utoipa::path(
    get, path = "/api/v1/rollouts/{id}/picture.svg",
    params(("id" = String, Path, description = "Such as `web.staging.3`")),
    responses(
        (status = 200, description = "The picture", body = String, content_type = "image/svg+xml"),
        (status = 404, description = "There is no such rollout", body = Problem),
    )
)]
pub(super) async fn picture(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    // Opened as a page, it runs nothing and loads nothing.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";
    let svg = picture::svg(&details(&app, &principal, &id).await?);
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, svg).into_response())
}

/// List what became of a rollout, the newest step first
#[utoipa::path(
    get, path = "/api/v1/rollouts/{id}/history",
    params(
        ("id" = String, Path, description = "Such as `web.staging.3`"),
        ("limit" = Option<u32>, Query, description = "1 to 50"),
        ("after" = Option<u32>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page: stages, weights, and the orders of people"),
        (status = 404, description = "There is no such rollout", body = Problem),
    )
)]
pub(super) async fn history(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    query: Query,
) -> Result<Answer<Page<RolloutStep>>, Problem> {
    let rollout = find(&app, &principal, &id).await?;
    let limit = query.limit()?;
    let before = query.get("after")?;
    let items = app.store.last_rollout_steps(&rollout.id, before, limit).await?;
    Ok(Answer(Page::new(items, limit, |last| last.number.to_string())))
}

/// List the looks of a rollout, the newest first
#[utoipa::path(
    get, path = "/api/v1/rollouts/{id}/looks",
    params(
        ("id" = String, Path, description = "Such as `web.staging.3`"),
        ("limit" = Option<u32>, Query, description = "1 to 50"),
        ("after" = Option<u64>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page: e-values, bounds, counts and verdict of each look"),
        (status = 404, description = "There is no such rollout", body = Problem),
    )
)]
pub(super) async fn looks(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    query: Query,
) -> Result<Answer<Page<Look>>, Problem> {
    let rollout = find(&app, &principal, &id).await?;
    let limit = query.limit()?;
    let before = query.get::<u64>("after")?.map(Time);
    let items = app.store.looks(&rollout.id, before, limit).await?;
    Ok(Answer(Page::new(items, limit, |last| last.at.0.to_string())))
}

/// Pause, resume, skip a step of, abort or promote a rollout
#[utoipa::path(
    post, path = "/api/v1/rollouts/{id}/orders", request_body = NewOrder,
    params(("id" = String, Path, description = "Such as `web.staging.3`")),
    responses(
        (status = 202, description = "It is recorded and will be performed", body = RolloutStatus),
        (status = 404, description = "There is no such rollout", body = Problem),
        (status = 409, description = "The order makes no sense for the rollout as it is",
            body = Problem),
        (status = 422, description = "There is no reason", body = Problem),
    )
)]
pub(super) async fn order(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: IdempotencyKey,
    Path(id): Path<String>,
    Json { value, fingerprint }: Json<NewOrder>,
) -> Result<(StatusCode, Answer<RolloutStatus>), Problem> {
    let by = by(&principal, Some(value.reason), key, &fingerprint)?;
    if by.reason.trim().is_empty() {
        return Err(Problem::invalid("/reason", "it is empty: the audit log needs a reason"));
    }
    let id: DeploymentId = id.parse().map_err(|_| Problem::not_found())?;
    deployments::authorize(&principal, Scope::Deploy, "deploy", &id.placement)?;
    let ordered = app.store.order_rollout(&id, value.order, by).await?;
    app.runner.wake();
    Ok((StatusCode::ACCEPTED, Answer(ordered.into())))
}

/// The rollout of this identifier, if the caller may read it.
pub(super) async fn find(app: &App, principal: &Principal, id: &str) -> Result<Rollout, Problem> {
    let id: DeploymentId = id.parse().map_err(|_| Problem::not_found())?;
    if !principal.may(Scope::Read, &id.placement) {
        return Err(Problem::not_found());
    }
    app.store.rollout(&id).await?.ok_or_else(Problem::not_found)
}

/// The text form of a position in the list.
struct Cursor(RolloutCursor);

// === impl Cursor ===

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (time, id) = text.split_once('.').ok_or(())?;
        let created_at = Time(time.parse().map_err(|_| ())?);
        Ok(Self(RolloutCursor { created_at, id: id.parse().map_err(|_| ())? }))
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0.created_at.0, self.0.id)
    }
}
