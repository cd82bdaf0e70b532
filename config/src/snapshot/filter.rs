//! Filters, which modify requests and responses (Gateway API `HTTPRouteFilter`).

use std::num::NonZeroU16;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Serialize, Serializer};

use super::backend::Backend;
use crate::model::{Hostname, OriginSet};

/// One filter. Filters apply in order.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// Changes to the request's headers.
    RequestHeaders(HeaderChanges),
    /// Changes to the response's headers.
    ResponseHeaders(HeaderChanges),
    /// Responds with a redirect; nothing is forwarded.
    Redirect(Redirect),
    /// Changes to host and path of the forwarded request.
    Rewrite(Rewrite),
    /// Sends a copy of the request to another backend, whose response is ignored.
    Mirror(Mirror),
    /// Cross-origin resource sharing: who may read the response (Fetch standard, "CORS protocol").
    Cors(Cors),
}

/// Changes to headers, in the order set, add, remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeaderChanges {
    /// Headers that are replaced or added.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "headers")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Headers that are added beside existing ones.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "headers")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Headers that are removed.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "names")]
    pub remove: Vec<HeaderName>,
}

/// A redirect; parts that are `None` stay as in the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<&'static str>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// The port; where it is `None` and a scheme is given, the scheme's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    #[serde(serialize_with = "status")]
    pub status: StatusCode,
}

/// A rewrite; parts that are `None` stay as in the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
}

/// A change of path. The query always stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathChange {
    /// The whole path is replaced.
    Full(Arc<str>),
    /// The prefix that the rule matched is replaced.
    Prefix(Arc<str>),
}

/// A copy to another backend, which never gets a WebSocket.
#[derive(Debug, Clone, Serialize)]
pub struct Mirror {
    /// Where the copy goes.
    pub backend: Backend,
    /// The share of requests that are copied, in requests per million.
    pub per_million: u32,
    /// Whether requests with other methods than GET, HEAD and OPTIONS are copied, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unsafe_methods: bool,
}

/// Which scripts of other origins may read responses (Gateway API `HTTPCORSFilter`). They send no
/// cookies, so that all methods, and all headers of requests and responses, are theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// The origins.
    pub allow_origins: Arc<OriginSet>,
}

fn headers<S: Serializer>(
    list: &[(HeaderName, HeaderValue)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(
        list.iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))),
    )
}

fn names<S: Serializer>(list: &[HeaderName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(HeaderName::as_str))
}

fn status<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
