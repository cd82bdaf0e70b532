//! The HTTP API.
//!
//! Bodies are JSON; errors are problem details (RFC 9457). Every call but `/healthz` needs a key or a
//! token.
//! What a caller may not read is answered as what does not exist.

mod body;
mod builds;
mod callers;
mod deployments;
mod diffs;
mod environments;
mod events;
mod images;
mod openapi;
mod picture;
mod problem;
mod releases;
mod repositories;
mod rollouts;
mod serve;
mod settings;
mod slots;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::request::Parts;
use http::{StatusCode, header};

use crate::access::{Callers, KeyUses, Principal};
use crate::builds::followers::Followers;
use crate::builds::queue::Queue;
use crate::model::{Scope, Time};
use crate::registry::Registries;
use crate::runner::Runner;
use crate::sealing::SealingKeys;
use crate::settings::CallerSettings;
use crate::store::{BuildStore, By, Idempotency, Store};

pub use self::builds::{BuildDetails, BuildLog, NewBuild, NewCancellation};
pub use self::callers::KeyStatus;
pub use self::deployments::{DeploymentDetails, NewDeployment, NewPin, NewPromotion, NewRollback};
pub use self::diffs::{DryRun, NewDryRun, ReleaseDiff};
pub use self::environments::{EnvironmentDetails, EnvironmentStatus, FreezeChange};
pub use self::images::ImageStatus;
pub use self::openapi::document;
pub use self::problem::Problem;
pub use self::releases::{NewReleaseRequest, ReleaseDetails};
pub use self::rollouts::{NewOrder, RolloutDetails, RolloutStatus};
pub use self::serve::{Listener, ServeError};
pub use self::settings::{NewSettings, SettingStatus};
pub(crate) use self::slots::Slots;

/// The longest reason of a change, in characters.
const MAX_REASON: usize = 1000;
/// The most items of a page, and the default.
const PAGE: u32 = 50;

/// What the handlers share.
pub struct App {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The registries.
    pub registries: Arc<Registries>,
    /// The callers.
    pub callers: Callers,
    /// The callers with keys, as they are configured.
    pub settings: Vec<CallerSettings>,
    /// When their keys were used.
    pub uses: KeyUses,
    /// The keys that seal Secrets.
    pub keys: Arc<SealingKeys>,
    /// What works on deployments.
    pub runner: Arc<Runner>,
    /// The repositories that are followed.
    pub followers: Arc<Followers>,
    /// The record of builds.
    pub builds: Arc<dyn BuildStore>,
    /// What builds.
    pub queue: Arc<Queue>,
    /// The requests that wait for a cluster or a registry, or hold templates.
    pub(crate) slots: Slots,
}

/// A page of a list.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to pass as `after` for the next page, if there may be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

// === impl Page ===

impl<T> Page<T> {
    /// A page of at most `limit` items. If it is full there may be another one, from after the
    /// position of its last item.
    fn new(items: Vec<T>, limit: u32, position: impl FnOnce(&T) -> String) -> Self {
        let is_full = u32::try_from(items.len()).is_ok_and(|count| count == limit);
        let next = items.last().filter(|_| is_full).map(position);
        Self { items, next }
    }
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/api/v1/openapi.json", get(openapi::serve))
        .route("/api/v1/releases", get(releases::list).post(releases::create))
        // The path of kubernaut, whose clients send the same body.
        .route("/api/releases", post(releases::create))
        .route("/api/v1/releases/{id}", get(releases::show))
        .route("/api/v1/deployments", get(deployments::list).post(deployments::deploy))
        .route("/api/v1/deployments/{id}", get(deployments::show))
        .route("/api/v1/deployments/{id}/diff", get(diffs::of_deployment))
        .route("/api/v1/deployments/{id}/events", get(events::follow))
        .route("/api/v1/rollouts", get(rollouts::list))
        .route("/api/v1/rollouts/{id}", get(rollouts::show))
        .route("/api/v1/rollouts/{id}/history", get(rollouts::history))
        .route("/api/v1/rollouts/{id}/looks", get(rollouts::looks))
        .route("/api/v1/rollouts/{id}/picture.svg", get(rollouts::picture))
        .route("/api/v1/rollouts/{id}/orders", post(rollouts::order))
        .route("/api/v1/rollouts/{id}/events", get(events::follow_rollout))
        .route("/api/v1/promotions", post(deployments::promote))
        .route("/api/v1/rollbacks", post(deployments::roll_back))
        .route("/api/v1/pins", post(deployments::pin))
        .route("/api/v1/environments", get(environments::list))
        .route("/api/v1/environments/{name}", get(environments::show).put(environments::freeze))
        .route("/api/v1/settings", get(settings::list).patch(settings::change))
        .route("/api/v1/diffs", get(diffs::show))
        .route("/api/v1/dry-runs", post(diffs::dry_run))
        .route("/api/v1/images", get(images::list))
        .route("/api/v1/audit", get(environments::audit))
        .route("/api/v1/keys", get(callers::list))
        .route("/api/v1/repositories", get(repositories::list))
        .route("/api/v1/repositories/{name}", get(repositories::show))
        .route("/api/v1/repositories/{name}/fetches", post(repositories::fetch))
        .route("/api/v1/builds", get(builds::list).post(builds::request))
        .route("/api/v1/builds/{id}", get(builds::show))
        .route("/api/v1/builds/{id}/log", get(builds::log))
        .route("/api/v1/builds/{id}/cancellations", post(builds::cancel))
        .route("/webhooks/github/{repository}", any(webhooks::github))
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the path has no such method")
        })
        .with_state(app)
}

/// The metrics of rollouts. They name all services and environments.
async fn metrics(State(app): State<Arc<App>>, principal: Principal) -> Result<Response, Problem> {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    if !principal.may_everything(Scope::Read) {
        return Err(Problem::forbidden("read for everything"));
    }
    match app.runner.metrics().text() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response()),
        Err(error) => {
            tracing::error!(%error, "failed to write the metrics");
            Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response())
        }
    }
}

/// The `Idempotency-Key` of a request.
#[derive(Debug)]
struct IdempotencyKey(Option<String>);

impl FromRequestParts<Arc<App>> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        /// Longer than any identifier of a build.
        const MAX: usize = 255;
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let key = value.to_str().ok().filter(|key| (1..=MAX).contains(&key.len()));
        let key = key.ok_or_else(|| {
            Problem::bad_request("the Idempotency-Key is not a text of 1 to 255 characters")
        })?;
        Ok(Self(Some(key.to_owned())))
    }
}

/// Who acts, why, and by which request.
fn by(
    principal: &Principal,
    reason: Option<String>,
    key: IdempotencyKey,
    fingerprint: &str,
) -> Result<By, Problem> {
    let reason = reason.unwrap_or_default();
    if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(Problem::invalid(
            "/reason",
            format!("the reason has control characters, or more than {MAX_REASON} characters"),
        ));
    }
    let idempotency = key.0.map(|key| Idempotency { key, fingerprint: fingerprint.to_owned() });
    Ok(By { actor: principal.name().to_owned(), reason, at: Time::now(), idempotency })
}

#[cfg(test)]
mod tests;
