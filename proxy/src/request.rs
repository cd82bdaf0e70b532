//! The way of a request, on one page: normalise → route → authorise → limits → choose → forward →
//! telemetry.

mod caller;
mod context;
mod head_memory;
mod portal;
mod reply;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Version};
use portcullis_config::settings::PlainHttp;
use portcullis_config::snapshot::access::Require;
use portcullis_config::snapshot::rule::{PathMatch, Rule};
use portcullis_identity::caller::{Caller, authorize};

use self::caller::{known, recognise, still_may};
use self::context::{Call, Routed, Told};
pub(crate) use self::reply::Reply;
use crate::access::assertion::JWKS_PATH;
use crate::exchange::{
    BodyLength, Frame, Peer, Refusal, RequestHead, Respond, ResponseHead, Source,
};
use crate::forward::{self, Deadlines, Job, Notes, OnHead, Outcome};
use crate::hsts::Hsts;
use crate::local_reply::Asker;
use crate::memory::Charge;
use crate::normalize::{Kind, Request};
use crate::upstream::exchange::Message;
use crate::worker_context::WorkerContext;
use crate::{access, filter, normalize, proxy_headers, route};

static SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A request's body up to this size is read away when the request was answered without it; for a
/// larger one the connection is closed.
pub(crate) const READ_AWAY: u64 = 64 * 1024;
/// How long that may take.
const READ_AWAY_WITHIN: Duration = Duration::from_secs(2);

/// Serves one request, up to the end of a backend's response, or to the decision that the gateway
/// answers itself: then what is returned is still to be [delivered](Reply::deliver), while nothing
/// of the request is held any more.
pub(crate) async fn serve<B: Source, R: Respond>(
    worker: &WorkerContext,
    peer: &Peer,
    head: RequestHead,
    charge: &mut Charge,
    body: &mut B,
    respond: &mut R,
) -> Reply {
    let call = Call::begin(worker, peer, &head);

    // Normalise: one reading, or none.
    let mut request =
        match normalize::request(head, peer.trusted, worker.settings.limits.request_headers) {
            Ok(request) => request,
            Err(refusal) => return call.refuse(&refusal, None, respond),
        };
    head_memory::set_apart(&mut request.target, charge);
    // What an authority looks for is there for every host, known or not (RFC 8555 §8.3).
    if !peer.tls
        && let Some(page) = worker.challenges.page(request.target.path())
    {
        return call.prove(page, &request, respond);
    }
    if !peer.tls && worker.settings.listeners.http.mode == PlainHttp::Redirect {
        return call.redirect_to_https(&request, respond);
    }

    // What people log in by is on a host of its own, and at two paths of every host, known or not.
    if let Some(reception) = worker.reception.as_ref().filter(|reception| {
        reception.is_for(request.authority.host.as_str(), request.target.path())
    }) {
        return call.portal(reception, &request, body, respond).await;
    }

    // So are the keys that backends verify our word by.
    if let Some(assertions) =
        worker.introductions.assertions().filter(|_| request.target.path() == JWKS_PATH)
    {
        return call.publish(assertions.published(), &request, respond);
    }

    // Who is calling? This is found out before the host is looked at, and so takes the same time
    // for every host.
    let client = proxy_headers::client(&request.headers, peer, &worker.forwarding);
    let recognised = match known(worker, peer, &request, call.at) {
        Some(known) => known,
        None => recognise(worker, peer, &request, client.into(), call.at).await,
    };
    let authenticated = &recognised.found;
    if let Some(location) = portal::detour(&request, authenticated.session.as_deref(), call.at) {
        return call.redirect_to_portal(location, &request, respond);
    }

    // Route and authorise: what is not there and what may not be known of get the same answer,
    // after the same work.
    let Some((routed, matched)) = find(worker, peer, &request, &authenticated.caller) else {
        // Whose credentials could not be checked is asked to come again, on every host alike.
        return if authenticated.is_unchecked() {
            call.put_off(&request, authenticated.rejected, respond)
        } else {
            call.hide(&request, authenticated.rejected, respond)
        };
    };
    let asked = request.target.clone();

    // What the rule says, before anything is sent.
    if let Some((status, location)) =
        filter::redirect(&routed.rule.filters, &matched, &request, peer.tls)
    {
        return call.redirect(status, location, &request, &routed, respond);
    }
    filter::rewrite(&routed.rule.filters, &matched, &mut request);

    // Choose the variant; the endpoint is chosen for each try.
    let Some(backend) = routed.rule.backends.choose(worker.random.next()) else {
        let told = Told {
            request: Some(&request),
            routed: Some(&routed),
            failure: Some("no_backend"),
            ..Told::default()
        };
        return call.fail(StatusCode::SERVICE_UNAVAILABLE, told, respond);
    };

    // Headers for the backend, and the rule's last word on them.
    let host =
        proxy_headers::request(&mut request, peer, client, &call.id, true, &worker.forwarding);
    if request.kind == Kind::WebSocket && !request.headers.contains_key(&SEC_WEBSOCKET_KEY) {
        // RFC 8441 §5.1: an extended CONNECT has no key; HTTP/1.1 to the backend needs one.
        request.headers.insert(&SEC_WEBSOCKET_KEY, websocket_key(|| worker.random.next()));
    }
    recognised.shown.strip(
        &mut request.headers,
        authenticated.token,
        routed.rule.policy.access.pass_credentials,
    );
    let introduction =
        recognised.introduction(&worker.introductions, request.authority.host.as_str(), call.at);
    let mut told = introduction.as_deref();
    if (!routed.rule.filters.is_empty() || !backend.filters.is_empty())
        && let Some(introduction) = told.take()
    {
        // The last word includes who is calling.
        request.headers.extend(
            introduction.fields().iter().map(|(name, value)| ((*name).clone(), value.clone())),
        );
    }
    filter::request_headers(&routed.rule.filters, &mut request.headers);
    filter::request_headers(&backend.filters, &mut request.headers);

    // Forward.
    let deadlines = deadlines(worker, &request, &routed.rule, call.started);
    let mut notes = Notes::default();
    let mut finish = ResponseHeaders {
        date: &call.date,
        rule: &routed.rule,
        backend: &backend.filters,
        is_http1: request.version != Version::HTTP_2,
        hsts: &worker.hsts,
        tls: peer.tls,
        renewal: worker.authenticator.renewal(
            authenticated,
            request.authority.host.as_str(),
            call.at,
        ),
    };
    let outcome = {
        let forwarded = pin!(async {
            let job = Job {
                upstreams: &worker.upstreams,
                meter: &worker.meter,
                random: &worker.random,
                message: Message {
                    method: &request.method,
                    host: &host,
                    target: &request.target,
                    headers: &request.headers,
                    told,
                    body: if request.kind == Kind::WebSocket {
                        BodyLength::Tunnel
                    } else {
                        request.body
                    },
                    expects_continue: request.expects_continue,
                },
                backend,
                policy: &routed.rule.policy,
                deadlines,
                started: call.started,
            };
            let answered = match forward::send(&job, body, respond, &mut notes).await {
                Ok(answered) => answered,
                Err(outcome) => return outcome,
            };
            // No other try follows.
            head_memory::let_go(&mut request.headers, charge);
            forward::relay(answered, &deadlines, body, respond, &mut finish, &mut notes).await
        });
        if routed.rule.policy.access.require == Require::Nothing {
            forwarded.await
        } else {
            // What was let in is let in for as long as its credentials and grants last.
            let may_still = async || {
                still_may(
                    worker,
                    peer,
                    &recognised.shown,
                    client.into(),
                    &request.authority,
                    asked.path(),
                    &routed,
                )
                .await
            };
            worker
                .reviews
                .guard(authenticated.caller.until, forwarded, may_still)
                .await
                .unwrap_or(Outcome::Ended)
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
    call.end(outcome, told, respond)
}

/// Answers what the codec could not read as a request.
pub(crate) fn refuse<R: Respond>(
    worker: &WorkerContext,
    peer: &Peer,
    refusal: &Refusal,
    respond: &mut R,
) -> Reply {
    Call::new(worker, peer, Asker::default()).refuse(refusal, None, respond)
}

/// Reads away what is left of a small body that was answered without it, so that its client can
/// finish sending. `false` where that was not to be had.
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

/// Where the request goes, if that exists and its caller may go there. Nothing is kept of what she
/// may not.
fn find(
    worker: &WorkerContext,
    peer: &Peer,
    request: &Request,
    caller: &Caller,
) -> Option<(Routed, PathMatch)> {
    let snapshot = worker.live.snapshot.load();
    let (host, route) = route::find_or_nowhere(snapshot.listener(peer.listener)?, request);
    let allowed = authorize(&route.rule.policy.access, caller);
    let host = host.filter(|_| allowed)?;
    Some((
        Routed { environment: Arc::clone(&host.environment), rule: Arc::clone(&route.rule) },
        route.matches.path.clone(),
    ))
}

fn deadlines(
    worker: &WorkerContext,
    request: &Request,
    rule: &Rule,
    started: Instant,
) -> Deadlines {
    let timeouts = &worker.settings.timeouts;
    let call = if request.kind == Kind::Grpc {
        request.headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout)
    } else {
        None
    };
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
    Deadlines {
        whole: allowed.and_then(|allowed| started.checked_add(allowed)),
        head,
        idle: timeouts.stream_idle,
        client_read: timeouts.client_read,
    }
}

/// A call's own limit in time (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
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
    let mut digit =
        |set: &[u8]| set.get(random() as usize % set.len().max(1)).copied().unwrap_or(b'A');
    let mut key: Vec<u8> = (0..21).map(|_| digit(DIGITS)).collect();
    key.push(digit(b"AQgw"));
    key.extend_from_slice(b"==");
    HeaderValue::from_maybe_shared(Bytes::from(key))
        .unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
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
        proxy_headers::response(&mut head.headers, self.date);
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
