//! Services.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;

use super::{Annotations, Metadata, unreadable};
use crate::model::{NamespacedName, Origin, SourceLocation};
use crate::problem::Problem;

/// A Service, trimmed to the fields that are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Where it came from.
    pub origin: Origin,
    /// When it was created, in seconds since 1970; an object of unknown age counts as the newest.
    pub created: i64,
    /// Its labels with the prefix of Portcullis.
    pub labels: Annotations,
    /// Its annotations with the prefix of Portcullis.
    pub annotations: Annotations,
    /// Whether it is an alias of an external name (`spec.type: ExternalName`).
    pub external: bool,
    /// Whether IPv6 is its first address family (`spec.ipFamilies`).
    pub prefers_ipv6: bool,
    /// Its addresses in the cluster (`spec.clusterIPs`); none for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// Its addresses for clients outside (`spec.externalIPs`, `status.loadBalancer`).
    pub external_ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// Which endpoints are preferred; `None` where all are the same.
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// Which endpoints of a Service are preferred (`spec.trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// Those of the same zone (`PreferSameZone`, `PreferClose`).
    SameZone,
    /// Those of the same node, then those of the same zone (`PreferSameNode`).
    SameNode,
}

/// A TCP port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where it has none. The ports of EndpointSlices have the same name.
    pub name: Arc<str>,
    /// Its number.
    pub port: u16,
    /// The application protocol.
    pub app_protocol: Option<Arc<str>>,
}

// === impl Service ===

impl Service {
    /// Parses an object; `place` is its location, for one from a file.
    ///
    /// # Errors
    /// It has no name, or an invalid port.
    pub fn from_object(
        object: &v1::Service,
        place: Option<SourceLocation>,
    ) -> Result<Self, Problem> {
        let Metadata { origin, created } =
            Metadata::read("Service", true, &object.metadata, place)?;
        let spec = object.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
        let ports = ports.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")));
        let ports =
            ports.map(|port| ServicePort::from_object(port, &origin)).collect::<Result<_, _>>()?;
        let cluster_ips = spec.into_iter().flat_map(|spec| {
            spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).map(String::as_str)
        });
        // A headless Service has `None` here.
        let cluster_ips: BTreeSet<IpAddr> =
            cluster_ips.filter_map(|address| address.parse().ok()).collect();
        Ok(Self {
            created,
            labels: Annotations::filter(object.metadata.labels.as_ref()),
            annotations: Annotations::filter(object.metadata.annotations.as_ref()),
            external: spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName")),
            prefers_ipv6: spec
                .and_then(|spec| spec.ip_families.as_ref()?.first())
                .is_some_and(|family| family == "IPv6"),
            cluster_ips: cluster_ips.into_iter().collect(),
            external_ips: external_ips(object),
            ports,
            traffic_distribution: spec
                .and_then(|spec| TrafficDistribution::parse(spec.traffic_distribution.as_deref()?)),
            origin,
        })
    }

    /// Its namespace and name.
    #[must_use]
    pub fn key(&self) -> NamespacedName {
        NamespacedName { namespace: self.origin.namespace.clone(), name: self.origin.name.clone() }
    }
}

fn external_ips(object: &v1::Service) -> Vec<IpAddr> {
    let spec = object.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let addresses = spec.chain(ingress.filter_map(|ingress| ingress.ip.as_ref()));
    let addresses: BTreeSet<IpAddr> =
        addresses.filter_map(|address| address.parse().ok()).collect();
    addresses.into_iter().collect()
}

// === impl TrafficDistribution ===

impl TrafficDistribution {
    /// `None` for a value that is not known: Kubernetes allows others, of other implementations.
    fn parse(text: &str) -> Option<Self> {
        match text {
            "PreferSameZone" | "PreferClose" => Some(Self::SameZone),
            "PreferSameNode" => Some(Self::SameNode),
            _ => None,
        }
    }
}

// === impl ServicePort ===

impl ServicePort {
    fn from_object(port: &v1::ServicePort, origin: &Origin) -> Result<Self, Problem> {
        let number =
            u16::try_from(port.port).ok().filter(|number| *number > 0).ok_or_else(|| {
                unreadable(
                    origin.clone(),
                    format!("{} is not a port", port.port),
                    "write a port from 1 to 65535".to_owned(),
                )
            })?;
        let name = port.name.as_deref().unwrap_or_default().into();
        Ok(Self { name, port: number, app_protocol: port.app_protocol.as_deref().map(Into::into) })
    }
}
