//! What a cluster has that decides how a gateway is installed.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli::kubectl::{Kubectl, items, text_at};
use crate::cli::problems::Failure;

/// What was found in a cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    /// Why Services of the type LoadBalancer get an address, if they do.
    pub(super) balancer: Option<String>,
    /// The nodes with the label that `host-ports` selects.
    pub(super) gateway_nodes: usize,
    /// The Deployment of external-dns, as `NAMESPACE/NAME`.
    pub(super) external_dns: Option<String>,
    /// Whether cert-manager's resources are there.
    pub(super) cert_manager: bool,
    /// Whether the Prometheus operator's resources are there.
    pub(super) prometheus_operator: bool,
    /// Whether the Namespace has a gateway already.
    pub(super) is_installed: bool,
}

/// What kubectl returned.
struct Resources {
    nodes: Value,
    services: Value,
    deployments: Value,
    definitions: Value,
}

/// Schemes of `spec.providerID` of nodes in clouds whose controllers create load balancers.
const CLOUDS: [&str; 10] = [
    "aws",
    "azure",
    "digitalocean",
    "exoscale",
    "gce",
    "hcloud",
    "ibm",
    "linode",
    "oci",
    "scaleway",
];
/// Resources of controllers that give addresses to load balancers without a cloud.
const CONTROLLERS: [(&str, &str); 3] = [
    ("ipaddresspools.metallb.io", "MetalLB"),
    ("ciliumloadbalancerippools.cilium.io", "Cilium"),
    ("loadbalancerclasses.kube-vip.io", "kube-vip"),
];

// === impl Cluster ===

impl Cluster {
    /// Reads a cluster; `namespace` is the gateway's.
    pub(super) async fn read(kubectl: &Kubectl, namespace: &str) -> Result<Self, Failure> {
        let read = async |what: &[&str]| {
            kubectl.json(&[&["get"], what].concat()).await.map_err(|error| {
                let help = "set KUBECONFIG or --context to a cluster, as a user who may list these";
                Failure::with_help(format!("failed to list {}: {error}", what.join(" ")), help)
            })
        };
        let resources = Resources {
            nodes: read(&["nodes"]).await?,
            services: read(&["services", "--all-namespaces"]).await?,
            deployments: read(&["deployments", "--all-namespaces"]).await?,
            definitions: read(&["customresourcedefinitions"]).await?,
        };
        Ok(Self::new(&resources, namespace))
    }

    fn new(resources: &Resources, namespace: &str) -> Self {
        let Resources { nodes, services, deployments, definitions } = resources;
        let definitions: BTreeSet<&str> =
            items(definitions).map(|definition| text_at(definition, "/metadata/name")).collect();
        let label = "/metadata/labels/portcullis.dev~1gateway";
        Self {
            balancer: balancer(nodes, services, &definitions),
            gateway_nodes: items(nodes).filter(|node| node.pointer(label).is_some()).count(),
            external_dns: items(deployments).find(|one| is_external_dns(one)).map(name),
            cert_manager: definitions.contains("certificates.cert-manager.io"),
            prometheus_operator: definitions.contains("podmonitors.monitoring.coreos.com"),
            is_installed: items(deployments)
                .any(|one| name(one) == format!("{namespace}/portcullis")),
        }
    }
}

/// Why Services of the type LoadBalancer get an address: one has, or something is there that gives
/// them.
fn balancer(nodes: &Value, services: &Value, definitions: &BTreeSet<&str>) -> Option<String> {
    let has_address =
        |service: &&Value| service.pointer("/status/loadBalancer/ingress/0").is_some();
    if let Some(service) = items(services).find(has_address) {
        return Some(format!("the Service {} has an address", name(service)));
    }
    if let Some((_, controller)) = CONTROLLERS.iter().find(|(crd, _)| definitions.contains(crd)) {
        return Some(format!("{controller} is installed"));
    }
    let providers =
        items(nodes).filter_map(|node| text_at(node, "/spec/providerID").split_once(':'));
    let mut schemes = providers.map(|(scheme, _)| scheme);
    // k3s has a controller of its own, unless it was turned off.
    let cloud = schemes.find(|scheme| CLOUDS.contains(scheme) || *scheme == "k3s")?;
    Some(format!("the nodes are of {cloud}"))
}

fn is_external_dns(deployment: &Value) -> bool {
    let containers = deployment.pointer("/spec/template/spec/containers");
    let containers = containers.and_then(Value::as_array).into_iter().flatten();
    let of_image = |container: &Value| {
        let image = text_at(container, "/image");
        let name = image.rsplit('/').next().unwrap_or_default();
        name.split([':', '@']).next() == Some("external-dns")
    };
    text_at(deployment, "/metadata/labels/app.kubernetes.io~1name") == "external-dns"
        || containers.into_iter().any(of_image)
}

fn name(object: &Value) -> String {
    format!("{}/{}", text_at(object, "/metadata/namespace"), text_at(object, "/metadata/name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(nodes: Value, services: Value, deployments: Value, definitions: Value) -> Cluster {
        let list = |items: Value| json!({ "items": items });
        let resources = Resources {
            nodes: list(nodes),
            services: list(services),
            deployments: list(deployments),
            definitions: list(definitions),
        };
        Cluster::new(&resources, "portcullis")
    }

    fn balancer_of(nodes: Value, services: Value, definitions: Value) -> Option<String> {
        cluster(nodes, services, json!([]), definitions).balancer
    }

    #[test]
    fn a_load_balancer_is_expected_where_something_creates_them() {
        let node = |provider: &str| json!([{ "spec": { "providerID": provider } }]);
        let none = json!([]);
        assert_eq!(balancer_of(node("kind://docker/kind/node"), none.clone(), none.clone()), None);
        assert_eq!(balancer_of(json!([{}]), none.clone(), none.clone()), None);
        let cloud = balancer_of(node("aws:///eu-1a/i-0"), none.clone(), none.clone());
        assert_eq!(cloud.as_deref(), Some("the nodes are of aws"));
        let service = |status: Value| json!([{ "metadata": { "name": "web", "namespace": "shop" }, "status": status }]);
        let pending = service(json!({ "loadBalancer": {} }));
        assert_eq!(balancer_of(none.clone(), pending, none.clone()), None);
        let given = service(json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } }));
        let found = balancer_of(none.clone(), given, none.clone());
        assert_eq!(found.as_deref(), Some("the Service shop/web has an address"));
        let metallb = json!([{ "metadata": { "name": "ipaddresspools.metallb.io" } }]);
        assert_eq!(
            balancer_of(none.clone(), none, metallb).as_deref(),
            Some("MetalLB is installed")
        );
    }

    #[test]
    fn external_dns_is_found_by_its_label_or_its_image() {
        let found = |deployment: Value| {
            cluster(json!([]), json!([]), json!([deployment]), json!([])).external_dns
        };
        let by_label = json!({ "metadata": {
            "namespace": "dns", "name": "edns", "labels": { "app.kubernetes.io/name": "external-dns" },
        }});
        assert_eq!(found(by_label).as_deref(), Some("dns/edns"));
        let image = |image: &str| {
            json!({
                "metadata": { "namespace": "dns", "name": "x" },
                "spec": { "template": { "spec": { "containers": [{ "image": image }] } } },
            })
        };
        assert!(found(image("registry.k8s.io/external-dns/external-dns:v0.19.0")).is_some());
        assert!(found(image("r.example.com/external-dns@sha256:0")).is_some());
        assert!(found(image("r.example.com/external-dns-ui:1")).is_none());
    }

    #[test]
    fn an_installation_is_found_in_its_own_namespace() {
        let deployment = |namespace: &str| {
            let metadata = json!({ "namespace": namespace, "name": "portcullis" });
            json!([{ "metadata": metadata }])
        };
        let is_installed = |namespace| {
            cluster(json!([]), json!([]), deployment(namespace), json!([])).is_installed
        };
        assert!(is_installed("portcullis"));
        assert!(!is_installed("other"));
        let labelled = json!([{ "metadata": { "labels": { "portcullis.dev/gateway": "" } } }, {}]);
        assert_eq!(cluster(labelled, json!([]), json!([]), json!([])).gateway_nodes, 1);
    }
}
