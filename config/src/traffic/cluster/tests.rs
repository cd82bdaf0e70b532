//! An API server with the Services of one Namespace, which knows who owns their annotations.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response};
use kube::client::Body;

use super::*;

const SPLIT: &str = "portcullis.dev/split";

#[derive(Clone)]
struct Server(Arc<Mutex<Content>>);

struct Content {
    services: Vec<Value>,
    /// The owner of each annotation of `web`.
    owners: BTreeMap<String, String>,
    /// What happens after the Services are read next.
    after_read: Option<fn(&mut Value)>,
}

fn service(name: &str, annotations: &Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "annotations": annotations, "resourceVersion": "1",
        },
        "spec": { "ports": [{ "port": 80 }] },
    })
}

// === impl Server ===

impl Server {
    fn new() -> (Self, Cluster) {
        let canary = json!({ "portcullis.dev/canary-of": "web" });
        let content = Content {
            services: vec![service("web", &json!({})), service("web-canary", &canary)],
            owners: BTreeMap::new(),
            after_read: None,
        };
        let server = Self(Arc::new(Mutex::new(content)));
        let answering = server.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = answering.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let query = head.uri.query().unwrap_or_default();
                let (code, answer) = server.answer(&head.method, head.uri.path(), query, &body);
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        (server, Cluster { client: Client::new(service, "shop") })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    fn answer(&self, method: &Method, path: &str, query: &str, body: &Value) -> (u16, Value) {
        let mut content = self.content();
        match (method, path) {
            (&Method::GET, "/api/v1/namespaces") => {
                let labels = json!({ "portcullis.dev/environment": "staging" });
                let found = json!({ "metadata": { "name": "shop", "labels": labels } });
                let is_selected = query.contains("staging");
                let items: Vec<Value> = Some(found).filter(|_| is_selected).into_iter().collect();
                (200, json!({ "metadata": {}, "items": items }))
            }
            (&Method::GET, "/api/v1/namespaces/shop/services") => {
                let answer = json!({ "metadata": {}, "items": content.services });
                if let Some(change) = content.after_read.take() {
                    change(&mut content.services[0]);
                }
                (200, answer)
            }
            (&Method::PATCH, "/api/v1/namespaces/shop/services/web") => {
                content.apply(query, &body["metadata"])
            }
            _ => (404, failure(404, &[])),
        }
    }
}

// === impl Content ===

impl Content {
    /// Server-side apply of annotations.
    fn apply(&mut self, query: &str, applied: &Value) -> (u16, Value) {
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let (manager, force) = (parameter("fieldManager").unwrap(), parameter("force"));
        let live = &mut self.services[0]["metadata"];
        if applied["resourceVersion"] != live["resourceVersion"] {
            return (409, failure(409, &[]));
        }
        let annotations = applied["annotations"].as_object().unwrap();
        let is_foreign = |(key, value): &(&String, &Value)| {
            self.owners.get(*key).is_some_and(|owner| owner != manager)
                && live["annotations"][*key] != **value
        };
        let foreign: Vec<&String> =
            annotations.iter().filter(is_foreign).map(|(key, _)| &self.owners[key]).collect();
        if !foreign.is_empty() && force != Some("true") {
            return (409, failure(409, &foreign));
        }
        for (key, value) in annotations {
            live["annotations"][key] = value.clone();
            self.owners.insert(key.clone(), manager.to_owned());
        }
        live["resourceVersion"] = "9".into();
        (200, self.services[0].clone())
    }
}

fn failure(code: u16, owners: &[&String]) -> Value {
    let causes: Vec<Value> = owners
        .iter()
        .map(|owner| {
            let message = format!("conflict with \"{owner}\" using v1");
            json!({ "reason": "FieldManagerConflict", "message": message, "field": ".metadata" })
        })
        .collect();
    json!({ "kind": "Status", "status": "Failure", "code": code, "reason": "Conflict",
            "message": "conflict", "details": { "causes": causes } })
}

fn web() -> Selector {
    Selector { service: "web".to_owned(), namespace: None, environment: None }
}

fn canary(weight: &str) -> Change {
    Change::Weights(vec![("canary".to_owned(), weight.parse().unwrap())])
}

#[tokio::test]
async fn weights_are_applied_under_a_field_manager_of_their_own_in_one_write() {
    let (server, cluster) = Server::new();
    let outcome = cluster.set(&web(), &canary("5"), None, false).await.unwrap();
    assert_eq!(outcome.service.to_string(), "shop/web");
    let expected = json!({
        "portcullis.dev/split": "web-canary=0-499",
        "portcullis.dev/split-generation": "1",
        "portcullis.dev/split-previous": "0: stable=0-9999",
    });
    assert_eq!(server.content().services[0]["metadata"]["annotations"], expected);
    assert!(server.content().owners.values().all(|owner| owner == FIELD_MANAGER));
    let (_, view) = cluster.view(&web()).await.unwrap();
    assert_eq!(view.split.unwrap().generation().number(), 1);
    let staging = Selector { environment: Some("staging".to_owned()), ..web() };
    let back = cluster.set(&staging, &Change::Previous, Some(1), false).await.unwrap();
    assert_eq!(back.plan.after.generation.number(), 2);
    let error = cluster.set(&staging, &Change::Previous, Some(1), false).await.unwrap_err();
    assert!(matches!(error, TrafficError::Generation { found: 2, .. }), "{error}");
}

#[tokio::test]
async fn the_split_of_someone_else_is_left_alone_and_they_are_named() {
    let (server, cluster) = Server::new();
    server.content().services[0]["metadata"]["annotations"][SPLIT] = "web-canary=0-99".into();
    server.content().owners.insert(SPLIT.to_owned(), "helm".to_owned());
    let error = cluster.set(&web(), &canary("5"), None, false).await.unwrap_err();
    assert_eq!(error.to_string(), "the split of Service shop/web is set by helm");
    assert_eq!(server.content().services[0]["metadata"]["annotations"][SPLIT], "web-canary=0-99");
    cluster.set(&web(), &canary("5"), None, true).await.unwrap();
    assert_eq!(server.content().owners[SPLIT], FIELD_MANAGER);
}

#[tokio::test]
async fn a_change_of_the_split_meanwhile_is_a_conflict_and_another_one_is_not() {
    let (server, cluster) = Server::new();
    server.content().after_read = Some(|web| {
        web["metadata"]["resourceVersion"] = "2".into();
        web["metadata"]["annotations"]["portcullis.dev/timeout"] = "5s".into();
    });
    cluster.set(&web(), &canary("5"), None, false).await.unwrap();
    server.content().after_read = Some(|web| {
        web["metadata"]["resourceVersion"] = "10".into();
        web["metadata"]["annotations"]["portcullis.dev/split-generation"] = "7".into();
    });
    let error = cluster.set(&web(), &canary("10"), None, false).await.unwrap_err();
    let expected = "shop/web has generation 7, not 1: its split was changed meanwhile";
    assert_eq!(error.to_string(), expected);
    assert_eq!(server.content().services[0]["metadata"]["annotations"][SPLIT], "web-canary=0-499");
}

#[tokio::test]
async fn a_service_of_another_namespace_is_not_found() {
    let (_server, cluster) = Server::new();
    let other = Selector { environment: Some("production".to_owned()), ..web() };
    let error = cluster.set(&other, &canary("5"), None, false).await.unwrap_err().to_string();
    assert_eq!(error, "there is no Service `web` in the environment `production`");
}

#[test]
fn the_writer_of_a_split_is_the_last_one_that_set_its_annotation() {
    let entry = |manager: &str, time: &str, annotation: &str| {
        json!({ "manager": manager, "operation": "Apply", "apiVersion": "v1", "time": time,
            "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": { "f:annotations": {
                format!("f:portcullis.dev/{annotation}"): {} } } } })
    };
    let of = |entries: Vec<Value>| {
        let service = json!({ "metadata": { "name": "web", "managedFields": entries } });
        writer(&serde_json::from_value(service).unwrap())
    };
    assert_eq!(of(vec![]), None);
    let helm = entry("helm", "2026-01-02T00:00:00Z", "split");
    let other = entry("kubectl", "2026-01-03T00:00:00Z", "expose");
    let own = entry(FIELD_MANAGER, "2026-01-01T00:00:00Z", "split");
    assert_eq!(of(vec![own, helm, other]).as_deref(), Some("helm"));
}
