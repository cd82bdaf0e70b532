//! An API server in memory that knows ConfigMaps alone. It can hold a chosen call, so that its
//! client can be killed at a known step, and perform it later.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::in_memory::{self, Call, Kubeconfig, kinds, status};
use crate::harness::soon;

/// Which calls are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The Namespace of an environment is read.
    Namespaces,
    /// An object is applied in a dry run.
    DryRun,
    /// An object is applied.
    Apply,
    /// An object is deleted.
    Delete,
}

/// When a call is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Before it is performed.
    Before,
    /// When it is performed, and before the client has the response.
    After,
}

/// The call that is held: the one after `skipped` others of its kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trap {
    pub(super) kind: Kind,
    pub(super) skipped: usize,
    pub(super) when: When,
}

/// A running server.
#[derive(Clone)]
pub(super) struct ApiServer {
    shared: Arc<Shared>,
    kubeconfig: Kubeconfig,
}

struct Shared {
    content: Mutex<Content>,
    is_held: Notify,
}

#[derive(Default)]
struct Content {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// What changed something, such as `PATCH web`.
    changes: Vec<String>,
    trap: Option<Trap>,
    late: Option<Call>,
}

// === impl ApiServer ===

impl ApiServer {
    pub(super) async fn start() -> Self {
        let shared = Arc::new(Shared { content: Mutex::default(), is_held: Notify::new() });
        let answering = Arc::clone(&shared);
        let kubeconfig = in_memory::serve(move |call| {
            let answer = answering.answer(&call);
            if answer.is_none() {
                answering.is_held.notify_one();
            }
            answer
        })
        .await;
        Self { shared, kubeconfig }
    }

    /// A kubeconfig for it.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.path()
    }

    /// Holds a call from now on.
    pub(super) fn hold(&self, trap: Trap) {
        let mut content = self.content();
        content.trap = Some(trap);
        content.changes.clear();
    }

    /// Waits until the call is held.
    pub(super) async fn held(&self) {
        soon("the call is held", self.shared.is_held.notified()).await;
    }

    /// Performs the call that was held before it was performed, as it arrives only now; returns its
    /// status.
    pub(super) fn deliver(&self) -> Option<u16> {
        let mut content = self.content();
        let call = content.late.take()?;
        Some(content.perform(&call).0)
    }

    /// The objects of a Namespace: names and data.
    pub(super) fn objects(&self, namespace: &str) -> Vec<(String, Value)> {
        let prefix = format!("/api/v1/namespaces/{namespace}/configmaps/");
        let content = self.content();
        let objects = content.objects.iter();
        objects
            .filter_map(|(path, object)| {
                Some((path.strip_prefix(&prefix)?.to_owned(), object["data"].clone()))
            })
            .collect()
    }

    /// What changed something since [`hold`](Self::hold).
    pub(super) fn changes(&self) -> Vec<String> {
        self.content().changes.clone()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.shared.content()
    }
}

// === impl Shared ===

impl Shared {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no test panics with it")
    }

    /// The response; `None` if the call is held.
    fn answer(&self, call: &Call) -> Option<(u16, Value)> {
        let mut content = self.content();
        let held = content.is_held(call);
        if held == Some(When::Before) {
            content.late = Some(call.clone());
            return None;
        }
        let answer = match call.path.as_str() {
            "/api/v1" => (200, kinds("v1", &[("configmaps", "ConfigMap")])),
            "/api/v1/namespaces" => (200, namespaces(&call.query)),
            _ => content.perform(call),
        };
        held.is_none().then_some(answer)
    }
}

// === impl Content ===

impl Content {
    fn is_held(&mut self, call: &Call) -> Option<When> {
        let trap = self.trap.as_mut()?;
        if kind(call) != Some(trap.kind) {
            return None;
        }
        let Some(left) = trap.skipped.checked_sub(1) else {
            return self.trap.take().map(|trap| trap.when);
        };
        trap.skipped = left;
        None
    }

    /// As the real server does: with the preconditions of server-side apply and of deletions.
    fn perform(&mut self, call: &Call) -> (u16, Value) {
        let known = self.objects.get(&call.path).cloned();
        let name = call.path.rsplit('/').next().unwrap_or_default();
        match (&call.method, known) {
            (&Method::GET, Some(object)) => (200, object),
            (&Method::PATCH, known) => {
                let metadata = &call.body["metadata"];
                let is_current = match &known {
                    Some(known) => {
                        metadata["resourceVersion"] == known["metadata"]["resourceVersion"]
                    }
                    None => metadata["uid"].is_null(),
                };
                if !is_current {
                    return (409, status(409, "Conflict"));
                }
                let mut object = call.body.clone();
                let known = known.unwrap_or_else(
                    || json!({ "metadata": { "uid": format!("{}-{}", call.path, self.version) } }),
                );
                for key in ["uid", "resourceVersion"] {
                    object["metadata"][key] = known["metadata"][key].clone();
                }
                if !call.is_dry && object != known {
                    self.version += 1;
                    object["metadata"]["resourceVersion"] = format!("{}", self.version + 1).into();
                    self.objects.insert(call.path.clone(), object.clone());
                    self.changes.push(format!("PATCH {name}"));
                }
                (200, object)
            }
            (&Method::DELETE, Some(known)) => {
                let conditions = &call.body["preconditions"];
                if ["uid", "resourceVersion"]
                    .iter()
                    .any(|key| conditions[key] != known["metadata"][key])
                {
                    return (409, status(409, "Conflict"));
                }
                self.objects.remove(&call.path);
                self.changes.push(format!("DELETE {name}"));
                (200, status(200, ""))
            }
            _ => (404, status(404, "NotFound")),
        }
    }
}

fn kind(call: &Call) -> Option<Kind> {
    match (&call.method, call.is_dry) {
        (&Method::PATCH, true) => Some(Kind::DryRun),
        (&Method::PATCH, false) => Some(Kind::Apply),
        (&Method::DELETE, _) => Some(Kind::Delete),
        (&Method::GET, _) if call.path == "/api/v1/namespaces" => Some(Kind::Namespaces),
        _ => None,
    }
}

/// Each environment has the Namespace of its name.
fn namespaces(query: &str) -> Value {
    let (_, environment) = query.split_once("environment%3D").expect("a selector");
    let environment = environment.split('&').next().unwrap_or_default();
    json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "items": [{ "metadata": { "name": environment } }] })
}
