//! Backends, and how a rule's traffic is split among them.

use std::sync::Arc;

use serde::Serialize;

use super::endpoints::Endpoints;
use super::filter::Filter;

/// One backend of a rule: a variant of a service.
#[derive(Debug, Clone, Serialize)]
pub struct Backend {
    /// The variant's name in metrics and logs: `stable`, or the name of the canary's Service.
    pub variant: Arc<str>,
    /// Its share, relative to the sum of all backends of the rule; 0 gets no traffic.
    pub weight: u32,
    /// The protocol to its pods.
    pub protocol: UpstreamProtocol,
    /// Filters for this backend only, after those of the rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// The addresses of its pods.
    pub endpoints: Arc<Endpoints>,
}

/// The protocol to pods (Service `appProtocol`, KEP-3726).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1 without TLS, WebSocket upgrades included.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3), gRPC included.
    H2c,
    /// HTTP/2 or HTTP/1.1 over TLS, by ALPN; the pod's certificate must be valid for the name.
    Tls {
        /// The name that is sent as SNI and that the certificate is checked for.
        server_name: Arc<str>,
    },
}

/// Backends with weights; choosing one takes one comparison per backend.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct WeightedBackends {
    backends: Vec<Backend>,
    #[serde(skip)]
    total: u64,
}

// === impl WeightedBackends ===

impl WeightedBackends {
    /// Creates it from backends in the order of their resource.
    #[must_use]
    pub fn new(backends: Vec<Backend>) -> Self {
        let total = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        Self { backends, total }
    }

    /// All backends, including those of weight 0.
    #[must_use]
    pub fn all(&self) -> &[Backend] {
        &self.backends
    }

    /// Chooses a backend by weight; `point` is a uniformly random `u64`.
    ///
    /// Returns `None` where all weights are 0 or there is no backend (Gateway API: such a rule
    /// responds with 500; Portcullis responds with 503).
    #[must_use]
    pub fn choose(&self, point: u64) -> Option<&Backend> {
        if let [only] = self.backends.as_slice() {
            return (only.weight > 0).then_some(only);
        }
        // Multiply-shift maps the point onto 0..total without the bias of a remainder.
        let scaled = (u128::from(point) * u128::from(self.total)) >> 64;
        let mut point = u64::try_from(scaled).unwrap_or(u64::MAX);
        self.backends.iter().find(|backend| match point.checked_sub(u64::from(backend.weight)) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        })
    }
}

#[cfg(test)]
mod tests;
