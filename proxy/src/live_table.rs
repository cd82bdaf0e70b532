//! The live table that `/routes` returns: a stable format for programs and for `portcullis routes`.
//!
//! Later versions only add fields. Readers must ignore unknown fields.

use std::net::SocketAddr;
use std::time::SystemTime;

use portcullis_config::model::Origin;
use portcullis_config::problem::Problem;
use portcullis_config::snapshot::Snapshot;
use portcullis_config::snapshot::backend;
use portcullis_config::snapshot::endpoints::Endpoint;
use portcullis_config::snapshot::host::VirtualHost;
use portcullis_config::snapshot::rule::{PathMatch, RouteMatch, ValueMatch};
use serde::{Deserialize, Serialize};

use crate::certificates::Checked;

/// What a gateway currently serves, and its current problems.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Whether `/readyz` reports ready.
    pub ready: bool,
    /// Seconds since the last contact with the source of resources; `null` before the first.
    pub age_seconds: Option<u64>,
    /// The listeners, each with its hosts in alphabetical order.
    pub listeners: Vec<Listener>,
    /// The certificates in use.
    pub certificates: Vec<Certificate>,
    /// The current problems.
    pub problems: Vec<TableProblem>,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `http` or `https`.
    pub name: String,
    /// The hosts that it serves.
    pub hosts: Vec<Host>,
}

/// A hostname or wildcard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The hostname, or `*.` and a domain.
    pub host: String,
    /// The name of the environment; empty if none.
    pub environment: String,
    /// The resource that claims the host.
    pub origin: String,
    /// Its routes in the order of evaluation.
    pub routes: Vec<Route>,
}

/// A match, and what happens to matching requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Which requests match, as text: the path, then method, headers and query parameters if they
    /// are relevant.
    #[serde(rename = "match")]
    pub matches: String,
    /// The name of the service.
    pub service: String,
    /// The required credentials: `none`, `app`, `user` or `app+user`.
    pub require: String,
    /// The resource that defines it, with file and line if known.
    pub origin: String,
    /// The backends that receive the requests.
    pub backends: Vec<Backend>,
}

/// A variant of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// `stable`, or the name of the canary's Service.
    pub variant: String,
    /// Its share, relative to the sum over all backends of the route.
    pub weight: u32,
    /// The Service: `namespace/name:port`.
    pub service: String,
    /// `http1`, `h2c` or `tls`.
    pub protocol: String,
    /// Endpoints that accept new requests.
    pub ready: Vec<SocketAddr>,
    /// Endpoints that are terminating but still serve.
    pub draining: Vec<SocketAddr>,
    /// How many addresses of its EndpointSlices are rejected.
    #[serde(default)]
    pub rejected: usize,
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Where it is stored.
    pub origin: String,
    /// Its names.
    pub names: Vec<String>,
    /// Seconds until it expires; 0 if it is expired.
    pub expires_in_seconds: u64,
}

/// A problem with a resource or a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProblem {
    /// `error` or `warning`.
    pub severity: String,
    /// The reason in CamelCase.
    pub reason: String,
    /// The resource, with file and line if known.
    pub origin: String,
    /// A description of the problem.
    pub message: String,
    /// How to mend it.
    pub help: String,
}

// === impl Table ===

impl Table {
    /// Creates the table of a snapshot that is not being served.
    #[must_use]
    pub fn new(snapshot: &Snapshot, problems: &[Problem]) -> Self {
        let listeners = snapshot.listeners.iter().map(|listener| {
            let mut hosts: Vec<Host> = listener.hosts.iter().map(|host| Host::new(host)).collect();
            hosts.sort_unstable_by(|one, other| one.host.cmp(&other.host));
            Listener { name: listener.name.to_string(), hosts }
        });
        Self {
            listeners: listeners.collect(),
            problems: problems.iter().map(TableProblem::new).collect(),
            ..Self::default()
        }
    }
}

// === impl Host ===

impl Host {
    fn new(host: &VirtualHost) -> Self {
        let routes = host.routes.iter().map(|route| Route {
            matches: describe(&route.matches),
            service: route.rule.service.to_string(),
            require: variant_name(&route.rule.policy.access.require),
            origin: origin(&route.rule.origin),
            backends: route.rule.backends.all().iter().map(Backend::new).collect(),
        });
        Self {
            host: host.pattern.to_string(),
            environment: host.environment.to_string(),
            origin: origin(&host.origin),
            routes: routes.collect(),
        }
    }
}

// === impl Backend ===

impl Backend {
    pub(crate) fn new(backend: &backend::Backend) -> Self {
        let key = backend.endpoints.key();
        let set = backend.endpoints.load();
        let addresses =
            |endpoints: &[Endpoint]| endpoints.iter().map(|endpoint| endpoint.address).collect();
        Self {
            variant: backend.variant.to_string(),
            weight: backend.weight,
            service: format!("{}/{}:{}", key.namespace, key.service, key.port),
            protocol: protocol(&backend.protocol).to_owned(),
            ready: addresses(&set.ready),
            draining: addresses(&set.draining),
            rejected: set.rejected,
        }
    }
}

// === impl Certificate ===

impl Certificate {
    pub(super) fn new(certificate: &Checked, now: SystemTime) -> Self {
        Self {
            origin: origin(&certificate.origin),
            names: certificate.names.iter().map(ToString::to_string).collect(),
            expires_in_seconds: certificate.remaining(now).as_secs(),
        }
    }
}

// === impl TableProblem ===

impl TableProblem {
    fn new(problem: &Problem) -> Self {
        Self {
            severity: variant_name(&problem.severity),
            reason: problem.reason.to_owned(),
            origin: origin(&problem.origin),
            message: problem.message.clone(),
            help: problem.help.clone(),
        }
    }
}

fn protocol(protocol: &backend::UpstreamProtocol) -> &'static str {
    match protocol {
        backend::UpstreamProtocol::Http1 => "http1",
        backend::UpstreamProtocol::H2c => "h2c",
        backend::UpstreamProtocol::Tls { .. } => "tls",
    }
}

/// Returns the serialized name of a unit variant.
pub(crate) fn variant_name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// Formats an origin: `Service namespace/name`, followed by file and line if known.
pub(crate) fn origin(origin: &Origin) -> String {
    match &origin.place {
        None => origin.to_string(),
        Some(place) => {
            let resource = Origin { place: None, ..origin.clone() }.to_string();
            if resource.is_empty() { place.to_string() } else { format!("{resource} ({place})") }
        }
    }
}

/// Formats a match, such as `/api* GET header X-Canary=1`.
pub(crate) fn describe(matches: &RouteMatch) -> String {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(exact) => format!("={exact}"),
        ValueMatch::Regex(pattern) => format!("~{}", variant_name(pattern)),
    };
    let mut words = vec![match &matches.path {
        PathMatch::Exact(path) => path.to_string(),
        PathMatch::Prefix(prefix) => format!("{}/*", prefix.as_str()),
        PathMatch::Regex(pattern) => format!("~{}", variant_name(pattern)),
    }];
    words.extend(matches.method.as_ref().map(ToString::to_string));
    words.extend(
        matches
            .headers
            .iter()
            .map(|header| format!("header {}{}", header.name, value(&header.value))),
    );
    words.extend(
        matches.query.iter().map(|query| format!("query {}{}", query.name, value(&query.value))),
    );
    words.join(" ")
}
