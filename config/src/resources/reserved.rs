//! Addresses of the cluster and of the gateway itself, which no Service may have as endpoints.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::RandomState;

use crate::installation::Installation;
use crate::model::NamespacedName;
use crate::model::address::readings;
use crate::settings::Settings;

/// The reserved addresses. Those of the API server include its port: it often runs on the network
/// of a node, where other ports belong to pods.
#[derive(Debug, Clone, Default)]
pub struct ReservedAddresses {
    /// From the gateway's own client.
    client: BTreeSet<SocketAddr>,
    /// From the EndpointSlices of `default/kubernetes`.
    slices: BTreeSet<SocketAddr>,
    /// Of this process.
    own: BTreeSet<IpAddr>,
    /// The configured addresses of the gateway's listeners that have a port.
    listeners: Vec<SocketAddr>,
    /// Of all replicas: the endpoints of each Service of the gateway's Namespace that has one of
    /// its own addresses.
    replicas: BTreeMap<NamespacedName, BTreeSet<IpAddr>>,
    /// Through which clients reach Services of the gateway's Namespace.
    external: Counts,
    cluster_ips: Counts,
}

/// How many Services have each address.
#[derive(Debug, Clone, Default)]
struct Counts(HashMap<IpAddr, usize, RandomState>);

/// Why an address is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// It is an address of the Kubernetes API server.
    ApiServer,
    /// It is an address of the gateway: a request would return to where it came from, past the
    /// checks for clients outside.
    Gateway,
    /// It is the cluster IP of a Service. Kubernetes allows none as an endpoint, and the endpoints
    /// behind it may be reserved.
    ClusterIp,
}

// === impl ReservedAddresses ===

impl ReservedAddresses {
    /// Starts with the addresses of the API server from the gateway's own client, and with the
    /// gateway's own ones.
    pub(super) fn new(installation: &Installation, settings: &Settings) -> Self {
        let listeners = [
            settings.listeners.http.address,
            settings.listeners.https.address,
            settings.probes.address,
            settings.telemetry.address,
            settings.admin.address,
        ];
        let listeners: Vec<SocketAddr> =
            listeners.into_iter().flatten().map(canonical).filter(|one| one.port() != 0).collect();
        let bound = listeners.iter().map(SocketAddr::ip);
        let bound = bound.filter(|address| !address.is_unspecified() && !address.is_loopback());
        let own = installation.addresses.iter().map(IpAddr::to_canonical).chain(bound).collect();
        let client = installation.api_server.iter().copied().map(canonical).collect();
        Self { client, own, listeners, ..Self::default() }
    }

    /// Why no endpoint may have `address`, in any of its [`readings`].
    ///
    /// With `local`, addresses of the gateway's machine are allowed, except those of its listeners.
    #[must_use]
    pub fn find(&self, address: SocketAddr, local: bool) -> Option<Reserved> {
        readings(address.ip()).find_map(|ip| {
            let read = SocketAddr::new(ip, address.port());
            if self.client.contains(&read) || self.slices.contains(&read) {
                Some(Reserved::ApiServer)
            } else if self.is_gateway(read, local) {
                Some(Reserved::Gateway)
            } else if self.cluster_ips.contains(ip) {
                Some(Reserved::ClusterIp)
            } else {
                None
            }
        })
    }

    /// Whether an address may be reserved with this port and not with others.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        let mut all = self.client.iter().chain(&self.slices).chain(&self.listeners);
        all.any(|address| address.port() == port)
    }

    fn is_gateway(&self, address: SocketAddr, local: bool) -> bool {
        let (ip, port) = (address.ip(), address.port());
        let is_own = self.own.contains(&ip);
        if local {
            return self.listeners.iter().any(|listener| {
                let is_bound = listener.ip() == ip
                    || listener.ip().is_unspecified() && (is_own || ip.is_loopback());
                listener.port() == port && is_bound
            });
        }
        is_own
            || self.replicas.values().any(|addresses| addresses.contains(&ip))
            || self.external.contains(ip)
    }

    /// Sets the endpoints of a Service of the gateway's Namespace. If this process is one of them,
    /// all of them are replicas. Returns whether reserved addresses have changed.
    pub(super) fn set_replicas(
        &mut self,
        service: &NamespacedName,
        found: impl Iterator<Item = IpAddr>,
    ) -> bool {
        let found: BTreeSet<IpAddr> = found.map(|address| address.to_canonical()).collect();
        let before = self.replicas.get(service);
        if self.own.is_disjoint(&found) {
            return self.replicas.remove(service).is_some();
        }
        let differs = before != Some(&found);
        if differs {
            self.replicas.insert(service.clone(), found);
        }
        differs
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
        self.cluster_ips.replace(before, after)
    }

    /// Replaces the external addresses of a Service of the gateway's Namespace; returns whether
    /// they have changed.
    pub(super) fn replace_external(&mut self, before: &[IpAddr], after: &[IpAddr]) -> bool {
        self.external.replace(before, after)
    }
}

// === impl Counts ===

impl Counts {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.contains_key(&address)
    }

    /// Replaces the addresses of a Service; returns whether they have changed.
    fn replace(&mut self, before: &[IpAddr], after: &[IpAddr]) -> bool {
        if before == after {
            return false;
        }
        for address in after {
            *self.0.entry(address.to_canonical()).or_default() += 1;
        }
        for address in before.iter().map(IpAddr::to_canonical) {
            if let Entry::Occupied(mut count) = self.0.entry(address) {
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
