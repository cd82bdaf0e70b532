//! The traffic feed, on the telemetry listener and on the admin listener.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use portcullis_config::unix_time::seconds;

use super::Admin;
use super::reply::{Renderer, Reply, json, text};
use crate::telemetry::traffic::Filter;

/// The path of the feed.
pub(super) const PATH: &str = "/v1/traffic";
const INVALID_FROM: &str = "`from` must be a time in whole seconds since 1970\n";

/// Returns the feed, and status 400 if the query is invalid. The query may restrict it:
/// `namespace=…`, `service=…`, `windows=false`, `from=…`.
pub(super) async fn feed(renderer: &Renderer, admin: Arc<Admin>, query: &str) -> Reply {
    let filter = match filter(query) {
        Ok(filter) => filter,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let feed = move || {
        let snapshot = admin.live.snapshot.load_full();
        json(&admin.telemetry.traffic().feed(&snapshot, &filter, seconds(SystemTime::now())))
    };
    renderer.render(feed).await
}

/// Reads a query. Unknown parameters are ignored, so that later versions can add some.
///
/// # Errors
/// Returns what is wrong with a value.
fn filter(query: &str) -> Result<Filter, &'static str> {
    let mut filter = Filter::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "namespace" => filter.namespace = Some(value.into_owned()),
            "service" => filter.service = Some(value.into_owned()),
            "windows" => filter.omits_windows = value == "false",
            "from" => filter.from = value.parse().map_err(|_| INVALID_FROM)?,
            _ => {}
        }
    }
    Ok(filter)
}
