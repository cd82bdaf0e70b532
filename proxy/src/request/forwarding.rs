//! Forwards a request, and relays the response.

use http::{HeaderMap, HeaderValue, Version};
use portcullis_config::snapshot::filter::Filter;

use super::backend_headers::BackendHeaders;
use super::context::RequestContext;
use super::deadlines::deadlines;
use super::head_memory;
use super::response_headers::ResponseHeaders;
use crate::choose::Choice;
use crate::decision::Admitted;
use crate::exchange::{BodyLength, Respond, Source};
use crate::filter;
use crate::forward::{self, ClientSide, ForwardRequest, ForwardStats, Outcome, Upload};
use crate::memory::Charge;
use crate::normalize::{Kind, Request};
use crate::proxy_headers::prepared::ProxyHeaders;
use crate::upstream::exchange::{AddedFields, Message};

/// Where an admitted request is forwarded.
pub(super) struct Forwarding<'a> {
    pub(super) admitted: &'a Admitted,
    pub(super) choice: Choice<'a>,
    /// The `Set-Cookie` of an anonymous browser.
    pub(super) cookie: Option<HeaderValue>,
    /// Without its header fields.
    pub(super) request: &'a Request,
    pub(super) headers: BackendHeaders,
}

// === impl RequestContext ===

impl RequestContext<'_> {
    /// Forwards a request to an endpoint of the backend, and the response to the client.
    pub(super) async fn forward<B: Source, R: Respond>(
        &self,
        to: &mut Forwarding<'_>,
        charge: &mut Charge,
        body: &mut B,
        respond: &mut R,
        stats: &mut ForwardStats,
    ) -> Outcome {
        let Forwarding { admitted, choice, cookie, request, headers } = to;
        let BackendHeaders { fields, host, proxy, identity } = headers;
        let (worker, rule) = (self.worker, &admitted.routed.rule);
        let filters = &choice.backend.filters;
        let mut response_headers = self.response_headers(admitted, filters, request, fields);
        response_headers.visitor = cookie.take();
        let is_tunnel = request.kind == Kind::WebSocket;
        let (defaults, route) = (&worker.settings.timeouts, &rule.policy.timeouts);
        let deadlines = deadlines(defaults, route, request.kind, fields, self.started);
        let proxy = proxy.as_deref().map(|prepared| ProxyHeaders { prepared, id: &self.id });
        let forward = ForwardRequest {
            upstreams: &worker.upstreams,
            meter: &worker.meter,
            random: &worker.random,
            message: Message {
                method: &request.method,
                host,
                target: &request.target,
                headers: fields,
                added: AddedFields { proxy, identity: identity.as_deref() },
                body: if is_tunnel { BodyLength::Tunnel } else { request.body },
                expects_continue: request.expects_continue,
                connect_timeout: deadlines.connect,
                call_deadline: deadlines.whole.filter(|_| request.kind == Kind::Grpc),
                is_copy: false,
            },
            backend: choice.backend,
            fallback: choice.fallback,
            policy: &rule.policy,
            caller: choice.caller,
            deadlines,
            is_grpc: matches!(request.kind, Kind::Grpc | Kind::GrpcWeb),
            started: self.started,
            requester: self.requester(admitted),
        };
        let mut upload = match Upload::new(forward.message.body, rule.policy.max_body) {
            Ok(upload) => upload,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        let client = ClientSide::new(body, respond, charge, &mut response_headers);
        let answered = match forward::send(&forward, &mut upload, client, stats).await {
            Ok(answered) => answered,
            Err(outcome) => return outcome,
        };
        // The response has begun: there is no further attempt.
        head_memory::release(fields, charge);
        if worker.settings.variant_header && rule.split.is_some() {
            let variant = &choice.answered(stats.crossing.is_some()).variant;
            response_headers.variant = HeaderValue::try_from(&**variant).ok();
        }
        let on_head = &mut response_headers;
        forward::relay(answered, &mut upload, &deadlines, body, respond, on_head, stats).await
    }

    fn response_headers<'f>(
        &'f self,
        admitted: &'f Admitted,
        backend: &'f [Filter],
        request: &Request,
        fields: &HeaderMap,
    ) -> ResponseHeaders<'f> {
        let rule = &admitted.routed.rule;
        let host = request.authority.host.as_str();
        let authenticated = &admitted.caller.authenticated;
        ResponseHeaders {
            date: &self.date,
            rule,
            backend,
            origin: filter::cors::origin(&rule.filters, fields),
            is_http1: request.version != Version::HTTP_2,
            hsts: &self.worker.hsts,
            tls: self.client.tls,
            variant: None,
            visitor: None,
            renewal: self.worker.authenticator.renewal(authenticated, host, self.at),
        }
    }
}
