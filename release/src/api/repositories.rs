//! Repositories that are followed.

use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;

use super::body::Answer;
use super::{App, Page, Problem};
use crate::access::Principal;
use crate::builds::followers::Follower;
use crate::builds::status::{RepositoryDetails, RepositorySummary, RequestedFetch};
use crate::model::{EnvironmentName, Placement, Scope};
use crate::settings::RepositorySettings;

/// List repositories
#[utoipa::path(
    get, path = "/api/v1/repositories",
    responses((status = 200, description = "All, by name", body = Page<RepositorySummary>))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> Answer<Page<RepositorySummary>> {
    let visible = app.followers.iter().filter(|it| may(&principal, Scope::Read, it.settings()));
    let items = visible.map(|follower| follower.details().summary).collect();
    Answer(Page { items, next: None })
}

/// Show a repository, and what its newest commit would build
#[utoipa::path(
    get, path = "/api/v1/repositories/{name}",
    params(("name" = String, Path, description = "Such as `shop`")),
    responses(
        (status = 200, description = "The repository", body = RepositoryDetails),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<Answer<RepositoryDetails>, Problem> {
    Ok(Answer(find(&app, &principal, &name)?.details()))
}

/// Fetch a repository now
#[utoipa::path(
    post, path = "/api/v1/repositories/{name}/fetches",
    params(("name" = String, Path, description = "Such as `shop`")),
    responses(
        (status = 202, description = "It will be fetched", body = RequestedFetch),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub(super) async fn fetch(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(name): Path<String>,
) -> Result<(StatusCode, Answer<RequestedFetch>), Problem> {
    let follower = find(&app, &principal, &name)?;
    if !may(&principal, Scope::Deploy, follower.settings()) {
        return Err(Problem::forbidden("deploy"));
    }
    Ok((StatusCode::ACCEPTED, Answer(follower.wake())))
}

/// A repository that the caller may read.
pub(super) fn find<'a>(
    app: &'a App,
    principal: &Principal,
    name: &str,
) -> Result<&'a Follower, Problem> {
    let name = name.parse().map_err(|_| Problem::not_found())?;
    let follower = app.followers.get(&name).ok_or_else(Problem::not_found)?;
    let is_visible = may(principal, Scope::Read, follower.settings());
    if is_visible { Ok(follower) } else { Err(Problem::not_found()) }
}

/// Whether a caller has a scope for each service that a repository may build.
pub(super) fn may(principal: &Principal, scope: Scope, repository: &RepositorySettings) -> bool {
    repository.services.iter().all(|name| match name.parse() {
        Ok(service) => principal.may_anywhere(scope, &service),
        Err(_) => principal.may_everything(scope),
    })
}

/// Whether a caller has a scope in an environment for each service that a repository may build.
pub(super) fn may_in(
    principal: &Principal,
    scope: Scope,
    environment: &EnvironmentName,
    repository: &RepositorySettings,
) -> bool {
    repository.services.iter().all(|name| match name.parse() {
        Ok(service) => {
            principal.may(scope, &Placement { service, environment: environment.clone() })
        }
        Err(_) => principal.may_all_of(scope, environment),
    })
}
