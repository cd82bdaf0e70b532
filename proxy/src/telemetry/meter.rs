//! The counters of a worker.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::HeaderValue;
use portcullis_config::settings::AccessLogFormat;
use portcullis_config::unix_time::seconds;

use super::access_log;
use super::clock::Clock;
use super::counter::{Counter, LabeledCounter};
use super::record::Record;
use super::series::{SeriesRegistry, WorkerSeries};
use super::shadows::ShadowCounts;
use super::traffic::Recorder;
use super::writer::Buffer;

/// A worker's counters and access log buffer, for use on that worker's thread only.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: Clock,
    counts: Arc<Counts>,
    registry: Arc<SeriesRegistry>,
    series: RefCell<WorkerSeries>,
    traffic: Recorder,
    log: Option<(AccessLogFormat, Arc<Buffer>)>,
}

/// The protocol of a client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// The counters of a worker, which is their only writer.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) started: Counter,
    pub(super) completed: Counter,
    pub(super) heads_taken: Counter,
    pub(super) heads_released: Counter,
    pub(super) refusals: LabeledCounter<&'static str>,
    pub(super) rejected: LabeledCounter<&'static str>,
    pub(super) logins: LabeledCounter<&'static str>,
    pub(super) failures: LabeledCounter<&'static str>,
    pub(super) opened: LabeledCounter<(&'static str, Protocol)>,
    pub(super) closed: LabeledCounter<(&'static str, Protocol)>,
    pub(super) accepted: LabeledCounter<&'static str>,
    pub(super) accept_errors: LabeledCounter<(&'static str, &'static str)>,
    pub(super) turned_away: LabeledCounter<(&'static str, &'static str)>,
    pub(super) handshakes: LabeledCounter<&'static str>,
    pub(super) handshake_failures: LabeledCounter<&'static str>,
    pub(super) rate_limits_displaced: Counter,
    pub(super) upstream_opened: Counter,
    pub(super) upstream_closed: Counter,
    pub(super) upstream_reused: Counter,
    pub(super) upstream_retries: Counter,
    pub(super) upstream_retries_denied: Counter,
    pub(super) upstream_failures: LabeledCounter<&'static str>,
    pub(super) upstream_ejections: Counter,
    pub(super) upstream_returns: Counter,
    pub(super) upstream_probes: LabeledCounter<&'static str>,
    pub(super) upstream_slow_starts: Counter,
    pub(super) health_checks: LabeledCounter<&'static str>,
    pub(super) upstream_far: Counter,
    pub(super) upstream_waits: Counter,
    pub(super) upstream_waits_ended: Counter,
    pub(super) upstream_panics: Counter,
    pub(super) upstream_moves: Counter,
    pub(super) shadows: ShadowCounts,
}

/// Counts a request as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Counts>);

/// Counts a client connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    counts: Arc<Counts>,
    label: (&'static str, Protocol),
}

/// Counts an upstream connection as open until it is dropped.
#[derive(Debug)]
pub(crate) struct UpstreamConnection(Arc<Counts>);

/// Counts a request as waiting for an endpoint until it is dropped.
#[derive(Debug)]
pub(crate) struct UpstreamWait(Arc<Counts>);

// === impl Meter ===

impl Meter {
    pub(super) fn new(
        worker: usize,
        counts: Arc<Counts>,
        registry: Arc<SeriesRegistry>,
        traffic: Recorder,
        log: Option<(AccessLogFormat, Arc<Buffer>)>,
    ) -> Self {
        Self {
            clock: Clock::new(),
            counts,
            registry,
            series: RefCell::new(WorkerSeries::new(worker)),
            traffic,
            log,
        }
    }

    /// Returns the time of day at `now`.
    pub(crate) fn time_of_day(&self, now: Instant) -> SystemTime {
        self.clock.time_of_day(now)
    }

    /// Returns the value of a `Date` header.
    pub(crate) fn date(&self, now: SystemTime) -> HeaderValue {
        self.clock.date(now)
    }

    /// Returns the counts of services and variants.
    pub(crate) fn traffic(&self) -> &Recorder {
        &self.traffic
    }

    /// Counts a request whose head was read.
    pub(crate) fn request(&self) -> InFlight {
        self.counts.started.add(1);
        InFlight(Arc::clone(&self.counts))
    }

    /// Counts a completed request that arrived at `arrived`, and logs it.
    pub(crate) fn record(&self, record: &Record<'_>, arrived: SystemTime) {
        let second = seconds(arrived);
        self.series.borrow_mut().count(&self.registry, record, second);
        if let Some(reason) = record.refusal {
            self.counts.refusals.add(reason);
        }
        if let Some(reason) = record.rejected {
            self.counts.rejected.add(reason);
        }
        if let Some(outcome) = record.login {
            self.counts.logins.add(outcome);
        }
        if let Some(reason) = record.failure {
            self.counts.failures.add(reason);
        }
        if let Some((format, buffer)) = &self.log {
            buffer.write(|lines| match format {
                AccessLogFormat::Json => {
                    self.clock.timestamp(arrived, |timestamp, milliseconds| {
                        access_log::json(lines, record, timestamp, milliseconds)
                    })
                }
                AccessLogFormat::Combined => {
                    self.clock.combined(arrived, |time| access_log::combined(lines, record, time))
                }
                AccessLogFormat::None => {}
            });
        }
    }

    /// Counts a connection or stream that was closed for `reason`, in snake case, like a rejected
    /// request.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.counts.refusals.add(reason);
    }

    /// Counts memory that request heads occupy.
    pub(crate) fn heads_taken(&self, octets: usize) {
        self.counts.heads_taken.add(octets as u64);
    }

    /// Counts memory that request heads release.
    pub(crate) fn heads_released(&self, octets: usize) {
        self.counts.heads_released.add(octets as u64);
    }

    /// Counts a client connection that uses `protocol`.
    pub(crate) fn connection(&self, listener: &'static str, protocol: Protocol) -> OpenConnection {
        let label = (listener, protocol);
        self.counts.opened.add(label);
        OpenConnection { counts: Arc::clone(&self.counts), label }
    }

    /// Counts an accepted client connection.
    pub(crate) fn accepted(&self, listener: &'static str) {
        self.counts.accepted.add(listener);
    }

    /// Counts a client connection that failed to be accepted.
    pub(crate) fn accept_failed(&self, listener: &'static str, reason: &'static str) {
        self.counts.accept_errors.add((listener, reason));
    }

    /// Counts a client connection that was closed before a request.
    pub(crate) fn turned_away(&self, listener: &'static str, reason: &'static str) {
        self.counts.turned_away.add((listener, reason));
    }

    /// Counts a completed TLS handshake; `version` is `1.2` or `1.3`.
    pub(crate) fn handshake(&self, version: &'static str) {
        self.counts.handshakes.add(version);
    }

    /// Counts a failed TLS handshake; `reason` is in snake case.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.counts.handshake_failures.add(reason);
    }

    /// Counts clients that took the place of others in the full table of a rate limit.
    pub(crate) fn rate_limit_displaced(&self, clients: u32) {
        self.counts.rate_limits_displaced.add(clients.into());
    }

    /// Counts a new upstream connection.
    pub(crate) fn upstream_connection(&self) -> UpstreamConnection {
        self.counts.upstream_opened.add(1);
        UpstreamConnection(Arc::clone(&self.counts))
    }

    /// Counts the reuse of an idle upstream connection.
    pub(crate) fn upstream_reused(&self) {
        self.counts.upstream_reused.add(1);
    }

    /// Counts a retry.
    pub(crate) fn upstream_retried(&self) {
        self.counts.upstream_retries.add(1);
    }

    /// Counts a retry that the retry budget did not allow.
    pub(crate) fn upstream_retry_denied(&self) {
        self.counts.upstream_retries_denied.add(1);
    }

    /// Counts a failed try; `reason` is in snake case, such as `upstream_closed`.
    pub(crate) fn upstream_failed(&self, reason: &'static str) {
        self.counts.upstream_failures.add(reason);
    }

    /// Counts the ejection of an endpoint of a set, by the id of the set.
    pub(crate) fn upstream_ejected(&self, set: u64) {
        self.counts.upstream_ejections.add(1);
        self.traffic.ejected(set);
    }

    /// Counts an endpoint that is not ejected any more, or was removed.
    pub(crate) fn upstream_returned(&self) {
        self.counts.upstream_returns.add(1);
    }

    /// Counts a probe of an ejected endpoint; `outcome` is `connected` or `failed`.
    pub(crate) fn upstream_probed(&self, outcome: &'static str) {
        self.counts.upstream_probes.add(outcome);
    }

    /// Counts an active check of an endpoint; `outcome` is `passed` or `failed`.
    pub(crate) fn health_checked(&self, outcome: &'static str) {
        self.counts.health_checks.add(outcome);
    }

    /// Counts endpoints that begin a slow start.
    pub(crate) fn upstream_slow_started(&self, count: usize) {
        self.counts.upstream_slow_starts.add(count as u64);
    }

    /// Counts an attempt at an endpoint that is not one of the preferred ones.
    pub(crate) fn upstream_went_far(&self) {
        self.counts.upstream_far.add(1);
    }

    /// Counts a request that waits because all endpoints are full.
    pub(crate) fn upstream_wait(&self) -> UpstreamWait {
        self.counts.upstream_waits.add(1);
        UpstreamWait(Arc::clone(&self.counts))
    }

    /// Returns the counters of copies of requests.
    pub(crate) fn shadows(&self) -> &ShadowCounts {
        &self.counts.shadows
    }

    /// Counts a choice among all endpoints, because more than half were ejected.
    pub(crate) fn upstream_panicked(&self) {
        self.counts.upstream_panics.add(1);
    }

    /// Counts a request that did not go to the endpoint that its caller keeps.
    pub(crate) fn upstream_moved(&self) {
        self.counts.upstream_moves.add(1);
    }
}

// === impl Protocol ===

impl Protocol {
    /// Returns the value of the metric label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.completed.add(1);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counts.closed.add(self.label);
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        self.0.upstream_closed.add(1);
    }
}

impl Drop for UpstreamWait {
    fn drop(&mut self) {
        self.0.upstream_waits_ended.add(1);
    }
}
