//! Upstream connections: selects the endpoint for each attempt, and pools connections.
//!
//! For each endpoint set and protocol that it has sent a request to, a worker keeps a [`Balancer`]
//! with one [`Endpoint`] per pod and address: its load and its connections. When the set changes,
//! endpoints in both sets keep them; removed endpoints close idle connections within seconds, and
//! requests in flight complete.

pub(crate) mod active_check;
mod connect;
pub(crate) mod endpoint;
pub(crate) mod exchange;
mod group;
mod http1;
mod http2;
mod keep_alive;
mod places;
mod probe;
mod retry_budget;
mod wait_queue;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;
use portcullis_config::settings::Settings;
use portcullis_config::snapshot;
use portcullis_config::snapshot::backend::{Backend, UpstreamProtocol};
use portcullis_config::snapshot::endpoints::{EndpointSet, Endpoints};
use portcullis_config::snapshot::policy::LoadBalancing;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use self::active_check::{CheckKey, Failing};
pub(crate) use self::connect::Authorities;
use self::connect::Connector;
use self::endpoint::Endpoint;
use self::exchange::Load;
use self::group::Group;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::http2::check_invariants as check_http2_invariants;
use self::retry_budget::RetryBudget;
use self::wait_queue::WaitQueue;
use crate::balance::ring::{self, Ring};
use crate::balance::warm_up::WarmUp;
use crate::balance::{Candidate, Selection};
use crate::limit::Requester;
use crate::telemetry::Meter;

/// The balancers of one set, each with its protocol: a set hardly has more than one.
type Balancers = SmallVec<[Rc<Balancer>; 1]>;

/// All backends of a worker.
pub(crate) struct Upstreams {
    /// By endpoint set.
    balancers: RefCell<HashMap<u64, Balancers, RandomState>>,
    connector: Rc<Connector>,
    /// The endpoints whose active check fails.
    failing: RefCell<Arc<Failing>>,
}

/// What is known when the endpoint of an attempt is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) algorithm: LoadBalancing,
    /// The hash of the caller, if it keeps its endpoint, whatever the algorithm is.
    pub(crate) caller: Option<u64>,
    /// Uniform over `u64`.
    pub(crate) random: u64,
    pub(crate) now: Instant,
    /// Whether this is the request's first attempt.
    pub(crate) is_first: bool,
}

/// The eligible endpoints of one set.
pub(crate) struct Balancer {
    set: Arc<EndpointSet>,
    protocol: UpstreamProtocol,
    /// The near ones first.
    endpoints: Vec<Rc<Endpoint>>,
    /// The number of near ones.
    near: usize,
    /// The position of the next endpoint in turn.
    turn: Cell<usize>,
    /// Where callers keep their endpoint; created when the first one comes.
    ring: OnceCell<Ring>,
    group: Rc<Group>,
    connector: Rc<Connector>,
    /// That of the backend, whatever its endpoints are.
    pub(crate) retry_budget: Rc<RetryBudget>,
}

// === impl Upstreams ===

impl Upstreams {
    /// Creates an empty pool. Certificates of pods are verified against `authorities`.
    pub(crate) fn new(
        settings: &Arc<Settings>,
        authorities: Option<Authorities>,
        meter: Rc<Meter>,
    ) -> Self {
        Self {
            balancers: RefCell::default(),
            connector: Rc::new(Connector::new(Arc::clone(settings), authorities, meter)),
            failing: RefCell::default(),
        }
    }

    /// Returns the balancer for the current endpoints. `now` is when endpoints that were not there
    /// before begin their slow start.
    pub(crate) fn balancer(
        &self,
        endpoints: &Endpoints,
        protocol: &UpstreamProtocol,
        now: Instant,
    ) -> Rc<Balancer> {
        let set = endpoints.load();
        let mut balancers = self.balancers.borrow_mut();
        let of_set = balancers.entry(endpoints.id()).or_default();
        let current = of_set.iter_mut().find(|balancer| balancer.protocol == *protocol);
        if let Some(current) = current {
            if !Arc::ptr_eq(&current.set, &set) {
                let set = (endpoints.id(), Arc::clone(&set));
                *current =
                    Rc::new(Balancer::new(set, protocol, Some(&**current), &self.connector, now));
                current.apply_checks(endpoints.id(), &self.failing.borrow());
            }
            return Rc::clone(current);
        }
        let set = (endpoints.id(), Arc::clone(&set));
        let balancer = Rc::new(Balancer::new(set, protocol, None, &self.connector, now));
        balancer.apply_checks(endpoints.id(), &self.failing.borrow());
        of_set.push(Rc::clone(&balancer));
        balancer
    }

    /// Ejects the endpoints whose active check fails, and lets the others return.
    pub(crate) fn apply_checks(&self, failing: Arc<Failing>) {
        for (id, balancers) in &*self.balancers.borrow() {
            balancers.iter().for_each(|balancer| balancer.apply_checks(*id, &failing));
        }
        *self.failing.borrow_mut() = failing;
    }

    /// Closes idle connections after their timeout, takes over changed endpoint sets that get no
    /// requests, and removes those that none of the snapshot's `backends` uses. Must be called every
    /// few seconds.
    pub(crate) fn sweep<'a>(&self, now: Instant, backends: impl Iterator<Item = &'a Backend>) {
        let mut current: HashMap<u64, SmallVec<[&UpstreamProtocol; 1]>, RandomState> =
            HashMap::default();
        for Backend { endpoints, protocol, .. } in backends {
            let protocols = current.entry(endpoints.id()).or_default();
            if protocols.contains(&protocol) {
                continue;
            }
            protocols.push(protocol);
            if self.has(endpoints.id(), protocol) {
                self.balancer(endpoints, protocol, now);
            }
        }
        let mut balancers = self.balancers.borrow_mut();
        balancers.retain(|id, of_set| {
            let protocols = current.get(id).map_or(&[][..], |protocols| protocols);
            of_set.retain(|balancer| protocols.contains(&&balancer.protocol));
            !of_set.is_empty()
        });
        for balancer in balancers.values().flatten() {
            balancer.group.queue.sweep();
            balancer.endpoints.iter().for_each(|one| one.sweep(now));
        }
    }

    fn has(&self, id: u64, protocol: &UpstreamProtocol) -> bool {
        let balancers = self.balancers.borrow();
        balancers
            .get(&id)
            .is_some_and(|of_set| of_set.iter().any(|balancer| balancer.protocol == *protocol))
    }
}

// === impl Balancer ===

impl Balancer {
    fn new(
        (id, set): (u64, Arc<EndpointSet>),
        protocol: &UpstreamProtocol,
        previous: Option<&Self>,
        connector: &Rc<Connector>,
        now: Instant,
    ) -> Self {
        let previous_endpoints = previous.map_or(&[][..], |previous| &previous.endpoints);
        let by_address: HashMap<SocketAddr, &Rc<Endpoint>> =
            previous_endpoints.iter().map(|endpoint| (endpoint.address(), endpoint)).collect();
        let (near, far): (Vec<_>, Vec<_>) = set.eligible().iter().partition(|one| one.near);
        let ordered = || near.iter().chain(&far).copied();
        let known: Vec<Option<&Rc<Endpoint>>> = ordered()
            .map(|one| by_address.get(&one.address).copied().filter(|endpoint| endpoint.is(one)))
            .collect();
        // If all are new, there is none that could take the load meanwhile.
        let starts_slowly =
            known.iter().any(Option::is_some) && !connector.settings.upstreams.slow_start.is_zero();
        let warm_up = if starts_slowly { WarmUp::since(now) } else { WarmUp::default() };
        if starts_slowly {
            let new = known.iter().filter(|known| known.is_none()).count();
            connector.meter.upstream_slow_started(new);
        }
        let typical = previous.map(|previous| previous.group.typical()).unwrap_or_default();
        let waiting = || WaitQueue::new(connector.settings.limits.waiting_per_service.get());
        let queue = previous.map(|previous| Rc::clone(&previous.group.queue));
        let queue = queue.unwrap_or_else(|| Rc::new(waiting()));
        let group = Rc::new(Group::new(id, known.len(), typical, queue));
        let endpoint = |(one, known): (&snapshot::endpoints::Endpoint, Option<&Rc<Endpoint>>)| {
            let endpoint = known.cloned().unwrap_or_else(|| {
                let connector = Rc::clone(connector);
                Rc::new(Endpoint::new(one, protocol.clone(), connector, &group, warm_up))
            });
            endpoint.join(&group, one.near);
            endpoint
        };
        let endpoints: Vec<_> = ordered().zip(known).map(endpoint).collect();
        if let Some(previous) = previous {
            previous.group.replace();
        }
        if group.has_waiting() {
            endpoints.iter().for_each(Endpoint::offer);
        }
        let ring = previous.and_then(|previous| previous.ring.get());
        let ring = ring.filter(|_| endpoints.len() <= ring::MAX_ENDPOINTS);
        let ring = ring.map(|ring| OnceCell::from(ring.changed(hashes(&endpoints))));
        let near = near.len();
        // Workers and replicas do not all begin with the same endpoint.
        let turn = || usize::try_from(connector.random.next()).unwrap_or_default();
        let budget = previous.map(|previous| Rc::clone(&previous.retry_budget));
        Self {
            retry_budget: budget.unwrap_or_else(|| Rc::new(RetryBudget::new(now))),
            turn: Cell::new(previous.map_or_else(turn, |previous| previous.turn.get())),
            protocol: protocol.clone(),
            connector: Rc::clone(connector),
            set,
            endpoints,
            near,
            ring: ring.unwrap_or_default(),
            group,
        }
    }

    /// Where callers keep their endpoint; `None` if there are too many to keep one.
    fn ring(&self) -> Option<&Ring> {
        let has_ring = self.endpoints.len() <= ring::MAX_ENDPOINTS;
        has_ring.then(|| self.ring.get_or_init(|| Ring::new(hashes(&self.endpoints))))
    }

    /// Chooses the endpoint for a request's next attempt, not one of those that it has tried; `None`
    /// if there is none. Ejected endpoints are avoided, but never all of them.
    pub(crate) fn choose(
        &self,
        choice: Choice,
        is_tried: impl Fn(SocketAddr) -> bool,
    ) -> Option<&Rc<Endpoint>> {
        let selection = Selection {
            endpoints: &self.endpoints,
            near: self.near,
            ejected: self.group.ejected(),
            is_first: choice.is_first,
            now: choice.now,
            typical: self.group.typical(),
            slow_start: self.connector.settings.upstreams.slow_start,
        };
        if selection.panics() {
            self.connector.meter.upstream_panicked();
        }
        let candidate = |endpoint: &Rc<Endpoint>| Candidate {
            health: endpoint.health(),
            latency: endpoint.latency(),
            warm_up: endpoint.warm_up(),
            in_flight: endpoint.in_flight(),
            is_tried: is_tried(endpoint.address()),
        };
        if let Some(caller) = choice.caller
            && let Some(ring) = self.ring()
        {
            let in_flight = self.group.in_flight();
            let kept = selection.choose_kept(ring, caller, in_flight, candidate, choice.random)?;
            if choice.is_first && !kept.is_own {
                self.connector.meter.upstream_moved();
            }
            return Some(kept.endpoint);
        }
        let endpoint = match choice.algorithm {
            LoadBalancing::LeastLatency => selection.choose(candidate, choice.random)?,
            LoadBalancing::RoundRobin => {
                let turn = self.turn.get();
                let (turn, endpoint) = selection.choose_in_turn(candidate, turn, choice.random)?;
                self.turn.set(turn + 1);
                endpoint
            }
        };
        if self.near > 0 && !endpoint.is_near() {
            self.connector.meter.upstream_went_far();
        }
        Some(endpoint)
    }

    /// Takes a place for a request at an endpoint that was full, as `was_full` says, and has one now;
    /// else queues the request for the first place there is.
    pub(crate) fn queue(
        &self,
        requester: Requester<'_>,
        was_full: impl Fn(SocketAddr) -> bool,
    ) -> Result<Load, oneshot::Receiver<Load>> {
        let mut full = self.endpoints.iter().filter(|endpoint| was_full(endpoint.address()));
        let admitted = full.find_map(|endpoint| endpoint.admit(requester));
        admitted.ok_or_else(|| self.group.queue.join(self.connector.key(requester)))
    }

    /// Records which endpoints of this set, which has an `id`, fail their active check.
    fn apply_checks(&self, id: u64, failing: &Failing) {
        for endpoint in &self.endpoints {
            let key = || CheckKey::new(id, &self.protocol, endpoint.stable_hash());
            endpoint.checked(!failing.is_empty() && failing.contains(&key()));
        }
    }

    /// Returns the endpoint at an address, if it is eligible.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> Option<&Rc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.address() == address)
    }
}

fn hashes(endpoints: &[Rc<Endpoint>]) -> Vec<u64> {
    endpoints.iter().map(|endpoint| endpoint.stable_hash()).collect()
}

#[cfg(test)]
mod tests;
