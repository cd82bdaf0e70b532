//! The live table as `/routes` tells it: a stable shape for programs, which `portcullis routes`
//! reads too.
//!
//! Fields are only ever added. Whatever reads it must pass over fields that it does not know.

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

/// All that a gateway serves now, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// How old what is known may be, in seconds; `null` before anything was heard from the source.
    pub age_seconds: Option<u64>,
    /// The listeners, each with its hosts in the order of the alphabet.
    pub listeners: Vec<Listener>,
    /// The certificates in use.
    pub certificates: Vec<Certificate>,
    /// What is wrong now.
    pub problems: Vec<TableProblem>,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `http` or `https`.
    pub name: String,
    /// What is served on it.
    pub hosts: Vec<Host>,
}

/// All that is served under one hostname.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The name, or `*.` and a name.
    pub host: String,
    /// The environment's name; empty where there is none.
    pub environment: String,
    /// The resource that claims the name.
    pub origin: String,
    /// Its routes in the order in which they are tried.
    pub routes: Vec<Route>,
}

/// One match with what happens to the requests that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Which requests it takes, in words: the path, then method, headers and query parameters
    /// where they matter.
    #[serde(rename = "match")]
    pub matches: String,
    /// The service's name.
    pub service: String,
    /// The credentials that are demanded: `none`, `app`, `user` or `app+user`.
    pub require: String,
    /// The resource that says so, with its file and line where it has one.
    pub origin: String,
    /// Where the requests go.
    pub backends: Vec<Backend>,
}

/// One variant of a service.
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
    /// Endpoints that take new requests.
    pub ready: Vec<SocketAddr>,
    /// Endpoints that are being shut down but still serve.
    pub draining: Vec<SocketAddr>,
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Where it was found.
    pub origin: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// Seconds until it expires; 0 once it has.
    pub expires_in_seconds: u64,
}

/// What is wrong with a resource or a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProblem {
    /// `error` or `warning`.
    pub severity: String,
    /// Why, as one CamelCase word.
    pub reason: String,
    /// The resource, with its file and line where it has one.
    pub origin: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: String,
}

// === impl Table ===

impl Table {
    /// The table of a snapshot that nothing serves yet.
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
            require: word(&route.rule.policy.access.require),
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
            severity: word(&problem.severity),
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

/// The word that a unit variant is written as.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// `Service namespace/name`, and after it the file and line where there is one.
pub(crate) fn origin(origin: &Origin) -> String {
    match &origin.place {
        None => origin.to_string(),
        Some(place) => {
            let resource = Origin { place: None, ..origin.clone() }.to_string();
            if resource.is_empty() { place.to_string() } else { format!("{resource} ({place})") }
        }
    }
}

/// A match in words, such as `/api* GET header X-Canary=1`.
pub(crate) fn describe(matches: &RouteMatch) -> String {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(exact) => format!("={exact}"),
        ValueMatch::Regex(pattern) => format!("~{}", word(pattern)),
    };
    let mut words = vec![match &matches.path {
        PathMatch::Exact(path) => path.to_string(),
        PathMatch::Prefix(prefix) => format!("{}/*", prefix.as_str()),
        PathMatch::Regex(pattern) => format!("~{}", word(pattern)),
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
