//! Answers of the listeners that are not for clients.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::browser::Foreign;

/// An answer with its whole body.
pub(super) type Reply = Response<Full<Bytes>>;

/// The media type of plain text.
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Makes large answers on a thread where they hold nothing up, one at a time.
#[derive(Debug, Clone)]
pub(super) struct Press(Arc<Semaphore>);

// === impl Press ===

impl Press {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    /// What `make` makes, once those that came before are made.
    pub(super) async fn make(&self, make: impl FnOnce() -> Reply + Send + 'static) -> Reply {
        let place = Arc::clone(&self.0).acquire_owned().await;
        let made = tokio::task::spawn_blocking(move || {
            // Held until it is made, also where nobody waits for it any more.
            let _place = place;
            make()
        });
        made.await.unwrap_or_else(|_| {
            let text = "this is a defect of the gateway: see its log\n";
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

/// An answer that no page of another site can use, and that nobody keeps.
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

/// For a method that the path does not have.
pub(super) fn not_allowed(allowed: &'static str) -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed}\n"));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

/// For what a web page sent, or had sent.
pub(super) fn foreign(foreign: Foreign, hosts: &str) -> Reply {
    match foreign {
        Foreign::Host => {
            let text = format!("the request's Host must be {hosts}\n");
            self::text(StatusCode::MISDIRECTED_REQUEST, text)
        }
        Foreign::Page => text(StatusCode::FORBIDDEN, "this is not for web pages\n"),
    }
}
