//! Backends: which endpoint a try goes to, and over which connection.
//!
//! A worker keeps, for each endpoint set that it has sent a request to, a [`Balancer`] with one
//! [`Endpoint`] an address: its load and its connections. When the set is swapped, endpoints that
//! are in both keep theirs, and those that are gone close what is idle at once; what is in flight
//! on them finishes.

mod connect;
pub(crate) mod endpoint;
pub(crate) mod exchange;
mod http1;
mod http2;

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
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::http2::law as http2_law;
use crate::balance;
use crate::telemetry::Meter;

/// All backends that a worker has connections to.
pub(crate) struct Upstreams {
    balancers: RefCell<HashMap<u64, Rc<Balancer>, RandomState>>,
    connector: Rc<Connector>,
}

/// The endpoints of one set that may take requests.
pub(crate) struct Balancer {
    set: Arc<EndpointSet>,
    protocol: UpstreamProtocol,
    endpoints: Vec<Rc<Endpoint>>,
}

// === impl Upstreams ===

impl Upstreams {
    /// No backend yet. Certificates of pods are checked against `authorities`.
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

    /// The endpoints as they are now.
    pub(crate) fn balancer(
        &self,
        endpoints: &Endpoints,
        protocol: &UpstreamProtocol,
    ) -> Rc<Balancer> {
        let set = endpoints.load();
        let mut balancers = self.balancers.borrow_mut();
        let known = balancers.get(&endpoints.id());
        if let Some(known) = known
            && Arc::ptr_eq(&known.set, &set)
            && known.protocol == *protocol
        {
            return Rc::clone(known);
        }
        let known = known.filter(|known| known.protocol == *protocol);
        let fresh = Rc::new(Balancer::new(
            Arc::clone(&set),
            protocol,
            known.map(|known| &**known),
            &self.connector,
        ));
        balancers.insert(endpoints.id(), Rc::clone(&fresh));
        fresh
    }

    /// Closes what has been idle for too long, and forgets endpoint sets that no snapshot has any
    /// more (`is_current` says which are) . To be called every few seconds.
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
        before: Option<&Self>,
        connector: &Rc<Connector>,
    ) -> Self {
        let kept: HashMap<SocketAddr, &Rc<Endpoint>> = before
            .map(|before| {
                before.endpoints.iter().map(|endpoint| (endpoint.address(), endpoint)).collect()
            })
            .unwrap_or_default();
        let endpoints = set
            .eligible()
            .iter()
            .map(|endpoint| match kept.get(&endpoint.address) {
                Some(known) => Rc::clone(known),
                None => {
                    Rc::new(Endpoint::new(endpoint.address, protocol.clone(), Rc::clone(connector)))
                }
            })
            .collect();
        Self { set, protocol: protocol.clone(), endpoints }
    }

    /// The endpoint for the next try; `None` where there is none. Those in `tried`, and those that
    /// lately could not be connected to, are taken only where no other is left: never are all
    /// of them out.
    pub(crate) fn choose(
        &self,
        random: u64,
        now: Instant,
        tried: &[SocketAddr],
    ) -> Option<&Rc<Endpoint>> {
        let is_avoided = |endpoint: &Rc<Endpoint>| {
            tried.contains(&endpoint.address()) || endpoint.is_suspect(now)
        };
        balance::endpoint(&self.endpoints, |endpoint| endpoint.in_flight(), is_avoided, random)
    }
}
