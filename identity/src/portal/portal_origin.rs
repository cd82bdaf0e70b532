//! The origin of the portal, and the hosts of the gateway.

use portcullis_config::settings::access::LoginSettings;

/// The origin of the portal.
#[derive(Debug, Clone)]
pub(super) struct PortalOrigin {
    /// Its host, in lower case.
    pub(super) host: Box<str>,
    /// The HTTPS port as browsers see it, the same for all hosts.
    port: u16,
    zone: Box<str>,
}

// === impl PortalOrigin ===

impl PortalOrigin {
    /// Reads the settings.
    pub(super) fn new(zone: &str, login: &LoginSettings) -> Self {
        let host = login.host.clone().unwrap_or_else(|| format!("login.{zone}"));
        Self {
            host: host.to_ascii_lowercase().into(),
            port: login.port,
            zone: zone.to_ascii_lowercase().into(),
        }
    }

    /// Whether a host is the portal's own.
    pub(super) fn is_portal(&self, host: &str) -> bool {
        *self.host == *host
    }

    /// Whether a host is in the gateway's zone.
    pub(super) fn is_in_zone(&self, host: &str) -> bool {
        host == &*self.zone
            || host.strip_suffix(&*self.zone).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether a URL has the port that browsers see.
    pub(super) fn is_port(&self, port: Option<u16>) -> bool {
        port.unwrap_or(443) == self.port
    }

    /// Returns the URL of a path on a host.
    pub(super) fn url(&self, host: &str, path: &str) -> String {
        match self.port {
            443 => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        }
    }

    /// Returns the URL of a path of the portal.
    pub(super) fn own(&self, path: &str) -> String {
        self.url(&self.host, path)
    }
}
