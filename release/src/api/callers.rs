//! The callers that have keys, and when these were used.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{FromRequestParts, State};
use http::header;
use http::request::Parts;
use portcullis_config::client_key;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Answer;
use super::{App, Page, Problem};
use crate::access::{KeyName, Principal};
use crate::model::{Scope, Time};

/// A key of a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// The caller.
    pub caller: String,
    /// The beginning of the key's hash.
    pub key: String,
    /// When it expires (RFC 3339), if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// When it was used last, to the minute; without it, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Time>,
}

impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
        let bearer = values
            .next()
            .filter(|_| values.next().is_none())
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, bearer)| bearer.trim());
        let principal = bearer
            .and_then(|bearer| app.callers.authenticate(bearer, SystemTime::now()))
            .ok_or_else(Problem::unauthorized)?;
        if let Some(key) = principal.key() {
            record(app, key);
        }
        Ok(principal)
    }
}

/// Records the use of a key, if that is due. The request does not wait for it.
fn record(app: &Arc<App>, key: &KeyName) {
    let now = Time::now();
    if app.uses.is_due(key, now) {
        let (store, key) = (Arc::clone(&app.store), key.clone());
        tokio::spawn(async move {
            if let Err(error) = store.use_key(key.as_str(), now).await {
                tracing::warn!(%error, "failed to record the use of a key");
            }
        });
    }
}

/// List the keys of callers, when they expire and when they were used last
#[utoipa::path(
    get, path = "/api/v1/keys",
    responses(
        (status = 200, description = "All of them", body = Page<KeyStatus>),
        (status = 403, description = "It needs the scope admin for everything", body = Problem),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> Result<Answer<Page<KeyStatus>>, Problem> {
    if !principal.may_everything(Scope::Admin) {
        return Err(Problem::forbidden("admin for everything"));
    }
    let uses = app.store.key_uses().await?;
    let keys =
        app.settings.iter().flat_map(|caller| caller.keys.iter().map(move |key| (caller, key)));
    let items = keys.filter_map(|(caller, key)| {
        let name = KeyName::of(&client_key::read_hash(&key.hash)?);
        Some(KeyStatus {
            caller: caller.name.clone(),
            used_at: uses.get(name.as_str()).copied(),
            key: name.as_str().to_owned(),
            expires: key.expires.clone(),
        })
    });
    Ok(Answer(Page { items: items.collect(), next: None }))
}
