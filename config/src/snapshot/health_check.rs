//! Active health checks: requests of the gateway's own, by which it finds endpoints that fail.

use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::backend::UpstreamProtocol;
use crate::model::duration;

/// How the endpoints of a backend are checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// What is asked.
    #[serde(flatten)]
    pub probe: HealthProbe,
    /// The time between two checks of an endpoint.
    #[serde(serialize_with = "duration_text")]
    pub interval: Duration,
    /// How long a check may take.
    #[serde(serialize_with = "duration_text")]
    pub timeout: Duration,
    /// After so many failures in a row an endpoint gets no requests, until a check succeeds.
    pub failures: NonZeroU8,
}

/// The request of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthProbe {
    /// GET of this path with its query; a status from 200 to 399 is success.
    Http(Arc<str>),
    /// `grpc.health.v1.Health/Check` of this service, which may be empty; SERVING is success.
    Grpc(Arc<str>),
}

// === impl HealthProbe ===

impl HealthProbe {
    /// Whether endpoints with this protocol can be asked: gRPC needs HTTP/2.
    #[must_use]
    pub fn suits(&self, protocol: &UpstreamProtocol) -> bool {
        matches!(self, Self::Http(_)) || *protocol != UpstreamProtocol::Http1
    }
}

fn duration_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    duration::format(*duration).serialize(serializer)
}
