//! Pods, as Kubernetes knows them.

use std::net::{IpAddr, SocketAddr};

use crate::node::{control, kubectl};

/// A pod that is not on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) is_ready: bool,
    /// How often its container was started anew.
    pub(crate) restarts: u32,
}

/// The pods of a namespace that a label selector selects.
pub(crate) fn of(namespace: &str, selector: &str) -> Vec<Pod> {
    let template = concat!(
        "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.metadata.deletionTimestamp} ",
        r#"{.status.conditions[?(@.type=="Ready")].status} "#,
        r#"{.status.containerStatuses[0].restartCount}{"\n"}{end}"#
    );
    let pods = kubectl(&[
        "get",
        "pods",
        "--namespace",
        namespace,
        "--selector",
        selector,
        "--output",
        template,
    ]);
    let pods = pods.lines().filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [name, address, "", ready, restarts] => Some(Pod {
            name: name.to_owned(),
            address: address.to_owned(),
            is_ready: ready == "True",
            restarts: restarts.parse().unwrap_or(0),
        }),
        _ => None,
    });
    pods.collect()
}

/// Kills the process of a pod's container with SIGKILL; the kubelet starts it anew.
pub(crate) fn kill(pod: &Pod) {
    control(&["kill", &pod.name]);
}

// === impl Pod ===

impl Pod {
    /// A port of the pod, past any Service.
    pub(crate) fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.parse::<IpAddr>().expect("a pod with an address"), port)
    }
}
