//! Why pods are not ready: what their containers wait for, the last warning about them, and their last
//! log lines.

use futures::future::join;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::{Api, DynamicObject, ListParams, LogParams};
use kube::{Client, ResourceExt};

use super::ClusterError;
use super::objects::{bounded, failed};
use crate::state::Readiness;

/// The most pods that are looked at.
const MAX_PODS: u32 = 20;
/// The most events of a pod that are looked at.
const MAX_EVENTS: u32 = 50;
/// The last lines of a container's log that are shown.
const LOG_LINES: i64 = 5;

/// The last lines of a log that is recorded, and the most octets of them.
const RECORDED_LINES: i64 = 200;
const RECORDED_BYTES: i64 = 16 * 1024;

/// The pods of a namespace.
pub(super) struct Pods {
    api: Api<Pod>,
    events: Api<Event>,
}

// === impl Pods ===

impl Pods {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            events: Api::namespaced(client.clone(), namespace),
        }
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
            None => bounded(&reason),
        };
        match readiness {
            Readiness::Ready => Readiness::Ready,
            Readiness::Progressing(reason) => Readiness::Progressing(with(reason)),
            Readiness::Failed(reason) => Readiness::Failed(with(reason)),
        }
    }

    async fn cause(&self, selector: &str) -> Option<String> {
        let pods = self.api.list(&ListParams::default().labels(selector).limit(MAX_PODS)).await;
        let pods = pods.ok()?;
        for pod in &pods.items {
            let name = pod.name_any();
            if let Some(message) = unscheduled(pod) {
                return Some(format!("pod {name} is not scheduled: {message}"));
            }
            if let Some((container, reason)) = stuck(pod) {
                let (warning, log) = join(self.warning(&name), self.log(&name, &container)).await;
                return Some(format!("pod {name}, container {container}: {reason}{warning}{log}"));
            }
        }
        // Such as a volume that cannot be mounted. The server reads all events of the Namespace for
        // those of one pod, so that they are read for one alone.
        let pending = pods.items.iter().find(|pod| is_pending(pod))?.name_any();
        let warning = self.warning(&pending).await;
        (!warning.is_empty()).then(|| format!("pod {pending} does not start{warning}"))
    }

    /// The last warning about a pod, such as what its readiness probe got. Empty without the right to
    /// list events.
    async fn warning(&self, pod: &str) -> String {
        self.warning_about("Pod", pod).await.map_or_else(String::new, |text| format!("; {text}"))
    }

    async fn warning_about(&self, kind: &str, name: &str) -> Option<String> {
        let fields = format!("involvedObject.kind={kind},involvedObject.name={name},type=Warning");
        let parameters = ListParams::default().fields(&fields).limit(MAX_EVENTS);
        let events = self.events.list(&parameters).await.ok()?;
        let at = |event: &Event| {
            let last = event.last_timestamp.as_ref().map(|time| time.0);
            last.max(event.event_time.as_ref().map(|time| time.0))
        };
        let newest = events.items.into_iter().max_by_key(at);
        newest?.message
    }

    /// The end of the log of the newest pod that `workload` selects.
    pub(super) async fn last_log(&self, workload: &DynamicObject) -> Result<String, ClusterError> {
        let Some(selector) = selector(workload) else { return Ok(String::new()) };
        let pods = self.api.list(&ListParams::default().labels(&selector).limit(MAX_PODS)).await;
        let pods = pods.map_err(|error| failed(&error))?;
        let created = |pod: &&Pod| pod.creation_timestamp().map(|time| time.0);
        let Some(pod) = pods.items.iter().max_by_key(created) else { return Ok(String::new()) };
        let parameters = LogParams {
            tail_lines: Some(RECORDED_LINES),
            limit_bytes: Some(RECORDED_BYTES),
            ..LogParams::default()
        };
        // Without a container that has started, there is none.
        Ok(self.api.logs(&pod.name_any(), &parameters).await.unwrap_or_default())
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

/// What is wrong with the pods that a selector selects, or else with the object that makes them, such
/// as a quota that admits none; as far as that can be found out.
pub(crate) async fn why_not_ready(
    client: &Client,
    namespace: &str,
    (kind, name): (&str, &str),
    selector: &str,
) -> Option<String> {
    let pods = Pods::new(client, namespace);
    let cause = match pods.cause(selector).await {
        Some(cause) => Some(cause),
        None => pods.warning_about(kind, name).await,
    };
    cause.map(|cause| bounded(&cause))
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

fn is_pending(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending")
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

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use http::header;
    use kube::Config;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    /// The reason for a pod of this status.
    async fn reason(status: Value) -> String {
        let list = |kind: &str, items: Value| {
            let list = json!({"kind": kind, "apiVersion": "v1", "metadata": {}, "items": items});
            move || async move { ([(header::CONTENT_TYPE, "application/json")], list.to_string()) }
        };
        let pods = json!([{"metadata": {"name": "web-1"}, "status": status}]);
        let event = |at: &str, message: &str| {
            json!({"metadata": {"name": at}, "involvedObject": {}, "type": "Warning",
                "message": message, "lastTimestamp": format!("2026-01-01T00:00:{at}Z")})
        };
        let events = json!([event("02", "the last warning"), event("01", "an earlier one")]);
        let router = Router::new()
            .route("/api/v1/namespaces/dev/pods", get(list("PodList", pods)))
            .route("/api/v1/namespaces/dev/events", get(list("EventList", events)))
            .route("/api/v1/namespaces/dev/pods/web-1/log", get(|| async { "the log\n" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        let workload = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}});
        let workload: DynamicObject = serde_json::from_value(workload).unwrap();
        let progressing = Readiness::Progressing("0 of 1".to_owned());
        match Pods::new(&client, "dev").explain(progressing, Some(&workload)).await {
            Readiness::Progressing(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_reason_has_the_last_warning_and_the_log() {
        let running = json!({"name": "web", "ready": false, "restartCount": 0, "image": "",
            "imageID": "", "state": {"running": {}}});
        assert_eq!(
            reason(json!({"phase": "Running", "containerStatuses": [running]})).await,
            "0 of 1; pod web-1, container web: it is running, but its readiness probe does not \
             succeed; the last warning; its last log lines:\nthe log"
        );
        let creating = json!({"name": "web", "ready": false, "restartCount": 0, "image": "",
            "imageID": "", "state": {"waiting": {"reason": "ContainerCreating"}}});
        assert_eq!(
            reason(json!({"phase": "Pending", "containerStatuses": [creating]})).await,
            "0 of 1; pod web-1 does not start; the last warning"
        );
    }
}
