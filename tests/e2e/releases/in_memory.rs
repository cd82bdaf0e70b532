//! What the API servers in memory have in common: connections, kubeconfigs, and calls as values.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A call of the API.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) is_dry: bool,
    pub(super) body: Value,
}

/// The folder with the kubeconfig of a server; clones share it.
#[derive(Clone)]
pub(super) struct Kubeconfig(Arc<TempDir>);

// === impl Kubeconfig ===

impl Kubeconfig {
    pub(super) fn path(&self) -> PathBuf {
        self.0.path().join("config")
    }
}

/// Serves calls by `respond` while the test runs: the status and the object, or a text as it is.
/// Those to which it returns `None` get no response.
pub(super) async fn serve(
    respond: impl Fn(Call) -> Option<(u16, Value)> + Clone + Send + Sync + 'static,
) -> Kubeconfig {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let kubeconfig = Kubeconfig(Arc::new(tempfile::tempdir().expect("a temporary folder")));
    let config = super::builder::kubeconfig_of(&url);
    std::fs::write(kubeconfig.path(), config.to_string()).expect("the kubeconfig");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let respond = respond.clone();
            let service = service_fn(move |request| exchange(respond.clone(), request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    kubeconfig
}

async fn exchange(
    respond: impl Fn(Call) -> Option<(u16, Value)>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        is_dry: query.contains("dryRun=All"),
        query,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let Some((status, answer)) = respond(call) else { return std::future::pending().await };
    let (content_type, body) = match answer {
        Value::String(text) => ("text/plain", text),
        object => ("application/json", object.to_string()),
    };
    let response = Response::builder().status(status).header("content-type", content_type);
    Ok(response.body(Full::from(body)).expect("a response"))
}

/// The description of a group with these resources: their names and kinds.
pub(super) fn kinds(version: &str, resources: &[(&str, &str)]) -> Value {
    let resource = |(name, kind): &(&str, &str)| {
        json!({ "name": name, "singularName": kind.to_lowercase(), "namespaced": true,
            "kind": kind, "verbs": ["get", "delete", "patch", "list"] })
    };
    let resources: Vec<Value> = resources.iter().map(resource).collect();
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
        "resources": resources })
}

/// A status, as the API server has it.
pub(super) fn status(code: u16, reason: &str) -> Value {
    let status = if code == 200 { "Success" } else { "Failure" };
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": status, "code": code,
        "reason": reason, "message": reason })
}
