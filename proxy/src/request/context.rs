//! The context of one request: the gateway's own replies, the outcome, and the access log record.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use portcullis_config::snapshot::backend::Backend;
use portcullis_identity::caller::Caller;
use portcullis_identity::rejected::Rejected;
use portcullis_identity::visitor::Visitor;

use super::MAX_DISCARD;
use super::reply::Reply;
use crate::access::caller_cache::CachedCaller;
use crate::choose::{Choice, Traits};
use crate::decision::{Admitted, Routed};
use crate::exchange::{BodyLength, Peer, Refusal, RequestHead, Respond, ResponseHead};
use crate::forward::{Crossing, ForwardStats, Outcome};
use crate::limit::Requester;
use crate::local_reply::{self, ClientFormat, ReplyContext};
use crate::normalize::Request;
use crate::proxy_headers::{self, ClientFacts, RequestId};
use crate::telemetry::traffic::Entered;
use crate::telemetry::{InFlight, Record};
use crate::worker_context::WorkerContext;
use crate::{filter, hidden};

/// One request from its head to the last octet of its response.
pub(super) struct RequestContext<'a> {
    pub(super) worker: &'a WorkerContext,
    pub(super) peer: &'a Peer,
    pub(super) client: ClientFacts,
    format: ClientFormat,
    method: Method,
    version: Version,
    pub(super) id: RequestId,
    pub(super) date: HeaderValue,
    pub(super) started: Instant,
    pub(super) at: SystemTime,
    _in_flight: InFlight,
}

/// What is logged of a request in addition to its context.
#[derive(Default)]
pub(super) struct LogContext<'a> {
    pub(super) request: Option<&'a Request>,
    pub(super) routed: Option<&'a Routed>,
    pub(super) choice: Option<Choice<'a>>,
    pub(super) entered: Option<&'a Entered>,
    pub(super) caller: Option<&'a Caller>,
    pub(super) rejected: Option<Rejected>,
    pub(super) denied: Option<&'static str>,
    pub(super) login: Option<&'static str>,
    pub(super) refusal: Option<&'static str>,
    pub(super) failure: Option<&'static str>,
    pub(super) status: u16,
    pub(super) sent: u64,
    pub(super) stats: ForwardStats,
}

// === impl RequestContext ===

impl<'a> RequestContext<'a> {
    pub(super) fn begin(worker: &'a WorkerContext, peer: &'a Peer, head: &RequestHead) -> Self {
        let client = proxy_headers::client(&head.headers, peer, &worker.proxy_headers);
        let mut call = Self::new(worker, peer, ClientFormat::of(head), client);
        call.method = head.method.clone();
        call.version = head.version;
        if peer.trusted
            && let Some(given) = RequestId::given(&head.headers)
        {
            call.id = given;
        }
        call
    }

    pub(super) fn new(
        worker: &'a WorkerContext,
        peer: &'a Peer,
        format: ClientFormat,
        client: ClientFacts,
    ) -> Self {
        let started = Instant::now();
        let at = worker.meter.time_of_day(started);
        let milliseconds = at
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let random = u128::from(worker.random.next()) << 64 | u128::from(worker.random.next());
        Self {
            worker,
            peer,
            client,
            format,
            method: Method::GET,
            version: Version::HTTP_11,
            id: RequestId::new(milliseconds, random),
            date: worker.meter.date(at),
            started,
            at,
            _in_flight: worker.meter.request(),
        }
    }

    /// What the variant of a request is chosen by.
    pub(super) fn traits<'r>(
        &self,
        request: &'r Request,
        caller: &'r CachedCaller,
        visitor: Option<Visitor>,
    ) -> Traits<'r> {
        Traits {
            headers: &request.headers,
            user: caller.user_name(),
            browser: visitor.map(Visitor::id),
            client: self.client.address,
        }
    }

    /// By whom an admitted request is counted.
    pub(super) fn requester<'r>(&self, admitted: &'r Admitted) -> Requester<'r> {
        Requester { caller: &admitted.caller.authenticated.caller, address: self.client.address }
    }

    pub(super) fn reply_context(&self) -> ReplyContext<'_> {
        ReplyContext { client: &self.format, id: &self.id, date: &self.date }
    }

    /// The 404 for what does not exist, and for what the caller must not learn of.
    pub(super) fn hidden(&self, request: &Request) -> (ResponseHead, Bytes) {
        let target = self.worker.portal.as_ref().map(|_| request.target.as_str());
        hidden::answer(&self.reply_context(), target)
    }

    pub(super) fn hide<R: Respond>(&self, request: &Request, respond: &mut R) -> Reply {
        let log = LogContext { request: Some(request), ..LogContext::default() };
        self.reply(self.hidden(request), log, respond)
    }

    pub(super) fn refuse<R: Respond>(
        &self,
        refusal: &Refusal,
        request: Option<&Request>,
        respond: &mut R,
    ) -> Reply {
        if refusal.close {
            respond.close();
        }
        let log = LogContext { request, refusal: Some(refusal.reason), ..LogContext::default() };
        self.reply(local_reply::refusal(refusal, &self.reply_context()), log, respond)
    }

    pub(super) fn redirect<R: Respond>(
        &self,
        status: StatusCode,
        location: HeaderValue,
        request: &Request,
        routed: Option<&Routed>,
        respond: &mut R,
    ) -> Reply {
        let log = LogContext { request: Some(request), routed, ..LogContext::default() };
        self.reply(local_reply::redirect(status, location, &self.reply_context()), log, respond)
    }

    pub(super) fn redirect_to_portal<R: Respond>(
        &self,
        location: HeaderValue,
        request: &Request,
        respond: &mut R,
    ) -> Reply {
        let log = LogContext { request: Some(request), ..LogContext::default() };
        self.reply(local_reply::portal_redirect(location, &self.reply_context()), log, respond)
    }

    pub(super) fn fail<R: Respond>(
        &self,
        status: StatusCode,
        log: LogContext<'_>,
        respond: &mut R,
    ) -> Reply {
        self.reply(local_reply::error(status, &self.reply_context()), log, respond)
    }

    pub(super) fn end<R: Respond>(
        &self,
        outcome: Outcome,
        mut log: LogContext<'_>,
        respond: &mut R,
    ) -> Reply {
        let ended_at = *log.stats.ended_at.get_or_insert_with(Instant::now);
        self.count_evidence(outcome, &log);
        log.status = log.stats.status.map_or(499, |status| status.as_u16());
        log.sent = log.stats.sent;
        match outcome {
            Outcome::Failed { status, reason } => {
                log.failure = Some(reason);
                return self.fail(status, log, respond);
            }
            Outcome::Refused(refusal) => {
                if refusal.close {
                    respond.close();
                }
                log.refusal = Some(refusal.reason);
                return self.reply(
                    local_reply::refusal(&refusal, &self.reply_context()),
                    log,
                    respond,
                );
            }
            Outcome::Sent => {}
            Outcome::Aborted(reason) => log.failure = Some(reason),
            Outcome::ClientClosed => {
                respond.abort();
                log.failure = Some("client_gone");
            }
            Outcome::Revoked => {
                respond.abort();
                log.failure = Some("access_ended");
            }
        }
        self.record(&log);
        Reply::forwarded(ended_at)
    }

    /// Begins a reply of the gateway's own and records it; the request is not needed after that.
    pub(super) fn reply<R: Respond>(
        &self,
        (mut head, body): (ResponseHead, Bytes),
        mut log: LogContext<'_>,
        respond: &mut R,
    ) -> Reply {
        if log.request.is_some_and(|request| !is_discarded(request)) {
            respond.close();
        }
        if let Some((routed, request)) = log.routed.zip(log.request) {
            let filters = &routed.rule.filters;
            let origin = filter::cors::origin(filters, &request.headers);
            filter::cors::apply(filters, origin.as_ref(), &mut head.headers);
        }
        self.worker.hsts.apply(self.client.tls, &mut head.headers);
        log.status = head.status.as_u16();
        log.sent = body.len() as u64;
        self.record(&log);
        Reply::begin(head, body, respond)
    }

    fn record(&self, log: &LogContext<'_>) {
        let request = log.request;
        let header = |name| request.and_then(|request| request.headers.get(name));
        let record = Record {
            id: self.id.as_bytes(),
            client: self.client.address,
            listener: self.peer.listener,
            tls: self.peer.tls,
            version: self.version,
            method: &self.method,
            host: request.map_or("", |request| request.authority.host.as_str()),
            path: request.map_or("", |request| request.target.path()),
            status: log.status,
            grpc_status: log.stats.grpc_status,
            bytes_in: log.stats.received,
            bytes_out: log.sent,
            duration: log.stats.ended_at.unwrap_or_else(Instant::now).duration_since(self.started),
            upstream_duration: log.stats.head_at.map(|at| at.duration_since(self.started)),
            environment: log.routed.map_or("", |routed| &routed.environment),
            service: log.routed.map_or("", |routed| &routed.rule.service),
            variant: log.answered().map_or("", |backend| &backend.variant),
            assignment: log.choice.and_then(|choice| choice.assignment),
            missed_variant: log.missed().map_or("", |backend| &backend.variant),
            upstream: log.stats.upstream,
            tries: log.stats.tries,
            application: log
                .caller
                .and_then(|caller| caller.application.as_deref())
                .unwrap_or_default(),
            user: log
                .caller
                .and_then(|caller| caller.user.as_deref())
                .map_or("", |user| &user.name),
            rejected: log.rejected.map(Rejected::label),
            denied: log.denied,
            login: log.login,
            refusal: log.refusal,
            failure: log.failure,
            user_agent: header(http::header::USER_AGENT),
            referer: header(http::header::REFERER),
        };
        self.worker.meter.record(&record, self.at);
    }
}

// === impl LogContext ===

impl<'a> LogContext<'a> {
    fn answered(&self) -> Option<&'a Backend> {
        Some(self.choice?.answered(self.stats.crossing.is_some()))
    }

    fn missed(&self) -> Option<&'a Backend> {
        self.choice?.missed(self.stats.crossing == Some(Crossing::Missed))
    }
}

/// Whether the rest of the body is discarded after a reply of the gateway's own.
fn is_discarded(request: &Request) -> bool {
    match request.body {
        BodyLength::None => true,
        BodyLength::Exact(length) => length <= MAX_DISCARD && !request.expects_continue,
        BodyLength::Unknown | BodyLength::Tunnel => false,
    }
}
