//! The request path, on one page: normalize → authenticate → route → authorize → filter →
//! balance → forward → telemetry.

mod caller;
mod context;
mod head_memory;
mod portal;
mod reply;
mod response_headers;

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

use self::caller::{authenticate, cached, reauthorize};
use self::context::{LogContext, RequestContext, Routed};
pub(crate) use self::reply::Reply;
use self::response_headers::ResponseHeaders;
use crate::access::assertion::JWKS_PATH;
use crate::exchange::{BodyLength, Frame, Peer, Refusal, RequestHead, Respond, Source};
use crate::forward::{self, Deadlines, ForwardRequest, ForwardStats, Outcome};
use crate::local_reply::ClientFormat;
use crate::memory::Charge;
use crate::normalize::{Kind, Request};
use crate::upstream::exchange::Message;
use crate::worker_context::WorkerContext;
use crate::{filter, normalize, proxy_headers, route};

static SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The largest request body that is discarded after an early response; for a larger one the
/// connection is closed.
pub(crate) const MAX_DISCARD: u64 = 64 * 1024;
/// How long discarding may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves one request.
///
/// Returns at the end of a backend's response, or as soon as the gateway has decided on a reply of
/// its own. The caller must [deliver](Reply::deliver) that; the request's memory is already free.
pub(crate) async fn serve<B: Source, R: Respond>(
    worker: &WorkerContext,
    peer: &Peer,
    head: RequestHead,
    charge: &mut Charge,
    body: &mut B,
    respond: &mut R,
) -> Reply {
    let call = RequestContext::begin(worker, peer, &head);

    // Normalize: one interpretation, or a rejection.
    let mut request =
        match normalize::request(head, peer.trusted, worker.settings.limits.request_headers) {
            Ok(request) => request,
            Err(refusal) => return call.refuse(&refusal, None, respond),
        };
    head_memory::detach(&mut request.target, charge);
    // ACME challenges are served on every host, known or not (RFC 8555 §8.3).
    if !peer.tls
        && let Some(page) = worker.challenges.page(request.target.path())
    {
        return call.serve_challenge(page, &request, respond);
    }
    if !peer.tls && worker.settings.listeners.http.mode == PlainHttp::Redirect {
        return call.redirect_to_https(&request, respond);
    }

    // The login portal has a host of its own, and two paths on every host, known or not.
    if let Some(portal) = worker
        .portal
        .as_ref()
        .filter(|portal| portal.is_for(request.authority.host.as_str(), request.target.path()))
    {
        return call.portal(portal, &request, body, respond).await;
    }

    // The key set that backends verify assertions with is served on every host too.
    if let Some(assertions) =
        worker.identity_headers.assertions().filter(|_| request.target.path() == JWKS_PATH)
    {
        return call.serve_jwks(assertions.jwks(), &request, respond);
    }

    // Authenticate, before the host is looked up: so it takes the same time for every host.
    let client = proxy_headers::client(&request.headers, peer, &worker.proxy_headers);
    let cached = match cached(worker, peer, &request, call.at) {
        Some(cached) => cached,
        None => authenticate(worker, peer, &request, client.into(), call.at).await,
    };
    let authenticated = &cached.authenticated;
    if let Some(location) =
        portal::revalidation_redirect(&request, authenticated.session.as_deref(), call.at)
    {
        return call.redirect_to_portal(location, &request, respond);
    }

    // Route and authorize: hosts that do not exist and hosts that the caller may not see get the
    // same reply, after the same work.
    let Some((routed, matched)) = find(worker, peer, &request, &authenticated.caller) else {
        // A caller whose credentials could not be checked is asked to retry, on every host alike.
        return if authenticated.is_unchecked() {
            call.unchecked(&request, authenticated.rejected, respond)
        } else {
            call.hide(&request, authenticated.rejected, respond)
        };
    };
    let original_target = request.target.clone();

    // Apply the filters that redirect or rewrite.
    if let Some((status, location)) =
        filter::redirect(&routed.rule.filters, &matched, &request, peer.tls)
    {
        return call.redirect(status, location, &request, &routed, respond);
    }
    filter::rewrite(&routed.rule.filters, &matched, &mut request);

    // Choose the variant; the endpoint is chosen for each attempt.
    let Some(backend) = routed.rule.backends.choose(worker.random.next()) else {
        let log = LogContext {
            request: Some(&request),
            routed: Some(&routed),
            failure: Some("no_backend"),
            ..LogContext::default()
        };
        return call.fail(StatusCode::SERVICE_UNAVAILABLE, log, respond);
    };

    // Build the headers for the backend; the rule's filters are applied last.
    let host =
        proxy_headers::request(&mut request, peer, client, &call.id, true, &worker.proxy_headers);
    if request.kind == Kind::WebSocket && !request.headers.contains_key(&SEC_WEBSOCKET_KEY) {
        // RFC 8441 §5.1: an extended CONNECT has no key; HTTP/1.1 to the backend needs one.
        request.headers.insert(&SEC_WEBSOCKET_KEY, websocket_key(|| worker.random.next()));
    }
    cached.presented.strip(
        &mut request.headers,
        authenticated.token,
        routed.rule.policy.access.pass_credentials,
    );
    let identity =
        cached.identity_headers(&worker.identity_headers, request.authority.host.as_str(), call.at);
    let mut identity_headers = identity.as_deref();
    if (!routed.rule.filters.is_empty() || !backend.filters.is_empty())
        && let Some(identity) = identity_headers.take()
    {
        // Filters apply to the identity headers too.
        request
            .headers
            .extend(identity.fields().iter().map(|(name, value)| ((*name).clone(), value.clone())));
    }
    filter::request_headers(&routed.rule.filters, &mut request.headers);
    filter::request_headers(&backend.filters, &mut request.headers);

    // Forward.
    let deadlines = deadlines(worker, &request, &routed.rule, call.started);
    let mut stats = ForwardStats::default();
    let mut response_headers = ResponseHeaders {
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
            let forward = ForwardRequest {
                upstreams: &worker.upstreams,
                meter: &worker.meter,
                random: &worker.random,
                message: Message {
                    method: &request.method,
                    host: &host,
                    target: &request.target,
                    headers: &request.headers,
                    identity_headers,
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
            let sent =
                forward::send(&forward, body, respond, &mut response_headers, &mut stats).await;
            let answered = match sent {
                Ok(answered) => answered,
                Err(outcome) => return outcome,
            };
            // The response has begun: there is no further attempt.
            head_memory::release(&mut request.headers, charge);
            forward::relay(answered, &deadlines, body, respond, &mut response_headers, &mut stats)
                .await
        });
        if routed.rule.policy.access.require == Require::Nothing {
            forwarded.await
        } else {
            // Access lasts as long as the credentials and grants that gave it.
            let is_allowed = async || {
                reauthorize(
                    worker,
                    peer,
                    &cached.presented,
                    client.into(),
                    &request.authority,
                    original_target.path(),
                    &routed,
                )
                .await
            };
            worker
                .reauthorization
                .guard(authenticated.caller.until, forwarded, is_allowed)
                .await
                .unwrap_or(Outcome::Revoked)
        }
    };

    let log = LogContext {
        request: Some(&request),
        routed: Some(&routed),
        caller: Some(&authenticated.caller),
        variant: &backend.variant,
        stats,
        ..LogContext::default()
    };
    call.end(outcome, log, respond)
}

/// Rejects what the codec could not read as a request.
pub(crate) fn refuse<R: Respond>(
    worker: &WorkerContext,
    peer: &Peer,
    refusal: &Refusal,
    respond: &mut R,
) -> Reply {
    RequestContext::new(worker, peer, ClientFormat::default()).refuse(refusal, None, respond)
}

/// Discards the rest of a small request body after an early response, so that the client can finish
/// sending. Returns whether the whole body was read.
pub(crate) async fn discard_body<B: Source>(body: &mut B) -> bool {
    let mut left = MAX_DISCARD;
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
    tokio::time::timeout(DISCARD_TIMEOUT, reading).await.unwrap_or(false)
}

/// Finds the route of the request, if there is one and the caller is authorized. Nothing is
/// retained of a route that the caller may not use.
fn find(
    worker: &WorkerContext,
    peer: &Peer,
    request: &Request,
    caller: &Caller,
) -> Option<(Routed, PathMatch)> {
    let snapshot = worker.live.snapshot.load();
    let (host, route) = route::lookup_uniform(snapshot.listener(peer.listener)?, request);
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
    let call_timeout = if request.kind == Kind::Grpc {
        request.headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout)
    } else {
        None
    };
    let allowed = match (rule.policy.timeouts.request, call_timeout) {
        (Some(rule), Some(call)) => Some(rule.min(call)),
        (rule, call) => rule.or(call),
    };
    let head = match (rule.policy.timeouts.backend_request, request.kind) {
        // A streaming call sends its head with the first message, however late.
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

/// Parses `grpc-timeout` (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit.
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
