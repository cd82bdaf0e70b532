//! The headers of a request, as a backend receives them.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_config::snapshot::backend::Backend;

use super::context::RequestContext;
use crate::access::identity_headers::IdentityHeaders;
use crate::decision::Admitted;
use crate::normalize::{Kind, Request};
use crate::proxy_headers::prepared::{PreparedHeaders, ProxyHeaders};
use crate::{filter, proxy_headers};

static SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// The headers for the backend.
pub(super) struct BackendHeaders {
    /// Those of the request.
    pub(super) fields: HeaderMap,
    pub(super) host: HeaderValue,
    /// `None` if they are among the fields.
    pub(super) proxy: Option<Rc<PreparedHeaders>>,
    /// `None` for anonymous callers, and if they are among the fields.
    pub(super) identity: Option<Arc<IdentityHeaders>>,
}

// === impl RequestContext ===

impl RequestContext<'_> {
    /// Takes the headers of a request, and makes them those for the backend; the filters of the rule
    /// are applied last.
    pub(super) fn backend_headers(
        &self,
        request: &mut Request,
        admitted: &Admitted,
        backend: &Backend,
    ) -> BackendHeaders {
        let (worker, rule) = (self.worker, &admitted.routed.rule);
        let has_filters = [&rule.filters, &backend.filters]
            .into_iter()
            .any(|filters| filter::has_request_headers(filters));
        let (host, mut proxy) = self.proxy_headers(request);
        if request.kind == Kind::WebSocket && !request.headers.contains_key(&SEC_WEBSOCKET_KEY) {
            // RFC 8441 §5.1: an extended CONNECT has no key; HTTP/1.1 to the backend needs one.
            request.headers.insert(&SEC_WEBSOCKET_KEY, websocket_key(|| worker.random.next()));
        }
        let caller = &admitted.caller;
        caller.presented.strip(
            &mut request.headers,
            caller.authenticated.token,
            rule.policy.access.pass_credentials,
        );
        let name = request.authority.host.as_str();
        let mut identity = caller.identity_headers(&worker.identity_headers, name, self.at);
        if has_filters {
            // Filters apply to the gateway's own headers too.
            if let Some(prepared) = proxy.take() {
                ProxyHeaders { prepared: &prepared, id: &self.id }.set(&mut request.headers);
            }
            if let Some(identity) = identity.take() {
                let fields = identity.fields().iter();
                let fields = fields.map(|(name, value)| ((*name).clone(), value.clone()));
                request.headers.extend(fields);
            }
        }
        filter::request_headers(&rule.filters, &mut request.headers);
        filter::request_headers(&backend.filters, &mut request.headers);
        BackendHeaders { fields: std::mem::take(&mut request.headers), host, proxy, identity }
    }

    /// Returns the value of `Host`, and the proxy headers that are not among the request's.
    fn proxy_headers(&self, request: &mut Request) -> (HeaderValue, Option<Rc<PreparedHeaders>>) {
        let Self { worker, peer, client, id, .. } = self;
        if peer.trusted {
            let settings = &worker.proxy_headers;
            return (proxy_headers::extend(request, peer, *client, id, settings), None);
        }
        let cache = &worker.prepared_headers;
        let prepared = cache.of(*client, &request.authority, &worker.proxy_headers);
        (prepared.host().clone(), Some(prepared))
    }
}

/// A nonce of 16 octets in base64 (RFC 6455 §4.1): 21 digits of six bits, one of two, and padding.
fn websocket_key(mut random: impl FnMut() -> u64) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digit =
        |set: &[u8]| set.get(random() as usize % set.len().max(1)).copied().unwrap_or(b'A');
    let mut key: Vec<u8> = (0..21).map(|_| digit(DIGITS)).collect();
    key.push(digit(b"AQgw"));
    key.extend_from_slice(b"==");
    HeaderValue::from_maybe_shared(Bytes::from(key))
        .unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}
