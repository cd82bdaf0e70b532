//! The portal's replies.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::pages;
use crate::page;

static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> =
    LazyLock::new(|| page::content_security_policy("'self'"));

/// A reply of the portal; the sender adds `Date`.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, without length and date.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The outcome of a login, for metrics and the access log: one word with underscores.
    pub outcome: Option<&'static str>,
}

// === impl Reply ===

impl Reply {
    pub(super) fn empty(status: StatusCode) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        page::isolate(&mut headers);
        Self { status, headers, body: Bytes::new(), outcome: None }
    }

    pub(super) fn page(status: StatusCode, html: String) -> Self {
        let mut reply = Self::empty(status);
        reply
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        reply.headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone());
        Self { body: html.into(), ..reply }
    }

    /// Redirects to `url` by `GET` (RFC 9110 §15.4.4); `None` if it is not a valid header value.
    pub(super) fn redirect(url: &str) -> Option<Self> {
        let mut reply = Self::empty(StatusCode::SEE_OTHER);
        reply.headers.insert(header::LOCATION, HeaderValue::from_str(url).ok()?);
        Some(reply)
    }

    pub(super) fn not_allowed(methods: &'static str) -> Self {
        let mut reply = Self::page(
            StatusCode::METHOD_NOT_ALLOWED,
            pages::message(
                "Not possible",
                "This page does not accept this method.",
                Some(("/", "To the first page")),
            ),
        );
        reply.headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        reply
    }

    /// The error response of OpenID Connect Back-Channel Logout 1.0 §2.8, with an error code.
    pub(super) fn bad_logout(error: &'static str) -> Self {
        let mut reply = Self::empty(StatusCode::BAD_REQUEST);
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { body: format!("{{\"error\":\"{error}\"}}\n").into(), ..reply }
    }

    /// Sets the outcome of a login.
    pub(super) fn with_outcome(self, outcome: &'static str) -> Self {
        Self { outcome: Some(outcome), ..self }
    }

    /// Adds cookies.
    pub(super) fn with(mut self, cookies: impl IntoIterator<Item = HeaderValue>) -> Self {
        for cookie in cookies {
            self.headers.append(header::SET_COOKIE, cookie);
        }
        self
    }
}
