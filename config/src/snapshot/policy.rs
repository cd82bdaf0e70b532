//! What is demanded of, and granted to, the requests of a rule.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::access::Access;
use crate::model::duration;

/// All policies of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Who may call.
    pub access: Access,
    /// How long things may take, where the rule says other than the configuration.
    #[serde(skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// How often, and when, a failed try is tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: Retries,
    /// The largest request body in bytes; `None` is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<NonZeroU64>,
}

/// Limits in time of one request; `None` takes the configuration's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From the request's head to the response's end (Gateway API `timeouts.request`).
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub request: Option<Duration>,
    /// From the request sent to a backend to the response's head from it (Gateway API
    /// `timeouts.backendRequest`).
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub backend_request: Option<Duration>,
}

/// When a failed try is tried again on another endpoint (Gateway API `HTTPRouteRetry`).
/// A connection that could not be made, and a kept connection found closed, are always tried again:
/// no backend has seen the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// Further tries after the first.
    pub attempts: u8,
    /// Response status codes that are tried again, for methods that are idempotent (RFC 9110
    /// §9.2.2).
    pub codes: Vec<u16>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn duration<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(duration::format).serialize(serializer)
}
