//! The metrics of one service, and how many services have their own.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

use super::counter::{Counter, Distribution, Histogram};
use super::record::Record;

/// Services (environment, service and variant) that have metrics of their own; those beyond count
/// as [`OTHER`].
pub(super) const MAX_SERIES: usize = 2_000;

/// How long a service keeps its place without a request once there is no place left, in seconds.
const IDLE: u64 = 3600;

/// How often places are looked for, in seconds.
const SWEEP: u64 = 60;

/// The labels of all services that found no place.
const OTHER: &str = "other";

/// Codes of gRPC, 0 to 16, and one for all that is no code.
pub(super) const GRPC_CODES: usize = 18;

/// What tells services apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Labels {
    pub(super) environment: Box<str>,
    pub(super) service: Box<str>,
    pub(super) variant: Box<str>,
}

/// The counts of one service by one worker.
#[derive(Debug, Default)]
pub(super) struct Series {
    classes: [Counter; 5],
    grpc: [Counter; GRPC_CODES],
    bytes_in: Counter,
    bytes_out: Counter,
    duration: Histogram,
    upstream: Histogram,
    used: AtomicU64,
}

/// The counts of one service by all workers.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) classes: [u64; 5],
    pub(super) grpc: [u64; GRPC_CODES],
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration: Distribution,
    pub(super) upstream: Distribution,
}

/// All services that have metrics of their own.
#[derive(Debug)]
pub(super) struct Directory {
    limit: usize,
    places: Mutex<Places>,
    /// Changes when places were taken away: then every worker asks for its places again.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Places {
    series: HashMap<Labels, Vec<(usize, Arc<Series>)>>,
    swept: u64,
}

/// A worker's way to its series, without the directory's lock.
#[derive(Debug)]
pub(super) struct Shelf {
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

    fn are(&self, record: &Record<'_>) -> bool {
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
        self.duration.observe(record.duration);
        if let Some(duration) = record.upstream_duration {
            self.upstream.observe(duration);
        }
        self.used.store(now, Ordering::Relaxed);
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
        self.duration.add(&series.duration);
        self.upstream.add(&series.upstream);
    }
}

// === impl Directory ===

impl Directory {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, places: Mutex::default(), generation: AtomicU64::new(0) }
    }

    /// The series of `worker` for a request, in the place of its service or, where there is none
    /// left, of all others.
    fn admit(&self, worker: usize, labels: Labels, now: u64) -> Arc<Series> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.has_none_for(&labels, self.limit) && now.saturating_sub(places.swept) >= SWEEP {
            places.swept = now;
            if places.sweep(now) {
                self.generation.fetch_add(1, Ordering::Relaxed);
            }
        }
        let labels =
            if places.has_none_for(&labels, self.limit) { Labels::other() } else { labels };
        let workers = places.series.entry(labels).or_default();
        if let Some((_, series)) = workers.iter().find(|(index, _)| *index == worker) {
            return Arc::clone(series);
        }
        let series = Arc::new(Series { used: AtomicU64::new(now), ..Series::default() });
        workers.push((worker, Arc::clone(&series)));
        series
    }

    /// The sum over all workers for each service, in the order of their labels.
    pub(super) fn all(&self) -> Vec<(Labels, Sum)> {
        // Copied first: a worker that meets a new service must not wait for the sums.
        let places: Vec<_> = {
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places
                .series
                .iter()
                .map(|(labels, workers)| (labels.clone(), workers.clone()))
                .collect()
        };
        let mut sums: Vec<(Labels, Sum)> = places
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

// === impl Places ===

impl Places {
    /// Whether all places are taken, and none by `labels`. That of all others is one more.
    fn has_none_for(&self, labels: &Labels, limit: usize) -> bool {
        let others = usize::from(self.series.contains_key(&Labels::other()));
        self.series.len() - others >= limit && !self.series.contains_key(labels)
    }

    /// Takes away the places of services that have had no request for long, and says whether there
    /// were any.
    fn sweep(&mut self, now: u64) -> bool {
        let before = self.series.len();
        let other = Labels::other();
        self.series.retain(|labels, workers| {
            let used = workers
                .iter()
                .map(|(_, series)| series.used.load(Ordering::Relaxed))
                .max()
                .unwrap_or_default();
            *labels == other || now.saturating_sub(used) < IDLE
        });
        self.series.len() < before
    }
}

// === impl Shelf ===

impl Shelf {
    pub(super) fn new(worker: usize) -> Self {
        Self { worker, hasher: RandomState::default(), series: HashMap::default(), generation: 0 }
    }

    /// Counts a request that ended at `now`, in seconds since 1970.
    pub(super) fn count(&mut self, directory: &Directory, record: &Record<'_>, now: u64) {
        let generation = directory.generation.load(Ordering::Relaxed);
        // Environments come and go; what is held of those that went is forgotten with the rest.
        if self.generation != generation || self.series.len() > directory.limit.saturating_mul(2) {
            self.series.clear();
            self.generation = generation;
        }
        let hash = self.hasher.hash_one((record.environment, record.service, record.variant));
        if let Some((labels, series)) = self.series.get(&hash)
            && labels.are(record)
        {
            return series.count(record, now);
        }
        let series = directory.admit(self.worker, Labels::of(record), now);
        series.count(record, now);
        self.series.insert(hash, (Labels::of(record), series));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::record;

    fn counted(directory: &Directory) -> Vec<(String, u64)> {
        directory
            .all()
            .into_iter()
            .map(|(labels, sum)| (labels.service.into_string(), sum.classes.iter().sum()))
            .collect()
    }

    fn count(shelf: &mut Shelf, directory: &Directory, service: &str, now: u64) {
        shelf.count(directory, &Record { service, ..record() }, now);
    }

    #[test]
    fn services_beyond_the_limit_are_counted_together() {
        let directory = Directory::new(2);
        let (mut first, mut second) = (Shelf::new(1), Shelf::new(2));
        for service in ["a", "b", "c", "d", "a"] {
            count(&mut first, &directory, service, 0);
            count(&mut second, &directory, service, 0);
        }
        let mut counts = counted(&directory);
        counts.sort();
        assert_eq!(counts, [("a".to_owned(), 4), ("b".to_owned(), 2), ("other".to_owned(), 4)]);
    }

    #[test]
    fn a_service_that_is_gone_makes_room_for_another() {
        let directory = Directory::new(2);
        let mut shelf = Shelf::new(1);
        count(&mut shelf, &directory, "gone", 0);
        count(&mut shelf, &directory, "busy", 0);
        count(&mut shelf, &directory, "late", 100);
        count(&mut shelf, &directory, "busy", IDLE);
        count(&mut shelf, &directory, "new", IDLE + 1);
        count(&mut shelf, &directory, "new", IDLE + 1);
        let names: Vec<_> = counted(&directory).into_iter().map(|(name, _)| name).collect();
        assert!(
            names.contains(&"new".to_owned())
                && names.contains(&"busy".to_owned())
                && !names.contains(&"gone".to_owned()),
            "{names:?}"
        );
    }
}
