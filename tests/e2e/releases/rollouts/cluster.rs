//! An API server in memory with Services, Deployments that are ready at once, and gateways that read
//! its Services from their folders.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::in_memory::{self, Call, Kubeconfig, kinds, status};

/// The Namespace and the environment.
const NAMESPACE: &str = "staging";

/// A running server; clones share it.
#[derive(Clone)]
pub(super) struct Cluster {
    content: Arc<Mutex<Content>>,
    is_held: Arc<Notify>,
    kubeconfig: Kubeconfig,
}

/// When a change is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// When it is made, and before the builder has the response.
    Made,
    /// By turns: one before it is made, the next when it is made.
    ByTurns,
}

/// Each change is held once, so that its builder can be killed at it.
#[derive(Default)]
struct Holding {
    when: Option<When>,
    /// The changes that were held.
    held: BTreeSet<String>,
    /// A call that was held before its change was made.
    late: Option<Call>,
}

#[derive(Default)]
struct Content {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// The address of the pods that run an image.
    pods: BTreeMap<String, SocketAddr>,
    /// The folders of manifests of the gateways.
    gateways: Vec<PathBuf>,
    /// Each change of the split.
    splits: Vec<String>,
    /// The replicas that an autoscaler has set, by path.
    scaled: BTreeMap<String, u64>,
    /// Whether Jobs fail.
    jobs_fail: bool,
    /// The reasons of the Events on Deployments.
    events: Vec<String>,
    holding: Holding,
}

// === impl Cluster ===

impl Cluster {
    pub(super) async fn start() -> Self {
        let content: Arc<Mutex<Content>> = Arc::default();
        let is_held: Arc<Notify> = Arc::default();
        let (shared, holds) = (Arc::clone(&content), Arc::clone(&is_held));
        let kubeconfig = in_memory::serve(move |call| {
            let answer = shared.lock().expect("no test panics with it").answer_or_hold(&call);
            if answer.is_none() {
                holds.notify_one();
            }
            answer
        })
        .await;
        Self { content, is_held, kubeconfig }
    }

    /// Holds each change from now on, once.
    pub(super) fn hold_changes(&self, when: When) {
        self.content().holding.when = Some(when);
    }

    /// Waits until a change is held.
    pub(super) async fn held(&self) {
        self.is_held.notified().await;
    }

    /// The call of a killed builder arrives that was held before it was performed, if there is one.
    pub(super) fn deliver(&self) {
        let mut content = self.content();
        if let Some(call) = content.holding.late.take() {
            content.perform(&call);
        }
    }

    /// A kubeconfig for it.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.path()
    }

    /// Pods of an image are at this address.
    pub(super) fn run(&self, image: &str, address: SocketAddr) {
        self.content().pods.insert(image.to_owned(), address);
    }

    /// Writes the Services into the folder of a gateway from now on.
    pub(super) fn feed(&self, manifests: PathBuf) {
        let mut content = self.content();
        content.gateways.push(manifests);
        content.publish();
    }

    /// The names of objects of a kind, such as `services`.
    pub(super) fn names(&self, kind: &str) -> Vec<String> {
        let part = format!("/namespaces/{NAMESPACE}/{kind}/");
        let content = self.content();
        let paths = content.objects.keys();
        paths.filter_map(|path| Some(path.split_once(&part)?.1.to_owned())).collect()
    }

    /// The image of a Deployment.
    pub(super) fn image(&self, deployment: &str) -> Option<String> {
        self.content().image(deployment)
    }

    /// Each split that was written.
    pub(super) fn splits(&self) -> Vec<String> {
        self.content().splits.clone()
    }

    /// The reasons of the Events that were written.
    pub(super) fn events(&self) -> Vec<String> {
        self.content().events.clone()
    }

    /// Lets Jobs fail from now on.
    pub(super) fn fail_jobs(&self) {
        self.content().jobs_fail = true;
    }

    /// Sets the canary's weight as Helm does, in hundredths of a percent.
    pub(super) fn interfere(&self, weight: u16) {
        let mut content = self.content();
        let path = service("web");
        let before = content.objects.get(&path).cloned().expect("the Service");
        let mut object = before.clone();
        let annotations = &mut object["metadata"]["annotations"];
        let generation = annotations["portcullis.dev/split-generation"].as_str().expect("a split");
        let generation: u64 = generation.parse().expect("a number");
        annotations["portcullis.dev/split-generation"] = (generation + 1).to_string().into();
        annotations["portcullis.dev/split"] =
            format!("web-canary=0-{},stable={weight}-9999", weight - 1).into();
        object["metadata"]["managedFields"] = json!([{ "manager": "helm", "operation": "Update",
            "apiVersion": "v1", "time": "2026-01-02T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": { "f:metadata": { "f:annotations": { "f:portcullis.dev/split": {} } } } }]);
        content.store(&path, object, &before);
    }

    /// Removes a Deployment as a person does, and returns it.
    pub(super) fn remove(&self, name: &str) -> Value {
        let mut content = self.content();
        let removed = content.objects.remove(&deployment(name)).expect("a Deployment");
        content.publish();
        removed
    }

    /// Puts back what was removed.
    pub(super) fn put_back(&self, name: &str, object: Value) {
        let mut content = self.content();
        content.objects.insert(deployment(name), object);
        content.publish();
    }

    /// Scales a Deployment as an autoscaler does, whose replicas they are from then on.
    pub(super) fn scale(&self, name: &str, replicas: u64) {
        let mut content = self.content();
        let path = deployment(name);
        let before = content.objects.get(&path).cloned().expect("a Deployment");
        let mut object = before.clone();
        object["spec"]["replicas"] = replicas.into();
        content.scaled.insert(path.clone(), replicas);
        content.store(&path, object, &before);
    }

    /// The replicas of a Deployment.
    pub(super) fn replicas(&self, name: &str) -> Option<u64> {
        self.content().objects.get(&deployment(name))?["spec"]["replicas"].as_u64()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no test panics with it")
    }
}

// === impl Content ===

impl Content {
    /// The response; `None` if the call is held.
    fn answer_or_hold(&mut self, call: &Call) -> Option<(u16, Value)> {
        if !self.holding.holds(call) {
            return Some(self.answer(call));
        }
        let is_odd = !self.holding.held.len().is_multiple_of(2);
        if self.holding.when == Some(When::ByTurns) && is_odd {
            self.holding.late = Some(call.clone());
        } else {
            self.answer(call);
        }
        None
    }

    fn answer(&mut self, call: &Call) -> (u16, Value) {
        let list = |kind: &str, version: &str, items: Vec<Value>| {
            (200, json!({ "kind": kind, "apiVersion": version, "metadata": {}, "items": items }))
        };
        let name = json!({ "metadata": { "name": NAMESPACE,
            "labels": { "portcullis.dev/environment": NAMESPACE } } });
        match call.path.as_str() {
            "/api/v1" => (200, kinds("v1", &[("services", "Service")])),
            "/apis/apps/v1" => (200, kinds("apps/v1", &[("deployments", "Deployment")])),
            "/api/v1/namespaces" => list("PartialObjectMetadataList", "meta.k8s.io/v1", vec![name]),
            "/apis/batch/v1" => (200, kinds("batch/v1", &[("jobs", "Job")])),
            "/api/v1/namespaces/staging/pods" => {
                let of_job = call.query.contains("controller-uid");
                list("PodList", "v1", of_job.then(pod_of_job).into_iter().collect())
            }
            "/api/v1/namespaces/staging/pods/check-1/log" => (200, "GET / 500\n".into()),
            "/api/v1/namespaces/staging/events" => list("EventList", "v1", Vec::new()),
            "/apis/events.k8s.io/v1/namespaces/staging/events" => {
                self.events.extend(call.body["reason"].as_str().map(str::to_owned));
                (201, call.body.clone())
            }
            path if call.method == Method::GET && is_list(path) => {
                let of_path = |key: &str| key.rsplit_once('/').is_some_and(|(of, _)| of == path);
                let objects = self.objects.iter().filter(|(key, _)| of_path(key));
                list("List", "v1", objects.map(|(_, object)| object.clone()).collect())
            }
            _ => self.perform(call),
        }
    }

    /// As the real server does: with the preconditions of server-side apply and of deletions. What
    /// other managers have set stays.
    fn perform(&mut self, call: &Call) -> (u16, Value) {
        let Call { method, path, is_dry, body, .. } = call;
        let known = self.objects.get(path).cloned();
        let metadata = &body["metadata"];
        match (method, known) {
            (&Method::GET, Some(object)) => (200, object),
            (&Method::PATCH, known) => {
                let version = &metadata["resourceVersion"];
                let is_current = match &known {
                    Some(known) => {
                        version.is_null() || *version == known["metadata"]["resourceVersion"]
                    }
                    None => metadata["uid"].is_null(),
                };
                if !is_current {
                    return (409, status(409, "Conflict"));
                }
                let replicas = &body["spec"]["replicas"];
                let is_fight = |of: &u64| !replicas.is_null() && *replicas != *of;
                if self.scaled.get(path).is_some_and(is_fight) {
                    return (409, scale_conflict());
                }
                let mut object = known.clone().unwrap_or_else(|| json!({}));
                merge(&mut object, body);
                let before = known.unwrap_or_default();
                for key in ["uid", "resourceVersion", "generation"] {
                    object["metadata"][key] = before["metadata"][key].clone();
                }
                if !*is_dry && object != before {
                    self.store(path, object.clone(), &before);
                    object = self.objects.get(path).cloned().unwrap_or_default();
                }
                (200, object)
            }
            (&Method::DELETE, Some(known)) => {
                let conditions = &body["preconditions"];
                let is_it = |key: &str| conditions[key] == known["metadata"][key];
                if !is_it("uid") || !is_it("resourceVersion") {
                    return (409, status(409, "Conflict"));
                }
                self.objects.remove(path);
                self.publish();
                (200, status(200, ""))
            }
            _ => (404, status(404, "NotFound")),
        }
    }

    /// Stores an object as a controller leaves it, that makes everything ready at once.
    fn store(&mut self, path: &str, mut object: Value, before: &Value) {
        self.version += 1;
        let is_new = before.is_null();
        let generation = before["metadata"]["generation"].as_u64().unwrap_or_default();
        let generation = if object["spec"] == before["spec"] { generation } else { generation + 1 };
        object["metadata"]["resourceVersion"] = (self.version + 1).to_string().into();
        object["metadata"]["generation"] = generation.into();
        if is_new {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
            object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        if object["kind"] == "Deployment" {
            let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1);
            object["status"] = json!({ "observedGeneration": generation, "replicas": replicas,
                "updatedReplicas": replicas, "availableReplicas": replicas });
        }
        if object["kind"] == "Job" {
            let failed = if self.jobs_fail { "Failed" } else { "Complete" };
            object["spec"]["selector"] = json!({ "matchLabels": { "controller-uid": "1" } });
            object["status"] = json!({ "conditions": [{ "type": failed, "status": "True",
                "message": "Job has reached the specified backoff limit" }] });
        }
        let split = |object: &Value| {
            object["metadata"]["annotations"]["portcullis.dev/split"].as_str().map(str::to_owned)
        };
        if split(&object) != split(before) {
            self.splits.extend(split(&object));
        }
        self.objects.insert(path.to_owned(), object);
        self.publish();
    }

    fn image(&self, deployment: &str) -> Option<String> {
        let object = self.objects.get(&self::deployment(deployment))?;
        let image = object.pointer("/spec/template/spec/containers/0/image")?;
        Some(image.as_str()?.to_owned())
    }

    /// Writes all Services with the pods of their Deployments, each file by a rename.
    fn publish(&self) {
        for folder in &self.gateways {
            for name in ["web", "web-canary"] {
                let file = folder.join(format!("service-{NAMESPACE}-{name}.json"));
                let Some(service) = self.objects.get(&service(name)) else {
                    // It may never have been there.
                    let _ = std::fs::remove_file(&file);
                    continue;
                };
                let mut service = service.clone();
                service["spec"]["clusterIP"] = "10.0.0.1".into();
                service["spec"]["clusterIPs"] = json!(["10.0.0.1"]);
                let address = self.image(name).and_then(|image| self.pods.get(&image));
                let slices = address.map(|address| slice(name, *address));
                let items: Vec<Value> = std::iter::once(service).chain(slices).collect();
                let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
                let scratch = folder.join(format!(".{name}.new"));
                std::fs::write(&scratch, list.to_string()).expect("the manifests");
                std::fs::rename(&scratch, file).expect("the manifests");
            }
        }
    }
}

// === impl Holding ===

impl Holding {
    /// Whether a call makes a change that was not held before, apart from what tells builders apart.
    fn holds(&mut self, call: &Call) -> bool {
        let is_change = matches!(call.method, Method::PATCH | Method::DELETE) && !call.is_dry;
        if self.when.is_none() || !is_change {
            return false;
        }
        let mut body = call.body.clone();
        for key in ["uid", "resourceVersion"] {
            body["metadata"][key] = Value::Null;
        }
        for key in ["epoch", "fence"] {
            body["metadata"]["annotations"][format!("releases.portcullis.dev/{key}")] = Value::Null;
        }
        let content = if call.method == Method::PATCH { body.to_string() } else { String::new() };
        self.held.insert(format!("{} {} {content}", call.method, call.path))
    }
}

fn service(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services/{name}")
}

fn deployment(name: &str) -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}")
}

/// Whether a path is that of all objects of a kind.
fn is_list(path: &str) -> bool {
    path.split_once(&format!("/namespaces/{NAMESPACE}/"))
        .is_some_and(|(_, kind)| !kind.contains('/'))
}

/// The pod of a Job that has failed.
fn pod_of_job() -> Value {
    json!({ "metadata": { "name": "check-1" }, "status": { "phase": "Failed", "containerStatuses": [{
        "name": "gate", "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": { "terminated": { "exitCode": 1 } } }] } })
}

/// What the API server says to whoever applies other replicas than an autoscaler has set.
fn scale_conflict() -> Value {
    let message =
        "conflict with \"kube-controller-manager\" with subresource \"scale\" using apps/v1";
    let mut conflict = status(409, "Conflict");
    conflict["details"] = json!({ "causes": [{ "reason": "FieldManagerConflict",
        "message": message, "field": ".spec.replicas" }] });
    conflict
}

fn slice(service: &str, address: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": format!("{service}-1"), "namespace": NAMESPACE,
            "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": address.port(), "protocol": "TCP" }],
        "endpoints": [{ "addresses": [address.ip()],
            "conditions": { "ready": true, "serving": true, "terminating": false } }],
    })
}

/// Maps are merged; everything else is replaced.
fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}
