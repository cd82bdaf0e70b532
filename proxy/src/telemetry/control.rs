//! The metrics of the control plane: configuration, certificates, and what replicas exchange.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use portcullis_config::live::Live;
use portcullis_config::problem::Severity;
use portcullis_config::snapshot::Snapshot;
use portcullis_identity::fair_queue::Counts as QueueCounts;
use portcullis_identity::session::Counts as RevocationCounts;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::metric::{descriptions, metrics};
use super::traffic;

metrics! {
    REVOCATIONS: Counter "portcullis_session_revocations_total" ["outcome"] "Session revocations published to other replicas (`told`), and failed attempts to publish them (`failed`).";
    REVOCATIONS_PENDING: Gauge "portcullis_session_revocations_pending" [] "Session revocations that are not yet published to other replicas.";
    QUEUE_WAITING: Gauge "portcullis_queue_waiting" ["queue"] "Requests waiting in a queue for the control plane: `portal`, or `introspection:` and the name of an issuer.";
    QUEUE_REJECTED: Counter "portcullis_queue_rejected_total" ["queue"] "Requests rejected because a queue was full, or displaced by those of other clients.";
    RATE_LIMIT_MEMORY: Gauge "portcullis_rate_limit_memory_bytes" [] "Memory held to count the clients of rate limits, in bytes.";
    CONFIGURATION_AGE: Gauge "portcullis_configuration_age_seconds" [] "Time since the last contact with the source of resources, in seconds.";
    CONFIGURATION_SYNCED: Gauge "portcullis_configuration_synced" [] "Whether every kind of resource has been read completely: 1 or 0.";
    REPLICAS: Gauge "portcullis_replicas" [] "Ready replicas of this gateway, as the EndpointSlices of its Service have them; 0 if they are not known.";
    SNAPSHOTS: Counter "portcullis_snapshots_total" [] "Snapshots of the routing table published.";
    HOSTS: Gauge "portcullis_hosts" ["listener"] "Hostnames and wildcards in the routing table.";
    ENDPOINTS_REJECTED: Gauge "portcullis_endpoints_rejected" [] "Addresses in EndpointSlices of exposed Services that get no requests because they are forbidden or not verified.";
    SPLITS: Gauge "portcullis_split_info" ["environment", "namespace", "service", "generation"] "Constant 1 for each service with variants, labeled by the generation of the split that is applied.";
    PROBLEMS: Gauge "portcullis_problems" ["severity", "reason"] "Current problems with resources, by severity and reason.";
    CERTIFICATE: Gauge "portcullis_certificate_not_after_seconds" ["certificate"] "Time at which a served certificate expires, in seconds since the Unix epoch.";
    CERTIFICATE_PROBLEMS: Gauge "portcullis_certificate_problems" [] "Certificates that are unusable, expire soon, or could not be ordered.";
}

/// The current state of the certificates.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct CertificateStatus {
    /// The certificates in use.
    pub(crate) served: Vec<ServedCertificate>,
    /// The number of problems with certificates.
    pub(crate) problems: usize,
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServedCertificate {
    /// Where it is stored.
    pub(crate) origin: String,
    /// Its expiry (`notAfter`), in seconds since 1970.
    pub(crate) not_after: u64,
}

/// The queues of requests for the control plane.
#[derive(Debug, Default)]
pub(super) struct Queues(Mutex<Vec<Arc<QueueCounts>>>);

/// Collects the state of the control plane.
pub(super) struct ControlCollector<F> {
    descriptions: Vec<Desc>,
    live: Arc<Live>,
    certificates: F,
    revocations: Arc<RevocationCounts>,
    queues: Arc<Queues>,
    rate_limit_memory: Arc<AtomicU64>,
}

// === impl Queues ===

impl Queues {
    pub(super) fn add(&self, queue: &Arc<QueueCounts>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(queue));
    }

    fn all(&self) -> Vec<Arc<QueueCounts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl ControlCollector ===

impl<F> ControlCollector<F>
where
    F: Fn() -> CertificateStatus + Send + Sync,
{
    /// Creates a collector that reads `live` and calls `certificates` for each scrape.
    pub(super) fn new(
        live: Arc<Live>,
        certificates: F,
        revocations: Arc<RevocationCounts>,
        queues: Arc<Queues>,
        rate_limit_memory: Arc<AtomicU64>,
    ) -> prometheus::Result<Self> {
        Ok(Self {
            descriptions: descriptions(METRICS)?,
            live,
            certificates,
            revocations,
            queues,
            rate_limit_memory,
        })
    }

    fn configuration(&self) -> [MetricFamily; 8] {
        let mut age = CONFIGURATION_AGE.family();
        if let Some(since) = self.live.age(SystemTime::now()) {
            age.sample(&[], since.as_secs() as f64);
        }
        let snapshot = self.live.snapshot.load();
        let hosts = snapshot.listeners.iter().map(|one| (&*one.name, one.hosts.len() as u64));
        let mut counts = BTreeMap::new();
        for problem in self.live.problems.load().iter() {
            *counts.entry((severity(problem.severity), problem.reason)).or_insert(0_u64) += 1;
        }
        let mut problems = PROBLEMS.family();
        for ((severity, reason), count) in counts {
            problems.sample(&[severity, reason], count as f64);
        }
        [
            age.finish(),
            CONFIGURATION_SYNCED.value(f64::from(u8::from(self.live.is_synced()))),
            REPLICAS.value(self.live.replicas().map_or(0.0, |count| count.get().into())),
            SNAPSHOTS.value(self.live.publications() as f64),
            HOSTS.values(hosts),
            ENDPOINTS_REJECTED.value(rejected_endpoints(&snapshot) as f64),
            splits(&snapshot),
            problems.finish(),
        ]
    }

    fn certificates(&self) -> [MetricFamily; 2] {
        let status = (self.certificates)();
        let served = status.served.iter().map(|one| (&*one.origin, one.not_after));
        [CERTIFICATE.values(served), CERTIFICATE_PROBLEMS.value(status.problems as f64)]
    }

    fn revocations(&self) -> [MetricFamily; 2] {
        let outcomes =
            [("told", self.revocations.published()), ("failed", self.revocations.failed())];
        [REVOCATIONS.values(outcomes), REVOCATIONS_PENDING.value(self.revocations.pending() as f64)]
    }

    fn queues(&self) -> [MetricFamily; 2] {
        let queues = self.queues.all();
        let all = |value: fn(&QueueCounts) -> u64| {
            queues.iter().map(move |queue| (queue.name(), value(queue)))
        };
        [
            QUEUE_WAITING.values(all(QueueCounts::waiting)),
            QUEUE_REJECTED.values(all(QueueCounts::rejected)),
        ]
    }
}

impl<F> Collector for ControlCollector<F>
where
    F: Fn() -> CertificateStatus + Send + Sync,
{
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::from(self.configuration());
        families.extend(self.certificates());
        families.extend(self.revocations());
        families.extend(self.queues());
        let memory = self.rate_limit_memory.load(Ordering::Relaxed);
        families.push(RATE_LIMIT_MEMORY.value(memory as f64));
        families
    }
}

/// The sum over all Service ports: each is counted once, though several hosts share it.
fn rejected_endpoints(snapshot: &Snapshot) -> usize {
    let backends = snapshot.backends();
    let rejected = backends.map(|backend| (backend.endpoints.id(), &backend.endpoints));
    let rejected = rejected.map(|(id, endpoints)| (id, endpoints.load().rejected));
    let each: BTreeMap<u64, usize> = rejected.filter(|(_, rejected)| *rejected > 0).collect();
    each.values().sum()
}

/// The splits that are applied.
fn splits(snapshot: &Snapshot) -> MetricFamily {
    let mut family = SPLITS.family();
    for (service, split) in traffic::splits(snapshot) {
        let generation = split.generation().to_string();
        let labels = [&*service.environment, &service.namespace, &service.name, &generation];
        family.sample(&labels, 1.0);
    }
    family.finish()
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}
