//! Turns the heads of a backend's response into those for the client: one filter for all of them.

use http::{HeaderName, HeaderValue, StatusCode, header};
use portcullis_config::snapshot::filter::Filter;
use portcullis_config::snapshot::rule::Rule;

use crate::exchange::ResponseHead;
use crate::forward::OnHead;
use crate::hsts::Hsts;
use crate::{access, filter, proxy_headers};

static X_PORTCULLIS_VARIANT: HeaderName = HeaderName::from_static("x-portcullis-variant");

/// The filter for the response to one request.
pub(super) struct ResponseHeaders<'a> {
    pub(super) date: &'a HeaderValue,
    pub(super) rule: &'a Rule,
    pub(super) backend: &'a [Filter],
    pub(super) is_http1: bool,
    pub(super) hsts: &'a Hsts,
    pub(super) tls: bool,
    /// The request's `Origin`, if the rule has a CORS filter.
    pub(super) origin: Option<HeaderValue>,
    /// The variant that answers, if clients learn it.
    pub(super) variant: Option<HeaderValue>,
    /// The cookie of an anonymous browser.
    pub(super) visitor: Option<HeaderValue>,
    /// The cookie that renews the caller's session.
    pub(super) renewal: Option<HeaderValue>,
}

// === impl ResponseHeaders ===

impl ResponseHeaders<'_> {
    /// Applies what is the same for interim and final heads.
    fn filter(&self, head: &mut ResponseHead) {
        proxy_headers::response(head);
        if !self.is_http1 && head.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 8441 §5.1: only the handshake of HTTP/1.1 has this field.
            head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        }
        filter::response_headers(self.backend, &mut head.headers);
        filter::response_headers(&self.rule.filters, &mut head.headers);
        filter::cors::apply(&self.rule.filters, self.origin.as_ref(), &mut head.headers);
        access::strip_set_cookies(&mut head.headers);
    }
}

impl OnHead for ResponseHeaders<'_> {
    fn on_interim(&mut self, head: &mut ResponseHead) {
        self.filter(head);
        proxy_headers::interim_response(&mut head.headers);
        self.hsts.remove(self.tls, &mut head.headers);
    }

    fn on_head(&mut self, head: &mut ResponseHead) {
        proxy_headers::add_date(&mut head.headers, self.date);
        self.filter(head);
        self.hsts.apply(self.tls, &mut head.headers);
        if let Some(variant) = self.variant.take() {
            head.headers.insert(&X_PORTCULLIS_VARIANT, variant);
        }
        for cookie in [self.visitor.take(), self.renewal.take()].into_iter().flatten() {
            head.headers.append(header::SET_COOKIE, cookie);
        }
    }
}
