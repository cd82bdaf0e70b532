//! Simulates a cluster: runs pods, probes them, and writes EndpointSlices.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_config::client_key::{Key, write_hash};
use portcullis_config::model::credential::{APPLICATION, CLIENT_KEY, CREDENTIAL, HASH};
use portcullis_echo::{Echo, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::gateway::Gateway;
use super::traffic::Traffic;
use super::{CREDENTIALS, PROBE_INTERVAL, STEP_DURATION};
use crate::cli::output;
use crate::cli::problems::Failure;

/// The manifests of `examples/shop`.
const MANIFESTS: [(&str, &str); 2] = [
    ("staging.yaml", include_str!("../../../examples/shop/staging.yaml")),
    ("production.yaml", include_str!("../../../examples/shop/production.yaml")),
];

/// Namespace, Service, the name of its port, and its pods.
const SERVICES: [(&str, &str, &str, &[&str]); 7] = [
    ("shop-staging", "web", "http", &["web-1", "web-2", "web-3"]),
    ("shop-staging", "web-canary", "http", &["web-canary-1"]),
    ("shop-staging", "calls", "grpc", &["calls-1"]),
    ("shop-staging", "chat", "http", &["chat-1"]),
    ("shop-production", "web", "http", &["web-live-1", "web-live-2"]),
    ("shop-production", "reports", "http", &["reports-1"]),
    ("shop-production", "back-office", "http", &["back-office-1"]),
];

/// The pods, and the folder of manifests.
pub(super) struct Cluster {
    folder: PathBuf,
    services: Vec<Service>,
    /// The client key of the application `importer`.
    key: Key,
    /// The results of the last probes, by pod.
    ready: watch::Sender<BTreeMap<String, bool>>,
}

struct Service {
    namespace: &'static str,
    name: &'static str,
    port: &'static str,
    pods: Vec<Echo>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts all pods, with `web-3` unready, and writes the manifests below `folder`.
    pub(super) async fn start(folder: &Path) -> Result<Self, Failure> {
        let folder = folder.join("manifests");
        fs::create_dir_all(&folder).map_err(Failure::new)?;
        for (name, text) in MANIFESTS.map(|(name, text)| (folder.join(name), text)) {
            // A kept folder has those that a developer has changed.
            if !name.exists() {
                fs::write(name, text).map_err(Failure::new)?;
            }
        }
        let mut services = Vec::new();
        for (namespace, name, port, pods) in SERVICES {
            let mut running = Vec::new();
            for pod in pods {
                running.push(Echo::start(Options::loopback(pod)).await.map_err(Failure::new)?);
            }
            services.push(Service { namespace, name, port, pods: running });
        }
        let key = write_key(&folder)?;
        let cluster = Self { folder, services, key, ready: watch::Sender::default() };
        cluster.pods().filter(|pod| pod.name() == "web-3").for_each(|pod| pod.set_ready(false));
        cluster.probe_once().await?;
        Ok(cluster)
    }

    /// The folder of manifests.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The client key of the application `importer`.
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the pod of that name.
    pub(super) fn pod(&self, name: &str) -> Option<&Echo> {
        self.pods().find(|pod| pod.name() == name)
    }

    fn pods(&self) -> impl Iterator<Item = &Echo> {
        self.services.iter().flat_map(|service| &service.pods)
    }

    /// Probes all pods periodically, as a kubelet does, and rewrites changed EndpointSlices.
    pub(super) async fn probe<T>(&self) -> Result<T, Failure> {
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            self.probe_once().await?;
        }
    }

    async fn probe_once(&self) -> Result<(), Failure> {
        for service in &self.services {
            let mut found = BTreeMap::new();
            for pod in &service.pods {
                found.insert(pod.name().to_owned(), is_ready(pod).await);
            }
            let previous = self.ready.borrow().clone();
            if found.iter().any(|(pod, ready)| previous.get(pod) != Some(ready)) {
                service.write_slices(&self.folder, &found)?;
                self.ready.send_modify(|ready| ready.extend(found));
            }
        }
        Ok(())
    }

    /// Switches a pod's readiness, and waits until the gateway applies it. Returns the time between
    /// the probe and that.
    pub(super) async fn switch(
        &self,
        name: &str,
        ready: bool,
        gateway: &Gateway,
    ) -> Result<Duration, Failure> {
        let pod = self.pod(name).ok_or_else(|| Failure::new(format!("there is no pod {name}")))?;
        pod.set_ready(ready);
        let mut probed = self.ready.subscribe();
        probed.wait_for(|pods| pods.get(name) == Some(&ready)).await.map_err(Failure::new)?;
        gateway.wait_until_applied(pod.address(), ready).await
    }

    /// Reports each readiness change, and which pods answer after it.
    pub(super) async fn report_changes<T>(
        &self,
        traffic: &Traffic,
        gateway: &Gateway,
    ) -> Result<T, Failure> {
        let mut probed = self.ready.subscribe();
        let mut before = probed.borrow_and_update().clone();
        loop {
            probed.changed().await.map_err(Failure::new)?;
            let now = probed.borrow_and_update().clone();
            for (name, ready) in
                now.iter().filter(|(name, ready)| before.get(*name) != Some(*ready))
            {
                let Some(pod) = self.pod(name) else { continue };
                let time = gateway.wait_until_applied(pod.address(), *ready).await?;
                let state = if *ready { "ready" } else { "not ready" };
                output::write(&format!(
                    "  {name} is {state}; the gateway applied this within {} ms\n",
                    time.as_millis()
                ))?;
            }
            before = now;
            traffic.reset();
            tokio::time::sleep(STEP_DURATION).await;
            output::write(&format!("    {}\n", traffic.tally()))?;
        }
    }
}

// === impl Service ===

impl Service {
    /// Writes one EndpointSlice per pod: the addresses of a slice share one port number, and here
    /// pods differ by port only.
    fn write_slices(&self, folder: &Path, ready: &BTreeMap<String, bool>) -> Result<(), Failure> {
        let mut text = String::from("# In a cluster, Kubernetes writes these.\n");
        for pod in &self.pods {
            let Self { namespace, name, port, .. } = self;
            let (pod_name, address) = (pod.name(), pod.address());
            let is_ready = ready.get(pod_name).copied().unwrap_or_default();
            let _ = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: \
                 {pod_name}\n  namespace: {namespace}\n  labels: {{ kubernetes.io/service-name: \
                 {name} }}\naddressType: IPv4\nports: [{{ name: {port}, port: {}, protocol: TCP \
                 }}]\nendpoints:\n  - addresses: [{}]\n    conditions: {{ ready: {is_ready}, \
                 serving: {is_ready}, terminating: false }}\n\x20   targetRef: {{ kind: Pod, \
                 name: {pod_name}, namespace: {namespace} }}\n",
                address.port(),
                address.ip(),
            );
        }
        let file = folder.join(format!("endpoints-{}-{}.yaml", self.namespace, self.name));
        let scratch = file.with_extension("new");
        fs::write(&scratch, text).and_then(|()| fs::rename(&scratch, &file)).map_err(Failure::new)
    }
}

/// Creates a client key for the application `importer`, and writes its Secret, as `portcullis key
/// create` does.
fn write_key(folder: &Path) -> Result<Key, Failure> {
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).map_err(Failure::new)?;
    let key = Key::new(&random);
    let text = format!(
        "# The hash of a client key: the key itself is not stored.\napiVersion: v1\nkind: \
         Secret\nmetadata: {{ name: importer, namespace: {CREDENTIALS}, labels: {{ \
         {CREDENTIAL}: {CLIENT_KEY} }} }}\nstringData: {{ {APPLICATION}: importer, {HASH}: '{}' \
         }}\n",
        write_hash(&key.hash()),
    );
    fs::write(folder.join("key-importer.yaml"), text).map_err(Failure::new)?;
    Ok(key)
}

/// Sends an HTTP readiness probe to a pod.
async fn is_ready(pod: &Echo) -> bool {
    let probe = async {
        let mut stream = TcpStream::connect(pod.address()).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        std::io::Result::Ok(response.starts_with(b"HTTP/1.1 200 "))
    };
    matches!(tokio::time::timeout(PROBE_INTERVAL, probe).await, Ok(Ok(true)))
}
