//! The immutable routing table that the request path reads.
//!
//! It has the semantics of Gateway API: listeners → virtual hosts → ordered rules → filters →
//! weighted backends → endpoint sets, with policies beside them. Each concept is a type in a module
//! of its own. A snapshot is immutable, except for endpoint sets, which are swapped separately
//! ([`endpoints::Endpoints`]) because pods change far more often than routes.

pub mod access;
pub mod backend;
pub mod certificate;
pub mod endpoints;
pub mod filter;
pub mod grants;
pub mod health_check;
pub mod host;
pub mod policy;
pub mod rate_limit;
pub mod revoked_sessions;
pub mod rule;
pub mod split;
mod stable_hash;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use self::access::Credentials;
use self::backend::Backend;
use self::certificate::Certificate;
use self::host::HostTable;
use self::rule::Rule;
use crate::model::HostPattern;

/// All configuration that the request path reads, at one instant.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Snapshot {
    /// The listeners. Those that serve the same hosts share one table.
    pub listeners: Vec<Listener>,
    /// Certificates to serve, in order of preference; not validated.
    pub certificates: Vec<Certificate>,
    /// Credentials of callers, and the keys that seal their sessions.
    #[serde(skip_serializing_if = "Credentials::is_empty")]
    pub credentials: Credentials,
    /// The Namespaces whose hostnames may appear in public certificate logs although they require
    /// credentials.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub public_names: BTreeSet<Arc<str>>,
    /// The environments with Secrets among `certificates`: a certificate of theirs is for their own
    /// hosts alone.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tenants: BTreeSet<Arc<str>>,
}

/// A listener, as in Gateway API: where connections are accepted, and which hosts it serves.
#[derive(Debug, Clone, Serialize)]
pub struct Listener {
    /// Its name, unique in the snapshot: [`Listener::HTTP`] and [`Listener::HTTPS`] are those of
    /// the configuration file.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: ListenerProtocol,
    /// The only hosts that it serves; `None` is every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    /// The hosts.
    pub hosts: Arc<HostTable>,
}

/// The protocol of a listener (Gateway API `ProtocolType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ListenerProtocol {
    /// HTTP/1.x or HTTP/2 by prior knowledge, without TLS.
    Http,
    /// HTTP/1.x or HTTP/2 over TLS that is terminated here.
    Https,
    /// TLS that is passed through, routed by SNI.
    TlsPassthrough,
}

// === impl Snapshot ===

impl Snapshot {
    /// The listener of that name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }

    /// The rules of all routes; one that several routes share is repeated.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        let lists = self.listeners.iter().flat_map(|listener| listener.hosts.route_lists());
        lists.flatten().map(|route| &*route.rule)
    }

    /// The backends of all routes, those that get copies of requests included; one that several
    /// routes share is repeated. A list of routes that several hosts share is read once.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let lists = self.listeners.iter().flat_map(|listener| listener.hosts.route_lists());
        lists.flatten().flat_map(|route| {
            let mirrors = route.rule.mirrors().map(|mirror| &mirror.backend);
            route.rule.backends.all().iter().chain(mirrors)
        })
    }
}

// === impl Listener ===

impl Listener {
    /// The name of the configuration file's listener for plain HTTP.
    pub const HTTP: &'static str = "http";
    /// The name of the configuration file's listener for HTTPS.
    pub const HTTPS: &'static str = "https";
}
