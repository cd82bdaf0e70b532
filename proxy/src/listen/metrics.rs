//! What is counted before a request is there. Once a connection, not once a request, so all workers count together.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// Connections that were accepted, refused, and that could not be accepted.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    accepted: IntCounterVec,
    refused: IntCounterVec,
    failed: IntCounterVec,
}

/// Why a connection was closed before it spoke HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedConnection {
    /// There are `limits.connections`.
    Connections,
    /// There are `limits.connectionsPerClient` from this client.
    Client,
    /// No PROXY protocol header, or a malformed one.
    ProxyProtocol,
    /// TLS could not be agreed on.
    Tls,
    /// The client left at once.
    Gone,
    /// TLS and the PROXY protocol header took longer than `timeouts.handshake`.
    Timeout,
}

// === impl ConnectionMetrics ===

impl ConnectionMetrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        Ok(Self {
            accepted: counters("portcullis_connections_accepted_total", "Connections accepted from clients.", "listener")?,
            refused: counters("portcullis_connections_refused_total", "Connections closed before they spoke HTTP.", "reason")?,
            failed: counters("portcullis_accept_errors_total", "Connections that could not be accepted.", "reason")?,
        })
    }

    /// The counter of one listener, to be kept.
    pub(crate) fn accepted(&self, listener: &str) -> IntCounter {
        self.accepted.with_label_values(&[listener])
    }

    pub(crate) fn refused(&self, reason: RefusedConnection) {
        self.refused.with_label_values(&[reason.name()]).inc();
    }

    /// Accepting failed: descriptors or memory have run out, or something else.
    pub(crate) fn failed(&self, exhausted: bool) {
        self.failed.with_label_values(&[if exhausted { "exhausted" } else { "other" }]).inc();
    }

    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        [&self.accepted, &self.refused, &self.failed].into_iter().flat_map(Collector::collect).collect()
    }
}

// === impl RefusedConnection ===

impl RefusedConnection {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Client => "connections_per_client",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Tls => "tls",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
        }
    }
}
