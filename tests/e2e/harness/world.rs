//! The content of the cluster, written as a folder of manifests.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{Echo, Recording};

/// Environments and services.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    services: Vec<Service>,
    /// Annotations of environments, without their prefix.
    annotations: Vec<(String, String, String)>,
    /// Environments whose Namespace lacks the label.
    unlabelled: Vec<String>,
    /// Raw documents, by file name.
    extra: Vec<(String, String)>,
}

/// One Service with its pods.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    name: String,
    environment: String,
    port_name: String,
    app_protocol: Option<String>,
    annotations: Vec<(String, String)>,
    pods: Vec<(SocketAddr, Value)>,
}

/// A server that acts as a pod.
pub(crate) trait Pod {
    /// The address that it listens on.
    fn address(&self) -> SocketAddr;
}

// === impl World ===

impl World {
    /// An empty world.
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    /// The service `web` in `staging`, which is open, with one pod.
    pub(crate) fn web(pod: &impl Pod) -> Self {
        Self::empty().with(Service::new("web").pod(pod))
    }

    /// Adds a service.
    pub(crate) fn with(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// With an annotation, without its prefix, on an environment's Namespace.
    pub(crate) fn annotation(mut self, environment: &str, name: &str, value: &str) -> Self {
        self.annotations.push((environment.to_owned(), name.to_owned(), value.to_owned()));
        self
    }

    /// Without the label that makes the Namespace an environment.
    pub(crate) fn without_label(mut self, environment: &str) -> Self {
        self.unlabelled.push(environment.to_owned());
        self
    }

    /// Adds a file.
    pub(crate) fn with_file(mut self, name: &str, text: &str) -> Self {
        self.extra.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Writes the manifests. Each file is replaced atomically, as a careful deployment does
    /// it; other files are removed.
    pub(crate) fn write(&self, folder: &Path) {
        let mut files: Vec<(String, String)> = self.extra.clone();
        let mut environments: Vec<&str> =
            self.services.iter().map(|service| &*service.environment).collect();
        environments.sort_unstable();
        environments.dedup();
        files.extend(
            environments
                .iter()
                .map(|name| (format!("environment-{name}.json"), self.namespace(name).to_string())),
        );
        files.extend(self.services.iter().map(|service| {
            (
                format!("service-{}-{}.json", service.environment, service.name),
                service.manifest().to_string(),
            )
        }));
        for (name, text) in &files {
            let scratch = folder.join(format!(".{name}.new"));
            std::fs::write(&scratch, text).expect("the folder of manifests can be written");
            std::fs::rename(&scratch, folder.join(name))
                .expect("a manifest can be moved into place");
        }
        for entry in std::fs::read_dir(folder).expect("the folder of manifests can be read") {
            let path = entry.expect("its entries too").path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if !files.iter().any(|(wanted, _)| *wanted == name) {
                std::fs::remove_file(&path).expect("a manifest can be removed");
            }
        }
    }

    fn namespace(&self, name: &str) -> Value {
        let require = if name == "closed" { "app+user" } else { "none" };
        let mut annotations =
            json!({ "portcullis.dev/expose": "all", "portcullis.dev/require": require });
        for (_, key, value) in
            self.annotations.iter().filter(|(environment, ..)| environment == name)
        {
            annotations[format!("portcullis.dev/{key}")] = json!(value);
        }
        let labels = match self.unlabelled.iter().any(|unlabelled| unlabelled == name) {
            true => json!({}),
            false => json!({ "portcullis.dev/environment": name }),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": labels, "annotations": annotations },
        })
    }
}

// === impl Service ===

impl Service {
    /// A service in `staging` that is open, whose port is named `http`, without pods.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            environment: "staging".to_owned(),
            port_name: "http".to_owned(),
            app_protocol: None,
            annotations: Vec::new(),
            pods: Vec::new(),
        }
    }

    /// In another environment. `closed` requires credentials, all others are open.
    pub(crate) fn environment(mut self, name: &str) -> Self {
        self.environment = name.to_owned();
        self
    }

    /// With another port name: `grpc`, `h2c`.
    pub(crate) fn port_name(mut self, name: &str) -> Self {
        self.port_name = name.to_owned();
        self
    }

    /// With this `appProtocol`.
    pub(crate) fn app_protocol(mut self, name: &str) -> Self {
        self.app_protocol = Some(name.to_owned());
        self
    }

    /// With this annotation, without its prefix.
    pub(crate) fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((format!("portcullis.dev/{name}"), value.to_owned()));
        self
    }

    /// Adds a ready pod.
    pub(crate) fn pod(self, pod: &impl Pod) -> Self {
        self.endpoint(
            pod.address(),
            json!({ "ready": true, "serving": true, "terminating": false }),
        )
    }

    /// Adds a pod that is not ready.
    pub(crate) fn unready_pod(self, pod: &impl Pod) -> Self {
        self.endpoint(
            pod.address(),
            json!({ "ready": false, "serving": false, "terminating": false }),
        )
    }

    /// Adds a terminating pod that still serves.
    pub(crate) fn draining_pod(self, pod: &impl Pod) -> Self {
        self.endpoint(
            pod.address(),
            json!({ "ready": false, "serving": true, "terminating": true }),
        )
    }

    fn endpoint(mut self, address: SocketAddr, conditions: Value) -> Self {
        self.pods.push((address, conditions));
        self
    }

    fn manifest(&self) -> Value {
        let namespace = &self.environment;
        let annotations: serde_json::Map<_, _> =
            self.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let mut port =
            json!({ "name": self.port_name, "port": 80, "targetPort": 8080, "protocol": "TCP" });
        if let Some(protocol) = &self.app_protocol {
            port["appProtocol"] = json!(protocol);
        }
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.name, "namespace": namespace, "annotations": annotations },
            "spec": { "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ports": [port] },
        });
        // A slice has the same ports for all its addresses: pods on one address differ by port,
        // so each has a separate slice.
        let slices = self.pods.iter().enumerate().map(|(number, (address, conditions))| {
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{number}", self.name),
                    "namespace": namespace,
                    "labels": { "kubernetes.io/service-name": self.name },
                },
                "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                "ports": [{ "name": self.port_name, "port": address.port(), "protocol": "TCP" }],
                "endpoints": [{ "addresses": [address.ip()], "conditions": conditions }],
            })
        });
        let items: Vec<Value> = std::iter::once(service).chain(slices).collect();
        json!({ "apiVersion": "v1", "kind": "List", "items": items })
    }
}

// === impl Pod ===

impl Pod for Echo {
    fn address(&self) -> SocketAddr {
        Self::address(self)
    }
}

impl Pod for Recording {
    fn address(&self) -> SocketAddr {
        Self::address(self)
    }
}

impl Pod for SocketAddr {
    fn address(&self) -> SocketAddr {
        *self
    }
}
