//! One request as it is told of: its answers where the gateway gives them, its end, and its record.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use portcullis_config::snapshot::rule::Rule;
use portcullis_identity::caller::Caller;
use portcullis_identity::rejected::Rejected;

use super::READ_AWAY;
use super::reply::Reply;
use crate::exchange::{BodyLength, Peer, Refusal, RequestHead, Respond, ResponseHead};
use crate::forward::{Notes, Outcome};
use crate::hidden;
use crate::local_reply::{self, Asker, Facts};
use crate::normalize::{Kind, Request};
use crate::proxy_headers::{self, RequestId};
use crate::telemetry::{InFlight, Record};
use crate::worker_context::WorkerContext;

/// One request from its head to the last octet of its response.
pub(super) struct Call<'a> {
    pub(super) worker: &'a WorkerContext,
    pub(super) peer: &'a Peer,
    asker: Asker,
    method: Method,
    version: Version,
    pub(super) id: RequestId,
    pub(super) date: HeaderValue,
    pub(super) started: Instant,
    pub(super) at: SystemTime,
    _in_flight: InFlight,
}

/// Where a request goes, as the snapshot said when it came.
pub(super) struct Routed {
    pub(super) environment: Arc<str>,
    pub(super) rule: Arc<Rule>,
}

/// What there is to say about a request when it has ended.
#[derive(Default)]
pub(super) struct Told<'a> {
    pub(super) request: Option<&'a Request>,
    pub(super) routed: Option<&'a Routed>,
    pub(super) variant: &'a str,
    pub(super) caller: Option<&'a Caller>,
    pub(super) rejected: Option<Rejected>,
    pub(super) login: Option<&'static str>,
    pub(super) refusal: Option<&'static str>,
    pub(super) failure: Option<&'static str>,
    pub(super) status: u16,
    pub(super) sent: u64,
    pub(super) notes: Notes,
}

// === impl Call ===

impl<'a> Call<'a> {
    pub(super) fn begin(worker: &'a WorkerContext, peer: &'a Peer, head: &RequestHead) -> Self {
        let new = Self::new(worker, peer, Asker::of(head));
        let given_id = if peer.trusted { RequestId::given(&head.headers) } else { None };
        Self {
            method: head.method.clone(),
            version: head.version,
            id: given_id.unwrap_or_else(|| new.id.clone()),
            ..new
        }
    }

    pub(super) fn new(worker: &'a WorkerContext, peer: &'a Peer, asker: Asker) -> Self {
        let at = SystemTime::now();
        let milliseconds = at
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let random = u128::from(worker.random.next()) << 64 | u128::from(worker.random.next());
        Self {
            worker,
            peer,
            asker,
            method: Method::GET,
            version: Version::HTTP_11,
            id: RequestId::new(milliseconds, random),
            date: worker.meter.date(at),
            started: Instant::now(),
            at,
            _in_flight: worker.meter.request(),
        }
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        Facts { asker: &self.asker, id: &self.id, date: &self.date }
    }

    pub(super) fn hide<R: Respond>(
        &self,
        request: &Request,
        rejected: Option<Rejected>,
        respond: &mut R,
    ) -> Reply {
        let told = Told { request: Some(request), rejected, ..Told::default() };
        let asked = self.worker.reception.as_ref().map(|_| request.target.as_str());
        self.answer(hidden::answer(&self.facts(), asked), told, respond)
    }

    /// Answers a caller whose credentials could not be checked. Like the hidden answer, in whose place
    /// it stands, it is made from nothing that the gateway knows of the host.
    pub(super) fn put_off<R: Respond>(
        &self,
        request: &Request,
        rejected: Option<Rejected>,
        respond: &mut R,
    ) -> Reply {
        let told = Told { request: Some(request), rejected, ..Told::default() };
        self.fail(StatusCode::SERVICE_UNAVAILABLE, told, respond)
    }

    /// A document for everybody, the same on every host.
    pub(super) fn publish<R: Respond>(
        &self,
        document: Bytes,
        request: &Request,
        respond: &mut R,
    ) -> Reply {
        let told = Told { request: Some(request), ..Told::default() };
        if !matches!(request.method, Method::GET | Method::HEAD) || request.kind != Kind::Http {
            return self.hide(request, None, respond);
        }
        self.answer(local_reply::document(document, &self.facts()), told, respond)
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
        let told = Told { request, refusal: Some(refusal.reason), ..Told::default() };
        self.answer(local_reply::refusal(refusal, &self.facts()), told, respond)
    }

    pub(super) fn redirect_to_https<R: Respond>(
        &self,
        request: &Request,
        respond: &mut R,
    ) -> Reply {
        let port = self.worker.settings.listeners.http.redirect_port;
        let location =
            local_reply::https_location(&request.authority, request.target.as_str(), port);
        let told = Told { request: Some(request), ..Told::default() };
        self.answer(
            local_reply::redirect(StatusCode::PERMANENT_REDIRECT, location, &self.facts()),
            told,
            respond,
        )
    }

    pub(super) fn redirect_to_portal<R: Respond>(
        &self,
        location: HeaderValue,
        request: &Request,
        respond: &mut R,
    ) -> Reply {
        let told = Told { request: Some(request), ..Told::default() };
        self.answer(
            local_reply::redirect(StatusCode::SEE_OTHER, location, &self.facts()),
            told,
            respond,
        )
    }

    pub(super) fn prove<R: Respond>(
        &self,
        page: Bytes,
        request: &Request,
        respond: &mut R,
    ) -> Reply {
        let told = Told { request: Some(request), ..Told::default() };
        self.answer(local_reply::challenge(page, &self.facts()), told, respond)
    }

    pub(super) fn redirect<R: Respond>(
        &self,
        status: StatusCode,
        location: HeaderValue,
        request: &Request,
        routed: &Routed,
        respond: &mut R,
    ) -> Reply {
        let told = Told { request: Some(request), routed: Some(routed), ..Told::default() };
        self.answer(local_reply::redirect(status, location, &self.facts()), told, respond)
    }

    pub(super) fn fail<R: Respond>(
        &self,
        status: StatusCode,
        told: Told<'_>,
        respond: &mut R,
    ) -> Reply {
        self.answer(local_reply::error(status, &self.facts()), told, respond)
    }

    pub(super) fn end<R: Respond>(
        &self,
        outcome: Outcome,
        mut told: Told<'_>,
        respond: &mut R,
    ) -> Reply {
        told.status = told.notes.status.map_or(499, |status| status.as_u16());
        told.sent = told.notes.sent;
        match outcome {
            Outcome::Failed { status, reason } => {
                told.failure = Some(reason);
                return self.fail(status, told, respond);
            }
            Outcome::Refused(refusal) => {
                if refusal.close {
                    respond.close();
                }
                told.refusal = Some(refusal.reason);
                return self.answer(local_reply::refusal(&refusal, &self.facts()), told, respond);
            }
            Outcome::Sent => {}
            Outcome::Aborted(reason) => told.failure = Some(reason),
            Outcome::Gone => {
                respond.abort();
                told.failure = Some("client_gone");
            }
            Outcome::Ended => {
                respond.abort();
                told.failure = Some("access_ended");
            }
        }
        self.record(&told);
        Reply::none()
    }

    /// Begins an answer of our own: it is handed on, and its record made. Nothing of the request
    /// is needed any more.
    pub(super) fn answer<R: Respond>(
        &self,
        (mut head, body): (ResponseHead, Bytes),
        mut told: Told<'_>,
        respond: &mut R,
    ) -> Reply {
        if told.request.is_some_and(|request| !is_read_away(request)) {
            respond.close();
        }
        self.worker.hsts.tell(self.peer.tls, &mut head.headers);
        told.status = head.status.as_u16();
        told.sent = body.len() as u64;
        self.record(&told);
        Reply::begin(head, body, respond)
    }

    fn record(&self, told: &Told<'_>) {
        let request = told.request;
        let header = |name| request.and_then(|request| request.headers.get(name));
        let record = Record {
            id: self.id.as_str(),
            client: request.map_or_else(
                || self.peer.client.ip().to_canonical(),
                |request| {
                    proxy_headers::client(&request.headers, self.peer, &self.worker.forwarding)
                },
            ),
            listener: self.peer.listener,
            tls: self.peer.tls,
            version: self.version,
            method: &self.method,
            host: request.map_or("", |request| request.authority.host.as_str()),
            path: request.map_or("", |request| request.target.path()),
            status: told.status,
            grpc_status: told.notes.grpc_status,
            bytes_in: told.notes.received,
            bytes_out: told.sent,
            duration: told.notes.ended_at.unwrap_or_else(Instant::now).duration_since(self.started),
            upstream_duration: told.notes.head_at.map(|at| at.duration_since(self.started)),
            environment: told.routed.map_or("", |routed| &routed.environment),
            service: told.routed.map_or("", |routed| &routed.rule.service),
            variant: told.variant,
            upstream: told.notes.upstream,
            tries: told.notes.tries,
            application: told
                .caller
                .and_then(|caller| caller.application.as_deref())
                .unwrap_or_default(),
            user: told
                .caller
                .and_then(|caller| caller.user.as_deref())
                .map_or("", |user| &user.name),
            rejected: told.rejected.map(Rejected::word),
            login: told.login,
            refusal: told.refusal,
            failure: told.failure,
            user_agent: header(http::header::USER_AGENT),
            referer: header(http::header::REFERER),
        };
        self.worker.meter.record(&record, self.at);
    }
}

/// Whether what is left of the body will be read away after an answer of our own.
fn is_read_away(request: &Request) -> bool {
    match request.body {
        BodyLength::None => true,
        BodyLength::Exact(length) => length <= READ_AWAY && !request.expects_continue,
        BodyLength::Unknown | BodyLength::Tunnel => false,
    }
}
