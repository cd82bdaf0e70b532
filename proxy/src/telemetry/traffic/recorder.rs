//! A worker's part of the counts, which takes no lock of other workers for a request.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use foldhash::fast::RandomState;
use portcullis_config::snapshot::backend::Backend;
use portcullis_config::snapshot::rule::Rule;
use portcullis_config::unix_time::seconds;
use smallvec::SmallVec;

use super::counts::VariantCounts;
use super::evidence::{Ended, Evidence};
use super::registry::{Registry, ServiceKey};
use super::window::{self, LENGTH, Windows};
use crate::choose::Assignment;

/// The counts of a worker, for use on that worker's thread only.
#[derive(Debug)]
pub(crate) struct Recorder {
    registry: Arc<Registry>,
    worker: usize,
    epoch: Cell<u64>,
    /// By endpoint set: hardly any belongs to several services.
    variants: RefCell<HashMap<u64, OfSet, RandomState>>,
    /// The one that was found last, with its endpoint set: the next request often goes there, too.
    last: RefCell<Option<(u64, Rc<WorkerVariant>)>>,
}

/// The variants that have one endpoint set.
type OfSet = SmallVec<[Rc<WorkerVariant>; 1]>;

/// A variant in one worker.
#[derive(Debug)]
struct WorkerVariant {
    service: ServiceKey,
    /// `None` if there is no place for them.
    counts: Option<Arc<VariantCounts>>,
    windows: RefCell<WindowPlace>,
}

#[derive(Debug)]
enum WindowPlace {
    /// There was none in this window.
    NoneIn(u64),
    /// Only this worker locks it for each request, and readers for a copy.
    At(Arc<Mutex<Windows>>),
}

/// A request that is in flight at its variant, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered(Rc<WorkerVariant>);

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) rule: &'a Rule,
    /// `None` where the service has no variants.
    pub(crate) assignment: Option<Assignment>,
    pub(crate) ended: Ended,
    /// Attempts after the first one.
    pub(crate) retries: u32,
    /// When it arrived.
    pub(crate) arrived: SystemTime,
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(registry: Arc<Registry>, worker: usize) -> Self {
        Self {
            registry,
            worker,
            epoch: Cell::new(0),
            variants: RefCell::default(),
            last: RefCell::default(),
        }
    }

    /// Counts a request that was assigned to `backend` as in flight.
    pub(crate) fn enter(
        &self,
        environment: &Arc<str>,
        rule: &Rule,
        backend: &Backend,
        arrived: SystemTime,
    ) -> Entered {
        let variant = self.variant(environment, rule, backend, arrived);
        if let Some(counts) = &variant.counts {
            counts.started.add(1);
        }
        Entered(variant)
    }

    fn variant(
        &self,
        environment: &Arc<str>,
        rule: &Rule,
        backend: &Backend,
        arrived: SystemTime,
    ) -> Rc<WorkerVariant> {
        let set = backend.endpoints.id();
        let is_it = |variant: &&Rc<WorkerVariant>| variant.service.is_of(environment, rule);
        let epoch = self.registry.epoch();
        if self.epoch.replace(epoch) != epoch {
            self.variants.borrow_mut().clear();
        } else if let Some((of, last)) = &*self.last.borrow()
            && *of == set
            && is_it(&last)
        {
            return Rc::clone(last);
        }
        let mut variants = self.variants.borrow_mut();
        if variants.len() > self.registry.max_cached() {
            variants.clear();
        }
        let of_set = variants.entry(set).or_default();
        let found = of_set.iter().find(is_it).cloned().unwrap_or_else(|| {
            let created = Rc::new(self.create(environment, rule, backend, seconds(arrived)));
            of_set.push(Rc::clone(&created));
            created
        });
        *self.last.borrow_mut() = Some((set, Rc::clone(&found)));
        found
    }

    fn create(
        &self,
        environment: &Arc<str>,
        rule: &Rule,
        backend: &Backend,
        now: u64,
    ) -> WorkerVariant {
        let service = ServiceKey::of(environment, rule);
        let name = &backend.endpoints.key().service;
        let counts = self.registry.counts(&service, name, self.worker, rule, now);
        WorkerVariant { service, counts, windows: RefCell::new(WindowPlace::NoneIn(0)) }
    }

    /// Counts a request that has ended.
    pub(crate) fn end(&self, entered: &Entered, request: &Request<'_>) {
        let Some(counts) = &entered.0.counts else { return };
        let errors = request.rule.split.as_ref().and_then(|split| split.errors());
        let evidence = request.ended.evidence(errors);
        counts.count(evidence);
        if request.retries > 0 {
            counts.retries.add(request.retries.into());
        }
        let Some(assignment) = request.assignment else { return };
        if request.rule.split.as_ref().is_some_and(|split| window::is_running(split)) {
            self.count_window(&entered.0, request, assignment, evidence);
        }
    }

    fn count_window(
        &self,
        variant: &WorkerVariant,
        request: &Request<'_>,
        assignment: Assignment,
        evidence: Evidence,
    ) {
        let now = seconds(request.arrived + request.ended.duration);
        let mut place = variant.windows.borrow_mut();
        loop {
            match &*place {
                WindowPlace::NoneIn(window) if *window == now / LENGTH => return,
                WindowPlace::NoneIn(_) => {
                    let found = self.registry.windows(&variant.service, self.worker, now);
                    *place = found.map_or(WindowPlace::NoneIn(now / LENGTH), WindowPlace::At);
                }
                WindowPlace::At(windows) => {
                    let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
                    if !windows.is_evicted() {
                        return windows.count(request.rule, assignment, evidence, now);
                    }
                    drop(windows);
                    *place = WindowPlace::NoneIn(0);
                }
            }
        }
    }

    /// Counts the ejection of an endpoint of this set.
    pub(crate) fn ejected(&self, set: u64) {
        for variant in self.variants.borrow().get(&set).into_iter().flatten() {
            if let Some(counts) = &variant.counts {
                counts.ejections.add(1);
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(counts) = &self.0.counts {
            counts.ended.add(1);
        }
    }
}
