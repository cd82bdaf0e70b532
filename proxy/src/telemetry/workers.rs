//! The metrics of workers, added up for each scrape.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::counter::LabeledCounter;
use super::meter::Counts;
use super::metric::{Metric, descriptions, metrics};
use super::series::{Labels, MAX_SERIES, SeriesRegistry, Sum};

metrics! {
    REQUESTS: Counter "portcullis_requests_total" ["environment", "service", "variant", "code"] "Requests completed, by class of status code (1xx to 5xx). Environment, service and variant are empty for requests that matched no route.";
    REQUEST_DURATION: Histogram "portcullis_request_duration_seconds" ["environment", "service", "variant"] "Time from receiving a request's head to the end of its response, in seconds.";
    UPSTREAM_DURATION: Histogram "portcullis_upstream_duration_seconds" ["environment", "service", "variant"] "Time from the first attempt to receiving the head of the backend's response, in seconds.";
    GRPC: Counter "portcullis_grpc_responses_total" ["environment", "service", "variant", "grpc_status"] "Responses with a grpc-status, by its number, or `unknown` if it is not a number from 0 to 16.";
    BYTES_IN: Counter "portcullis_request_body_bytes_total" ["environment", "service", "variant"] "Size of request bodies, in bytes.";
    BYTES_OUT: Counter "portcullis_response_body_bytes_total" ["environment", "service", "variant"] "Size of response bodies, in bytes.";
    RATE_LIMITED: Counter "portcullis_rate_limited_total" ["environment", "service"] "Requests rejected because they exceeded a rate limit.";
    MISSED: Counter "portcullis_variant_missed_requests_total" ["environment", "service", "variant"] "Requests for this variant that went to the stable one, because no endpoint of this one answered.";
    IN_FLIGHT: Gauge "portcullis_requests_in_flight" [] "Requests currently in progress.";
    REQUEST_MEMORY: Gauge "portcullis_request_memory_bytes" [] "Memory held by the heads of requests in progress, and by bodies that may be sent again, in bytes.";
    REFUSALS: Counter "portcullis_requests_refused_total" ["reason"] "Requests rejected before they were routed, by reason.";
    REJECTED: Counter "portcullis_credentials_rejected_total" ["reason"] "Requests that presented an invalid credential and received 404, by reason.";
    LOGINS: Counter "portcullis_logins_total" ["outcome"] "Login steps, and sessions ended by the user or the identity provider, by outcome.";
    FAILURES: Counter "portcullis_requests_failed_total" ["reason"] "Requests that failed after they were routed, by reason.";
    RATE_LIMITS_DISPLACED: Counter "portcullis_rate_limit_displacements_total" [] "Clients that took the place, and the debt, of another client in the full table of a rate limit.";
    ACCEPTED: Counter "portcullis_connections_accepted_total" ["listener"] "Client connections accepted.";
    ACCEPT_ERRORS: Counter "portcullis_accept_errors_total" ["listener", "reason"] "Client connections that could not be accepted, by reason; `exhausted` means out of file descriptors or memory.";
    CONNECTIONS: Counter "portcullis_connections_total" ["listener", "protocol"] "Client connections on which HTTP was spoken, by protocol.";
    CONNECTIONS_OPEN: Gauge "portcullis_connections_open" ["listener", "protocol"] "Client connections currently open, by protocol.";
    TURNED_AWAY: Counter "portcullis_connections_refused_total" ["listener", "reason"] "Client connections closed before HTTP was spoken, by reason.";
    HANDSHAKES: Counter "portcullis_tls_handshakes_total" ["version"] "TLS handshakes with clients completed, by TLS version.";
    HANDSHAKE_FAILURES: Counter "portcullis_tls_handshake_failures_total" ["reason"] "TLS handshakes with clients failed, by reason.";
    UPSTREAM_CONNECTIONS: Counter "portcullis_upstream_connections_total" [] "Connections opened to backends.";
    UPSTREAM_OPEN: Gauge "portcullis_upstream_connections_open" [] "Connections to backends currently open.";
    UPSTREAM_REUSED: Counter "portcullis_upstream_connections_reused_total" [] "Requests sent on a backend connection that was already open.";
    UPSTREAM_RETRIES: Counter "portcullis_upstream_retries_total" [] "Attempts after the first attempt of a request.";
    UPSTREAM_RETRIES_DENIED: Counter "portcullis_upstream_retries_denied_total" [] "Attempts that were not made because of the retry budget.";
    UPSTREAM_FAILURES: Counter "portcullis_upstream_failures_total" ["reason"] "Attempts that failed, by reason.";
    UPSTREAM_EJECTIONS: Counter "portcullis_upstream_ejections_total" [] "Endpoints ejected from load balancing because of failures.";
    UPSTREAM_EJECTED: Gauge "portcullis_upstream_endpoints_ejected" [] "Endpoints currently ejected, summed over workers.";
    UPSTREAM_PROBES: Counter "portcullis_upstream_probes_total" ["outcome"] "Connections to ejected endpoints attempted to find out whether they respond again, by outcome (`connected`, `failed`).";
    HEALTH_CHECKS: Counter "portcullis_upstream_health_checks_total" ["outcome"] "Active checks of endpoints, by outcome (`passed`, `failed`).";
    UPSTREAM_SLOW_STARTS: Counter "portcullis_upstream_slow_starts_total" [] "Endpoints that began a slow start because they are new in their Service, summed over workers.";
    UPSTREAM_FAR: Counter "portcullis_upstream_far_total" [] "Attempts sent to an endpoint outside the gateway's zone or node, although the Service has preferred ones inside.";
    UPSTREAM_WAITS: Counter "portcullis_upstream_waits_total" [] "Requests that waited because all endpoints of their service were full, or those left were for other clients.";
    UPSTREAM_WAITING: Gauge "portcullis_upstream_waiting" [] "Requests currently waiting for an endpoint that is not full.";
    UPSTREAM_PANICS: Counter "portcullis_upstream_panic_total" [] "First attempts whose endpoint was chosen among all, because more than half were ejected.";
    UPSTREAM_MOVES: Counter "portcullis_upstream_affinity_moves_total" [] "Requests of callers that keep an endpoint, whose first attempt went to another one, because that one was ejected, starting slowly or overloaded.";
}

/// The counters of all workers.
#[derive(Debug)]
pub(super) struct Workers {
    counts: Mutex<Vec<Arc<Counts>>>,
    series: Arc<SeriesRegistry>,
}

/// Collects the counters of all workers.
pub(super) struct WorkerCollector {
    descriptions: Vec<Desc>,
    workers: Arc<Workers>,
}

/// A copy of all workers' counters.
struct Collected {
    counts: Vec<Arc<Counts>>,
    series: Vec<(Labels, Sum)>,
}

// === impl Workers ===

impl Default for Workers {
    fn default() -> Self {
        Self { counts: Mutex::default(), series: Arc::new(SeriesRegistry::new(MAX_SERIES)) }
    }
}

impl Workers {
    /// Adds a worker, and returns its number and counters.
    pub(super) fn add(&self) -> (usize, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&counts));
        (all.len(), counts)
    }

    /// Returns the counters of all workers.
    pub(super) fn counts(&self) -> Vec<Arc<Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the series of all services.
    pub(super) fn series(&self) -> &Arc<SeriesRegistry> {
        &self.series
    }
}

// === impl WorkerCollector ===

impl WorkerCollector {
    pub(super) fn new(workers: Arc<Workers>) -> prometheus::Result<Self> {
        Ok(Self { descriptions: descriptions(METRICS)?, workers })
    }
}

impl Collector for WorkerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let collected =
            Collected { counts: self.workers.counts(), series: self.workers.series.all() };
        let mut families = Vec::from(collected.services());
        families.extend(collected.requests());
        families.extend(collected.clients());
        families.extend(collected.upstreams());
        families
    }
}

// === impl Collected ===

impl Collected {
    fn services(&self) -> [MetricFamily; 8] {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let mut requests = REQUESTS.family();
        let mut duration = REQUEST_DURATION.family();
        let mut upstream = UPSTREAM_DURATION.family();
        let mut grpc = GRPC.family();
        let mut missed = MISSED.family();
        let (mut bytes_in, mut bytes_out) = (BYTES_IN.family(), BYTES_OUT.family());
        let mut rate_limited = RATE_LIMITED.family();
        for (Labels { environment, service, variant }, sum) in &self.series {
            let names: [&str; 3] = [environment, service, variant];
            for (class, count) in CLASSES.into_iter().zip(sum.classes) {
                if count > 0 {
                    requests.sample(&[environment, service, variant, class], count as f64);
                }
            }
            duration.histogram(&names, &sum.duration);
            if sum.upstream.count() > 0 {
                upstream.histogram(&names, &sum.upstream);
            }
            for (code, count) in sum.grpc.into_iter().enumerate() {
                if count > 0 {
                    let code = if code > 16 { "unknown".to_owned() } else { code.to_string() };
                    grpc.sample(&[environment, service, variant, &code], count as f64);
                }
            }
            bytes_in.sample(&names, sum.bytes_in as f64);
            bytes_out.sample(&names, sum.bytes_out as f64);
            // Before a variant is chosen: no service has two such series.
            if sum.rate_limited > 0 {
                rate_limited.sample(&[environment, service], sum.rate_limited as f64);
            }
            if sum.missed > 0 {
                missed.sample(&names, sum.missed as f64);
            }
        }
        [requests, duration, upstream, grpc, bytes_in, bytes_out, rate_limited, missed]
            .map(|family| family.finish())
    }

    fn requests(&self) -> [MetricFamily; 7] {
        [
            IN_FLIGHT
                .value(self.open(|counts| counts.started.get(), |counts| counts.completed.get())),
            REQUEST_MEMORY.value(
                self.open(|counts| counts.heads_taken.get(), |counts| counts.heads_released.get()),
            ),
            self.by_label(&REFUSALS, |counts| &counts.refusals),
            self.by_label(&REJECTED, |counts| &counts.rejected),
            self.by_label(&LOGINS, |counts| &counts.logins),
            self.by_label(&FAILURES, |counts| &counts.failures),
            RATE_LIMITS_DISPLACED.value(self.total(|counts| counts.rate_limits_displaced.get())),
        ]
    }

    fn clients(&self) -> [MetricFamily; 7] {
        // Read closed connections first, so that they never exceed the opened ones.
        let closed = self.labeled(|counts| &counts.closed);
        let opened = self.labeled(|counts| &counts.opened);
        let mut connections = CONNECTIONS.family();
        let mut open = CONNECTIONS_OPEN.family();
        for (label, count) in opened {
            let closed =
                closed.iter().find(|(closed, _)| *closed == label).map_or(0, |(_, count)| *count);
            let (listener, protocol) = label;
            connections.sample(&[listener, protocol.as_str()], count as f64);
            open.sample(&[listener, protocol.as_str()], count.saturating_sub(closed) as f64);
        }
        [
            self.by_label(&ACCEPTED, |counts| &counts.accepted),
            self.by_labels(&ACCEPT_ERRORS, |counts| &counts.accept_errors),
            connections.finish(),
            open.finish(),
            self.by_labels(&TURNED_AWAY, |counts| &counts.turned_away),
            self.by_label(&HANDSHAKES, |counts| &counts.handshakes),
            self.by_label(&HANDSHAKE_FAILURES, |counts| &counts.handshake_failures),
        ]
    }

    fn upstreams(&self) -> [MetricFamily; 16] {
        let opened = |counts: &Counts| counts.upstream_opened.get();
        let ejected = |counts: &Counts| counts.upstream_ejections.get();
        let waits = |counts: &Counts| counts.upstream_waits.get();
        [
            UPSTREAM_OPEN.value(self.open(opened, |counts| counts.upstream_closed.get())),
            UPSTREAM_CONNECTIONS.value(self.total(opened)),
            UPSTREAM_REUSED.value(self.total(|counts| counts.upstream_reused.get())),
            UPSTREAM_RETRIES.value(self.total(|counts| counts.upstream_retries.get())),
            UPSTREAM_RETRIES_DENIED
                .value(self.total(|counts| counts.upstream_retries_denied.get())),
            self.by_label(&UPSTREAM_FAILURES, |counts| &counts.upstream_failures),
            UPSTREAM_EJECTIONS.value(self.total(ejected)),
            UPSTREAM_EJECTED.value(self.open(ejected, |counts| counts.upstream_returns.get())),
            self.by_label(&UPSTREAM_PROBES, |counts| &counts.upstream_probes),
            self.by_label(&HEALTH_CHECKS, |counts| &counts.health_checks),
            UPSTREAM_SLOW_STARTS.value(self.total(|counts| counts.upstream_slow_starts.get())),
            UPSTREAM_FAR.value(self.total(|counts| counts.upstream_far.get())),
            UPSTREAM_WAITS.value(self.total(waits)),
            UPSTREAM_WAITING.value(self.open(waits, |counts| counts.upstream_waits_ended.get())),
            UPSTREAM_PANICS.value(self.total(|counts| counts.upstream_panics.get())),
            UPSTREAM_MOVES.value(self.total(|counts| counts.upstream_moves.get())),
        ]
    }

    fn total(&self, number: impl Fn(&Counts) -> u64) -> f64 {
        self.sum(number) as f64
    }

    /// Returns opened minus closed. Reads `closed` first, so that it never exceeds `opened`.
    fn open(&self, opened: impl Fn(&Counts) -> u64, closed: impl Fn(&Counts) -> u64) -> f64 {
        let closed = self.sum(closed);
        self.sum(opened).saturating_sub(closed) as f64
    }

    fn sum(&self, number: impl Fn(&Counts) -> u64) -> u64 {
        self.counts.iter().map(|counts| number(counts)).sum()
    }

    fn labeled<L: Copy + Ord>(
        &self,
        counter: impl Fn(&Counts) -> &LabeledCounter<L>,
    ) -> Vec<(L, u64)> {
        let mut sums = Vec::new();
        for counts in &self.counts {
            counter(counts).add_to(&mut sums);
        }
        sums
    }

    fn by_label(
        &self,
        metric: &'static Metric,
        counter: impl Fn(&Counts) -> &LabeledCounter<&'static str>,
    ) -> MetricFamily {
        metric.values(self.labeled(counter))
    }

    fn by_labels(
        &self,
        metric: &'static Metric,
        counter: impl Fn(&Counts) -> &LabeledCounter<(&'static str, &'static str)>,
    ) -> MetricFamily {
        let mut family = metric.family();
        for ((first, second), count) in self.labeled(counter) {
            family.sample(&[first, second], count as f64);
        }
        family.finish()
    }
}
