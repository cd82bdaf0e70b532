//! The traffic feed, on the telemetry listener and on the admin listener.

use std::time::SystemTime;

use portcullis_config::unix_time::seconds;

use super::Admin;
use super::reply::{Reply, json};
use crate::telemetry::traffic::Filter;

/// The path of the feed.
pub(super) const PATH: &str = "/v1/traffic";

/// Returns the feed. The query may restrict it: `namespace=…`, `service=…`, `windows=false`.
pub(super) fn feed(admin: &Admin, filter: &Filter) -> Reply {
    let snapshot = admin.live.snapshot.load_full();
    json(&admin.telemetry.traffic().feed(&snapshot, filter, seconds(SystemTime::now())))
}

/// Reads a query. Unknown parameters are ignored, so that later versions can add some.
pub(super) fn filter(query: &str) -> Filter {
    let mut filter = Filter::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "namespace" => filter.namespace = Some(value.into_owned()),
            "service" => filter.service = Some(value.into_owned()),
            "windows" => filter.omits_windows = value == "false",
            _ => {}
        }
    }
    filter
}
