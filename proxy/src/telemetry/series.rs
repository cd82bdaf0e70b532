//! The metrics of services, for a limited number of services.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

use super::counter::{Counter, Distribution, Histogram};
use super::record::{RATE_LIMITED, Record};

/// The maximum number of services (environment, service and variant) with their own metrics;
/// further ones count as [`OTHER`].
pub(super) const MAX_SERIES: usize = 2_000;

/// Time without requests after which a service's series may be evicted, in seconds.
const IDLE_TIMEOUT: u64 = 3600;

/// The minimum interval between evictions, in seconds.
const SWEEP_INTERVAL: u64 = 60;

/// The label value of all services beyond the limit.
const OTHER: &str = "other";

/// The gRPC status codes 0 to 16, and one for invalid codes.
pub(super) const GRPC_CODES: usize = 18;

/// The labels of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Labels {
    pub(super) environment: Box<str>,
    pub(super) service: Box<str>,
    pub(super) variant: Box<str>,
}

/// The counters of one service in one worker.
#[derive(Debug, Default)]
pub(super) struct Series {
    classes: [Counter; 5],
    grpc: [Counter; GRPC_CODES],
    bytes_in: Counter,
    bytes_out: Counter,
    rate_limited: Counter,
    duration: Histogram,
    upstream: Histogram,
    missed: Counter,
    last_used: AtomicU64,
}

/// The counters of one service, summed over all workers.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) classes: [u64; 5],
    pub(super) grpc: [u64; GRPC_CODES],
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) rate_limited: u64,
    pub(super) duration: Distribution,
    pub(super) upstream: Distribution,
    pub(super) missed: u64,
}

/// The series of all services.
#[derive(Debug)]
pub(super) struct SeriesRegistry {
    limit: usize,
    services: Mutex<Services>,
    /// Changes with each eviction: then workers clear their caches.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Services {
    series: HashMap<Labels, Vec<(usize, Arc<Series>)>>,
    last_sweep: u64,
}

/// A worker's cache of its series, which avoids the registry's lock.
#[derive(Debug)]
pub(super) struct WorkerSeries {
    worker: usize,
    hasher: RandomState,
    series: HashMap<u64, (Labels, Arc<Series>), RandomState>,
    generation: u64,
}

// === impl Labels ===

impl Labels {
    fn of(record: &Record<'_>) -> Self {
        Self {
            environment: record.environment.into(),
            service: record.service.into(),
            variant: record.variant.into(),
        }
    }

    fn other() -> Self {
        Self { environment: OTHER.into(), service: OTHER.into(), variant: OTHER.into() }
    }

    fn match_record(&self, record: &Record<'_>) -> bool {
        *self.environment == *record.environment
            && *self.service == *record.service
            && *self.variant == *record.variant
    }
}

// === impl Series ===

impl Series {
    fn count(&self, record: &Record<'_>, now: u64) {
        if let Some(class) = usize::from(record.status / 100)
            .checked_sub(1)
            .and_then(|class| self.classes.get(class))
        {
            class.add(1);
        }
        if let Some(code) = record.grpc_status {
            let code = usize::from(code).min(GRPC_CODES - 1);
            if let Some(counter) = self.grpc.get(code) {
                counter.add(1);
            }
        }
        self.bytes_in.add(record.bytes_in);
        self.bytes_out.add(record.bytes_out);
        if record.failure == Some(RATE_LIMITED) {
            self.rate_limited.add(1);
        }
        self.duration.observe(record.duration);
        if let Some(duration) = record.upstream_duration {
            self.upstream.observe(duration);
        }
        self.last_used.store(now, Ordering::Relaxed);
    }

    fn miss(&self, now: u64) {
        self.missed.add(1);
        self.last_used.store(now, Ordering::Relaxed);
    }
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, series: &Series) {
        for (sum, counter) in self.classes.iter_mut().zip(&series.classes) {
            *sum += counter.get();
        }
        for (sum, counter) in self.grpc.iter_mut().zip(&series.grpc) {
            *sum += counter.get();
        }
        self.bytes_in += series.bytes_in.get();
        self.bytes_out += series.bytes_out.get();
        self.rate_limited += series.rate_limited.get();
        self.duration.add(&series.duration);
        self.upstream.add(&series.upstream);
        self.missed += series.missed.get();
    }
}

// === impl SeriesRegistry ===

impl SeriesRegistry {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, services: Mutex::default(), generation: AtomicU64::new(0) }
    }

    /// Returns the series of a service in `worker`; beyond the limit, that of [`OTHER`].
    fn series(&self, worker: usize, labels: Labels, now: u64) -> Arc<Series> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if services.is_full_for(&labels, self.limit)
            && now.saturating_sub(services.last_sweep) >= SWEEP_INTERVAL
        {
            services.last_sweep = now;
            if services.sweep(now) {
                self.generation.fetch_add(1, Ordering::Relaxed);
            }
        }
        let labels =
            if services.is_full_for(&labels, self.limit) { Labels::other() } else { labels };
        let workers = services.series.entry(labels).or_default();
        if let Some((_, series)) = workers.iter().find(|(index, _)| *index == worker) {
            return Arc::clone(series);
        }
        let series = Arc::new(Series { last_used: AtomicU64::new(now), ..Series::default() });
        workers.push((worker, Arc::clone(&series)));
        series
    }

    /// Returns the sum over all workers for each service, ordered by labels.
    pub(super) fn all(&self) -> Vec<(Labels, Sum)> {
        // Copy first, so that workers do not wait for the sums.
        let copies: Vec<_> = {
            let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
            services
                .series
                .iter()
                .map(|(labels, workers)| (labels.clone(), workers.clone()))
                .collect()
        };
        let mut sums: Vec<(Labels, Sum)> = copies
            .into_iter()
            .map(|(labels, workers)| {
                let mut sum = Sum::default();
                workers.iter().for_each(|(_, series)| sum.add(series));
                (labels, sum)
            })
            .collect();
        sums.sort_by(|(left, _), (right, _)| left.cmp(right));
        sums
    }
}

// === impl Services ===

impl Services {
    /// Returns whether the limit is reached and `labels` have no series. [`OTHER`] does not count.
    fn is_full_for(&self, labels: &Labels, limit: usize) -> bool {
        let other = usize::from(self.series.contains_key(&Labels::other()));
        self.series.len() - other >= limit && !self.series.contains_key(labels)
    }

    /// Evicts the series of idle services, and returns whether there were any.
    fn sweep(&mut self, now: u64) -> bool {
        let before = self.series.len();
        let other = Labels::other();
        self.series.retain(|labels, workers| {
            let last_used = workers
                .iter()
                .map(|(_, series)| series.last_used.load(Ordering::Relaxed))
                .max()
                .unwrap_or_default();
            *labels == other || now.saturating_sub(last_used) < IDLE_TIMEOUT
        });
        self.series.len() < before
    }
}

// === impl WorkerSeries ===

impl WorkerSeries {
    pub(super) fn new(worker: usize) -> Self {
        Self { worker, hasher: RandomState::default(), series: HashMap::default(), generation: 0 }
    }

    /// Counts a request; `now` is in seconds since 1970. One that its variant missed counts there,
    /// too.
    pub(super) fn count(&mut self, registry: &SeriesRegistry, record: &Record<'_>, now: u64) {
        self.update(registry, record, now, |series| series.count(record, now));
        if !record.missed_variant.is_empty() {
            let missed = Record { variant: record.missed_variant, ..record.clone() };
            self.update(registry, &missed, now, |series| series.miss(now));
        }
    }

    /// Updates the series of a record's service and variant.
    fn update(
        &mut self,
        registry: &SeriesRegistry,
        record: &Record<'_>,
        now: u64,
        update: impl FnOnce(&Series),
    ) {
        let generation = registry.generation.load(Ordering::Relaxed);
        // Clear the cache after evictions, and when it contains many deleted services.
        if self.generation != generation || self.series.len() > registry.limit.saturating_mul(2) {
            self.series.clear();
            self.generation = generation;
        }
        let hash = self.hasher.hash_one((record.environment, record.service, record.variant));
        if let Some((labels, series)) = self.series.get(&hash)
            && labels.match_record(record)
        {
            return update(series);
        }
        let series = registry.series(self.worker, Labels::of(record), now);
        update(&series);
        self.series.insert(hash, (Labels::of(record), series));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::record;

    fn counted(registry: &SeriesRegistry) -> Vec<(String, u64)> {
        registry
            .all()
            .into_iter()
            .map(|(labels, sum)| (labels.service.into_string(), sum.classes.iter().sum()))
            .collect()
    }

    fn count(worker: &mut WorkerSeries, registry: &SeriesRegistry, service: &str, now: u64) {
        worker.count(registry, &Record { service, ..record() }, now);
    }

    #[test]
    fn services_beyond_the_limit_are_counted_together() {
        let registry = SeriesRegistry::new(2);
        let (mut first, mut second) = (WorkerSeries::new(1), WorkerSeries::new(2));
        for service in ["a", "b", "c", "d", "a"] {
            count(&mut first, &registry, service, 0);
            count(&mut second, &registry, service, 0);
        }
        let mut counts = counted(&registry);
        counts.sort();
        assert_eq!(counts, [("a".to_owned(), 4), ("b".to_owned(), 2), ("other".to_owned(), 4)]);
    }

    #[test]
    fn a_missed_request_counts_for_the_variant_that_it_was_chosen_for() {
        let registry = SeriesRegistry::new(9);
        let record = Record { missed_variant: "canary", ..record() };
        WorkerSeries::new(1).count(&registry, &record, 0);
        let counts: Vec<_> = registry
            .all()
            .into_iter()
            .map(|(labels, sum)| (labels.variant, sum.classes.iter().sum::<u64>(), sum.missed))
            .collect();
        assert_eq!(counts, [("canary".into(), 0, 1), ("stable".into(), 1, 0)]);
    }

    #[test]
    fn idle_services_are_evicted_for_new_ones() {
        let registry = SeriesRegistry::new(2);
        let mut worker = WorkerSeries::new(1);
        count(&mut worker, &registry, "gone", 0);
        count(&mut worker, &registry, "busy", 0);
        count(&mut worker, &registry, "late", 100);
        count(&mut worker, &registry, "busy", IDLE_TIMEOUT);
        count(&mut worker, &registry, "new", IDLE_TIMEOUT + 1);
        count(&mut worker, &registry, "new", IDLE_TIMEOUT + 1);
        let names: Vec<_> = counted(&registry).into_iter().map(|(name, _)| name).collect();
        assert!(
            names.contains(&"new".to_owned())
                && names.contains(&"busy".to_owned())
                && !names.contains(&"gone".to_owned()),
            "{names:?}"
        );
    }
}
