//! The HTTP API.
//!
//! Bodies are JSON; errors are problem details (RFC 9457). Every call but `/healthz` needs a key.
//! What a caller may not read is answered as what does not exist.

mod body;
mod deployments;
mod diffs;
mod environments;
mod events;
mod images;
mod openapi;
mod problem;
mod releases;
mod serve;
mod slots;

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::routing::{get, post};
use http::header;
use http::request::Parts;

use crate::access::{Callers, Principal};
use crate::model::Time;
use crate::registry::Registries;
use crate::runner::Runner;
use crate::store::{By, Idempotency, Store};

pub use self::deployments::{DeploymentDetails, NewDeployment, NewPin, NewPromotion, NewRollback};
pub use self::diffs::{DryRun, NewDryRun, ReleaseDiff};
pub use self::environments::{EnvironmentDetails, EnvironmentStatus, FreezeChange};
pub use self::images::ImageStatus;
pub use self::openapi::document;
pub use self::problem::Problem;
pub use self::releases::{NewReleaseRequest, ReleaseDetails};
pub use self::serve::{Listener, ServeError};
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
    pub registries: Registries,
    /// The callers.
    pub callers: Callers,
    /// What works on deployments.
    pub runner: Arc<Runner>,
    /// The requests that wait for a cluster or a registry.
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

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/api/v1/openapi.json", get(openapi::serve))
        .route("/api/v1/releases", get(releases::list).post(releases::create))
        // The path of kubernaut, whose clients send the same body.
        .route("/api/releases", post(releases::create))
        .route("/api/v1/releases/{id}", get(releases::show))
        .route("/api/v1/deployments", get(deployments::list).post(deployments::deploy))
        .route("/api/v1/deployments/{id}", get(deployments::show))
        .route("/api/v1/deployments/{id}/events", get(events::follow))
        .route("/api/v1/promotions", post(deployments::promote))
        .route("/api/v1/rollbacks", post(deployments::roll_back))
        .route("/api/v1/pins", post(deployments::pin))
        .route("/api/v1/environments", get(environments::list))
        .route("/api/v1/environments/{name}", get(environments::show).put(environments::freeze))
        .route("/api/v1/diffs", get(diffs::show))
        .route("/api/v1/dry-runs", post(diffs::dry_run))
        .route("/api/v1/images", get(images::list))
        .route("/api/v1/audit", get(environments::audit))
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|| async {
            Problem::new(http::StatusCode::METHOD_NOT_ALLOWED, "the path has no such method")
        })
        .with_state(app)
}

impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
        let key = values
            .next()
            .filter(|_| values.next().is_none())
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim());
        key.and_then(|key| app.callers.authenticate(key, SystemTime::now()))
            .ok_or_else(Problem::unauthorized)
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
