//! Forwards a request, and relays the response.

use http::Version;
use portcullis_config::snapshot::backend::Backend;

use super::backend_headers::BackendHeaders;
use super::context::RequestContext;
use super::deadlines::deadlines;
use super::head_memory;
use super::response_headers::ResponseHeaders;
use crate::decision::Admitted;
use crate::exchange::{BodyLength, Respond, Source};
use crate::filter;
use crate::forward::{self, ClientSide, ForwardRequest, ForwardStats, Outcome, Upload};
use crate::memory::Charge;
use crate::normalize::{Kind, Request};
use crate::upstream::exchange::Message;

/// Where an admitted request is forwarded.
pub(super) struct Forwarding<'a> {
    pub(super) admitted: &'a Admitted,
    pub(super) backend: &'a Backend,
    pub(super) headers: BackendHeaders,
}

// === impl RequestContext ===

impl RequestContext<'_> {
    /// Forwards a request to an endpoint of the backend, and the response to the client.
    pub(super) async fn forward<B: Source, R: Respond>(
        &self,
        to: &Forwarding<'_>,
        request: &mut Request,
        charge: &mut Charge,
        body: &mut B,
        respond: &mut R,
        stats: &mut ForwardStats,
    ) -> Outcome {
        let (worker, rule) = (self.worker, &to.admitted.routed.rule);
        let mut response_headers = self.response_headers(to, request);
        let is_tunnel = request.kind == Kind::WebSocket;
        let deadlines =
            deadlines(&worker.settings.timeouts, &rule.policy.timeouts, request, self.started);
        let forward = ForwardRequest {
            upstreams: &worker.upstreams,
            meter: &worker.meter,
            random: &worker.random,
            message: Message {
                method: &request.method,
                host: &to.headers.host,
                target: &request.target,
                headers: &request.headers,
                identity_headers: to.headers.identity.as_deref(),
                body: if is_tunnel { BodyLength::Tunnel } else { request.body },
                expects_continue: request.expects_continue,
            },
            backend: to.backend,
            policy: &rule.policy,
            deadlines,
            started: self.started,
            client: self.client.address,
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
        head_memory::release(&mut request.headers, charge);
        let on_head = &mut response_headers;
        forward::relay(answered, &mut upload, &deadlines, body, respond, on_head, stats).await
    }

    fn response_headers<'f>(
        &'f self,
        to: &Forwarding<'f>,
        request: &Request,
    ) -> ResponseHeaders<'f> {
        let rule = &to.admitted.routed.rule;
        let host = request.authority.host.as_str();
        let authenticated = &to.admitted.caller.authenticated;
        ResponseHeaders {
            date: &self.date,
            rule,
            backend: &to.backend.filters,
            origin: filter::cors::origin(&rule.filters, &request.headers),
            is_http1: request.version != Version::HTTP_2,
            hsts: &self.worker.hsts,
            tls: self.client.tls,
            renewal: self.worker.authenticator.renewal(authenticated, host, self.at),
        }
    }
}
