//! The listener for metrics and the traffic feed. Both name environments and services, hidden ones
//! too, so that [`super::bearers`] authorizes each request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use portcullis_identity::connections::Capacity;

use super::Admin;
use super::bearers::Denied;
use super::browser::{self, Hosts};
use super::reply::{Renderer, Reply, foreign, not_allowed, reply, text};
use super::server::Handler;
use super::traffic;

/// Metrics have few readers, and each response is in memory until its reader has received it.
pub(super) const CAPACITY: Capacity = Capacity { connections: 64, per_peer: 8 };
/// The longest lifetime of a connection.
pub(super) const LIFETIME: Duration = Duration::from_secs(30);

const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// `/metrics` and `/v1/traffic`.
pub(super) struct Scrape {
    admin: Arc<Admin>,
    renderer: Renderer,
}

// === impl Scrape ===

impl Scrape {
    pub(super) fn new(admin: Arc<Admin>) -> Self {
        Self { admin, renderer: Renderer::new() }
    }

    /// Authorizes the request, before anything else is revealed.
    async fn authorize(&self, request: &Request<Incoming>, peer: IpAddr) -> Result<(), Reply> {
        let bearers = &self.admin.bearers;
        // A page has no token; where none is needed, it could read metrics through the browser.
        if bearers.is_open() {
            browser::check(request, Hosts::Addresses)
                .map_err(|why| foreign(why, "an IP address or `localhost`"))?;
        }
        bearers.check(request.headers(), peer).await.map_err(|denied| {
            self.admin.listeners.denied.count(denied);
            self::denied(denied)
        })
    }
}

impl Handler for Scrape {
    async fn handle(&self, request: &Request<Incoming>, peer: IpAddr) -> Reply {
        if let Err(reply) = self.authorize(request, peer).await {
            return reply;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD");
        }
        let admin = Arc::clone(&self.admin);
        match request.uri().path() {
            portcullis_config::bearer_review::PATH => {
                self.renderer.render(move || metrics(&admin)).await
            }
            traffic::PATH => {
                let query = request.uri().query().unwrap_or_default();
                traffic::feed(&self.renderer, admin, query).await
            }
            _ => text(StatusCode::NOT_FOUND, "/metrics\n/v1/traffic\n"),
        }
    }
}

/// The metrics in Prometheus' text format.
fn metrics(admin: &Admin) -> Reply {
    match admin.telemetry.metrics() {
        Ok(metrics) => reply(StatusCode::OK, METRICS, metrics),
        Err(error) => {
            tracing::error!(%error, "failed to write the metrics");
            text(StatusCode::INTERNAL_SERVER_ERROR, "failed to write the metrics\n")
        }
    }
}

fn denied(denied: Denied) -> Reply {
    match denied {
        Denied::Unauthenticated => {
            let mut reply = text(StatusCode::UNAUTHORIZED, "a valid bearer token is required\n");
            let challenge = HeaderValue::from_static("Bearer realm=\"telemetry\"");
            reply.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            reply
        }
        Denied::Forbidden => text(
            StatusCode::FORBIDDEN,
            "the token's account is not allowed to `get` the non-resource URL /metrics\n",
        ),
        Denied::TooMany => retry_later(StatusCode::TOO_MANY_REQUESTS, "too many unknown tokens\n"),
        Denied::Unavailable => {
            retry_later(StatusCode::SERVICE_UNAVAILABLE, "bearer tokens cannot be reviewed now\n")
        }
    }
}

fn retry_later(status: StatusCode, body: &'static str) -> Reply {
    let mut reply = text(status, body);
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}
