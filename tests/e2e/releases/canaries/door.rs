//! The replicas of the gateway, as people and the builder reach them: processes on the node, or pods of
//! another cluster.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::super::registry::Registry;
use super::repository::trust;
use crate::harness::node::kubectl;
use crate::harness::{Curl, Gateway, soon};

/// The manifests of a gateway in pods, and the name of its image in them.
const OVERLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/demo-gateway");
const IMAGE: &str = "image: portcullis:demo";
/// Its Namespace.
const NAMESPACE: &str = "portcullis-demo-gateway";
/// The ports of its pods for people and for the builder.
const PORTS: [&str; 2] = [":8080", ":9903"];

/// A replica of the gateway.
#[derive(Clone)]
pub(super) enum Door {
    Process(Arc<Gateway>),
    Pod(Arc<Forward>),
}

/// The ports of a pod, on this machine. Closed on drop.
pub(super) struct Forward {
    _kubectl: Child,
    http: SocketAddr,
    telemetry: SocketAddr,
}

// === impl Door ===

impl Door {
    /// Installs a gateway with two replicas, whose image is in the registry.
    pub(super) async fn pods(registry: &Registry) -> [Self; 2] {
        let manifests = kubectl(&["kustomize", OVERLAY], "").await;
        assert!(manifests.contains(IMAGE), "{manifests}");
        let image = format!("image: {}/portcullis:demo", registry.repository());
        let manifests = manifests.replace(IMAGE, &image);
        kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait"], "").await;
        kubectl(&["create", "namespace", NAMESPACE], "").await;
        trust(registry, NAMESPACE).await;
        kubectl(&["apply", "--server-side", "-f", "-"], &manifests).await;
        let ready = ["rollout", "status", "deployment/portcullis", "--timeout=180s"];
        kubectl(&[&ready[..], &["--namespace", NAMESPACE]].concat(), "").await;
        let list = ["get", "pods", "--namespace", NAMESPACE, "--output=name"];
        let listed = kubectl(&list, "").await;
        let names: Vec<&str> = listed.lines().collect();
        let [first, second] = names[..] else { panic!("two replicas: {listed}") };
        [Self::pod(first).await, Self::pod(second).await]
    }

    async fn pod(name: &str) -> Self {
        let mut kubectl = Command::new("kubectl")
            .args(["port-forward", "--namespace", NAMESPACE, "--address", "127.0.0.1", name])
            .args(PORTS)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl runs");
        let mut lines = BufReader::new(kubectl.stdout.take().expect("its output")).lines();
        let mut next = async || -> SocketAddr {
            let line = lines.next_line().await.expect("its output").expect("a forwarded port");
            let address =
                line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
            address.and_then(|address| address.parse().ok()).expect("an address")
        };
        let ports = async { [next().await, next().await] };
        let [http, telemetry] = soon("the ports are forwarded", ports).await;
        // It writes a line for each connection.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self::Pod(Arc::new(Forward { _kubectl: kubectl, http, telemetry }))
    }

    /// The address for plain HTTP.
    pub(super) fn http(&self) -> SocketAddr {
        match self {
            Self::Process(gateway) => gateway.http(),
            Self::Pod(forward) => forward.http,
        }
    }

    /// The address of the traffic feed.
    pub(super) fn telemetry(&self) -> SocketAddr {
        match self {
            Self::Process(gateway) => gateway.telemetry(),
            Self::Pod(forward) => forward.telemetry,
        }
    }

    /// The gateway, which speaks TLS as well.
    pub(super) fn process(&self) -> &Gateway {
        match self {
            Self::Process(gateway) => gateway,
            Self::Pod(_) => panic!("pods are reached over plain HTTP alone"),
        }
    }

    /// The status of a GET over plain HTTP.
    pub(super) async fn status(&self, host: &str, path: &str) -> u16 {
        let call = Curl::new(&format!("http://{}{path}", self.http()));
        call.header(&format!("Host: {host}")).run().await.status
    }
}
