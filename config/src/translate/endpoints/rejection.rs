//! Why an endpoint of an EndpointSlice gets no requests.
//!
//! Any user who may write EndpointSlices of one Namespace can write any address, so an address is
//! not trusted for being in a slice.

use std::fmt;
use std::net::SocketAddr;

use crate::model::address::{AddressClass, class};
use crate::resources::{EndpointSlice, Reserved, Resources, SliceEndpoint, Unverified};

/// Why an endpoint gets no requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejection {
    /// A pod cannot have such an address.
    Class(AddressClass),
    /// The address belongs to the cluster or to the gateway.
    Reserved(Reserved),
    /// The operator denies its network.
    Denied,
    /// No Pod proves that the address is its own.
    Unverified(Unverified),
}

/// Why an endpoint gets no requests at `port`; `None` if it gets them.
///
/// A slice in a cluster must not point to the gateway's own machine. A manifest in a folder is
/// written by the operator of the gateway, so addresses of this machine are allowed there.
pub(super) fn rejection(
    resources: &Resources,
    slice: &EndpointSlice,
    endpoint: &SliceEndpoint,
    port: u16,
) -> Option<Rejection> {
    let is_manifest = slice.origin.place.is_some();
    match class(endpoint.address) {
        Some(AddressClass::Loopback | AddressClass::LinkLocal) if is_manifest => {}
        Some(class) => return Some(Rejection::Class(class)),
        None => {}
    }
    let address = SocketAddr::new(endpoint.address, port);
    if let Some(reserved) = resources.reserved().find(address, is_manifest) {
        return Some(Rejection::Reserved(reserved));
    }
    if resources.denies(endpoint.address) {
        return Some(Rejection::Denied);
    }
    resources.verify(slice, endpoint).err().map(Rejection::Unverified)
}

// === impl Rejection ===

impl Rejection {
    /// Whether the owner of the slice must act. A Pod that is not known is usually newer than what
    /// was received of the Pods, or was deleted.
    pub(super) fn is_problem(self) -> bool {
        self != Self::Unverified(Unverified::UnknownPod)
    }

    /// The message for a slice with `address`.
    pub(super) fn message(self, address: SocketAddr) -> String {
        match self {
            // Other ports of the address may belong to pods.
            Self::Reserved(Reserved::ApiServer) => {
                format!("{address} is {self}, so it gets no requests")
            }
            _ => format!("{} is {self}, so it gets no requests", address.ip()),
        }
    }

    /// How to fix it.
    pub(super) fn help(self) -> &'static str {
        match self {
            Self::Class(_) | Self::Reserved(_) => "an endpoint must be the address of a pod",
            Self::Denied => "the gateway's operator denies its network (`endpoints.deny`)",
            Self::Unverified(_) => {
                "select pods by the Service's `selector`; the gateway's operator can allow other \
                 endpoints of a Namespace by `endpoints.allow`"
            }
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Class(AddressClass::Unspecified) => "the unspecified address",
            Self::Class(AddressClass::Multicast) => "a multicast address",
            Self::Class(AddressClass::Broadcast) => "the broadcast address",
            Self::Class(AddressClass::Metadata) => "an address of a cloud's metadata service",
            Self::Class(AddressClass::Loopback) => "a loopback address",
            Self::Class(AddressClass::LinkLocal) => "a link-local address",
            Self::Reserved(Reserved::ApiServer) => "an address of the Kubernetes API server",
            Self::Reserved(Reserved::ClusterIp) => "the cluster IP of a Service",
            Self::Reserved(Reserved::Gateway) => "an address of the gateway itself",
            Self::Denied => "in a network that is denied",
            Self::Unverified(Unverified::NoPod) => "not verified: the endpoint refers to no Pod",
            Self::Unverified(Unverified::UnknownPod) => "not verified: its Pod is not known",
            Self::Unverified(Unverified::HostNetwork) => "the address of its Pod's node",
            Self::Unverified(Unverified::OtherAddress) => "not an address of its Pod",
        })
    }
}
