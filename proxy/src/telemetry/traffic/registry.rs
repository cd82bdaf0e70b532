//! What all workers have counted, by service.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::error::Unspecified;
use portcullis_config::snapshot::rule::Rule;
use portcullis_config::snapshot::split::MAX_VARIANTS;

use super::counts::VariantCounts;
use super::recorder::Recorder;
use super::share::{Place, place};
use super::window::{self, Windows};

/// The maximum number of counts, one for each variant and worker, shared fairly by Namespaces. One
/// takes 1 to 2 KiB as a rule, and 9 KiB at most.
const MAX_COUNTS: usize = 10_000;
/// The memory for windows of all splits in all workers, in octets, shared fairly by Namespaces.
/// While the feed is read, they take about three times as much.
const MAX_WINDOW_OCTETS: usize = 24 * 1024 * 1024;
/// The number of variants of a service from which on those that were removed are forgotten.
const MANY_VARIANTS: usize = 2 * MAX_VARIANTS;

/// The counts of all services.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(super) start: Start,
    max_counts: usize,
    max_window_octets: usize,
    workers: AtomicUsize,
    /// Changes when services are removed: then workers clear their caches.
    epoch: AtomicU64,
    services: Mutex<BTreeMap<ServiceKey, Entry>>,
}

/// A start of the process.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) id: String,
    /// In seconds since 1970.
    pub(super) at: u64,
}

/// The name of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::telemetry) struct ServiceKey {
    pub(in crate::telemetry) environment: Arc<str>,
    pub(in crate::telemetry) namespace: Arc<str>,
    pub(in crate::telemetry) name: Arc<str>,
}

/// The counts of a service.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Since when they are counted, in seconds since 1970.
    pub(super) since: u64,
    /// By name, each with its worker.
    pub(super) variants: Vec<(Arc<str>, usize, Arc<VariantCounts>)>,
    /// By worker.
    pub(super) windows: Vec<(usize, Arc<Mutex<Windows>>)>,
    /// Whether there was no place for some of its counts, since it has some.
    pub(super) lacks_counts: bool,
    /// Whether there was no place for its windows.
    pub(super) lacks_windows: bool,
}

// === impl ServiceKey ===

impl ServiceKey {
    pub(super) fn of(environment: &Arc<str>, rule: &Rule) -> Self {
        Self {
            environment: Arc::clone(environment),
            namespace: Arc::clone(&rule.origin.namespace),
            name: Arc::clone(&rule.service),
        }
    }

    /// Whether it is that of the rule. It compares pointers first.
    pub(super) fn is_of(&self, environment: &Arc<str>, rule: &Rule) -> bool {
        self.name == rule.service
            && self.environment == *environment
            && self.namespace == rule.origin.namespace
    }
}

// === impl Registry ===

impl Registry {
    /// Creates it for a process that starts `now`, in seconds since 1970.
    ///
    /// # Errors
    /// The operating system provides no random octets.
    pub(crate) fn new(now: u64) -> Result<Self, Unspecified> {
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id)?;
        Ok(Self::with(Start { id: hex::encode(id), at: now }, MAX_COUNTS, MAX_WINDOW_OCTETS))
    }

    pub(super) fn with(start: Start, max_counts: usize, max_window_octets: usize) -> Self {
        Self {
            start,
            max_counts,
            max_window_octets,
            workers: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            services: Mutex::default(),
        }
    }

    /// Adds a worker.
    pub(crate) fn recorder(self: &Arc<Self>) -> Recorder {
        let worker = self.workers.fetch_add(1, Ordering::Relaxed);
        Recorder::new(Arc::clone(self), worker)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The number of variants that a worker may have cached.
    pub(super) fn max_cached(&self) -> usize {
        2 * self.max_counts
    }

    /// The number of splits that have windows at once.
    fn max_splits(&self) -> usize {
        let workers = self.workers.load(Ordering::Relaxed).max(1);
        (self.max_window_octets / window::MAX_OCTETS / workers).max(1)
    }

    /// The counts of a variant in one worker; `None` if there is no place for them.
    pub(super) fn counts(
        &self,
        key: &ServiceKey,
        variant: &Arc<str>,
        worker: usize,
        rule: &Rule,
        now: u64,
    ) -> Option<Arc<VariantCounts>> {
        let mut services = self.lock();
        if let Some(entry) = services.get_mut(key) {
            let is_it = |(name, of, _): &&(Arc<str>, usize, _)| name == variant && *of == worker;
            if let Some((_, _, counts)) = entry.variants.iter().find(is_it) {
                return Some(Arc::clone(counts));
            }
            if entry.forget_removed(rule, worker) {
                self.clear_caches();
            }
        }
        if !self.find_count(&mut services, &key.namespace) {
            if let Some(entry) = services.get_mut(key) {
                entry.lacks_counts = true;
            }
            return None;
        }
        let entry = services.entry(key.clone()).or_insert_with(|| Entry::new(now));
        let counts = Arc::new(VariantCounts::default());
        entry.variants.push((Arc::clone(variant), worker, Arc::clone(&counts)));
        Some(counts)
    }

    /// Finds a place for one more count; it may remove a service of another Namespace.
    fn find_count(&self, services: &mut BTreeMap<ServiceKey, Entry>, namespace: &Arc<str>) -> bool {
        let in_use = services.iter().filter(|(_, entry)| !entry.variants.is_empty());
        let sizes = in_use.map(|(key, entry)| (Arc::clone(&key.namespace), entry.variants.len()));
        match place(sizes, namespace, self.max_counts) {
            Place::Free => true,
            Place::Of(most) => {
                let is_its = |(key, entry): &(&ServiceKey, &Entry)| {
                    key.namespace == most && !entry.variants.is_empty()
                };
                let last = services.iter().rfind(is_its).map(|(key, _)| key.clone());
                last.and_then(|last| services.remove(&last)).is_some_and(|_| {
                    self.clear_caches();
                    true
                })
            }
            Place::None => false,
        }
    }

    /// The windows of a split in one worker; `None` if there is no place for them.
    pub(super) fn windows(
        &self,
        key: &ServiceKey,
        worker: usize,
        now: u64,
    ) -> Option<Arc<Mutex<Windows>>> {
        let mut services = self.lock();
        let entry = services.get(key)?;
        if let Some((_, windows)) = entry.windows.iter().find(|(of, _)| *of == worker) {
            return Some(Arc::clone(windows));
        }
        let has_place = !entry.windows.is_empty() || self.find_place(&mut services, key, now);
        let entry = services.get_mut(key)?;
        entry.lacks_windows = !has_place;
        let windows = has_place.then(|| Arc::new(Mutex::new(Windows::default())))?;
        entry.windows.push((worker, Arc::clone(&windows)));
        Some(windows)
    }

    /// Finds a place for the windows of one more split; it may evict those of another one.
    fn find_place(
        &self,
        services: &mut BTreeMap<ServiceKey, Entry>,
        key: &ServiceKey,
        now: u64,
    ) -> bool {
        let limit = self.max_splits();
        let with_windows = |(key, entry): (&ServiceKey, &Entry)| {
            (!entry.windows.is_empty()).then(|| (Arc::clone(&key.namespace), 1))
        };
        if services.iter().filter_map(with_windows).count() >= limit {
            services.values_mut().for_each(|entry| entry.sweep(now));
        }
        match place(services.iter().filter_map(with_windows), &key.namespace, limit) {
            Place::Free => true,
            Place::Of(namespace) => {
                let is_its = |(key, entry): &(&ServiceKey, &mut Entry)| {
                    key.namespace == namespace && !entry.windows.is_empty()
                };
                if let Some((_, entry)) = services.iter_mut().filter(is_its).last() {
                    entry.evict_windows();
                    entry.lacks_windows = true;
                }
                true
            }
            Place::None => false,
        }
    }

    /// Removes the services that are not `present`, and returns copies of the others.
    pub(super) fn all(
        &self,
        present: impl Fn(&ServiceKey) -> bool,
        now: u64,
    ) -> BTreeMap<ServiceKey, Entry> {
        let mut services = self.lock();
        let before = services.len();
        services.retain(|key, _| present(key));
        if services.len() < before {
            self.clear_caches();
        }
        services.values_mut().for_each(|entry| entry.sweep(now));
        services.clone()
    }

    /// Whether requests of services without an entry may be missing.
    pub(super) fn is_full(&self) -> bool {
        let count: usize = self.lock().values().map(|entry| entry.variants.len()).sum();
        count >= self.max_counts
    }

    fn clear_caches(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceKey, Entry>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entry ===

impl Entry {
    fn new(now: u64) -> Self {
        Self {
            since: now,
            variants: Vec::new(),
            windows: Vec::new(),
            lacks_counts: false,
            lacks_windows: false,
        }
    }

    /// Forgets variants that the rule does not have, if a worker has counted many. Returns whether
    /// it did.
    fn forget_removed(&mut self, rule: &Rule, worker: usize) -> bool {
        if self.variants.iter().filter(|(_, of, _)| *of == worker).count() < MANY_VARIANTS {
            return false;
        }
        let names = || rule.backends.all().iter().map(|backend| &backend.endpoints.key().service);
        self.variants.retain(|(name, _, _)| names().any(|one| one == name));
        true
    }

    /// Drops windows that are too old, and gives up its place if there are none left.
    fn sweep(&mut self, now: u64) {
        let mut is_in_use = false;
        for (_, windows) in &self.windows {
            is_in_use |= windows.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
        }
        if !is_in_use {
            self.evict_windows();
        }
    }

    /// Takes the windows from the workers.
    fn evict_windows(&mut self) {
        for (_, windows) in self.windows.drain(..) {
            let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
            *windows = Windows::evicted();
        }
    }
}
