//! Images of releases, and where their tags have moved since.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Answer, Query};
use super::{App, PAGE, Page, Problem};
use crate::access::Principal;
use crate::model::{EnvironmentName, ReleaseId, Scope, ServiceName};
use crate::store::{PlacementStatus, ReleaseSummary};

/// The most images of one response: each is asked for in its registry.
const MAX_IMAGES: usize = 10;

/// An image that a release was made from, and what its registry has now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// The image as it was requested, such as `registry.example.com/web:1.4`.
    pub requested: String,
    /// The newest release of it.
    pub release: ReleaseId,
    /// The image of that release, by its digest.
    pub image: String,
    /// What the registry has by that name now, by its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Why that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The environments in which the release runs.
    pub running: Vec<EnvironmentName>,
}

// === impl ImageStatus ===

impl ImageStatus {
    /// Whether the registry has another image by that name now.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.current.as_ref().is_some_and(|current| *current != self.image)
    }
}

/// List the images of a service's newest releases, resolved again
#[utoipa::path(
    get, path = "/api/v1/images",
    params(("service" = String, Query, description = "The service")),
    responses(
        (status = 200, description = "At most 10, the newest first", body = Page<ImageStatus>),
        (status = 429, description = "Too many such requests are in progress", body = Problem),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    query: Query,
) -> Result<Answer<Page<ImageStatus>>, Problem> {
    let service: ServiceName = query.require("service")?;
    if !principal.may_anywhere(Scope::Read, &service) {
        return Ok(Answer(Page { items: Vec::new(), next: None }));
    }
    let _slot = app.slots.take(&principal)?;
    let services = [service];
    let mut releases = app.store.releases(Some(&services), None, PAGE).await?;
    let mut seen = HashSet::new();
    releases.retain(|release| seen.insert(release.requested.clone()));
    releases.truncate(MAX_IMAGES);
    let mut running = app.store.placements(Some(&services)).await?;
    running.retain(|status| principal.may(Scope::Read, &status.placement));
    let items = join_all(releases.into_iter().map(|release| status(&app, release, &running))).await;
    Ok(Answer(Page { items, next: None }))
}

async fn status(app: &App, release: ReleaseSummary, running: &[PlacementStatus]) -> ImageStatus {
    let (current, problem) = match app.registries.resolve(&release.requested).await {
        Ok(current) => (Some(current), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let running = running.iter().filter(|status| status.running.as_ref() == Some(&release.id));
    ImageStatus {
        running: running.map(|status| status.placement.environment.clone()).collect(),
        requested: release.requested,
        release: release.id,
        image: release.image,
        current,
        problem,
    }
}
