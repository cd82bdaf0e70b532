//! The immutable routing table that the request path reads.
//!
//! It carries the semantics of Gateway API: listeners → virtual hosts → ordered rules → filters →
//! weighted backends → endpoint sets, with policies beside them. Each law of it is a type in a
//! module of its own. A snapshot is never changed; the one exception, by design, is an endpoint
//! set, which is swapped on its own ([`endpoints::Endpoints`]) because pods come and go far more
//! often than routes.

pub mod access;
pub mod backend;
pub mod certificate;
pub mod endpoints;
pub mod filter;
pub mod host;
pub mod policy;
pub mod revoked_sessions;
pub mod rule;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use self::access::Credentials;
use self::backend::Backend;
use self::certificate::Certificate;
use self::host::HostTable;
use crate::model::HostPattern;

/// All that the request path needs to know, at one instant.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Snapshot {
    /// What is served where. Listeners that serve the same hosts share one table.
    pub listeners: Vec<Listener>,
    /// Certificates to serve, in order of preference; not yet checked.
    pub certificates: Vec<Certificate>,
    /// Credentials of callers, and what seals their sessions.
    #[serde(skip_serializing_if = "Credentials::is_empty")]
    pub credentials: Credentials,
    /// The Namespaces whose hostnames may stand in public certificate logs, although they demand
    /// credentials.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub public_names: BTreeSet<Arc<str>>,
}

/// One listener, as Gateway API's: where connections are accepted, and which hosts it serves.
#[derive(Debug, Clone, Serialize)]
pub struct Listener {
    /// Its name, unique in the snapshot: [`Listener::HTTP`] and [`Listener::HTTPS`] are those of
    /// the configuration file.
    pub name: Arc<str>,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// The only hosts that it serves; `None` is every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    /// The hosts.
    pub hosts: Arc<HostTable>,
}

/// What is spoken on a listener (Gateway API `ProtocolType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ListenerProtocol {
    /// HTTP/1.x or HTTP/2 by prior knowledge, without TLS.
    Http,
    /// HTTP/1.x or HTTP/2 over TLS that ends here.
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

    /// The backends of all routes; one that several routes lead to is there for each.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let hosts = self.listeners.iter().flat_map(|listener| listener.hosts.iter());
        hosts.flat_map(|host| &host.routes).flat_map(|route| route.rule.backends.all())
    }
}

// === impl Listener ===

impl Listener {
    /// The name of the configuration file's listener for plain HTTP.
    pub const HTTP: &'static str = "http";
    /// The name of the configuration file's listener for HTTPS.
    pub const HTTPS: &'static str = "https";
}
