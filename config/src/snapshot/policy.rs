//! Policies of a rule: access, timeouts, retries and limits.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::access::Access;
use super::health_check::HealthCheck;
use super::rate_limit::RateLimit;
use super::split::Affinity;
use crate::model::duration;

/// All policies of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Who may call.
    pub access: Access,
    /// Timeouts, where they differ from the configuration.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// How often, and when, a failed attempt is retried.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: Retries,
    /// The largest request body in bytes; `None` is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<NonZeroU64>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancing: LoadBalancing,
    /// How endpoints are checked besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// The limits on the number of requests, in the order in which they are checked.
    #[serde(skip_serializing_if = "<[RateLimit]>::is_empty")]
    pub rate_limits: Arc<[RateLimit]>,
    /// What callers are assigned to variants by.
    #[serde(skip_serializing_if = "is_default")]
    pub affinity: Affinity,
    /// Whether callers keep their endpoint by it, too, while that is good and not overloaded.
    #[serde(skip_serializing_if = "is_default")]
    pub keeps_endpoint: bool,
}

/// How the endpoint of a request is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadBalancing {
    /// The one with the least latency × requests in flight, of two at random.
    #[default]
    LeastLatency,
    /// One after the other.
    RoundRobin,
}

/// Timeouts of one request; `None` is the default in the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From the head of the request to the end of the response (Gateway API `timeouts.request`).
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub request: Option<Duration>,
    /// From the request sent to a backend to the head of its response (Gateway API
    /// `timeouts.backendRequest`).
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub backend_request: Option<Duration>,
    /// Of connecting to a backend, including TLS.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub connect: Option<Duration>,
    /// Without progress of a body in either direction.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub idle: Option<Duration>,
}

/// When a failed attempt is retried on another endpoint (Gateway API `HTTPRouteRetry`).
///
/// A failed connection, and a reused connection found closed, are always retried: no backend has
/// seen the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// Further attempts after the first.
    pub attempts: u8,
    /// Response status codes that are retried, for idempotent methods (RFC 9110 §9.2.2).
    pub codes: Vec<u16>,
    /// gRPC status codes that are retried, if the response has no message.
    pub grpc_codes: Vec<u16>,
    /// Requests whose methods are not idempotent may be processed twice, too.
    #[serde(skip_serializing_if = "is_default")]
    pub non_idempotent: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn duration<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(duration::format).serialize(serializer)
}
