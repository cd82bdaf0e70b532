//! An API server that changes an object between two calls.

use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// The server's only object, the ConfigMap `old`, and what happens after it is read first.
#[derive(Clone)]
struct Server(Arc<Mutex<Content>>);

struct Content {
    object: Option<Value>,
    /// The annotations of what was applied.
    applied: Vec<Value>,
    after_read: Option<fn(&mut Value)>,
}

// === impl Server ===

impl Server {
    async fn start(after_read: fn(&mut Value)) -> (Self, Kubernetes) {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "old", "namespace": "staging", "uid": "u", "resourceVersion": "1",
                "labels": { "releases.portcullis.dev/service": "web" },
                "annotations": { "releases.portcullis.dev/epoch": "1" },
            },
        });
        let content =
            Content { object: Some(object), applied: Vec::new(), after_read: Some(after_read) };
        let server = Self(Arc::new(Mutex::new(content)));
        let router = Router::new()
            .route("/api/v1", get(|| async { answer(200, &kinds()) }))
            .route(
                "/api/v1/namespaces/staging/configmaps/old",
                get(Self::read).delete(Self::delete).patch(Self::patch),
            )
            .with_state(server.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        (server, Kubernetes::new(client))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    async fn read(State(server): State<Self>) -> Response {
        let mut content = server.content();
        let Some(object) = content.object.clone() else { return status(404, "NotFound") };
        if let Some(change) = content.after_read.take() {
            content.object.iter_mut().for_each(change);
        }
        answer(200, &object)
    }

    /// Applies annotations. What is applied must be for the version that is there.
    async fn patch(State(server): State<Self>, request: Request) -> Response {
        let is_dry = request.uri().query().unwrap_or_default().contains("dryRun=All");
        let applied = body(request).await;
        let mut content = server.content();
        let mut object = content.object.clone().unwrap();
        if applied["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return status(409, "Conflict");
        }
        object["metadata"]["annotations"] = applied["metadata"]["annotations"].clone();
        if !is_dry && content.object.as_ref() != Some(&object) {
            content.applied.push(object["metadata"]["annotations"].clone());
            object["metadata"]["resourceVersion"] = "9".into();
            content.object = Some(object.clone());
        }
        answer(200, &object)
    }

    async fn delete(State(server): State<Self>, request: Request) -> Response {
        let options = body(request).await;
        let mut content = server.content();
        let Some(object) = &content.object else { return status(404, "NotFound") };
        let matches = |key: &str| {
            let expected = &options["preconditions"][key];
            expected.is_null() || *expected == object["metadata"][key]
        };
        if !matches("uid") || !matches("resourceVersion") {
            return status(409, "Conflict");
        }
        content.object = None;
        status(200, "")
    }
}

async fn body(request: Request) -> Value {
    let body = to_bytes(request.into_body(), 10_000).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn kinds() -> Value {
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [{
        "name": "configmaps", "singularName": "configmap", "namespaced": true, "kind": "ConfigMap",
        "verbs": ["get", "delete"],
    }] })
}

fn status(code: u16, reason: &str) -> Response {
    let status = if code == 200 { "Success" } else { "Failure" };
    answer(
        code,
        &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": status,
        "code": code, "reason": reason, "message": reason }),
    )
}

fn answer(code: u16, value: &Value) -> Response {
    let code = StatusCode::from_u16(code).unwrap();
    (code, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn owner(fence: Option<&str>) -> Owner {
    let fence = fence.map(|id| id.parse().unwrap());
    Owner { service: "web".parse().unwrap(), epoch: 1, fence }
}

async fn prune(cluster: &Kubernetes) -> Result<(), ClusterError> {
    let owner = owner(None);
    let object = ObjectRef {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: "old".to_owned(),
    };
    cluster.prune("staging", &object, &owner).await
}

#[tokio::test]
async fn an_object_that_a_later_builder_applied_since_is_not_pruned() {
    let (server, cluster) = Server::start(|object| {
        object["metadata"]["resourceVersion"] = "2".into();
        object["metadata"]["annotations"]["releases.portcullis.dev/epoch"] = "2".into();
    })
    .await;
    let error = prune(&cluster).await.unwrap_err();
    assert!(error.to_string().contains("a builder that started later"), "{error}");
    assert!(server.content().object.is_some());
}

#[tokio::test]
async fn an_object_that_changed_and_is_still_ours_is_pruned() {
    let (server, cluster) =
        Server::start(|object| object["metadata"]["resourceVersion"] = "2".into()).await;
    prune(&cluster).await.unwrap();
    assert_eq!(server.content().object, None);
}

#[tokio::test]
async fn after_a_deployment_that_did_not_become_ready_late_calls_are_for_an_earlier_version() {
    let (server, cluster) = Server::start(|_| {}).await;
    let manifest = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "old", "namespace": "staging",
            "labels": { "releases.portcullis.dev/service": "web" },
        },
    });
    let apply = async |fence| cluster.apply(&manifest, &owner(fence), Mode::Apply).await.unwrap();
    let version = || {
        let content = server.content();
        content.object.as_ref().unwrap()["metadata"]["resourceVersion"].clone()
    };
    apply(None).await;
    assert_eq!((version(), server.content().applied.len()), ("1".into(), 0), "nothing to change");
    apply(Some("web.staging.3")).await;
    assert_eq!(version(), "9");
    let fence = server.content().applied[0]["releases.portcullis.dev/fence"].clone();
    assert_eq!(fence, "web.staging.3");
    apply(None).await;
    assert_eq!(server.content().applied.len(), 1, "the fence stays");
}
