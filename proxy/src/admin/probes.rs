//! The listener for the kubelet's probes. Its replies reveal no host, so it needs no credentials.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use portcullis_identity::connections::Capacity;

use super::Admin;
use super::reply::{Reply, not_allowed, text};
use super::server::Handler;

/// A probe is one short request, so many connections fit.
pub(super) const CAPACITY: Capacity = Capacity { connections: 512, per_peer: 128 };
/// The longest lifetime of a connection.
pub(super) const LIFETIME: Duration = Duration::from_secs(10);

/// `/livez` and `/readyz`, and nothing else.
pub(super) struct Probes(pub(super) Arc<Admin>);

// === impl Probes ===

impl Handler for Probes {
    async fn handle(&self, request: &Request<Incoming>, _: IpAddr) -> Reply {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.0.not_ready().as_slice() {
                [] => text(StatusCode::OK, "ok\n"),
                reasons => {
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n")))
                }
            },
            _ => text(StatusCode::NOT_FOUND, "/livez\n/readyz\n"),
        }
    }
}
