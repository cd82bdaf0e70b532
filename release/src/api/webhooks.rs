//! Push webhooks.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::{HeaderMap, Method, Request, StatusCode};

use super::{App, Problem, body};
use crate::builds::webhook::Signature;

/// What deliveries for repositories that do not exist are verified with, so that they take as long.
const NO_SECRET: [u8; 32] = [0; 32];

/// Accepts a delivery of GitHub for a repository. One that is not valid gets what a path gets that
/// does not exist.
pub(super) async fn github(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Result<StatusCode, Problem> {
    let Ok(Path(name)) = name else { return Err(Problem::not_found()) };
    let (parts, body) = request.into_parts();
    let signature = signature(&parts.headers).filter(|_| parts.method == Method::POST);
    let signature = signature.ok_or_else(Problem::not_found)?;
    let body = body::read(body).await.map_err(|_| Problem::not_found())?;
    let follower = name.parse().ok().and_then(|name| app.followers.get(&name));
    let is_accepted = match follower {
        Some(follower) => follower.deliver(&body, signature),
        None => {
            let _ = Signature::verify(&NO_SECRET, &body, signature);
            false
        }
    };
    if is_accepted { Ok(StatusCode::ACCEPTED) } else { Err(Problem::not_found()) }
}

/// The only signature of a request.
fn signature(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all("x-hub-signature-256").iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}
