//! Addresses of the cluster itself, which no Service may have as endpoints.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::RandomState;

use crate::model::address::readings;

/// The reserved addresses. Those of the API server include its port: it often runs on the network
/// of a node, where other ports belong to pods.
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
    /// It is an address of the Kubernetes API server.
    ApiServer,
    /// It is the cluster IP of a Service. Kubernetes allows none as an endpoint, and the endpoints
    /// behind it may be reserved.
    ClusterIp,
}

// === impl ReservedAddresses ===

impl ReservedAddresses {
    /// Starts with the addresses of the API server from the gateway's own client.
    pub(super) fn new(client: &BTreeSet<SocketAddr>) -> Self {
        Self { client: client.iter().copied().map(canonical).collect(), ..Self::default() }
    }

    /// Why no endpoint may have `address`, in any of its [`readings`].
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

    /// Sets the addresses in the EndpointSlices of `default/kubernetes`; returns whether they have
    /// changed. An API server that restarts may remove its own: an empty list keeps the old ones.
    pub(super) fn set_api_server(&mut self, found: impl Iterator<Item = SocketAddr>) -> bool {
        let found: BTreeSet<SocketAddr> = found.map(canonical).collect();
        let differs = !found.is_empty() && found != self.slices;
        if differs {
            self.slices = found;
        }
        differs
    }

    /// Replaces the cluster IPs of a Service; returns whether they have changed.
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
