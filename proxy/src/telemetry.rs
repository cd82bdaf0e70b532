//! What happened, told to operators: metrics and the access log.
//!
//! Each worker counts in a [`Meter`] of its own, which no other thread writes; [`Telemetry`] adds
//! them up when it is scraped. The access log is formatted on the worker and written by a thread of
//! its own.

mod clock;
mod counter;
mod exposition;
mod line;
mod meter;
mod metrics;
mod process;
mod record;
mod series;
mod writer;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use portcullis_config::live::Live;
use portcullis_config::settings::{AccessLogFormat, Settings};

use self::meter::Counts;
pub(crate) use self::meter::{InFlight, Meter, Protocol, UpstreamConnection};
pub(crate) use self::record::Record;
use self::series::Directory;
use self::writer::AccessLog;
use crate::session::Counts as RevocationCounts;

/// The telemetry of the whole process.
#[derive(Debug)]
pub struct Telemetry {
    started: SystemTime,
    workers: Mutex<Vec<Arc<Counts>>>,
    directory: Arc<Directory>,
    format: AccessLogFormat,
    log: Option<AccessLog>,
    revocations: Arc<RevocationCounts>,
}

/// A certificate that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServedCertificate {
    /// Where it was found.
    pub(crate) origin: String,
    /// Its end (`notAfter`), in seconds since 1970.
    pub(crate) not_after: u64,
}

// === impl Telemetry ===

impl Telemetry {
    /// Opens the access log and starts its thread, where the settings want one.
    ///
    /// # Errors
    /// The log's file cannot be opened, or the thread not be started.
    pub fn new(settings: &Settings, now: SystemTime) -> io::Result<Arc<Self>> {
        let log = match settings.access_log.format {
            AccessLogFormat::None => None,
            AccessLogFormat::Json | AccessLogFormat::Combined => {
                Some(AccessLog::start(settings.access_log.file.clone())?)
            }
        };
        Ok(Arc::new(Self {
            started: now,
            workers: Mutex::default(),
            directory: Arc::new(Directory::new(series::MAX_SERIES)),
            format: settings.access_log.format,
            log,
            revocations: Arc::default(),
        }))
    }

    /// The meter of one more worker, to be used on that worker's thread alone.
    pub(crate) fn meter(&self) -> Meter {
        let counts = Arc::new(Counts::default());
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.push(Arc::clone(&counts));
        let log = self.log.as_ref().map(|log| (self.format, log.buffer()));
        Meter::new(workers.len(), counts, Arc::clone(&self.directory), log)
    }

    /// What is counted of telling other replicas which sessions were ended.
    pub(crate) fn revocations(&self) -> &Arc<RevocationCounts> {
        &self.revocations
    }

    /// All metrics in Prometheus' text format, version 0.0.4. What workers do not count is read
    /// from `live` and from the certificates that are served.
    pub(crate) fn render(
        &self,
        live: &Live,
        certificates: &[ServedCertificate],
        certificate_problems: usize,
        now: SystemTime,
    ) -> String {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dropped = self.log.as_ref().map_or(0, AccessLog::dropped);
        metrics::render(&metrics::Sources {
            started: self.started,
            now,
            workers: &workers,
            series: &self.directory.all(),
            certificates,
            certificate_problems,
            dropped_lines: dropped,
            revocations: &self.revocations,
            live,
        })
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
