//! Upstream connections: selects the endpoint for each attempt, and pools connections.
//!
//! For each endpoint set that it has sent a request to, a worker keeps a [`Balancer`] with one
//! [`Endpoint`] per address: its load and its connections. When the set changes, endpoints in both
//! sets keep them; removed endpoints close idle connections immediately, and requests in flight
//! complete.

mod connect;
pub(crate) mod endpoint;
pub(crate) mod exchange;
mod group;
mod http1;
mod http2;
mod keep_alive;
mod probe;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;
use portcullis_config::settings::Settings;
use portcullis_config::snapshot::backend::UpstreamProtocol;
use portcullis_config::snapshot::endpoints::{EndpointSet, Endpoints};

pub(crate) use self::connect::Authorities;
use self::connect::Connector;
use self::endpoint::Endpoint;
use self::group::Group;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::http2::check_invariants as check_http2_invariants;
use crate::balance::{Candidate, Selection};
use crate::telemetry::Meter;

/// All backends of a worker.
pub(crate) struct Upstreams {
    balancers: RefCell<HashMap<u64, Rc<Balancer>, RandomState>>,
    connector: Rc<Connector>,
}

/// The eligible endpoints of one set.
pub(crate) struct Balancer {
    set: Arc<EndpointSet>,
    protocol: UpstreamProtocol,
    endpoints: Vec<Rc<Endpoint>>,
    group: Rc<Group>,
    connector: Rc<Connector>,
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
        }
    }

    /// Returns the balancer for the current endpoints.
    pub(crate) fn balancer(
        &self,
        endpoints: &Endpoints,
        protocol: &UpstreamProtocol,
    ) -> Rc<Balancer> {
        let set = endpoints.load();
        let mut balancers = self.balancers.borrow_mut();
        let current = balancers.get(&endpoints.id());
        if let Some(current) = current
            && Arc::ptr_eq(&current.set, &set)
            && current.protocol == *protocol
        {
            return Rc::clone(current);
        }
        let previous = current.filter(|current| current.protocol == *protocol);
        let balancer = Rc::new(Balancer::new(
            Arc::clone(&set),
            protocol,
            previous.map(|previous| &**previous),
            &self.connector,
        ));
        balancers.insert(endpoints.id(), Rc::clone(&balancer));
        balancer
    }

    /// Closes idle connections after their timeout, and removes endpoint sets that are not in the
    /// snapshot (`is_current`). Must be called every few seconds.
    pub(crate) fn sweep(&self, now: Instant, is_current: impl Fn(u64) -> bool) {
        let mut balancers = self.balancers.borrow_mut();
        balancers.retain(|id, _| is_current(*id));
        for endpoint in balancers.values().flat_map(|balancer| &balancer.endpoints) {
            endpoint.sweep(now);
        }
    }
}

// === impl Balancer ===

impl Balancer {
    fn new(
        set: Arc<EndpointSet>,
        protocol: &UpstreamProtocol,
        previous: Option<&Self>,
        connector: &Rc<Connector>,
    ) -> Self {
        let reusable: HashMap<SocketAddr, &Rc<Endpoint>> = previous
            .map(|previous| {
                previous.endpoints.iter().map(|endpoint| (endpoint.address(), endpoint)).collect()
            })
            .unwrap_or_default();
        let group = Rc::new(Group::new(set.eligible().len()));
        let endpoints = set
            .eligible()
            .iter()
            .map(|endpoint| {
                let endpoint = match reusable.get(&endpoint.address) {
                    Some(endpoint) => Rc::clone(endpoint),
                    None => Rc::new(Endpoint::new(
                        endpoint.address,
                        protocol.clone(),
                        Rc::clone(connector),
                        &group,
                    )),
                };
                endpoint.join(&group);
                endpoint
            })
            .collect();
        let connector = Rc::clone(connector);
        Self { set, protocol: protocol.clone(), endpoints, group, connector }
    }

    /// Chooses the endpoint for a request's next attempt, not one of those that it has tried; `None`
    /// if there is none. Ejected endpoints are avoided, but never all of them.
    pub(crate) fn choose(
        &self,
        random: u64,
        is_first: bool,
        is_tried: impl Fn(SocketAddr) -> bool,
    ) -> Option<&Rc<Endpoint>> {
        let selection =
            Selection { endpoints: &self.endpoints, ejected: self.group.ejected(), is_first };
        if selection.panics() {
            self.connector.meter.upstream_panicked();
        }
        let candidate = |endpoint: &Rc<Endpoint>| Candidate {
            health: endpoint.health(),
            in_flight: endpoint.in_flight(),
            is_tried: is_tried(endpoint.address()),
        };
        selection.choose(candidate, random)
    }

    /// Returns the endpoint at an address, if it is eligible.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> Option<&Rc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.address() == address)
    }
}
