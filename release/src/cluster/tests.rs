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
    after_read: Option<fn(&mut Option<Value>)>,
}

// === impl Server ===

impl Server {
    async fn start(after_read: fn(&mut Option<Value>)) -> (Self, Kubernetes) {
        Self::start_with(Some(object("1")), after_read).await
    }

    async fn start_with(
        object: Option<Value>,
        after_read: fn(&mut Option<Value>),
    ) -> (Self, Kubernetes) {
        let content = Content { object, applied: Vec::new(), after_read: Some(after_read) };
        let server = Self(Arc::new(Mutex::new(content)));
        let router = Router::new()
            .route("/api/v1", get(|| async { answer(200, &kinds()) }))
            .route("/api/v1/namespaces", get(namespaces))
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
        let object = content.object.clone();
        if let Some(change) = content.after_read.take() {
            change(&mut content.object);
        }
        object.map_or_else(|| status(404, "NotFound"), |object| answer(200, &object))
    }

    /// Applies annotations as a real server does: what is applied must be for the version that is
    /// there; where nothing is, a version is ignored, and a uid is a conflict (`patch.go` and
    /// `store.go` of `k8s.io/apiserver`; `tests/e2e/releases/node.rs` asks a real one).
    async fn patch(State(server): State<Self>, request: Request) -> Response {
        let is_dry = request.uri().query().unwrap_or_default().contains("dryRun=All");
        let applied = body(request).await;
        let mut content = server.content();
        let key = |key: &str| &applied["metadata"][key];
        let mut object = match &content.object {
            Some(object) if *key("resourceVersion") == object["metadata"]["resourceVersion"] => {
                object.clone()
            }
            None if key("uid").is_null() => object("1"),
            _ => return status(409, "Conflict"),
        };
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

/// `one` has one Namespace, `two` has two, of which one is chosen, and `three` three.
async fn namespaces(request: Request) -> Response {
    let of = |names: &[&str]| {
        let item = |name: &&str| {
            let is_chosen = (*name == "chosen").to_string();
            json!({"metadata": {"name": name,
                "labels": {"releases.portcullis.dev/namespace": is_chosen}}})
        };
        json!(names.iter().map(item).collect::<Vec<_>>())
    };
    let query = request.uri().query().unwrap_or_default();
    let names: &[(&str, &[&str])] =
        &[("%3Done&", &["a"]), ("%3Dtwo&", &["a", "chosen"]), ("%3Dthree&", &["a", "b", "c"])];
    let names = names.iter().find(|(environment, _)| query.contains(environment));
    let items = of(names.map_or(&[][..], |(_, names)| names));
    answer(
        200,
        &json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
        "metadata": {}, "items": items }),
    )
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

/// The object in the state in which the builder of an epoch left it.
fn object(epoch: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "old", "namespace": "staging", "uid": "u", "resourceVersion": "7",
            "labels": { "releases.portcullis.dev/service": "web" },
            "annotations": { "releases.portcullis.dev/epoch": epoch },
        },
    })
}

/// What a release brings.
fn manifest() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "old", "namespace": "staging",
            "labels": { "releases.portcullis.dev/service": "web" },
        },
    })
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
    let (server, cluster) = Server::start(|live| {
        let mut later = object("2");
        later["metadata"]["resourceVersion"] = "8".into();
        *live = Some(later);
    })
    .await;
    let error = prune(&cluster).await.unwrap_err();
    assert!(error.to_string().contains("a builder that started later"), "{error}");
    assert!(server.content().object.is_some());
}

#[tokio::test]
async fn an_object_that_changed_and_is_still_ours_is_pruned() {
    let (server, cluster) = Server::start(|live| {
        live.as_mut().unwrap()["metadata"]["resourceVersion"] = "8".into();
    })
    .await;
    prune(&cluster).await.unwrap();
    assert_eq!(server.content().object, None);
}

#[tokio::test]
async fn after_a_deployment_that_did_not_become_ready_late_calls_are_for_an_earlier_version() {
    let (server, cluster) = Server::start(|_| {}).await;
    let apply = async |fence| cluster.apply(&manifest(), &owner(fence), Mode::Apply).await.unwrap();
    let version = || {
        let content = server.content();
        content.object.as_ref().unwrap()["metadata"]["resourceVersion"].clone()
    };
    apply(None).await;
    assert_eq!((version(), server.content().applied.len()), ("7".into(), 0), "nothing to change");
    apply(Some("web.staging.3")).await;
    assert_eq!(version(), "9");
    let fence = server.content().applied[0]["releases.portcullis.dev/fence"].clone();
    assert_eq!(fence, "web.staging.3");
    apply(None).await;
    assert_eq!(server.content().applied.len(), 1, "the fence stays");
}

#[tokio::test]
async fn a_late_creation_leaves_what_a_later_builder_created_since() {
    let (server, cluster) = Server::start_with(None, |live| *live = Some(object("2"))).await;
    let late = cluster.apply(&manifest(), &owner(None), Mode::Apply).await.unwrap_err();
    assert!(late.to_string().contains("a builder that started later"), "{late}");
    assert_eq!(server.content().object, Some(object("2")));
    assert!(server.content().applied.is_empty());
}

#[tokio::test]
async fn a_late_change_does_not_create_what_a_later_builder_deleted_since() {
    let (server, cluster) = Server::start(|live| *live = None).await;
    let owner = owner(Some("web.staging.3"));
    let late = cluster.apply(&manifest(), &owner, Mode::Apply).await.unwrap_err();
    assert!(matches!(late, ClusterError::Unreachable(_)), "{late}");
    assert_eq!(server.content().object, None);
    // Asked to again, it is what its caller wants.
    cluster.apply(&manifest(), &owner, Mode::Apply).await.unwrap();
    assert!(server.content().object.is_some());
}

#[tokio::test]
async fn of_several_namespaces_the_labelled_one_is_deployed_to() {
    let (_, cluster) = Server::start(|_| {}).await;
    let namespace = async |environment: &str| {
        let found = cluster.namespace(&environment.parse().unwrap()).await;
        found.map_err(|error| error.to_string())
    };
    assert_eq!(namespace("one").await.as_deref(), Ok("a"));
    assert_eq!(namespace("two").await.as_deref(), Ok("chosen"));
    let several = namespace("three").await.unwrap_err();
    assert!(several.contains("3 Namespaces, 0 of which"), "{several}");
    let none = namespace("none").await.unwrap_err();
    assert!(none.contains("no Namespace is the environment none"), "{none}");
}
