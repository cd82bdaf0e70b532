//! The Secrets of an API server, as far as the store uses them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// The Secrets by name, with the number of changes so far, which is the last version.
#[derive(Default)]
struct Objects {
    secrets: BTreeMap<String, Value>,
    changes: u64,
}

/// A client of a new API server that has these Secrets.
pub(super) fn client(secrets: &[Secret]) -> Client {
    let mut objects = Objects::default();
    for secret in secrets {
        objects.put(serde_json::to_value(secret).unwrap());
    }
    let objects = Arc::new(Mutex::new(objects));
    let service = tower::service_fn(move |request: Request<Body>| {
        let objects = Arc::clone(&objects);
        async move {
            let (head, body) = request.into_parts();
            let body: Value =
                serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
            let name = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
            let (code, answer) = objects.lock().unwrap().answer(&head.method, &name, body);
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "portcullis")
}

// === impl Objects ===

impl Objects {
    fn answer(&mut self, method: &Method, name: &str, body: Value) -> (u16, Value) {
        let failure = |code: u16| {
            let text = format!("failed with {code}");
            (
                code,
                json!({ "kind": "Status", "status": "Failure", "code": code, "reason": "", "message": text }),
            )
        };
        match *method {
            Method::GET => {
                let items: Vec<_> = self.secrets.values().collect();
                (200, json!({ "kind": "SecretList", "metadata": {}, "items": items }))
            }
            Method::POST => {
                let exists = self.secrets.contains_key(body["metadata"]["name"].as_str().unwrap());
                if exists { failure(409) } else { (201, self.put(body)) }
            }
            Method::PATCH => match self.secrets.get(name).cloned() {
                None => failure(404),
                Some(mut secret) => {
                    let seen = body["metadata"].get("resourceVersion");
                    if seen.is_some_and(|seen| *seen != secret["metadata"]["resourceVersion"]) {
                        return failure(409);
                    }
                    merge(&mut secret, body);
                    (200, self.put(secret))
                }
            },
            Method::DELETE => match self.secrets.remove(name) {
                None => failure(404),
                Some(secret) => (200, secret),
            },
            _ => failure(405),
        }
    }

    fn put(&mut self, mut secret: Value) -> Value {
        self.changes += 1;
        secret["metadata"]["resourceVersion"] = self.changes.to_string().into();
        let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
        self.secrets.insert(name, secret.clone());
        secret
    }
}

/// RFC 7396 §2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(&name);
        } else {
            merge(&mut target[name], value);
        }
    }
}
