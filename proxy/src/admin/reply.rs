//! Replies of the operators' listeners.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::browser::Foreign;

/// A reply with its whole body.
pub(super) type Reply = Response<Full<Bytes>>;

/// The media type of plain text.
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Renders large replies on a blocking thread, one at a time.
#[derive(Debug, Clone)]
pub(super) struct Renderer(Arc<Semaphore>);

// === impl Renderer ===

impl Renderer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// Returns the reply that `render` builds, once earlier ones are done.
    pub(super) async fn render(&self, render: impl FnOnce() -> Reply + Send + 'static) -> Reply {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let rendered = tokio::task::spawn_blocking(move || {
            // Held until the reply is rendered, even if the request was cancelled.
            let _permit = permit;
            render()
        });
        rendered.await.unwrap_or_else(|_| {
            let text = "internal error of the gateway: see its log\n";
            self::text(StatusCode::INTERNAL_SERVER_ERROR, text)
        })
    }
}

pub(super) fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => reply(StatusCode::OK, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, TEXT, body)
}

/// A reply that pages of other sites cannot read, and that is not cached.
pub(super) fn reply(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    reply
}

/// The reply to a method that the path does not support.
pub(super) fn not_allowed(allowed: &'static str) -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed}\n"));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// The reply to a request that a web page sent.
pub(super) fn foreign(foreign: Foreign, hosts: &str) -> Reply {
    match foreign {
        Foreign::Host => {
            let text = format!("the request's Host must be {hosts}\n");
            self::text(StatusCode::MISDIRECTED_REQUEST, text)
        }
        Foreign::Page => text(StatusCode::FORBIDDEN, "web pages have no access\n"),
    }
}
