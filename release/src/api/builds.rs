//! Builds of repositories.

use std::io;
use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use utoipa::ToSchema;

use super::body::{Answer, Json, Query};
use super::{App, IdempotencyKey, Page, Problem, by, repositories};
use crate::access::Principal;
use crate::builds::followers::Follower;
use crate::builds::queue::QueueError;
use crate::model::{BuildId, CommitId, RepositoryName, Scope};
use crate::store::{Build, BuildTarget};

/// The largest part of a log in one response, in bytes.
const MAX_LOG: u64 = 256 * 1024;

/// A build to request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewBuild {
    /// The repository.
    pub repository: RepositoryName,
    /// The commit of its branch; by default the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub commit: Option<CommitId>,
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A build to cancel.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCancellation {
    /// Why; for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A build with its targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildDetails {
    /// The build.
    #[serde(flatten)]
    pub build: Build,
    /// What became of its images, by service.
    pub targets: Vec<BuildTarget>,
}

/// A part of a log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildLog {
    /// The text, with its octets that are not UTF-8 replaced.
    pub text: String,
    /// What to pass as `from` for the next part.
    pub next: u64,
    /// Whether no further part comes.
    pub is_complete: bool,
}

/// List builds of a repository, the newest first
#[utoipa::path(
    get, path = "/api/v1/builds",
    params(
        ("repository" = String, Query, description = "Such as `shop`"),
        ("limit" = Option<u32>, Query, description = "1 to 50"),
        ("after" = Option<u32>, Query, description = "`next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = Page<Build>),
        (status = 404, description = "There is no such repository", body = Problem),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    query: Query,
) -> Result<Answer<Page<Build>>, Problem> {
    let limit = query.limit()?;
    let name: String = query.require("repository")?;
    let follower = repositories::find(&app, &principal, &name)?;
    let before = query.get::<u32>("after")?;
    let items = app.builds.builds(&follower.settings().name, before, limit).await?;
    let items = items.into_iter().map(|build| app.queue.explain(build)).collect();
    Ok(Answer(Page::new(items, limit, |last| last.id.number.to_string())))
}

/// Build a commit
#[utoipa::path(
    post, path = "/api/v1/builds", request_body = NewBuild,
    responses(
        (status = 202, description = "It waits for its turn", body = Build),
        (status = 404, description = "There is no such repository", body = Problem),
        (status = 409, description = "Nothing is built", body = Problem),
        (status = 422, description = "The branch has no such commit", body = Problem),
        (status = 429, description = "Too many requested builds wait", body = Problem),
    )
)]
pub(super) async fn request(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: IdempotencyKey,
    request: Json<NewBuild>,
) -> Result<(StatusCode, Answer<Build>), Problem> {
    let Json { value: request, fingerprint } = request;
    let follower = repositories::find(&app, &principal, request.repository.as_str())?;
    authorize(&principal, follower)?;
    let by = by(&principal, request.reason, key, &fingerprint)?;
    // Git reads the mirror.
    let _slot = app.slots.take(&principal)?;
    let build = app.queue.request(follower, request.commit, by).await?;
    Ok((StatusCode::ACCEPTED, Answer(build)))
}

/// Show a build with its targets
#[utoipa::path(
    get, path = "/api/v1/builds/{id}",
    params(("id" = String, Path, description = "Such as `shop.17`")),
    responses(
        (status = 200, description = "The build", body = BuildDetails),
        (status = 404, description = "There is none", body = Problem),
    )
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Answer<BuildDetails>, Problem> {
    let (_, build) = find(&app, &principal, &id).await?;
    let targets = app.builds.build_targets(&build.id).await?;
    Ok(Answer(BuildDetails { build: app.queue.explain(build), targets }))
}

/// Read the log of a build
#[utoipa::path(
    get, path = "/api/v1/builds/{id}/log",
    params(
        ("id" = String, Path, description = "Such as `shop.17`"),
        ("from" = Option<u64>, Query, description = "`next` of the part before"),
    ),
    responses(
        (status = 200, description = "A part of it, which may be empty", body = BuildLog),
        (status = 404, description = "There is no such build", body = Problem),
    )
)]
pub(super) async fn log(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    query: Query,
) -> Result<Answer<BuildLog>, Problem> {
    let from = query.get::<u64>("from")?.unwrap_or(0);
    // Before the log is read: what is written later is not missed.
    let (_, build) = find(&app, &principal, &id).await?;
    let path = app.queue.log(&build.id);
    let (part, is_last) = match path {
        Some(path) => read(&path, from).await.map_err(|error| {
            tracing::error!(%error, build = %build.id, "failed to read the log of a build");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the log cannot be read")
        })?,
        None => (Vec::new(), true),
    };
    let next = from.saturating_add(part.len() as u64);
    Ok(Answer(BuildLog {
        text: String::from_utf8_lossy(&part).into_owned(),
        next,
        is_complete: is_last && !build.state.is_open(),
    }))
}

/// Cancel a build
#[utoipa::path(
    post, path = "/api/v1/builds/{id}/cancellations", request_body = NewCancellation,
    params(("id" = String, Path, description = "Such as `shop.17`")),
    responses(
        (status = 202, description = "All builds of its commit are stopped"),
        (status = 403, description = "It was pushed, and is deployed where the caller may not", body = Problem),
        (status = 404, description = "There is none", body = Problem),
        (status = 409, description = "It has ended", body = Problem),
    )
)]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    request: Json<NewCancellation>,
) -> Result<StatusCode, Problem> {
    let (follower, build) = find(&app, &principal, &id).await?;
    authorize(&principal, follower)?;
    authorize_autopush(&app, &principal, follower, &build).await?;
    let by = by(&principal, request.value.reason, IdempotencyKey(None), "")?;
    app.queue.cancel(&build, by).await?;
    Ok(StatusCode::ACCEPTED)
}

/// A part of a file, up to the end of a line if there is one, and whether it is the last part;
/// nothing if there is no file yet.
async fn read(path: &std::path::Path, from: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut part = Vec::new();
    let mut file = match File::open(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((part, true)),
        file => file?,
    };
    if from >= file.metadata().await?.len() {
        return Ok((part, true));
    }
    file.seek(io::SeekFrom::Start(from)).await?;
    file.take(MAX_LOG).read_to_end(&mut part).await?;
    let is_last = (part.len() as u64) < MAX_LOG;
    if !is_last && let Some(end) = part.iter().rposition(|octet| *octet == b'\n') {
        part.truncate(end.saturating_add(1));
    }
    Ok((part, is_last))
}

/// A build that the caller may read, and its repository.
async fn find<'a>(
    app: &'a App,
    principal: &Principal,
    id: &str,
) -> Result<(&'a Follower, Build), Problem> {
    let id: BuildId = id.parse().map_err(|_| Problem::not_found())?;
    let follower = repositories::find(app, principal, id.repository.as_str())?;
    let build = app.builds.build(&id).await?.ok_or_else(Problem::not_found)?;
    Ok((follower, build))
}

fn authorize(principal: &Principal, follower: &Follower) -> Result<(), Problem> {
    let is_allowed = repositories::may(principal, Scope::Deploy, follower.settings());
    is_allowed.then_some(()).ok_or_else(|| Problem::forbidden("deploy"))
}

/// A build of a commit that was pushed is deployed: to cancel it takes the right to deploy there.
async fn authorize_autopush(
    app: &App,
    principal: &Principal,
    follower: &Follower,
    build: &Build,
) -> Result<(), Problem> {
    let repository = follower.settings();
    let Some(environment) = &repository.autopush else { return Ok(()) };
    if repositories::may_in(principal, Scope::Deploy, environment, repository) {
        return Ok(());
    }
    // All builds of the commit are cancelled.
    let open = app.builds.open_builds(&repository.name).await?;
    let is_pushed = open.iter().any(|it| it.commit == build.commit && !it.is_requested);
    if is_pushed { Err(Problem::forbidden("deploy")) } else { Ok(()) }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Disabled | QueueError::Ended => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            QueueError::NotFetched | QueueError::NoCommit(_) => {
                Self::invalid("/commit", error.to_string())
            }
            QueueError::TooMany => Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()),
            QueueError::Git(error) => {
                tracing::error!(%error, "failed to read a mirror");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the repository cannot be read")
            }
            QueueError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_log_is_read_to_its_end_in_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text = "a line of twenty-three\n".repeat(600 * 1024 / 23);
        std::fs::write(&path, &text).unwrap();
        let mut all = Vec::new();
        loop {
            let (part, is_last) = read(&path, all.len() as u64).await.unwrap();
            assert!(part.ends_with(b"\n"));
            all.extend(part);
            if is_last {
                break;
            }
        }
        assert!(all == text.as_bytes(), "{} of {} octets", all.len(), text.len());
        assert_eq!(read(&path, all.len() as u64).await.unwrap(), (Vec::new(), true));
        assert_eq!(read(&folder.path().join("none"), 0).await.unwrap(), (Vec::new(), true));
    }
}
