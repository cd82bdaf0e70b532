//! Probes ejected endpoints, away from requests: no client waits for an endpoint that may not
//! respond.

use std::rc::{Rc, Weak};

use super::endpoint::Endpoint;
use crate::balance::health::Era;

/// Probes an endpoint that was just ejected, from time to time, until it can be connected to, has
/// responded to a request, or is gone.
pub(super) fn start(endpoint: &Rc<Endpoint>) {
    let era = endpoint.health().era();
    let endpoint = Rc::downgrade(endpoint);
    tokio::task::spawn_local(async move {
        while let Some(wait) = ejected(&endpoint, era).and_then(|endpoint| endpoint.until_probe()) {
            tokio::time::sleep(wait).await;
            if let Some(endpoint) = ejected(&endpoint, era) {
                endpoint.probe().await;
            }
        }
    });
}

/// The endpoint, if it still is in the same ejection.
fn ejected(endpoint: &Weak<Endpoint>, era: Era) -> Option<Rc<Endpoint>> {
    let endpoint = endpoint.upgrade()?;
    let health = endpoint.health();
    (health.is_ejected() && health.era() == era).then_some(endpoint)
}
