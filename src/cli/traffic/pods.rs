//! The pods of a gateway in a cluster. Their admin listeners are on the loopback: `kubectl
//! port-forward` reaches them, for those who may.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::cli::kubectl::{GATEWAYS, Kubectl, items, text_at};
use crate::cli::problems::Failure;

/// The port of the admin listener in a pod.
const ADMIN_PORT: u16 = 9901;
/// The longest wait for kubectl to forward a port.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The most pods that are asked: each needs a process.
const MAX_PODS: usize = 100;

/// The running pods of a gateway.
pub(super) struct Pods {
    namespace: String,
    kubectl: Kubectl,
    forwarded: BTreeMap<String, Result<Forwarded, String>>,
}

/// A forwarded port, until it is dropped.
struct Forwarded {
    address: SocketAddr,
    child: Child,
}

// === impl Pods ===

impl Pods {
    pub(super) fn new(namespace: &str, context: Option<&str>) -> Self {
        let (namespace, kubectl) = (namespace.to_owned(), Kubectl::new(context));
        Self { namespace, kubectl, forwarded: BTreeMap::new() }
    }

    /// Lists the pods, and forwards a port of each that is new.
    pub(super) async fn refresh(&mut self) -> Result<(), Failure> {
        let running = self.running().await?;
        self.forwarded.retain(|pod, forwarded| {
            let is_forwarded = forwarded.as_mut().is_ok_and(Forwarded::is_open);
            is_forwarded && running.contains(pod)
        });
        for pod in running {
            if !self.forwarded.contains_key(&pod) {
                let forwarded = self.forward(&pod).await;
                self.forwarded.insert(pod, forwarded);
            }
        }
        Ok(())
    }

    /// The local address of each pod's admin listener.
    pub(super) fn addresses(&self) -> Vec<(String, Result<SocketAddr, Failure>)> {
        let address = |forwarded: &Result<Forwarded, String>| match forwarded {
            Ok(forwarded) => Ok(forwarded.address),
            Err(message) => Err(Failure::new(message)),
        };
        self.forwarded.iter().map(|(pod, forwarded)| (pod.clone(), address(forwarded))).collect()
    }

    /// The names of the pods that run, and are not about to stop.
    async fn running(&self) -> Result<Vec<String>, Failure> {
        let arguments = [
            "--namespace",
            &self.namespace,
            "get",
            "pods",
            "--selector",
            GATEWAYS,
            "--field-selector=status.phase=Running",
        ];
        let failed = |why: &str| {
            let help = "install kubectl, or set --admin to the addresses of the replicas";
            Failure::with_help(format!("kubectl failed to list the gateway's pods: {why}"), help)
        };
        let list = self.kubectl.json(&arguments).await.map_err(|error| failed(&error))?;
        let pods = names(&list);
        match pods.len() {
            0 => Err(failed(&format!("there are none in the Namespace {}", self.namespace))),
            1..=MAX_PODS => Ok(pods),
            many => Err(failed(&format!("there are {many}, more than {MAX_PODS}"))),
        }
    }

    async fn forward(&self, pod: &str) -> Result<Forwarded, String> {
        let (pod, port) = (format!("pod/{pod}"), format!(":{ADMIN_PORT}"));
        let arguments = ["--namespace", &self.namespace, "port-forward", &pod, &port];
        let mut command = self.kubectl.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let failed = |why: &str| format!("kubectl failed to forward its port: {why}");
        let mut child = command.spawn().map_err(|error| failed(&error.to_string()))?;
        let output = child.stdout.take().ok_or_else(|| failed("it has no output"))?;
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(TIMEOUT, lines.next_line()).await;
        let line = line.map_err(|_| failed("it timed out"))?;
        let line = line.map_err(|error| failed(&error.to_string()))?.unwrap_or_default();
        let address = address(&line)
            .ok_or_else(|| failed("you may not, or the pod has no admin listener"))?;
        // kubectl reports each connection on standard output.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Forwarded { address, child })
    }
}

// === impl Forwarded ===

impl Forwarded {
    fn is_open(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

fn names(list: &Value) -> Vec<String> {
    let is_stopping = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_some();
    let running = items(list).filter(|pod| !is_stopping(pod));
    running.map(|pod| text_at(pod, "/metadata/name").to_owned()).collect()
}

/// The address in `Forwarding from 127.0.0.1:41234 -> 9901`.
fn address(line: &str) -> Option<SocketAddr> {
    line.strip_prefix("Forwarding from ")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_stop_are_not_asked() {
        let list = serde_json::json!({ "items": [
            { "metadata": { "name": "one" } },
            { "metadata": { "name": "two", "deletionTimestamp": "2026-11-29T12:00:00Z" } },
        ]});
        assert_eq!(names(&list), ["one"]);
        assert_eq!(names(&Value::Null), [""; 0]);
    }

    #[test]
    fn the_forwarded_address_is_read() {
        let line = "Forwarding from 127.0.0.1:41234 -> 9901";
        assert_eq!(address(line), Some(([127, 0, 0, 1], 41234).into()));
        assert_eq!(address("error: unable to forward port"), None);
    }
}
