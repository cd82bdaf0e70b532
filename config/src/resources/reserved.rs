//! Addresses that belong to the cluster itself, so that no Service may claim them for endpoints.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::RandomState;

use crate::model::address::readings;

/// What is known of such addresses. Those of the API server are pairs with its port: it often runs
/// on the network of a node, where other ports are pods'.
#[derive(Debug, Clone, Default)]
pub struct ReservedAddresses {
    /// From the gateway's own client.
    client: BTreeSet<SocketAddr>,
    /// From the EndpointSlices of `default/kubernetes`.
    slices: BTreeSet<SocketAddr>,
    /// How many Services have each cluster IP.
    cluster_ips: HashMap<IpAddr, usize, RandomState>,
}

/// Why an address is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// The Kubernetes API server answers there.
    ApiServer,
    /// It is the cluster IP of a Service. Kubernetes allows none as an endpoint, and what is behind
    /// it may be reserved.
    ClusterIp,
}

// === impl ReservedAddresses ===

impl ReservedAddresses {
    /// With the addresses of the API server that its client goes by.
    pub(super) fn new(client: &BTreeSet<SocketAddr>) -> Self {
        Self { client: client.iter().copied().map(canonical).collect(), ..Self::default() }
    }

    /// Why no endpoint may be at `address`, in whatever spelling.
    #[must_use]
    pub fn find(&self, address: SocketAddr) -> Option<Reserved> {
        readings(address.ip()).find_map(|ip| {
            let read = SocketAddr::new(ip, address.port());
            if self.client.contains(&read) || self.slices.contains(&read) {
                Some(Reserved::ApiServer)
            } else if self.cluster_ips.contains_key(&ip) {
                Some(Reserved::ClusterIp)
            } else {
                None
            }
        })
    }

    /// Takes what the EndpointSlices of `default/kubernetes` name; returns whether that differs. An
    /// API server that restarts may take itself out for a moment: what is known stays until others
    /// are.
    pub(super) fn set_api_server(&mut self, found: impl Iterator<Item = SocketAddr>) -> bool {
        let found: BTreeSet<SocketAddr> = found.map(canonical).collect();
        let differs = !found.is_empty() && found != self.slices;
        if differs {
            self.slices = found;
        }
        differs
    }

    /// A Service has the cluster IPs `after`; it had those `before`. Returns whether that makes a
    /// difference.
    pub(super) fn replace_cluster_ips(&mut self, before: &[IpAddr], after: &[IpAddr]) -> bool {
        if before == after {
            return false;
        }
        for address in after {
            *self.cluster_ips.entry(address.to_canonical()).or_default() += 1;
        }
        for address in before.iter().map(IpAddr::to_canonical) {
            if let Entry::Occupied(mut count) = self.cluster_ips.entry(address) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        true
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
