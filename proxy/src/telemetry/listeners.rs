//! The metrics of the listeners for probes, telemetry and administration.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::metric::{descriptions, metrics};

metrics! {
    EVICTED: Counter "portcullis_connections_evicted_total" ["listener"] "Connections to the listeners `probes`, `telemetry` and `admin` closed to make room for newer ones.";
    DENIED: Counter "portcullis_telemetry_denied_total" ["reason"] "Requests denied by the telemetry listener, by reason.";
}

/// The counters of the listeners for probes, telemetry and administration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ListenerCounts {
    /// Connections that were closed in favor of newer ones, by listener.
    pub(crate) evicted: [(&'static str, u64); 3],
    /// Requests for telemetry that were denied, by reason.
    pub(crate) denied: [(&'static str, u64); 4],
}

/// Collects the counters of those listeners.
pub(super) struct ListenerCollector<F> {
    descriptions: Vec<Desc>,
    counts: F,
}

// === impl ListenerCollector ===

impl<F: Fn() -> ListenerCounts + Send + Sync> ListenerCollector<F> {
    pub(super) fn new(counts: F) -> prometheus::Result<Self> {
        Ok(Self { descriptions: descriptions(METRICS)?, counts })
    }
}

impl<F: Fn() -> ListenerCounts + Send + Sync> Collector for ListenerCollector<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let ListenerCounts { evicted, denied } = (self.counts)();
        vec![EVICTED.values(evicted), DENIED.values(denied)]
    }
}
