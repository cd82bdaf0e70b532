//! The way of a request, on one page: normalise → route → authorise → limits → choose → forward → telemetry.

mod portal;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use portcullis_config::settings::PlainHttp;
use portcullis_config::snapshot::access::Require;
use portcullis_config::snapshot::rule::Rule;

use crate::access::assertion::JWKS_PATH;
use crate::access::recent::Recognised;
use crate::access::{Authenticated, Caller, Fields, Rejected, Shown};
use crate::answer::{self, Asker, Facts};
use crate::exchange::{BodyLength, Frame, Peer, Refusal, RequestHead, Respond, ResponseHead, Source};
use crate::forward::{self, Deadlines, Job, Notes, OnHead, Outcome};
use crate::forwarding::{self, RequestId};
use crate::hsts::Hsts;
use crate::normalize::{Authority, Kind, Request};
use crate::telemetry::{InFlight, Record};
use crate::upstream::exchange::Message;
use crate::worker::Worker;
use crate::{access, filter, hidden, normalize, route};

static SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A request's body up to this size is read away when the request was answered without it; for a larger one the connection is closed.
pub(crate) const READ_AWAY: u64 = 64 * 1024;
/// How long that may take.
const READ_AWAY_WITHIN: Duration = Duration::from_secs(2);

/// One request from its head to the last octet of its response.
struct Call<'a> {
    worker: &'a Worker,
    peer: &'a Peer,
    asker: Asker,
    method: Method,
    version: Version,
    id: RequestId,
    date: HeaderValue,
    started: Instant,
    at: SystemTime,
    _in_flight: InFlight,
}

/// Where a request goes, as the snapshot said when it came.
struct Routed {
    environment: Arc<str>,
    rule: Arc<Rule>,
}

/// What there is to say about a request when it has ended.
#[derive(Default)]
struct Told<'a> {
    request: Option<&'a Request>,
    routed: Option<&'a Routed>,
    variant: &'a str,
    caller: Option<&'a Caller>,
    rejected: Option<Rejected>,
    login: Option<&'static str>,
    refusal: Option<&'static str>,
    failure: Option<&'static str>,
    status: u16,
    sent: u64,
    notes: Notes,
}

/// Serves one request.
pub(crate) async fn serve<B: Source, R: Respond>(worker: &Worker, peer: &Peer, head: RequestHead, body: &mut B, respond: &mut R) {
    let call = Call::begin(worker, peer, &head);
    let given_id = if peer.trusted { RequestId::given(&head.headers) } else { None };
    let call = Call { id: given_id.unwrap_or_else(|| call.id.clone()), ..call };

    // Normalise: one reading, or none.
    let mut request = match normalize::request(head, peer.trusted, worker.settings.limits.request_headers) {
        Ok(request) => request,
        Err(refusal) => return call.refuse(&refusal, None, respond).await,
    };
    // What an authority looks for is there for every host, known or not (RFC 8555 §8.3).
    if !peer.tls
        && let Some(page) = worker.challenges.page(request.target.path())
    {
        return call.prove(page, &request, respond).await;
    }
    if !peer.tls && worker.settings.listeners.http.mode == PlainHttp::Redirect {
        return call.redirect_to_https(&request, respond).await;
    }

    // What people log in by is on a host of its own, and at two paths of every host, known or not.
    if let Some(reception) =
        worker.reception.as_ref().filter(|reception| reception.is_for(request.authority.host.as_str(), request.target.path()))
    {
        return call.portal(reception, &request, body, respond).await;
    }

    // So are the keys that backends verify our word by.
    if let Some(assertions) = worker.introductions.assertions().filter(|_| request.target.path() == JWKS_PATH) {
        return call.publish(assertions.published(), &request, respond).await;
    }

    // Who is calling? This is found out before the host is looked at, and so takes the same time for every host.
    let client = forwarding::client(&request.headers, peer, &worker.forwarding);
    let recognised = match known(worker, peer, &request, call.at) {
        Some(known) => known,
        None => recognise(worker, peer, &request, client, call.at).await,
    };
    let authenticated = &recognised.found;
    if let Some(location) = portal::detour(&request, authenticated.session.as_deref(), call.at) {
        return call.redirect_to_portal(location, &request, respond).await;
    }

    // Route and authorise: what is not there and what may not be known of get the same answer, after the same work.
    let Some((routed, matched)) = find(worker, peer, &request, &authenticated.caller) else {
        return call.hide(&request, authenticated.rejected, respond).await;
    };
    let asked = request.target.clone();

    // What the rule says, before anything is sent.
    if let Some((status, location)) = filter::redirect(&routed.rule.filters, &matched, &request, peer.tls) {
        return call.redirect(status, location, &request, &routed, respond).await;
    }
    filter::rewrite(&routed.rule.filters, &matched, &mut request);

    // Choose the variant; the endpoint is chosen for each try.
    let Some(backend) = routed.rule.backends.choose(worker.random()) else {
        let told = Told { request: Some(&request), routed: Some(&routed), failure: Some("no_backend"), ..Told::default() };
        return call.fail(StatusCode::SERVICE_UNAVAILABLE, told, respond).await;
    };

    // Headers for the backend, and the rule's last word on them.
    let host = forwarding::request(&mut request, peer, client, &call.id, true, &worker.forwarding);
    if request.kind == Kind::WebSocket && !request.headers.contains_key(&SEC_WEBSOCKET_KEY) {
        // RFC 8441 §5.1: an extended CONNECT has no key; HTTP/1.1 to the backend needs one.
        request.headers.insert(&SEC_WEBSOCKET_KEY, websocket_key(|| worker.random()));
    }
    recognised.shown.strip(&mut request.headers, authenticated.token, routed.rule.policy.access.pass_credentials);
    let introduction = recognised.introduction(&worker.introductions, request.authority.host.as_str(), call.at);
    let mut told = introduction.as_deref();
    if (!routed.rule.filters.is_empty() || !backend.filters.is_empty())
        && let Some(introduction) = told.take()
    {
        // The last word includes who is calling.
        request.headers.extend(introduction.fields().iter().map(|(name, value)| ((*name).clone(), value.clone())));
    }
    filter::request_headers(&routed.rule.filters, &mut request.headers);
    filter::request_headers(&backend.filters, &mut request.headers);

    // Forward.
    let job = Job {
        worker,
        message: Message {
            method: &request.method,
            host: &host,
            target: &request.target,
            headers: &request.headers,
            told,
            body: if request.kind == Kind::WebSocket { BodyLength::Tunnel } else { request.body },
            expects_continue: request.expects_continue,
        },
        backend,
        policy: &routed.rule.policy,
        deadlines: deadlines(worker, &request, &routed.rule, call.started),
        started: call.started,
    };
    let mut notes = Notes::default();
    let mut finish = ResponseHeaders {
        date: &call.date,
        rule: &routed.rule,
        backend: &backend.filters,
        is_http1: request.version != Version::HTTP_2,
        hsts: &worker.hsts,
        tls: peer.tls,
        renewal: worker.authenticator.renewal(authenticated, request.authority.host.as_str(), call.at),
    };
    let outcome = {
        let forwarded = pin!(forward::forward(&job, body, respond, &mut finish, &mut notes));
        if routed.rule.policy.access.require == Require::Nothing {
            forwarded.await
        } else {
            // What was let in is let in for as long as its credentials and grants last.
            let may_still = async || still_may(worker, peer, &recognised.shown, client, &request.authority, asked.path(), &routed).await;
            worker.reviews.guard(authenticated.caller.until, forwarded, may_still).await.unwrap_or(Outcome::Ended)
        }
    };

    let told = Told {
        request: Some(&request),
        routed: Some(&routed),
        caller: Some(&authenticated.caller),
        variant: &backend.variant,
        notes,
        ..Told::default()
    };
    call.end(outcome, told, respond).await;
}

/// Answers what the codec could not read as a request.
pub(crate) async fn refuse<R: Respond>(worker: &Worker, peer: &Peer, refusal: &Refusal, respond: &mut R) {
    Call::new(worker, peer, Asker::default()).refuse(refusal, None, respond).await;
}

/// Reads away what is left of a small body that was answered without it, so that its client can finish sending. `false` where that
/// was not to be had.
pub(crate) async fn read_away<B: Source>(body: &mut B) -> bool {
    let mut left = READ_AWAY;
    let reading = async {
        loop {
            match poll_fn(|cx| body.poll_frame(cx)).await {
                None => return true,
                Some(Ok(Frame::Data(data))) => match left.checked_sub(data.len() as u64) {
                    Some(rest) => left = rest,
                    None => return false,
                },
                Some(Ok(Frame::Trailers(_))) => {}
                Some(Err(_)) => return false,
            }
        }
    };
    tokio::time::timeout(READ_AWAY_WITHIN, reading).await.unwrap_or(false)
}

/// Where the request goes, if that exists and its caller may go there. Nothing is kept of what she may not.
fn find(
    worker: &Worker,
    peer: &Peer,
    request: &Request,
    caller: &Caller,
) -> Option<(Routed, portcullis_config::snapshot::rule::PathMatch)> {
    let snapshot = worker.live.snapshot.load();
    let (host, route) = route::find_or_nowhere(snapshot.listener(peer.listener)?, request);
    let allowed = access::may(&route.rule.policy.access, caller);
    let host = host.filter(|_| allowed)?;
    Some((Routed { environment: Arc::clone(&host.environment), rule: Arc::clone(&route.rule) }, route.matches.path.clone()))
}

/// Who is calling, where nothing need be looked up for that: nobody, or who came a moment ago. What a client certificate is worth is known with its
/// connection.
fn known(worker: &Worker, peer: &Peer, request: &Request, now: SystemTime) -> Option<Rc<Recognised>> {
    let fields = Fields::of(&request.headers);
    if peer.certificate.is_some() {
        None
    } else if fields.are_absent() {
        Some(worker.recent.nobody())
    } else {
        worker.recent.find(&fields, request.authority.host.as_str(), worker.authenticator.generation(), now)
    }
}

/// Who is calling. It takes as long for every host.
async fn recognise(worker: &Worker, peer: &Peer, request: &Request, client: IpAddr, now: SystemTime) -> Rc<Recognised> {
    let (fields, host) = (Fields::of(&request.headers), request.authority.host.as_str());
    // Taken before the look-ups that it stands for.
    let generation = worker.authenticator.generation();
    let shown = Shown::read(&fields, peer.certificate.clone());
    let found = identify(worker, &shown, client, host, now).await;
    let recognised = Rc::new(Recognised::new(shown, found));
    if peer.certificate.is_none() {
        worker.recent.keep(&fields, host, generation, &recognised);
    }
    recognised
}

/// Who shows these credentials.
async fn identify(worker: &Worker, shown: &Shown, client: IpAddr, host: &str, now: SystemTime) -> Authenticated {
    worker.authenticator.prepare(shown, now).await;
    if let Ok(found) = worker.authenticator.authenticate(shown, host, now, || worker.turns.take()) {
        return found;
    }
    worker.turns.wait(client).await;
    worker.authenticator.authenticate(shown, host, now, || true).unwrap_or_default()
}

/// Whether whoever shows these credentials may still go where she went.
async fn still_may(
    worker: &Worker,
    peer: &Peer,
    shown: &Shown,
    client: IpAddr,
    authority: &Authority,
    path: &str,
    routed: &Routed,
) -> bool {
    let caller = identify(worker, shown, client, authority.host.as_str(), SystemTime::now()).await.caller;
    let snapshot = worker.live.snapshot.load();
    let host = snapshot.listener(peer.listener).and_then(|listener| listener.hosts.find(authority.host.as_str()));
    let mut routes = host.into_iter().flat_map(|host| &host.routes).filter(|route| route.matches.path.matches(path));
    routes.any(|route| route.rule.origin.is_same(&routed.rule.origin) && access::may(&route.rule.policy.access, &caller))
}

fn deadlines(worker: &Worker, request: &Request, rule: &Rule, started: Instant) -> Deadlines {
    let timeouts = &worker.settings.timeouts;
    let call = if request.kind == Kind::Grpc { request.headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout) } else { None };
    let allowed = match (rule.policy.timeouts.request, call) {
        (Some(rule), Some(call)) => Some(rule.min(call)),
        (rule, call) => rule.or(call),
    };
    let head = match (rule.policy.timeouts.backend_request, request.kind) {
        // The head of a streaming call comes with its first message, whenever that is.
        (None, Kind::Grpc | Kind::GrpcWeb) => None,
        (None, _) => Some(timeouts.response_head),
        (given, _) => given,
    };
    Deadlines { whole: allowed.and_then(|allowed| started.checked_add(allowed)), head, idle: timeouts.stream_idle }
}

/// A call's own limit in time (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A nonce of 16 octets in base64 (RFC 6455 §4.1): 21 digits of six bits, one of two, and padding.
fn websocket_key(mut random: impl FnMut() -> u64) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut digit = |set: &[u8]| set.get(random() as usize % set.len().max(1)).copied().unwrap_or(b'A');
    let mut key: Vec<u8> = (0..21).map(|_| digit(DIGITS)).collect();
    key.push(digit(b"AQgw"));
    key.extend_from_slice(b"==");
    HeaderValue::from_maybe_shared(Bytes::from(key)).unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

/// Makes the backend's head one for the client.
struct ResponseHeaders<'a> {
    date: &'a HeaderValue,
    rule: &'a Rule,
    backend: &'a [portcullis_config::snapshot::filter::Filter],
    is_http1: bool,
    hsts: &'a Hsts,
    tls: bool,
    /// The cookie by which the caller's session goes on.
    renewal: Option<HeaderValue>,
}

impl OnHead for ResponseHeaders<'_> {
    fn on_head(&mut self, head: &mut ResponseHead) {
        forwarding::response(&mut head.headers, self.date);
        if !self.is_http1 && head.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 8441 §5.1: the handshake's proof is HTTP/1.1's alone.
            head.headers.remove(http::header::SEC_WEBSOCKET_ACCEPT);
        }
        filter::response_headers(self.backend, &mut head.headers);
        filter::response_headers(&self.rule.filters, &mut head.headers);
        access::strip_set_cookies(&mut head.headers);
        self.hsts.tell(self.tls, &mut head.headers);
        if let Some(cookie) = self.renewal.take() {
            head.headers.append(http::header::SET_COOKIE, cookie);
        }
    }
}

// === impl Call ===

impl<'a> Call<'a> {
    fn begin(worker: &'a Worker, peer: &'a Peer, head: &RequestHead) -> Self {
        Self { method: head.method.clone(), version: head.version, ..Self::new(worker, peer, Asker::of(head)) }
    }

    fn new(worker: &'a Worker, peer: &'a Peer, asker: Asker) -> Self {
        let at = SystemTime::now();
        let milliseconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let random = u128::from(worker.random()) << 64 | u128::from(worker.random());
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

    fn facts(&self) -> Facts<'_> {
        Facts { asker: &self.asker, id: &self.id, date: &self.date }
    }

    async fn hide<R: Respond>(&self, request: &Request, rejected: Option<Rejected>, respond: &mut R) {
        let told = Told { request: Some(request), rejected, ..Told::default() };
        let asked = self.worker.reception.as_ref().map(|_| request.target.as_str());
        self.answer(hidden::answer(&self.facts(), asked), told, respond).await;
    }

    /// A document for everybody, the same on every host.
    async fn publish<R: Respond>(&self, document: Bytes, request: &Request, respond: &mut R) {
        let told = Told { request: Some(request), ..Told::default() };
        if !matches!(request.method, Method::GET | Method::HEAD) || request.kind != Kind::Http {
            return self.hide(request, None, respond).await;
        }
        self.answer(answer::document(document, &self.facts()), told, respond).await;
    }

    async fn refuse<R: Respond>(&self, refusal: &Refusal, request: Option<&Request>, respond: &mut R) {
        if refusal.close {
            respond.close();
        }
        let told = Told { request, refusal: Some(refusal.reason), ..Told::default() };
        self.answer(answer::refusal(refusal, &self.facts()), told, respond).await;
    }

    async fn redirect_to_https<R: Respond>(&self, request: &Request, respond: &mut R) {
        let port = self.worker.settings.listeners.http.redirect_port;
        let location = answer::https_location(&request.authority, request.target.as_str(), port);
        let told = Told { request: Some(request), ..Told::default() };
        self.answer(answer::redirect(StatusCode::PERMANENT_REDIRECT, location, &self.facts()), told, respond).await;
    }

    async fn redirect_to_portal<R: Respond>(&self, location: HeaderValue, request: &Request, respond: &mut R) {
        let told = Told { request: Some(request), ..Told::default() };
        self.answer(answer::redirect(StatusCode::SEE_OTHER, location, &self.facts()), told, respond).await;
    }

    async fn prove<R: Respond>(&self, page: Bytes, request: &Request, respond: &mut R) {
        let told = Told { request: Some(request), ..Told::default() };
        self.answer(answer::challenge(page, &self.facts()), told, respond).await;
    }

    async fn redirect<R: Respond>(&self, status: StatusCode, location: HeaderValue, request: &Request, routed: &Routed, respond: &mut R) {
        let told = Told { request: Some(request), routed: Some(routed), ..Told::default() };
        self.answer(answer::redirect(status, location, &self.facts()), told, respond).await;
    }

    async fn fail<R: Respond>(&self, status: StatusCode, told: Told<'_>, respond: &mut R) {
        self.answer(answer::error(status, &self.facts()), told, respond).await;
    }

    async fn end<R: Respond>(&self, outcome: Outcome, mut told: Told<'_>, respond: &mut R) {
        told.status = told.notes.status.map_or(499, |status| status.as_u16());
        told.sent = told.notes.sent;
        match outcome {
            Outcome::Sent => self.record(&told),
            Outcome::Failed { status, reason } => {
                told.failure = Some(reason);
                self.fail(status, told, respond).await;
            }
            Outcome::Refused(refusal) => {
                if refusal.close {
                    respond.close();
                }
                told.refusal = Some(refusal.reason);
                self.answer(answer::refusal(&refusal, &self.facts()), told, respond).await;
            }
            Outcome::Aborted(reason) => {
                told.failure = Some(reason);
                self.record(&told);
            }
            Outcome::Gone => {
                respond.abort();
                told.failure = Some("client_gone");
                self.record(&told);
            }
            Outcome::Ended => {
                respond.abort();
                told.failure = Some("access_ended");
                self.record(&told);
            }
        }
    }

    /// Sends an answer of our own.
    async fn answer<R: Respond>(&self, (mut head, body): (ResponseHead, Bytes), mut told: Told<'_>, respond: &mut R) {
        if told.request.is_some_and(|request| !is_read_away(request)) {
            respond.close();
        }
        self.worker.hsts.tell(self.peer.tls, &mut head.headers);
        told.status = head.status.as_u16();
        told.sent = body.len() as u64;
        let length = if body.is_empty() { BodyLength::None } else { BodyLength::Exact(body.len() as u64) };
        respond.head(head, length);
        let sent = tokio::time::timeout(self.worker.settings.timeouts.stream_idle, async {
            poll_fn(|cx| respond.poll_ready(cx)).await?;
            if !body.is_empty() {
                respond.push(Frame::Data(body));
            }
            respond.finish();
            poll_fn(|cx| respond.poll_flush(cx)).await
        });
        if !matches!(sent.await, Ok(Ok(()))) {
            respond.abort();
        }
        self.record(&told);
    }

    fn record(&self, told: &Told<'_>) {
        let request = told.request;
        let header = |name| request.and_then(|request| request.headers.get(name));
        let record = Record {
            id: self.id.as_str(),
            client: request.map_or_else(
                || self.peer.client.ip().to_canonical(),
                |request| forwarding::client(&request.headers, self.peer, &self.worker.forwarding),
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
            application: told.caller.and_then(|caller| caller.application.as_deref()).unwrap_or_default(),
            user: told.caller.and_then(|caller| caller.user.as_deref()).map_or("", |user| &user.name),
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
