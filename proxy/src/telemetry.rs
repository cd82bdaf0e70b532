//! Metrics and the access log.
//!
//! Each worker counts in a [`Meter`] of its own, which no other thread writes; a
//! registry of collectors adds them up when they are scraped. The access log is formatted on the worker and written by a thread of
//! its own.

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
mod workers;
mod writer;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::live::Live;
use portcullis_config::settings::{AccessLogFormat, Settings};
use portcullis_identity::fair_queue::Counts as QueueCounts;
use portcullis_identity::session::Counts as RevocationCounts;
use prometheus::{Registry, TextEncoder};

pub(crate) use self::control::{CertificateStatus, ServedCertificate};
use self::control::{ControlCollector, Queues};
use self::listeners::ListenerCollector;
pub(crate) use self::listeners::ListenerCounts;
pub(crate) use self::meter::{InFlight, Meter, Protocol, UpstreamConnection};
use self::process::ProcessCollector;
pub(crate) use self::record::Record;
use self::workers::{WorkerCollector, Workers};
use self::writer::AccessLog;

/// The telemetry of the whole process.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    workers: Arc<Workers>,
    format: AccessLogFormat,
    log: Option<Arc<AccessLog>>,
    revocations: Arc<RevocationCounts>,
    queues: Arc<Queues>,
}

/// Why telemetry cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The access log's file cannot be opened, or its thread not be started.
    #[error("the access log cannot be opened: {0}")]
    AccessLog(#[source] io::Error),
    /// A metric cannot be registered: a defect of the gateway.
    #[error("a metric cannot be registered: {0}")]
    Metrics(#[source] prometheus::Error),
}

// === impl Telemetry ===

impl Telemetry {
    /// Opens the access log and starts its thread, where the settings want one, and registers all
    /// metrics. What workers do not count is read from `live` and returned by `certificates`
    /// whenever the metrics are collected.
    ///
    /// # Errors
    /// The access log cannot be opened, or a metric not be registered.
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
        let control = ControlCollector::new(live, certificates, revocations, queues)?;
        self.registry.register(Box::new(WorkerCollector::new(Arc::clone(&self.workers))?))?;
        self.registry.register(Box::new(control))?;
        self.registry.register(Box::new(ProcessCollector::new(started, self.log.clone())?))
    }

    /// The meter of one more worker, to be used on that worker's thread alone.
    pub(crate) fn meter(&self) -> Meter {
        let (worker, counts) = self.workers.add();
        let log = self.log.as_ref().map(|log| (self.format, log.buffer()));
        Meter::new(worker, counts, Arc::clone(self.workers.series()), log)
    }

    /// What is counted of telling other replicas which sessions were ended.
    pub(crate) fn revocations(&self) -> &Arc<RevocationCounts> {
        &self.revocations
    }

    /// Shows in the metrics what `counts` returns, whenever they are collected. To be called once.
    ///
    /// # Errors
    /// The metrics are registered already: a defect of the gateway.
    pub(crate) fn show_listeners(
        &self,
        counts: impl Fn() -> ListenerCounts + Send + Sync + 'static,
    ) -> Result<(), TelemetryError> {
        ListenerCollector::new(counts)
            .and_then(|collector| self.registry.register(Box::new(collector)))
            .map_err(TelemetryError::Metrics)
    }

    /// Shows one more queue in the metrics.
    pub(crate) fn show_queue(&self, queue: &Arc<QueueCounts>) {
        self.queues.add(queue);
    }

    /// All metrics in Prometheus' text format, version 0.0.4, ordered by name. A metric that has no
    /// sample yet is left out.
    ///
    /// # Errors
    /// The metrics cannot be written in that format: a defect of the gateway.
    pub(crate) fn metrics(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Writes what the access log still holds, and ends its thread. What is recorded afterwards is
    /// dropped.
    pub fn close(&self) {
        if let Some(log) = &self.log {
            log.close();
        }
    }
}

#[cfg(test)]
mod tests;
