//! The facts of one request.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderValue, Method, Version};

/// What is told of one request once it has ended. There is no place in it for credentials, bodies
/// or queries.
#[derive(Debug, Clone)]
pub(crate) struct Record<'r> {
    /// The request's id, which has only letters, digits and `-._:=+/`.
    pub(crate) id: &'r str,
    /// The client's address; see [`proxy_headers::client`](crate::proxy_headers::client).
    pub(crate) client: IpAddr,
    pub(crate) listener: &'static str,
    pub(crate) tls: bool,
    pub(crate) version: Version,
    pub(crate) method: &'r Method,
    /// The host without port, empty where it could not be read.
    pub(crate) host: &'r str,
    /// The path without query, empty where it could not be read.
    pub(crate) path: &'r str,
    /// The status that the client got; 499 where it left before there was one.
    pub(crate) status: u16,
    /// `grpc-status`, where the response had one.
    pub(crate) grpc_status: Option<u16>,
    /// Octets of the request's body, of the response's body.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// From the request's head to the response's end.
    pub(crate) duration: Duration,
    /// From the first try to the head of the backend's response.
    pub(crate) upstream_duration: Option<Duration>,
    /// Empty, all three, where no route was taken.
    pub(crate) environment: &'r str,
    pub(crate) service: &'r str,
    pub(crate) variant: &'r str,
    /// The endpoint of the last try.
    pub(crate) upstream: Option<SocketAddr>,
    /// Tries that were made.
    pub(crate) tries: u32,
    /// Who was let in, by the names that grants have; empty where credentials showed none.
    pub(crate) application: &'r str,
    pub(crate) user: &'r str,
    /// Why a credential does not hold, where one was shown to something hidden.
    pub(crate) rejected: Option<&'static str>,
    /// What became of a login or of its end, as one word with underscores.
    pub(crate) login: Option<&'static str>,
    /// Why the gateway refused the request before it was routed: the word of a
    /// [`Refusal`](crate::exchange::Refusal).
    pub(crate) refusal: Option<&'static str>,
    /// Why the exchange failed after that, as one word with underscores.
    pub(crate) failure: Option<&'static str>,
    pub(crate) user_agent: Option<&'r HeaderValue>,
    pub(crate) referer: Option<&'r HeaderValue>,
}
