//! The endpoints of a Service's port, from its EndpointSlices.

mod locality;
mod rejection;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use self::locality::Locality;
use self::rejection::rejection;
use super::annotations::excerpt;
use crate::model::NamespacedName;
use crate::problem::{Problem, Severity};
use crate::resources::{Conditions, EndpointSlice, Hints, Resources, SERVICE_NAME, ServicePort};
use crate::snapshot::endpoints::{Endpoint, EndpointKey, EndpointSet};

/// The current endpoints of `key`; empty if there is no such Service or port.
///
/// As in kube-proxy, a slice's port belongs to the Service's port of the same name, all endpoints
/// have the same address family (the Service's first one, if that has any usable endpoints), an
/// address in several slices is one endpoint, and `ready` alone decides which endpoints get new
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
    let mut rejected = 0;
    for slice in resources.slices(&name) {
        for number in slice
            .ports
            .iter()
            .filter(|offered| offered.name == port.name)
            .map(|offered| offered.port)
        {
            for endpoint in &slice.endpoints {
                if rejection(resources, slice, endpoint, number).is_some() {
                    rejected += 1;
                    continue;
                }
                let [ipv4, ipv6] = &mut families;
                let family = if endpoint.address.is_ipv4() { ipv4 } else { ipv6 };
                let address = SocketAddr::new(endpoint.address, number);
                let (zone, pod) = (endpoint.zone.clone(), endpoint.pod.clone());
                let offered = Endpoint { address, zone, pod, near: false };
                family.add(endpoint.conditions, offered, &endpoint.hints);
            }
        }
    }
    let distribution = service.traffic_distribution;
    let locality = Locality { location: resources.location(), distribution };
    let [ipv4, ipv6] = families.map(|family| family.into_set(&locality));
    let (first, second) = if service.prefers_ipv6 { (ipv6, ipv4) } else { (ipv4, ipv6) };
    let first_has_none =
        first.ready.is_empty() && (first.draining.is_empty() || !second.ready.is_empty());
    let used = if first_has_none { second } else { first };
    EndpointSet { rejected, ..used }
}

/// The problems of the slices of a Service, for `port` only, or for all its ports.
///
/// This must not take longer than [`endpoint_set`]: it is called at each change of a slice.
pub(super) fn problems(
    resources: &Resources,
    service: &NamespacedName,
    port: Option<u16>,
) -> Vec<Problem> {
    let mut problems: Vec<Problem> =
        resources.slices(service).filter_map(|slice| slice_problem(resources, slice)).collect();
    let ports = resources.service(service).into_iter().flat_map(|service| &service.ports);
    let ports = ports.filter(|candidate| port.is_none_or(|port| candidate.port == port));
    if let Some(offered) = offered(resources, service) {
        problems.extend(ports.filter_map(|port| unmatched(resources, service, port, &offered)));
    }
    problems.extend(resources.slices(service).filter_map(|slice| orphan(resources, slice)));
    problems
}

/// The problem of a slice in a folder that belongs to no Service. In a cluster the Service may be
/// created later, and slices may be meant for other programs.
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
        let message = "its addresses are names, which can point anywhere".to_owned();
        return problem(
            "NamesAsAddresses",
            message,
            "write IP addresses, with `addressType: IPv4` or `IPv6`",
        );
    }
    // A slice may have 1,000 endpoints and 100 ports: only few ports make a difference.
    let is_special = |port: &u16| resources.reserved().has_port(*port);
    let mut ports = slice.ports.iter().map(|port| port.port);
    let ports: Vec<u16> = ports.next().into_iter().chain(ports.filter(is_special)).collect();
    let mut rejected = slice.endpoints.iter().filter_map(|endpoint| {
        ports.iter().find_map(|port| {
            let rejection = rejection(resources, slice, endpoint, *port)?;
            let address = SocketAddr::new(endpoint.address, *port);
            rejection.is_problem().then_some((rejection, address))
        })
    });
    let (first, address) = rejected.next()?;
    let message = first.message(address);
    let message = match rejected.count() {
        0 => message,
        1 => format!("{message}; the same holds for 1 more address"),
        more => format!("{message}; the same holds for {more} more addresses"),
    };
    problem("ForbiddenAddress", message, first.help())
}

/// The names of the ports of a Service's slices; `None` if none of them has pods.
fn offered<'r>(resources: &'r Resources, service: &NamespacedName) -> Option<BTreeSet<&'r str>> {
    let mut slices =
        resources.slices(service).filter(|slice| !slice.endpoints.is_empty()).peekable();
    slices.peek()?;
    Some(slices.flat_map(|slice| &slice.ports).map(|port| &*port.name).collect())
}

/// The problem of slices that have pods, but none with a port of the name: usually a `targetPort`
/// that no pod has.
fn unmatched(
    resources: &Resources,
    service: &NamespacedName,
    port: &ServicePort,
    offered: &BTreeSet<&str>,
) -> Option<Problem> {
    if offered.contains(&*port.name) {
        return None;
    }
    let message = match &*port.name {
        "" => {
            format!("none of its EndpointSlices has an unnamed port for its port {}", port.port)
        }
        name => format!(
            "none of its EndpointSlices has a port named `{name}` for its port {}",
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

/// The endpoints of one address family, by address.
#[derive(Default)]
struct Family<'a>(BTreeMap<SocketAddr, (Use, Endpoint, &'a Hints)>);

/// The use of an endpoint, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// It gets new requests.
    Ready,
    /// It gets new requests if no endpoint is ready.
    Draining,
}

// === impl Family ===

impl<'a> Family<'a> {
    /// Adds an address. If it is in several slices, as while Kubernetes moves it between them, the
    /// best use applies.
    fn add(&mut self, conditions: Conditions, endpoint: Endpoint, hints: &'a Hints) {
        let Some(usage) = Use::of(conditions) else { return };
        match self.0.entry(endpoint.address) {
            Entry::Vacant(entry) => {
                entry.insert((usage, endpoint, hints));
            }
            Entry::Occupied(mut entry) if usage < entry.get().0 => {
                entry.insert((usage, endpoint, hints));
            }
            Entry::Occupied(_) => {}
        }
    }

    fn into_set(self, locality: &Locality<'_>) -> EndpointSet {
        let (mut set, mut ready_hints) = (EndpointSet::default(), Vec::new());
        for (usage, endpoint, hints) in self.0.into_values() {
            match usage {
                Use::Ready => {
                    set.ready.push(endpoint);
                    ready_hints.push(hints);
                }
                Use::Draining => set.draining.push(endpoint),
            }
        }
        locality.mark(&mut set.ready, &ready_hints);
        set
    }
}

// === impl Use ===

impl Use {
    /// `ready` decides even for a terminating pod: Kubernetes sets it deliberately with
    /// `publishNotReadyAddresses`.
    fn of(conditions: Conditions) -> Option<Self> {
        match conditions {
            Conditions { ready: true, .. } => Some(Self::Ready),
            Conditions { serving: true, terminating: true, .. } => Some(Self::Draining),
            Conditions { .. } => None,
        }
    }
}
