//! Why pods are not ready: what their containers wait for, and their last log lines.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use kube::{Client, ResourceExt};

use super::objects::bounded;
use crate::state::Readiness;

/// The most pods that are looked at.
const MAX_PODS: u32 = 20;
/// The last lines of a container's log that are shown.
const LOG_LINES: i64 = 5;

/// The pods of a namespace.
pub(super) struct Pods {
    api: Api<Pod>,
}

// === impl Pods ===

impl Pods {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace) }
    }

    /// Adds to a readiness what is wrong with the pods that `workload` selects, as far as that can
    /// be found out.
    pub(super) async fn explain(
        &self,
        readiness: Readiness,
        workload: Option<&DynamicObject>,
    ) -> Readiness {
        let cause = match workload.and_then(selector) {
            Some(selector) => self.cause(&selector).await,
            None => None,
        };
        let with = |reason: String| match &cause {
            Some(cause) => bounded(&format!("{reason}; {cause}")),
            None => reason,
        };
        match readiness {
            Readiness::Ready => Readiness::Ready,
            Readiness::Progressing(reason) => Readiness::Progressing(with(reason)),
            Readiness::Failed(reason) => Readiness::Failed(with(reason)),
        }
    }

    async fn cause(&self, selector: &str) -> Option<String> {
        let pods = self.api.list(&ListParams::default().labels(selector).limit(MAX_PODS)).await;
        for pod in &pods.ok()?.items {
            let name = pod.name_any();
            if let Some(message) = unscheduled(pod) {
                return Some(format!("pod {name} is not scheduled: {message}"));
            }
            let Some((container, reason)) = stuck(pod) else { continue };
            let log = self.log(&name, &container).await;
            return Some(format!("pod {name}, container {container}: {reason}{log}"));
        }
        None
    }

    async fn log(&self, pod: &str, container: &str) -> String {
        let parameters = |previous| LogParams {
            container: Some(container.to_owned()),
            tail_lines: Some(LOG_LINES),
            limit_bytes: Some(2000),
            previous,
            ..LogParams::default()
        };
        let mut text = self.api.logs(pod, &parameters(true)).await.unwrap_or_default();
        if text.trim().is_empty() {
            text = self.api.logs(pod, &parameters(false)).await.unwrap_or_default();
        }
        match text.trim() {
            "" => String::new(),
            log => format!("; its last log lines:\n{log}"),
        }
    }
}

/// The selector of a workload's pods.
fn selector(workload: &DynamicObject) -> Option<String> {
    let labels = workload.data.pointer("/spec/selector/matchLabels")?.as_object()?;
    let terms = labels.iter().map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    Some(terms.collect::<Option<Vec<_>>>()?.join(","))
}

fn unscheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    (scheduled.status == "False").then(|| scheduled.message.clone().unwrap_or_default())
}

/// The first container that waits, has failed or is not ready, and why.
fn stuck(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    containers.flatten().find_map(|container| Some((container.name.clone(), why(container)?)))
}

fn why(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        // A container that has not had its turn yet is no cause.
        if matches!(reason, "PodInitializing" | "ContainerCreating") {
            return None;
        }
        return Some(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        });
    }
    if let Some(ended) = state.terminated.as_ref().filter(|ended| ended.exit_code != 0) {
        return Some(format!("it ended with exit code {}", ended.exit_code));
    }
    let is_running = state.running.is_some() && !container.ready;
    is_running.then(|| "it is running, but its readiness probe does not succeed".to_owned())
}
