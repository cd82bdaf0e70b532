//! The endpoints of a Service's port, from its EndpointSlices.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::annotations::excerpt;
use crate::model::NamespacedName;
use crate::model::address::{AddressClass, class};
use crate::problem::{Problem, Severity};
use crate::resources::{Conditions, EndpointSlice, Reserved, Resources, SERVICE_NAME, ServicePort};
use crate::snapshot::endpoints::{Endpoint, EndpointKey, EndpointSet};

/// The endpoints of `key` as they are now; none where there is no such Service or port.
///
/// As kube-proxy does: a slice's port belongs to the Service's port of the same name, all endpoints
/// are of one address family (the Service's first one, as long as that has any that may be used),
/// an address that several slices name is one endpoint, and `ready` alone decides who takes new
/// requests.
#[must_use]
pub fn endpoint_set(resources: &Resources, key: &EndpointKey) -> EndpointSet {
    let name = NamespacedName::new(key.namespace.clone(), key.service.clone());
    let Some(service) = resources.service(&name).filter(|service| !service.external) else {
        return EndpointSet::default();
    };
    let Some(port) = service.ports.iter().find(|port| port.port == key.port) else {
        return EndpointSet::default();
    };
    let mut families = [Family::default(), Family::default()];
    for slice in resources.slices(&name) {
        for number in slice
            .ports
            .iter()
            .filter(|offered| offered.name == port.name)
            .map(|offered| offered.port)
        {
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, number);
                if refusal(resources, slice, address).is_none() {
                    let [ipv4, ipv6] = &mut families;
                    let family = if endpoint.address.is_ipv4() { ipv4 } else { ipv6 };
                    family.add(address, endpoint.conditions, endpoint.zone.as_ref());
                }
            }
        }
    }
    let [ipv4, ipv6] = families.map(Family::into_set);
    let (first, second) = if service.prefers_ipv6 { (ipv6, ipv4) } else { (ipv4, ipv6) };
    let first_has_none =
        first.ready.is_empty() && (first.draining.is_empty() || !second.ready.is_empty());
    if first_has_none { second } else { first }
}

/// What is wrong with the slices of a Service, for their owner: with `port` alone, or with any of
/// its ports.
///
/// It takes no longer than [`endpoint_set`]: it is asked for at each change of a slice.
pub(super) fn problems(
    resources: &Resources,
    service: &NamespacedName,
    port: Option<u16>,
) -> Vec<Problem> {
    let mut problems: Vec<Problem> =
        resources.slices(service).filter_map(|slice| slice_problem(resources, slice)).collect();
    let ports = resources.service(service).into_iter().flat_map(|service| &service.ports);
    let ports = ports.filter(|candidate| port.is_none_or(|port| candidate.port == port));
    problems.extend(ports.filter_map(|port| unmatched(resources, service, port)));
    problems.extend(resources.slices(service).filter_map(|slice| orphan(resources, slice)));
    problems
}

/// A slice in a folder that belongs to no Service. In a cluster, Services may be on their way, and
/// slices may be for others to read.
pub(super) fn orphan(resources: &Resources, slice: &EndpointSlice) -> Option<Problem> {
    if slice.origin.place.is_none() || resources.service(&slice.service_key()).is_some() {
        return None;
    }
    let message = match &*slice.service {
        "" => format!("it has no label `{SERVICE_NAME}`, so it belongs to no Service"),
        name => format!(
            "there is no Service `{}` in Namespace `{}`",
            excerpt(name),
            slice.origin.namespace
        ),
    };
    let help = format!("name the Service in the label `{SERVICE_NAME}`");
    Some(Problem {
        severity: Severity::Warning,
        reason: "NoSuchService",
        origin: slice.origin.clone(),
        message,
        help,
    })
}

fn slice_problem(resources: &Resources, slice: &EndpointSlice) -> Option<Problem> {
    let problem = |reason, message, help: &str| {
        Some(Problem {
            severity: Severity::Error,
            reason,
            origin: slice.origin.clone(),
            message,
            help: help.to_owned(),
        })
    };
    if slice.names {
        let message = "its addresses are names, which could lead anywhere".to_owned();
        return problem(
            "NamesAsAddresses",
            message,
            "write IP addresses, with `addressType: IPv4` or `IPv6`",
        );
    }
    let mut refused = slice.endpoints.iter().filter_map(|endpoint| {
        slice.ports.iter().find_map(|port| {
            let address = SocketAddr::new(endpoint.address, port.port);
            refusal(resources, slice, address).map(|refusal| refusal.message(address))
        })
    });
    let first = refused.next()?;
    let message = match refused.count() {
        0 => first,
        more => format!("{first}; nor do {more} more addresses"),
    };
    problem("ForbiddenAddress", message, "an endpoint must be the address of a pod")
}

/// Slices that have pods, but none with a port of the name: what a `targetPort` that no pod knows
/// looks like.
fn unmatched(
    resources: &Resources,
    service: &NamespacedName,
    port: &ServicePort,
) -> Option<Problem> {
    let mut slices =
        resources.slices(service).filter(|slice| !slice.endpoints.is_empty()).peekable();
    slices.peek()?;
    if slices.any(|slice| slice.ports.iter().any(|offered| offered.name == port.name)) {
        return None;
    }
    let message = match &*port.name {
        "" => {
            format!("none of its EndpointSlices has an unnamed port, as its port {} is", port.port)
        }
        name => format!(
            "none of its EndpointSlices has a port named `{name}`, as its port {} is",
            port.port
        ),
    };
    let help = "check that `targetPort` is a port of its pods, and that ports of EndpointSlices \
                are named as those of the Service";
    let origin = resources.service(service)?.origin.clone();
    Some(Problem {
        severity: Severity::Warning,
        reason: "NoSuchTargetPort",
        origin,
        message,
        help: help.to_owned(),
    })
}

/// Why no request is sent to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// No pod has such an address.
    Class(AddressClass),
    /// The address belongs to the cluster.
    Reserved(Reserved),
}

/// Why no request is sent to an address; `None` for one that gets them.
///
/// A slice in a cluster is written by whoever may write to its Namespace, so it must not lead to
/// the gateway's own machine. A manifest in a folder is written by who runs the gateway: there an
/// address of this machine is as good as any.
fn refusal(resources: &Resources, slice: &EndpointSlice, address: SocketAddr) -> Option<Refusal> {
    let ours = slice.origin.place.is_some();
    match class(address.ip()) {
        Some(AddressClass::Loopback | AddressClass::LinkLocal) if ours => {}
        Some(class) => return Some(Refusal::Class(class)),
        None => {}
    }
    resources.reserved().find(address).map(Refusal::Reserved)
}

/// The endpoints of one address family, each address once.
#[derive(Default)]
struct Family(BTreeMap<SocketAddr, (Use, Option<Arc<str>>)>);

/// What an endpoint gets; less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// New requests.
    Ready,
    /// New requests where nobody is ready.
    Draining,
}

// === impl Refusal ===

impl Refusal {
    /// What is wrong with a slice that names `address`.
    fn message(self, address: SocketAddr) -> String {
        match self {
            // Its other ports may be pods'.
            Self::Reserved(Reserved::ApiServer) => {
                format!("{address} is {self}, so it gets no requests")
            }
            _ => format!("{} is {self}, so it gets no requests", address.ip()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Class(AddressClass::Unspecified) => "no address of anything",
            Self::Class(AddressClass::Multicast) => "a multicast address",
            Self::Class(AddressClass::Broadcast) => "the broadcast address",
            Self::Class(AddressClass::Metadata) => "an address of a cloud's metadata service",
            Self::Class(AddressClass::Loopback) => "a loopback address",
            Self::Class(AddressClass::LinkLocal) => "a link-local address",
            Self::Reserved(Reserved::ApiServer) => "an address of the Kubernetes API server",
            Self::Reserved(Reserved::ClusterIp) => "the cluster IP of a Service",
        })
    }
}

// === impl Family ===

impl Family {
    /// An address that is in several slices, as while Kubernetes moves it from one to another,
    /// counts as the best of them.
    fn add(&mut self, address: SocketAddr, conditions: Conditions, zone: Option<&Arc<str>>) {
        let Some(usage) = Use::of(conditions) else { return };
        let known = self.0.entry(address).or_insert_with(|| (usage, zone.cloned()));
        if usage < known.0 {
            *known = (usage, zone.cloned());
        }
    }

    fn into_set(self) -> EndpointSet {
        let mut set = EndpointSet::default();
        for (address, (usage, zone)) in self.0 {
            let list = match usage {
                Use::Ready => &mut set.ready,
                Use::Draining => &mut set.draining,
            };
            list.push(Endpoint { address, zone });
        }
        set
    }
}

// === impl Use ===

impl Use {
    /// `ready` decides even for a pod that is being shut down: with `publishNotReadyAddresses`,
    /// Kubernetes says so on purpose.
    fn of(conditions: Conditions) -> Option<Self> {
        match conditions {
            Conditions { ready: true, .. } => Some(Self::Ready),
            Conditions { serving: true, terminating: true, .. } => Some(Self::Draining),
            Conditions { .. } => None,
        }
    }
}
