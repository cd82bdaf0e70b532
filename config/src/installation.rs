//! The gateway's own installation, as found in its process's environment.

mod local_addresses;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use self::local_addresses::local_addresses;

/// The Namespace of a gateway where none is set.
pub const DEFAULT_NAMESPACE: &str = "portcullis";
/// The file in which Kubernetes gives a pod its Namespace, beside its ServiceAccount's token.
const SERVICE_ACCOUNT_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The gateway's own installation, known before any resource is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The Namespace that it runs in.
    pub namespace: Arc<str>,
    /// Addresses of the API server that its client uses, where they are IP addresses.
    pub api_server: BTreeSet<SocketAddr>,
    /// The addresses of this process's machine or pod.
    pub addresses: BTreeSet<IpAddr>,
    /// Where it runs.
    pub location: Location,
}

/// Where a gateway runs in the cluster, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// The topology zone.
    pub zone: Option<Arc<str>>,
    /// The node.
    pub node: Option<Arc<str>>,
}

/// The gateway's own Namespace: `POD_NAMESPACE`, else that of the pod's ServiceAccount, else
/// [`DEFAULT_NAMESPACE`].
#[must_use]
pub fn own_namespace() -> String {
    let given = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    std::env::var("POD_NAMESPACE")
        .ok()
        .and_then(given)
        .or_else(|| std::fs::read_to_string(SERVICE_ACCOUNT_NAMESPACE).ok().and_then(given))
        .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}

// === impl Installation ===

impl Installation {
    /// The installation that this process runs in.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self {
            namespace: own_namespace().into(),
            api_server: api_server(variable).into_iter().collect(),
            addresses: local_addresses().into_iter().chain(pod_addresses(variable)).collect(),
            location: location(variable),
        }
    }
}

impl Default for Installation {
    fn default() -> Self {
        Self {
            namespace: DEFAULT_NAMESPACE.into(),
            api_server: BTreeSet::new(),
            addresses: BTreeSet::new(),
            location: Location::default(),
        }
    }
}

/// The API server's address in the variables of a container; `None` where it is not an IP address.
fn api_server(variable: impl Fn(&str) -> Option<String>) -> Option<SocketAddr> {
    let host: IpAddr = variable("KUBERNETES_SERVICE_HOST")?.trim().parse().ok()?;
    let port = variable("KUBERNETES_SERVICE_PORT").and_then(|port| port.trim().parse().ok());
    Some(SocketAddr::new(host, port.unwrap_or(443)))
}

/// The addresses of the pod in `POD_IPS`, as the Deployment sets it: not every container runtime
/// shows the network's state to a process.
fn pod_addresses(variable: impl Fn(&str) -> Option<String>) -> Vec<IpAddr> {
    let text = variable("POD_IPS").unwrap_or_default();
    text.split(',').filter_map(|address| address.trim().parse().ok()).collect()
}

/// The zone and the node in `POD_ZONE` and `NODE_NAME`, as the Deployment sets them.
fn location(variable: impl Fn(&str) -> Option<String>) -> Location {
    let given = |name| {
        let text = variable(name)?;
        Some(text.trim().into()).filter(|text: &Arc<str>| !text.is_empty())
    };
    Location { zone: given("POD_ZONE"), node: given("NODE_NAME") }
}

#[cfg(test)]
mod tests;
