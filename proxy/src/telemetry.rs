//! Metrics and the access log.
//!
//! Each worker counts in its own [`Meter`]; collectors add them up for each scrape. Workers format
//! the access log, and a separate thread writes it.

mod access_log;
mod clock;
mod control;
mod counter;
mod listeners;
mod meter;
mod metric;
mod process;
mod record;
mod series;
mod shadows;
pub mod traffic;
mod workers;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use portcullis_config::live::Live;
use portcullis_config::settings::{AccessLogFormat, Settings};
use portcullis_config::unix_time::seconds;
use portcullis_identity::fair_queue::Counts as QueueCounts;
use portcullis_identity::session::Counts as RevocationCounts;
use prometheus::{Registry, TextEncoder};

pub(crate) use self::control::{CertificateStatus, ServedCertificate};
use self::control::{ControlCollector, Queues};
use self::listeners::ListenerCollector;
pub(crate) use self::listeners::ListenerCounts;
pub(crate) use self::meter::{InFlight, Meter, Protocol, UpstreamConnection};
use self::process::ProcessCollector;
pub(crate) use self::record::{RATE_LIMITED, Record};
use self::shadows::ShadowCollector;
pub(crate) use self::shadows::{AnswerClass, ShadowAnswer, ShadowLabels};
use self::workers::{WorkerCollector, Workers};
use self::writer::AccessLog;

/// The telemetry of the process.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    workers: Arc<Workers>,
    format: AccessLogFormat,
    log: Option<Arc<AccessLog>>,
    revocations: Arc<RevocationCounts>,
    queues: Arc<Queues>,
    traffic: Arc<traffic::Registry>,
    rate_limit_memory: Arc<AtomicU64>,
}

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The access log's file could not be opened, or its thread not be started.
    #[error("failed to open the access log: {0}")]
    AccessLog(#[source] io::Error),
    /// A metric could not be registered, which is a bug.
    #[error("failed to register a metric: {0}")]
    Metrics(#[source] prometheus::Error),
    /// The operating system provides no random octets.
    #[error("the operating system provides no random octets")]
    NoRandomness,
}

// === impl Telemetry ===

impl Telemetry {
    /// Opens the access log, if it is enabled, and registers all metrics. Each scrape reads the
    /// state of the control plane from `live` and `certificates`.
    ///
    /// # Errors
    /// Returns why the access log could not be opened, or a metric not be registered, or that there
    /// is no randomness.
    pub(crate) fn new(
        settings: &Settings,
        live: Arc<Live>,
        certificates: impl Fn() -> CertificateStatus + Send + Sync + 'static,
        now: SystemTime,
    ) -> Result<Arc<Self>, TelemetryError> {
        let log = match settings.access_log.format {
            AccessLogFormat::None => None,
            AccessLogFormat::Json | AccessLogFormat::Combined => {
                let log = AccessLog::start(settings.access_log.file.clone());
                Some(Arc::new(log.map_err(TelemetryError::AccessLog)?))
            }
        };
        let telemetry = Self {
            registry: Registry::new(),
            workers: Arc::default(),
            format: settings.access_log.format,
            log,
            revocations: Arc::default(),
            queues: Arc::default(),
            traffic: traffic::Registry::new(seconds(now))
                .map(Arc::new)
                .map_err(|_| TelemetryError::NoRandomness)?,
            rate_limit_memory: Arc::default(),
        };
        telemetry.register(live, certificates, now).map_err(TelemetryError::Metrics)?;
        Ok(Arc::new(telemetry))
    }

    fn register(
        &self,
        live: Arc<Live>,
        certificates: impl Fn() -> CertificateStatus + Send + Sync + 'static,
        started: SystemTime,
    ) -> prometheus::Result<()> {
        let revocations = Arc::clone(&self.revocations);
        let queues = Arc::clone(&self.queues);
        let memory = self.rate_limit_memory();
        let control = ControlCollector::new(live, certificates, revocations, queues, memory)?;
        self.registry.register(Box::new(WorkerCollector::new(Arc::clone(&self.workers))?))?;
        self.registry.register(Box::new(ShadowCollector::new(Arc::clone(&self.workers))?))?;
        self.registry.register(Box::new(control))?;
        self.registry.register(Box::new(ProcessCollector::new(started, self.log.clone())?))
    }

    /// Creates the meter of a worker, for use on that worker's thread only.
    pub(crate) fn meter(&self) -> Meter {
        let (worker, counts) = self.workers.add();
        let log = self.log.as_ref().map(|log| (self.format, log.buffer()));
        Meter::new(worker, counts, Arc::clone(self.workers.series()), self.traffic.recorder(), log)
    }

    /// Returns what all workers have counted of each service and variant.
    pub(crate) fn traffic(&self) -> &traffic::Registry {
        &self.traffic
    }

    /// Returns the counters of published session revocations.
    pub(crate) fn revocations(&self) -> &Arc<RevocationCounts> {
        &self.revocations
    }

    /// Exposes the result of `counts` as metrics. Must be called once only.
    ///
    /// # Errors
    /// Returns an error if the metrics are already registered, which is a bug.
    pub(crate) fn expose_listeners(
        &self,
        counts: impl Fn() -> ListenerCounts + Send + Sync + 'static,
    ) -> Result<(), TelemetryError> {
        ListenerCollector::new(counts)
            .and_then(|collector| self.registry.register(Box::new(collector)))
            .map_err(TelemetryError::Metrics)
    }

    /// Returns the gauge of the memory of rate limits, in octets.
    pub(crate) fn rate_limit_memory(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.rate_limit_memory)
    }

    /// Exposes a queue as metrics.
    pub(crate) fn expose_queue(&self, queue: &Arc<QueueCounts>) {
        self.queues.add(queue);
    }

    /// Formats all metrics in Prometheus' text format, version 0.0.4, ordered by name. Metrics
    /// without samples are omitted.
    ///
    /// # Errors
    /// Returns an error if the metrics cannot be formatted, which is a bug.
    pub(crate) fn metrics(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Flushes the access log and stops its thread. Later records are dropped.
    pub fn close(&self) {
        if let Some(log) = &self.log {
            log.close();
        }
    }
}

#[cfg(test)]
mod tests;
