//! Where the portal is, and which hosts are the gateway's.

use portcullis_config::settings::access::LoginSettings;

/// Where the portal is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Its host, in lower case.
    pub(super) host: Box<str>,
    /// The port of HTTPS as browsers see it, the same for all hosts.
    port: u16,
    zone: Box<str>,
}

// === impl Place ===

impl Place {
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

    /// Whether a URL's port is the one that browsers see.
    pub(super) fn is_port(&self, port: Option<u16>) -> bool {
        port.unwrap_or(443) == self.port
    }

    /// The URL of a path on a host.
    pub(super) fn url(&self, host: &str, path: &str) -> String {
        match self.port {
            443 => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        }
    }

    /// The URL of one of the portal's own paths.
    pub(super) fn own(&self, path: &str) -> String {
        self.url(&self.host, path)
    }
}
