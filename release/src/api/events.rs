//! The progress of deployments and rollouts as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use tokio::time::sleep;

use super::{App, Problem, deployments, rollouts};
use crate::access::Principal;
use crate::model::DeploymentId;
use crate::store::{Step, StoreError};

/// How often the store is asked for further states.
const POLLED_EVERY: Duration = Duration::from_millis(250);
/// How often a line is sent while nothing happens, so that proxies keep the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The number of the last event that a client has received; 0 for none.
pub(super) struct LastEventId(u32);

impl FromRequestParts<Arc<App>> for LastEventId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("last-event-id") else { return Ok(Self(0)) };
        let number = value.to_str().ok().and_then(|value| value.parse().ok());
        let invalid = || Problem::bad_request("the Last-Event-ID is not one of this deployment");
        Ok(Self(number.ok_or_else(invalid)?))
    }
}

/// Follow the states of a deployment
#[utoipa::path(
    get, path = "/api/v1/deployments/{id}/events",
    params(
        ("id" = String, Path, description = "Such as `web.staging.3`"),
        ("Last-Event-ID" = Option<u32>, Header, description = "The `id` of the last event received"),
    ),
    responses(
        (status = 200, description = "An event `step` for each state, until it is closed",
            body = Step, content_type = "text/event-stream"),
        (status = 204, description = "It is closed, and there is no further event: do not reconnect"),
        (status = 404, description = "There is no such deployment", body = Problem),
    )
)]
pub(super) async fn follow(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    LastEventId(last): LastEventId,
) -> Result<Response, Problem> {
    let deployment = deployments::find(&app, &principal, &id).await?;
    if !deployment.state.is_open() && last > deployment.version {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Progress::new(app, deployment.id, Followed::Deployment, last).response())
}

/// Follow a rollout: its stages and weights, and the orders of people
#[utoipa::path(
    get, path = "/api/v1/rollouts/{id}/events",
    params(
        ("id" = String, Path, description = "Such as `web.staging.3`"),
        ("Last-Event-ID" = Option<u32>, Header, description = "The `id` of the last event received"),
    ),
    responses(
        (status = 200, description = "An event `step` for each stage, weight and order, until it is \
            closed", body = String, content_type = "text/event-stream"),
        (status = 204, description = "It is closed, and there is no further event: do not reconnect"),
        (status = 404, description = "There is no such rollout", body = Problem),
    )
)]
pub(super) async fn follow_rollout(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    LastEventId(last): LastEventId,
) -> Result<Response, Problem> {
    let rollout = rollouts::find(&app, &principal, &id).await?;
    if !rollout.state.is_open() && app.store.rollout_steps(&rollout.id, last).await?.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Progress::new(app, rollout.id, Followed::Rollout, last).response())
}

/// Whose progress is followed.
#[derive(Debug, Clone, Copy)]
enum Followed {
    Deployment,
    Rollout,
}

/// What of a progress was sent.
struct Progress {
    app: Arc<App>,
    id: DeploymentId,
    followed: Followed,
    /// The number of the last step that was read.
    last: u32,
    /// Read, and not sent yet, with its number.
    ready: VecDeque<(u32, String)>,
    /// Whether the last step is read.
    ended: bool,
}

// === impl Progress ===

impl Progress {
    fn new(app: Arc<App>, id: DeploymentId, followed: Followed, last: u32) -> Self {
        Self { app, id, followed, last, ready: VecDeque::new(), ended: false }
    }

    fn response(self) -> Response {
        let stream = Sse::new(self.events()).keep_alive(KeepAlive::new().interval(HEARTBEAT));
        stream.into_response()
    }

    /// The events, until it is closed or the store fails; clients then reconnect.
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, async |mut progress| {
            let (number, data) = progress.next().await?;
            let event = Event::default().id(number.to_string()).event("step").data(data);
            Some((Ok(event), progress))
        })
    }

    async fn next(&mut self) -> Option<(u32, String)> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Some(next);
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.read().await {
                tracing::error!(%error, "failed to read the progress that a client follows");
                return None;
            }
            if self.ready.is_empty() {
                sleep(POLLED_EVERY).await;
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        match self.followed {
            Followed::Deployment => {
                for step in self.app.store.steps(&self.id, self.last).await? {
                    self.push(&step, step.state.is_open());
                }
            }
            Followed::Rollout => {
                for step in self.app.store.rollout_steps(&self.id, self.last).await? {
                    self.push(&step, step.stage.is_open());
                }
            }
        }
        Ok(())
    }

    /// Steps are numbered without gaps.
    fn push(&mut self, step: &impl Serialize, is_open: bool) {
        self.last = self.last.saturating_add(1);
        self.ended = !is_open;
        self.ready.push_back((self.last, serde_json::to_string(step).unwrap_or_default()));
    }
}
