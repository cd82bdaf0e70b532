//! EndpointSlices: the addresses of the pods of Services.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1;

use super::{Metadata, unreadable};
use crate::model::{NamespacedName, Origin, SourceLocation};
use crate::problem::Problem;

/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice, trimmed to the fields that are read.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSlice {
    /// Where it came from.
    pub origin: Origin,
    /// The name of its Service, in its namespace; empty where it belongs to none.
    pub service: Arc<str>,
    /// Whether its addresses are names (`addressType: FQDN`), which are not stored.
    pub names: bool,
    /// Its TCP ports that have a number.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A TCP port of a slice: the same number for all of its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the Service's port; empty where that has none.
    pub name: Arc<str>,
    /// The number on which the pods listen.
    pub port: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address; the first of several, as Kubernetes defines no meaning for the others.
    pub address: IpAddr,
    /// Its conditions.
    pub conditions: Conditions,
    /// The topology zone that it runs in.
    pub zone: Option<Arc<str>>,
    /// The identity (`uid`) of the Pod of the slice's Namespace that it refers to. Whoever writes
    /// the slice chooses it, so it proves nothing by itself.
    pub pod: Option<Arc<str>>,
    /// From where it is to be used.
    pub hints: Hints,
}

/// From where an endpoint is to be used (`hints`). Empty lists are no hint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// The zones.
    pub zones: Box<[Arc<str>]>,
    /// The nodes.
    pub nodes: Box<[Arc<str>]>,
}

/// The conditions of an endpoint. Defaults are those of Kubernetes (`discovery.k8s.io/v1`,
/// `EndpointConditions`): ready, serving, not terminating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// It accepts new requests.
    pub ready: bool,
    /// It serves, whether or not it is being shut down.
    pub serving: bool,
    /// It is being shut down.
    pub terminating: bool,
}

// === impl EndpointSlice ===

impl EndpointSlice {
    /// Parses an object; `place` is its location, for one from a file.
    ///
    /// # Errors
    /// It has no name, an invalid port, an invalid address, or an unknown address type.
    pub fn from_object(
        object: &v1::EndpointSlice,
        place: Option<SourceLocation>,
    ) -> Result<Self, Problem> {
        let Metadata { origin, .. } =
            Metadata::read("EndpointSlice", true, &object.metadata, place)?;
        let service = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let service = service.map(String::as_str).unwrap_or_default().into();
        let ports = object
            .ports
            .iter()
            .flatten()
            .filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")));
        let ports = ports
            .filter_map(|port| EndpointPort::from_object(port, &origin))
            .collect::<Result<_, _>>()?;
        let names = object.address_type == "FQDN";
        let endpoints = if names { Vec::new() } else { addresses(object, &origin)? };
        Ok(Self { origin, service, names, ports, endpoints })
    }

    /// Its namespace and name.
    #[must_use]
    pub fn key(&self) -> NamespacedName {
        NamespacedName { namespace: self.origin.namespace.clone(), name: self.origin.name.clone() }
    }

    /// The addresses of its endpoints with all of its ports, whatever their conditions.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().flat_map(|endpoint| {
            self.ports.iter().map(|port| SocketAddr::new(endpoint.address, port.port))
        })
    }

    /// The identities of the Pods that its endpoints refer to.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Arc<str>> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref())
    }

    /// The namespace and name of its Service.
    #[must_use]
    pub fn service_key(&self) -> NamespacedName {
        NamespacedName { namespace: self.origin.namespace.clone(), name: self.service.clone() }
    }
}

fn addresses(object: &v1::EndpointSlice, origin: &Origin) -> Result<Vec<SliceEndpoint>, Problem> {
    let ipv6 = match object.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        other => {
            let message =
                format!("`addressType: {}` is unknown", other.chars().take(64).collect::<String>());
            return Err(unreadable(origin.clone(), message, "write IPv4 or IPv6".to_owned()));
        }
    };
    let mut endpoints: Vec<SliceEndpoint> =
        Vec::with_capacity(object.endpoints.as_ref().map_or(0, Vec::len));
    for endpoint in object.endpoints.iter().flatten() {
        let Some(text) = endpoint.addresses.first() else { continue };
        let address =
            text.parse::<IpAddr>().ok().filter(|address| address.is_ipv6() == ipv6).ok_or_else(
                || {
                    let message = format!(
                        "`{}` is not an {} address",
                        text.chars().take(64).collect::<String>(),
                        object.address_type
                    );
                    unreadable(
                        origin.clone(),
                        message,
                        "write addresses of the slice's `addressType`".to_owned(),
                    )
                },
            )?;
        // Endpoints of one slice mostly share their zones.
        let last = endpoints.last().and_then(|last| last.zone.clone());
        let zone = endpoint
            .zone
            .as_deref()
            .map(|zone| last.filter(|last| **last == *zone).unwrap_or_else(|| zone.into()));
        endpoints.push(SliceEndpoint {
            address,
            conditions: Conditions::from_object(endpoint.conditions.as_ref()),
            zone,
            pod: pod(endpoint.target_ref.as_ref(), origin),
            hints: Hints::from_object(endpoint.hints.as_ref()),
        });
    }
    Ok(endpoints)
}

/// The identity of the Pod of the slice's own Namespace that an endpoint refers to.
fn pod(target: Option<&ObjectReference>, slice: &Origin) -> Option<Arc<str>> {
    let target = target.filter(|target| target.kind.as_deref() == Some("Pod"))?;
    let is_other = |namespace: &str| !namespace.is_empty() && *namespace != *slice.namespace;
    if target.namespace.as_deref().is_some_and(is_other) {
        return None;
    }
    target.uid.as_deref().filter(|uid| !uid.is_empty()).map(Into::into)
}

// === impl EndpointPort ===

impl EndpointPort {
    /// `None` for a port without number, whose meaning Kubernetes leaves open; kube-proxy ignores
    /// it too.
    fn from_object(port: &v1::EndpointPort, origin: &Origin) -> Option<Result<Self, Problem>> {
        let number = port.port?;
        let name = port.name.as_deref().unwrap_or_default().into();
        Some(match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Self { name, port }),
            _ => Err(unreadable(
                origin.clone(),
                format!("{number} is not a port"),
                "write a port from 1 to 65535".to_owned(),
            )),
        })
    }
}

// === impl Hints ===

impl Hints {
    fn from_object(hints: Option<&v1::EndpointHints>) -> Self {
        let Some(hints) = hints else { return Self::default() };
        let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into());
        let nodes = hints.for_nodes.iter().flatten().map(|node| node.name.as_str().into());
        Self { zones: zones.collect(), nodes: nodes.collect() }
    }
}

// === impl Conditions ===

impl Conditions {
    fn from_object(conditions: Option<&v1::EndpointConditions>) -> Self {
        let read = |of: fn(&v1::EndpointConditions) -> Option<bool>| conditions.and_then(of);
        Self {
            ready: read(|conditions| conditions.ready).unwrap_or(true),
            serving: read(|conditions| conditions.serving).unwrap_or(true),
            terminating: read(|conditions| conditions.terminating).unwrap_or(false),
        }
    }
}
