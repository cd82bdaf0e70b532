//! What is known of an installation: read by kubectl, and seen from this machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use k8s_openapi::jiff::Timestamp;
use portcullis_identity::outbound::Client;
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::builds;
use super::registry::{self, Registry};
use super::rights::{self, Account};
use crate::cli::kubectl::{GATEWAYS, Kubectl, items, text_at};
use crate::cli::problems::Failure;

/// The wait for a DNS record, for a connection, and for a registry.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// The most addresses that are connected to, and the most identity providers and registries that are
/// asked.
pub(super) const MAX_TARGETS: usize = 8;
/// A name of the zone that no service has, so that only the wildcard record answers for it.
const PROBE: &str = "portcullis-doctor";

/// What is known of an installation.
#[derive(Debug)]
pub(super) struct Facts {
    /// The gateway's Namespace.
    pub(super) namespace: String,
    /// Its Deployment.
    pub(super) deployment: Option<Value>,
    /// Its Service.
    pub(super) service: Option<Value>,
    /// Its pods.
    pub(super) pods: Vec<Value>,
    /// Its configuration.
    pub(super) configuration: Value,
    /// The addresses by which clients reach it, with their HTTPS port.
    pub(super) targets: BTreeSet<SocketAddr>,
    /// The addresses of the zone's wildcard record, or why there are none.
    pub(super) record: Option<Result<BTreeSet<IpAddr>, String>>,
    /// Why no connection to a target was possible, if none was.
    pub(super) ports: Vec<(SocketAddr, Option<String>)>,
    /// Whether a client trusts the gateway's certificate: else why not, and whether for its dates.
    pub(super) https: Option<Result<(), (String, bool)>>,
    /// By how many seconds the clock of each node is ahead of this machine's, at most.
    pub(super) clocks: Result<Vec<(String, i64)>, String>,
    /// The rights that its account lacks.
    pub(super) denied: Result<BTreeSet<String>, String>,
    /// The identity providers, and what is wrong with each.
    pub(super) issuers: Vec<(String, Option<String>)>,
    /// The registries of the pods' images.
    pub(super) registries: Vec<Registry>,
    /// The release builders of the cluster that build.
    pub(super) builders: Result<Vec<builds::Builder>, String>,
}

// === impl Facts ===

impl Facts {
    /// Reads and probes everything; each probe has a timeout.
    ///
    /// # Errors
    /// The gateway's objects cannot be read.
    pub(super) async fn collect(kubectl: &Kubectl, namespace: &str) -> Result<Self, Failure> {
        let mut facts = Self::read(kubectl, namespace).await?;
        if facts.deployment.is_none() {
            return Ok(facts);
        }
        facts.targets = targets(&facts, kubectl).await;
        facts.record = match facts.probe() {
            Some(name) => Some(resolve(&name).await),
            None => None,
        };
        let connections = facts.targets.iter().take(MAX_TARGETS).map(|target| connect(*target));
        facts.ports = join_all(connections).await;
        facts.https = facts.handshake().await;
        facts.clocks = clocks(kubectl).await;
        facts.denied = facts.denied(kubectl).await;
        facts.issuers = facts.issuers().await;
        facts.registries = registry::probe(&facts.pods).await;
        facts.builders = builds::probe(kubectl).await;
        Ok(facts)
    }

    async fn read(kubectl: &Kubectl, namespace: &str) -> Result<Self, Failure> {
        let kinds = "deployments,services,pods";
        let arguments = ["--namespace", namespace, "get", kinds, "--selector", GATEWAYS];
        let objects = kubectl.json(&arguments).await.map_err(|error| {
            let help = "set KUBECONFIG or --context to the cluster, and --namespace to that of the \
                        gateway, as a user who may list these";
            Failure::with_help(format!("failed to list {kinds}: {error}"), help)
        })?;
        let of_kind = |kind: &str| {
            items(&objects).filter(|one| text_at(one, "/kind") == kind).cloned().collect::<Vec<_>>()
        };
        let deployment = of_kind("Deployment").into_iter().next();
        let configuration = match &deployment {
            Some(deployment) => configuration(kubectl, namespace, deployment, "gateway.yaml").await,
            None => Value::Null,
        };
        Ok(Self {
            namespace: namespace.to_owned(),
            deployment,
            service: of_kind("Service").into_iter().next(),
            pods: of_kind("Pod"),
            configuration,
            targets: BTreeSet::new(),
            record: None,
            ports: Vec::new(),
            https: None,
            clocks: Ok(Vec::new()),
            denied: Ok(BTreeSet::new()),
            issuers: Vec::new(),
            registries: Vec::new(),
            builders: Ok(Vec::new()),
        })
    }

    /// The zone, if the configuration could be read.
    pub(super) fn zone(&self) -> Option<&str> {
        self.configuration.get("zone").and_then(Value::as_str)
    }

    fn probe(&self) -> Option<String> {
        self.zone().map(|zone| format!("{PROBE}.{zone}"))
    }

    /// Sends a request to the zone, as a client that trusts the authorities of this system.
    async fn handshake(&self) -> Option<Result<(), (String, bool)>> {
        let has_record = matches!(&self.record, Some(Ok(addresses)) if !addresses.is_empty());
        let name = self.probe().filter(|_| has_record)?;
        let port = self.targets.iter().next().map_or(443, SocketAddr::port);
        let client = Client::new(None).ok()?;
        let response = client.get(&format!("https://{name}:{port}/"), "*/*").await;
        Some(response.map(drop).map_err(|error| (error.to_string(), error.is_about_dates())))
    }

    async fn denied(&self, kubectl: &Kubectl) -> Result<BTreeSet<String>, String> {
        let account = self.account();
        let answers = kubectl.create(&rights::reviews(&account)).await?;
        Ok(rights::denied(&answers))
    }

    fn account(&self) -> Account {
        let deployment = self.deployment.as_ref().unwrap_or(&Value::Null);
        let has = |key: &str| self.configuration.get(key).is_some_and(|value| !value.is_null());
        let verifies = text_at(&self.configuration, "/endpoints/verify") == "pods";
        let certificates = self.configuration.get("certificates").and_then(Value::as_array);
        let secrets = certificates.into_iter().flatten().filter_map(|one| one.get("secret"));
        Account {
            namespace: self.namespace.clone(),
            name: text_at(deployment, "/spec/template/spec/serviceAccountName").to_owned(),
            components: [("acme", has("acme")), ("verify-endpoints", verifies)]
                .into_iter()
                .filter_map(|(name, is_used)| is_used.then_some(name))
                .collect(),
            certificates: secrets
                .map(|one| (text_at(one, "/namespace").into(), text_at(one, "/name").into()))
                .collect(),
        }
    }

    /// Asks each identity provider for its discovery document.
    async fn issuers(&self) -> Vec<(String, Option<String>)> {
        let issuers = self.configuration.pointer("/access/issuers").and_then(Value::as_array);
        // One with authorities of its own names a file of the pod, which is not here.
        let is_public = |issuer: &&Value| text_at(issuer, "/certificateAuthorities").is_empty();
        let issuers = issuers.into_iter().flatten().filter(is_public).take(MAX_TARGETS);
        join_all(issuers.map(|issuer| async {
            let url = text_at(issuer, "/issuer");
            (text_at(issuer, "/name").to_owned(), discover(url).await.err())
        }))
        .await
    }
}

/// A file of configuration in a ConfigMap that a Deployment mounts.
pub(super) async fn configuration(
    kubectl: &Kubectl,
    namespace: &str,
    deployment: &Value,
    name: &str,
) -> Value {
    let pointer = format!("/data/{name}");
    let volumes = deployment.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
    let names = volumes.into_iter().flatten().map(|volume| text_at(volume, "/configMap/name"));
    for name in names.filter(|name| !name.is_empty()) {
        let map = kubectl.json(&["--namespace", namespace, "get", "configmap", name]).await;
        let file = map.ok().map(|map| text_at(&map, &pointer).to_owned());
        if let Some(file) = file.filter(|file| !file.is_empty()) {
            return serde_saphyr::from_str(&file).unwrap_or_default();
        }
    }
    Value::Null
}

/// The addresses by which clients reach the gateway: those of its balancer, else of the nodes that
/// run its pods.
async fn targets(facts: &Facts, kubectl: &Kubectl) -> BTreeSet<SocketAddr> {
    let Some(service) = &facts.service else { return BTreeSet::new() };
    let port = |key: &str| {
        let ports = service.pointer("/spec/ports").and_then(Value::as_array);
        let https = ports.into_iter().flatten().find(|port| text_at(port, "/name") == "https");
        let number = https.and_then(|port| port.get(key)).and_then(Value::as_u64);
        number.and_then(|number| u16::try_from(number).ok()).unwrap_or(443)
    };
    match text_at(service, "/spec/type") {
        "LoadBalancer" => {
            let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
            let mut targets = BTreeSet::new();
            for one in ingress.into_iter().flatten().take(MAX_TARGETS) {
                if let Ok(address) = text_at(one, "/ip").parse::<IpAddr>() {
                    targets.insert(SocketAddr::new(address, port("port")));
                }
                let hostname = text_at(one, "/hostname");
                let addresses =
                    if hostname.is_empty() { None } else { resolve(hostname).await.ok() };
                let addresses = addresses.into_iter().flatten();
                targets.extend(addresses.map(|address| SocketAddr::new(address, port("port"))));
            }
            targets
        }
        "NodePort" => at_nodes(facts, kubectl, port("nodePort")).await,
        _ => at_nodes(facts, kubectl, 443).await,
    }
}

/// The addresses of the nodes that run pods of the gateway: external ones, else internal ones.
async fn at_nodes(facts: &Facts, kubectl: &Kubectl, port: u16) -> BTreeSet<SocketAddr> {
    let nodes = kubectl.json(&["get", "nodes"]).await.unwrap_or_default();
    let running: BTreeSet<&str> =
        facts.pods.iter().map(|pod| text_at(pod, "/spec/nodeName")).collect();
    let nodes = items(&nodes).filter(|node| running.contains(text_at(node, "/metadata/name")));
    let addresses = nodes.flat_map(|node| {
        let all = node.pointer("/status/addresses").and_then(Value::as_array);
        let of = |kind: &str| -> Vec<IpAddr> {
            let all = all.into_iter().flatten().filter(|one| text_at(one, "/type") == kind);
            all.filter_map(|one| text_at(one, "/address").parse().ok()).collect()
        };
        let external = of("ExternalIP");
        if external.is_empty() { of("InternalIP") } else { external }
    });
    addresses.map(|address| SocketAddr::new(address, port)).collect()
}

async fn resolve(name: &str) -> Result<BTreeSet<IpAddr>, String> {
    let found = timeout(TIMEOUT, lookup_host((name, 443))).await;
    let found = found.map_err(|_| "the DNS server did not respond".to_owned())?;
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.map(|address| address.ip()).collect())
}

async fn connect(target: SocketAddr) -> (SocketAddr, Option<String>) {
    let why = match timeout(TIMEOUT, TcpStream::connect(target)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no response within {} s", TIMEOUT.as_secs())),
    };
    (target, why)
}

async fn discover(url: &str) -> Result<(), String> {
    let client = Client::new(None).map_err(|error| error.to_string())?;
    let document = format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
    let response = client.get(&document, "application/json").await;
    let response = response.map_err(|error| error.to_string())?;
    if !response.status.is_success() {
        return Err(format!("{document} has the status {}", response.status));
    }
    let document: Value = serde_json::from_slice(&response.body).map_err(|e| e.to_string())?;
    match text_at(&document, "/issuer") {
        issuer if issuer == url => Ok(()),
        issuer => Err(format!("it calls itself {issuer:?} instead of {url:?}")),
    }
}

/// The clocks of nodes, by the Leases that their kubelets renew every ten seconds.
async fn clocks(kubectl: &Kubectl) -> Result<Vec<(String, i64)>, String> {
    let leases = kubectl.json(&["--namespace", "kube-node-lease", "get", "leases"]).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ahead = |lease: &Value| {
        let renewed: Timestamp = text_at(lease, "/spec/renewTime").parse().ok()?;
        let name = text_at(lease, "/metadata/name").to_owned();
        Some((name, renewed.as_second() - i64::try_from(now).ok()?))
    };
    Ok(items(&leases).filter_map(ahead).collect())
}
