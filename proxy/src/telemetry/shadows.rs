//! The metrics of shadows: copies of requests, compared with the originals. They count nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::counter::{Counter, Distribution, Histogram};
use super::metric::{descriptions, metrics};
use super::series::MAX_SERIES;
use super::workers::Workers;

metrics! {
    ANSWERED: Counter "portcullis_shadow_requests_total" ["environment", "service", "variant", "code", "original"] "Copies of requests sent to a shadow, by class of its response and of the original response: `1xx` to `5xx`, `grpc_error` for a grpc-status other than 0, `failed` without a complete response.";
    DURATION: Histogram "portcullis_shadow_duration_seconds" ["environment", "service", "variant", "response"] "Time from sending a copy to receiving the head of the response, for the `shadow` and for the `original`, in seconds. Only requests that both responded to count.";
    DROPPED: Counter "portcullis_shadow_dropped_total" ["environment", "service", "variant", "reason"] "Requests that were to be copied to a shadow and were not, by reason.";
    IN_FLIGHT: Gauge "portcullis_shadow_requests_in_flight" [] "Copies of requests currently in progress.";
    MEMORY: Gauge "portcullis_shadow_memory_bytes" [] "Memory held by copies of requests, in bytes.";
}

/// The time without copies after which a shadow makes room for others.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The label value of all shadows beyond [`MAX_SERIES`].
const OTHER: &str = "other";
/// The number of [classes](AnswerClass).
const CLASSES: usize = 7;

/// The labels of a shadow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShadowLabels {
    pub(crate) environment: Arc<str>,
    /// The service whose requests are copied.
    pub(crate) service: Arc<str>,
    /// The Service that gets the copies.
    pub(crate) variant: Arc<str>,
}

/// How a request was responded to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ShadowAnswer {
    pub(crate) class: AnswerClass,
    /// When the head of the response arrived.
    pub(crate) head_at: Option<Instant>,
}

/// The class of a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum AnswerClass {
    /// A class of status codes, from 1 to 5.
    Status(u8),
    /// A gRPC call that failed.
    GrpcError,
    /// There is no complete response.
    #[default]
    Failed,
}

/// The counters of a worker's shadows.
#[derive(Debug, Default)]
pub(crate) struct ShadowCounts {
    /// Only scrapes contend for its lock.
    series: Mutex<HashMap<ShadowLabels, Series>>,
    started: Counter,
    ended: Counter,
    taken: Counter,
    released: Counter,
}

/// The counters of one shadow.
#[derive(Debug)]
struct Series {
    /// By class of the shadow's response, then of the original one.
    answers: [[u64; CLASSES]; CLASSES],
    shadow: Histogram,
    original: Histogram,
    dropped: Vec<(&'static str, u64)>,
    last_used: Instant,
}

/// The counters of one shadow, summed over all workers.
#[derive(Default)]
struct Sum {
    answers: [[u64; CLASSES]; CLASSES],
    shadow: Distribution,
    original: Distribution,
    dropped: Vec<(&'static str, u64)>,
}

/// Collects the counters of all workers.
pub(super) struct ShadowCollector {
    descriptions: Vec<Desc>,
    workers: Arc<Workers>,
}

// === impl AnswerClass ===

impl AnswerClass {
    /// The class of a complete response.
    pub(crate) fn of(status: http::StatusCode, grpc_status: Option<u16>) -> Self {
        match grpc_status {
            Some(code) if code != 0 => Self::GrpcError,
            _ => Self::Status(u8::try_from(status.as_u16() / 100).unwrap_or_default()),
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Status(class @ 1..=5) => usize::from(class) - 1,
            Self::GrpcError => 5,
            Self::Status(_) | Self::Failed => 6,
        }
    }

    fn label(index: usize) -> &'static str {
        const LABELS: [&str; CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx", "grpc_error", "failed"];
        LABELS.get(index).copied().unwrap_or("failed")
    }
}

// === impl ShadowLabels ===

impl ShadowLabels {
    fn other() -> Self {
        Self { environment: OTHER.into(), service: OTHER.into(), variant: OTHER.into() }
    }
}

// === impl ShadowCounts ===

impl ShadowCounts {
    /// Counts a copy that was sent at `sent`, and how both requests were responded to.
    pub(crate) fn compared(
        &self,
        labels: &ShadowLabels,
        sent: Instant,
        shadow: ShadowAnswer,
        original: ShadowAnswer,
    ) {
        self.update(labels, |series| {
            let row = series.answers.get_mut(shadow.class.index());
            if let Some(count) = row.and_then(|row| row.get_mut(original.class.index())) {
                *count += 1;
            }
            if let (Some(of_shadow), Some(of_original)) = (shadow.head_at, original.head_at) {
                series.shadow.observe(of_shadow.saturating_duration_since(sent));
                series.original.observe(of_original.saturating_duration_since(sent));
            }
        });
    }

    /// Counts a request that was to be copied, and was not; `reason` is in snake case.
    pub(crate) fn dropped(&self, labels: &ShadowLabels, reason: &'static str) {
        self.update(labels, |series| add(&mut series.dropped, reason, 1));
    }

    /// Counts a copy in flight.
    pub(crate) fn started(&self) {
        self.started.add(1);
    }

    /// Counts a copy that is not in flight any more.
    pub(crate) fn ended(&self) {
        self.ended.add(1);
    }

    /// Counts memory that copies occupy, in octets.
    pub(crate) fn taken(&self, octets: usize) {
        self.taken.add(octets as u64);
    }

    /// Counts memory that copies release, in octets.
    pub(crate) fn released(&self, octets: usize) {
        self.released.add(octets as u64);
    }

    fn update(&self, labels: &ShadowLabels, update: impl FnOnce(&mut Series)) {
        let now = Instant::now();
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = all.get_mut(labels) {
            series.last_used = now;
            return update(series);
        }
        if all.len() >= MAX_SERIES {
            all.retain(|_, series| now.duration_since(series.last_used) < IDLE_TIMEOUT);
        }
        let labels = if all.len() >= MAX_SERIES { ShadowLabels::other() } else { labels.clone() };
        update(all.entry(labels).or_insert_with(|| Series::new(now)));
    }

    fn add_to(&self, sums: &mut HashMap<ShadowLabels, Sum>) {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, series) in all.iter() {
            sums.entry(labels.clone()).or_default().add(series);
        }
    }
}

// === impl Series ===

impl Series {
    fn new(now: Instant) -> Self {
        Self {
            answers: Default::default(),
            shadow: Histogram::default(),
            original: Histogram::default(),
            dropped: Vec::new(),
            last_used: now,
        }
    }
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, series: &Series) {
        let counts = self.answers.iter_mut().flatten().zip(series.answers.iter().flatten());
        counts.for_each(|(sum, count)| *sum += count);
        self.shadow.add(&series.shadow);
        self.original.add(&series.original);
        for (reason, count) in &series.dropped {
            add(&mut self.dropped, reason, *count);
        }
    }

    /// The labels of both classes, and how often they occurred together.
    fn answers(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let rows = self.answers.iter().enumerate();
        rows.flat_map(|(shadow, row)| {
            let counts = row.iter().enumerate().filter(|(_, count)| **count > 0);
            let label = AnswerClass::label;
            counts.map(move |(original, count)| (label(shadow), label(original), *count))
        })
    }
}

/// Adds a number to the count of a label.
fn add(counts: &mut Vec<(&'static str, u64)>, label: &'static str, number: u64) {
    match counts.iter_mut().find(|(other, _)| *other == label) {
        Some((_, count)) => *count += number,
        None => counts.push((label, number)),
    }
}

// === impl ShadowCollector ===

impl ShadowCollector {
    pub(super) fn new(workers: Arc<Workers>) -> prometheus::Result<Self> {
        Ok(Self { descriptions: descriptions(METRICS)?, workers })
    }
}

impl Collector for ShadowCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut answered, mut duration) = (ANSWERED.family(), DURATION.family());
        let mut dropped = DROPPED.family();
        let mut sums = HashMap::new();
        let (mut in_flight, mut memory) = (0, 0);
        for counts in self.workers.counts() {
            let shadows = &counts.shadows;
            shadows.add_to(&mut sums);
            // Read what ended first, so that it never exceeds what began.
            let (ended, released) = (shadows.ended.get(), shadows.released.get());
            in_flight += shadows.started.get().saturating_sub(ended);
            memory += shadows.taken.get().saturating_sub(released);
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (ShadowLabels { environment, service, variant }, sum) in &sums {
            let names: [&str; 3] = [environment, service, variant];
            for (shadow, original, count) in sum.answers() {
                answered.sample(&[names.as_slice(), &[shadow, original]].concat(), count as f64);
            }
            let with = |label: &'static str| [names.as_slice(), &[label]].concat();
            if sum.shadow.count() > 0 {
                duration.histogram(&with("original"), &sum.original);
                duration.histogram(&with("shadow"), &sum.shadow);
            }
            for (reason, count) in &sum.dropped {
                dropped.sample(&with(reason), *count as f64);
            }
        }
        let [in_flight, memory] = [(&IN_FLIGHT, in_flight), (&MEMORY, memory)]
            .map(|(metric, value)| metric.value(value as f64));
        vec![answered.finish(), duration.finish(), dropped.finish(), in_flight, memory]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(number: usize) -> ShadowLabels {
        let variant = format!("shadow-{number}");
        ShadowLabels {
            environment: "staging".into(),
            service: "web".into(),
            variant: variant.into(),
        }
    }

    #[test]
    fn shadows_beyond_the_limit_are_counted_together() {
        let counts = ShadowCounts::default();
        for number in 0..MAX_SERIES + 5 {
            counts.dropped(&labels(number), "memory");
        }
        let mut sums = HashMap::new();
        counts.add_to(&mut sums);
        assert_eq!(sums.len(), MAX_SERIES + 1);
        assert_eq!(sums[&ShadowLabels::other()].dropped, [("memory", 5)]);
    }

    #[test]
    fn only_requests_that_both_responded_to_are_timed() {
        let counts = ShadowCounts::default();
        let sent = Instant::now();
        let answer = |class, milliseconds| ShadowAnswer {
            class,
            head_at: Some(sent + Duration::from_millis(milliseconds)),
        };
        let (good, bad) = (AnswerClass::Status(2), AnswerClass::Status(5));
        counts.compared(&labels(1), sent, answer(bad, 7), answer(good, 3));
        counts.compared(&labels(1), sent, ShadowAnswer::default(), answer(good, 900));
        let mut sums = HashMap::new();
        counts.add_to(&mut sums);
        let sum = &sums[&labels(1)];
        assert_eq!((sum.shadow.microseconds, sum.original.microseconds), (7_000, 3_000));
        assert_eq!((sum.answers[4][1], sum.answers[6][1]), (1, 1));
    }
}
