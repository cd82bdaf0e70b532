//! What one worker has counted of a running split, by generation and time.

use std::collections::VecDeque;
use std::sync::Arc;

use portcullis_config::snapshot::rule::Rule;
use portcullis_config::snapshot::split::{BUCKETS, Bucket, Split, VariantIndex};

use super::bucket_map::BucketMap;
use super::evidence::Evidence;
use super::feed;
use super::latency::{SparseHistogram, Step};
use crate::choose::{Assignment, Reason};

/// The length of a window, in seconds.
pub(super) const LENGTH: u64 = 10;
/// The number of windows that are kept.
const MAX_WINDOWS: usize = 30;
/// The memory from which on the oldest windows are dropped before a new one begins, in octets.
pub(super) const MAX_OCTETS: usize = 192 * 1024;

/// The last windows of a split.
#[derive(Debug, Default, Clone)]
pub(super) struct Windows {
    /// By time.
    windows: VecDeque<Window>,
    /// Windows that were dropped early, and requests that were too late for theirs.
    dropped: u64,
    /// Whether another split has its place.
    is_evicted: bool,
}

/// What ended in one window, of the requests that one version of the split has assigned.
#[derive(Debug, Clone)]
struct Window {
    /// Its start, in lengths of a window since 1970.
    number: u64,
    split: Arc<Split>,
    /// A bucket is that of one variant, so that all share one map.
    seen: BucketMap,
    erred: BucketMap,
    /// Those that waited for longer than the threshold.
    slow: BucketMap,
    variants: Vec<WindowVariant>,
}

#[derive(Debug, Clone)]
struct WindowVariant {
    name: Arc<str>,
    sticky: Tally,
    dealt: Tally,
}

#[derive(Debug, Default, Clone)]
struct Tally {
    requests: u64,
    errors: u64,
    latency: SparseHistogram,
    clients_left: SparseHistogram,
}

/// Whether windows are counted: some variant has a part of the requests, and not all.
pub(super) fn is_running(split: &Split) -> bool {
    let ranges = split.ranges();
    ranges.iter().next().is_some_and(|range| ranges.share(range.variant()) < BUCKETS)
}

// === impl Windows ===

impl Windows {
    /// Those of a split whose place another one has.
    pub(super) fn evicted() -> Self {
        Self { is_evicted: true, ..Self::default() }
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.is_evicted
    }

    /// Counts a request that ended at `now`, in seconds since 1970, and was assigned by the split of
    /// this rule.
    pub(super) fn count(&mut self, rule: &Rule, assigned: Assignment, ended: Evidence, now: u64) {
        if matches!(ended, Evidence::Forced | Evidence::OwnReply) {
            return;
        }
        let Some(split) = &rule.split else { return };
        match self.window(now / LENGTH, split, rule) {
            Some(window) => window.count(assigned, ended),
            None => self.dropped += 1,
        }
    }

    /// Finds or creates a window; `None` if it is older than those that are kept.
    fn window(&mut self, number: u64, split: &Arc<Split>, rule: &Rule) -> Option<&mut Window> {
        let is_it = |window: &Window| window.number == number && is_same(&window.split, split);
        // The last one, as a rule.
        let at = match self.windows.iter().rposition(is_it) {
            Some(at) => at,
            None => self.create(number, split, rule)?,
        };
        self.windows.get_mut(at)
    }

    fn create(&mut self, number: u64, split: &Arc<Split>, rule: &Rule) -> Option<usize> {
        let newest = self.windows.back().map_or(number, |window| window.number.max(number));
        self.prune(newest);
        if !is_kept(number, newest) {
            return None;
        }
        let is_full = |windows: &VecDeque<Window>| {
            let octets: usize = windows.iter().map(Window::octets).sum();
            windows.len() >= MAX_WINDOWS || octets > MAX_OCTETS
        };
        while is_full(&self.windows) {
            if self.windows.front().is_some_and(|oldest| oldest.number > number) {
                return None;
            }
            self.windows.pop_front();
            self.dropped += 1;
        }
        let at = self.windows.partition_point(|window| window.number <= number);
        self.windows.insert(at, Window::new(number, split, rule));
        Some(at)
    }

    /// Drops the windows that are too old at the time of window `number`, and those of a time that
    /// has not come.
    fn prune(&mut self, number: u64) {
        self.windows.retain(|window| is_kept(window.number, number));
    }

    /// Drops windows that are too old at `now`, or of a later time, by a clock that was set back.
    /// Returns whether there are any left.
    pub(super) fn sweep(&mut self, now: u64) -> bool {
        // Clocks of replicas differ, and so do those of the request and of the reader.
        let number = now / LENGTH;
        self.windows.retain(|window| window.number <= number + 1);
        self.prune(number);
        !self.windows.is_empty()
    }

    /// A copy with those that start at `from` or later, in seconds since 1970.
    pub(super) fn since(&self, from: u64) -> Self {
        let windows = self.windows.iter().filter(|window| window.number * LENGTH >= from);
        Self {
            windows: windows.cloned().collect(),
            dropped: self.dropped,
            is_evicted: self.is_evicted,
        }
    }

    /// Adds the windows to those of other workers.
    pub(super) fn add_to(&self, sum: &mut feed::Service) {
        for window in &self.windows {
            feed::add_window(&mut sum.windows, &window.view());
        }
        if self.dropped > 0 {
            sum.incomplete.get_or_insert_default().dropped_windows += self.dropped;
        }
    }
}

/// Whether a window is one of the last at the time of the `newest`.
fn is_kept(number: u64, newest: u64) -> bool {
    number + MAX_WINDOWS as u64 > newest
}

/// Whether two splits assign and count alike. Of a split that is published again, only the pointer
/// differs.
fn is_same(one: &Arc<Split>, other: &Arc<Split>) -> bool {
    Arc::ptr_eq(one, other)
        || (one.generation() == other.generation()
            && one.hash() == other.hash()
            && one.ranges() == other.ranges()
            && one.latency_threshold() == other.latency_threshold()
            && one.errors() == other.errors())
}

// === impl Window ===

impl Window {
    fn new(number: u64, split: &Arc<Split>, rule: &Rule) -> Self {
        let variants = rule.backends.all().iter().map(|backend| WindowVariant {
            name: Arc::clone(&backend.endpoints.key().service),
            sticky: Tally::default(),
            dealt: Tally::default(),
        });
        Self {
            number,
            split: Arc::clone(split),
            seen: BucketMap::default(),
            erred: BucketMap::default(),
            slow: BucketMap::default(),
            variants: variants.collect(),
        }
    }

    fn count(&mut self, assigned: Assignment, ended: Evidence) {
        let Some(variant) = self.variants.get_mut(assigned.variant.position()) else { return };
        // A random bucket is nobody's.
        let bucket = assigned.bucket.filter(|_| assigned.reason != Reason::Weight);
        let tally = if bucket.is_some() { &mut variant.sticky } else { &mut variant.dealt };
        tally.count(ended);
        let Some(bucket) = bucket else { return };
        if let Some(is_error) = ended.is_error() {
            self.seen.insert(bucket);
            if is_error {
                self.erred.insert(bucket);
            }
        }
        if ended.waited().zip(self.limit()).is_some_and(|(waited, limit)| waited > limit) {
            self.slow.insert(bucket);
        }
    }

    /// The slowest step that is not slow.
    fn limit(&self) -> Option<Step> {
        self.split.latency_threshold().map(Step::up_to)
    }

    fn octets(&self) -> usize {
        let tallies = self.variants.iter().flat_map(|variant| [&variant.sticky, &variant.dealt]);
        let histograms: usize = tallies.map(Tally::octets).sum();
        self.seen.octets() + self.erred.octets() + self.slow.octets() + histograms
    }

    fn view(&self) -> feed::Window {
        let variants = self.variants.iter().enumerate().filter_map(|(position, variant)| {
            let of = VariantIndex::new(position)?;
            let is_its = |bucket: &Bucket| self.split.variant(*bucket) == of;
            let sticky = feed::Tally {
                seen: self.seen.iter().filter(is_its).collect(),
                erred: self.erred.iter().filter(is_its).collect(),
                slow: self.slow.iter().filter(is_its).collect(),
                ..variant.sticky.view()
            };
            let dealt = variant.dealt.view();
            let name = variant.name.to_string();
            let is_used =
                [&sticky, &dealt].into_iter().any(|tally| *tally != feed::Tally::default());
            is_used.then_some(feed::WindowVariant { name, sticky, dealt })
        });
        let mut variants: Vec<_> = variants.collect();
        variants.sort_by(|one, other| one.name.cmp(&other.name));
        feed::Window {
            start: self.number * LENGTH,
            generation: self.split.generation().to_string(),
            latency_threshold: self.limit().map(Step::edge),
            variants,
        }
    }
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, ended: Evidence) {
        if let Some(is_error) = ended.is_error() {
            self.requests += 1;
            self.errors += u64::from(is_error);
        }
        match ended {
            Evidence::Response { latency, .. } => self.latency.add(latency),
            Evidence::ClientLeft(after) => self.clients_left.add(after),
            _ => {}
        }
    }

    fn octets(&self) -> usize {
        self.latency.octets() + self.clients_left.octets()
    }

    fn view(&self) -> feed::Tally {
        let by_edge = |histogram: &SparseHistogram| {
            histogram.iter().map(|(step, count): (Step, u64)| (step.edge(), count)).collect()
        };
        feed::Tally {
            requests: self.requests,
            errors: self.errors,
            latency: by_edge(&self.latency),
            clients_left: by_edge(&self.clients_left),
            ..feed::Tally::default()
        }
    }
}
