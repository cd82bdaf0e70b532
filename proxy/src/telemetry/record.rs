//! The access log record of a request.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderValue, Method, Version};

use crate::choose::Assignment;

/// The [failure](Record::failure) of a request that exceeds a rate limit.
pub(crate) const RATE_LIMITED: &str = "rate_limited";

/// What metrics and the access log report about a completed request. It contains no credentials,
/// bodies or queries.
#[derive(Debug, Clone)]
pub(crate) struct Record<'r> {
    /// The request's id, which has only letters, digits and `-._:=+/`.
    pub(crate) id: &'r [u8],
    /// The client's address; see [`proxy_headers::client`](crate::proxy_headers::client).
    pub(crate) client: IpAddr,
    pub(crate) listener: &'static str,
    pub(crate) tls: bool,
    pub(crate) version: Version,
    pub(crate) method: &'r Method,
    /// The host without port; empty if invalid.
    pub(crate) host: &'r str,
    /// The path without query; empty if invalid.
    pub(crate) path: &'r str,
    /// The status of the response; 499 if the client disconnected before it.
    pub(crate) status: u16,
    /// The response's `grpc-status`, if any.
    pub(crate) grpc_status: Option<u16>,
    /// Octets of the request's body and of the response's.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// From the request's head to the response's end.
    pub(crate) duration: Duration,
    /// From the first try to the head of the backend's response.
    pub(crate) upstream_duration: Option<Duration>,
    /// Environment, service and variant; empty if no route matched.
    pub(crate) environment: &'r str,
    pub(crate) service: &'r str,
    pub(crate) variant: &'r str,
    /// The variant that was chosen, and why; `None` where the service has no variants.
    pub(crate) assignment: Option<Assignment>,
    /// The variant that was chosen, if nothing of it answered; empty if none.
    pub(crate) missed_variant: &'r str,
    /// The endpoint of the last try.
    pub(crate) upstream: Option<SocketAddr>,
    /// The number of tries.
    pub(crate) tries: u32,
    /// The authenticated application and user, whether or not they are allowed; empty if none.
    pub(crate) application: &'r str,
    pub(crate) user: &'r str,
    /// Why a presented credential is invalid, if the request received 404.
    pub(crate) rejected: Option<&'static str>,
    /// Why the request received the hidden answer: a
    /// [`DenialReason`](crate::decision::DenialReason).
    pub(crate) denied: Option<&'static str>,
    /// The outcome of a login or logout, in snake case.
    pub(crate) login: Option<&'static str>,
    /// Why the gateway rejected the request before routing: the reason of a
    /// [`Refusal`](crate::exchange::Refusal).
    pub(crate) refusal: Option<&'static str>,
    /// Why the exchange failed after routing, in snake case.
    pub(crate) failure: Option<&'static str>,
    pub(crate) user_agent: Option<&'r HeaderValue>,
    pub(crate) referer: Option<&'r HeaderValue>,
}
