//! The request path, on one page: normalize → decide (authenticate → route → authorize) → limits →
//! choose → balance → forward → telemetry.

mod backend_headers;
mod caller;
mod context;
mod deadlines;
mod discard;
mod evidence;
mod forwarding;
mod head_memory;
mod lasting;
mod local;
mod portal;
mod rate;
mod reply;
mod response_headers;
mod shadow;
mod visitor;

use std::pin::pin;

use http::StatusCode;

use self::context::{LogContext, RequestContext};
pub(crate) use self::discard::{DiscardLimit, Discarded, MAX_DISCARD, discard_body};
use self::forwarding::Forwarding;
use self::lasting::{Lasting, Original};
pub(crate) use self::reply::Reply;
use crate::decision::{self, Admitted, Arrived, Decision, Untraced};
use crate::exchange::{Peer, Refusal, RequestHead, Respond, Source};
use crate::forward::{ForwardStats, Outcome};
use crate::local_reply::ClientFormat;
use crate::memory::Charge;
use crate::proxy_headers::ClientFacts;
use crate::shadow::CopiedBody;
use crate::worker_context::WorkerContext;
use crate::{choose, filter, normalize};

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
    let max_headers = worker.settings.limits.request_headers;
    let mut request = match normalize::request(head, peer.trusted, max_headers) {
        Ok(request) => request,
        Err(refusal) => return call.refuse(&refusal, None, respond),
    };
    head_memory::detach(&mut request.target, charge);

    // Decide: what the gateway serves itself, then who calls, then whether there is a route that
    // the caller may use.
    let (listener, tls) = (peer.listener, call.client.tls);
    let arrived = Arrived { request: &request, listener, tls, at: call.at };
    let undecided = match decision::begin(arrived, &worker.local_paths, &worker.live) {
        Ok(undecided) => undecided,
        Err(path) => return call.serve_local(path, &request, body, respond).await,
    };
    let network = call.client.address.into();
    let since = worker.reauthorization.version();
    let caller = match caller::cached(worker, peer, &request, call.at) {
        Some(caller) => caller,
        None => caller::authenticate(worker, peer, &request, &undecided, network, call.at).await,
    };
    let admitted = match undecided.decide(caller, &mut Untraced) {
        Decision::Forward(admitted) => admitted,
        Decision::Denied(denied) => return call.deny(&denied, &request, respond),
        Decision::Revalidate(location) => {
            return call.redirect_to_portal(location, &request, respond);
        }
        Decision::Redirect(Admitted { routed, .. }, status, location) => {
            return call.redirect(status, location, &request, Some(&routed), respond);
        }
    };
    // Limit: no one else learns that there is a limit.
    if let Err(exceeded) = call.check_rate(&admitted) {
        return call.reject_rate(&exceeded, &admitted, &request, respond);
    }
    let original = Original::of(&request, &admitted);
    filter::rewrite(&admitted.routed.rule.filters, &admitted.matched, &mut request);
    let Admitted { caller, routed, .. } = &admitted;

    // Choose the variant; the endpoint is chosen for each attempt.
    let visitor = call.visitor(&request, &routed.rule, caller);
    let traits = call.traits(&request, caller, visitor);
    let random = || worker.random.next();
    let Some(choice) = choose::choose(&routed.rule, traits, &worker.dealer, random) else {
        let log = LogContext {
            request: Some(&request),
            routed: Some(routed),
            failure: Some("no_backend"),
            ..LogContext::default()
        };
        return call.fail(StatusCode::SERVICE_UNAVAILABLE, log, respond);
    };

    // Build the headers for the backend, and forward the request for as long as access lasts.
    let entered =
        worker.meter.traffic().enter(&routed.environment, &routed.rule, choice.backend, call.at);
    let mut stats = ForwardStats::default();
    let cookie = call.visitor_cookie(visitor, &choice, &request);
    let headers = call.backend_headers(&mut request, &admitted, choice.backend);
    let mut copies = call.copies(&request, &headers, &admitted, &choice);
    let mut forwarding =
        Forwarding { admitted: &admitted, choice, cookie, request: &request, headers };
    let outcome = {
        let mut body = CopiedBody { body, copies: copies.as_deref_mut() };
        let forwarded = pin!(call.forward(&mut forwarding, charge, &mut body, respond, &mut stats));
        let until = caller.authenticated.caller.until;
        let lasting = Lasting { worker, peer, client: network, request: &request, original };
        // Boxed: it is rare, and would make the future of every request larger.
        let is_allowed = async || Box::pin(lasting.is_allowed(&admitted)).await;
        let guarded = worker.reauthorization.guard(since, until, forwarded, is_allowed);
        guarded.await.unwrap_or(Outcome::Revoked)
    };
    if let Some(copies) = copies {
        copies.original_responded(shadow::answer(outcome, &stats));
    }
    request.headers = forwarding.headers.fields;

    let log = LogContext {
        request: Some(&request),
        routed: Some(routed),
        caller: Some(&caller.authenticated.caller),
        choice: Some(choice),
        entered: Some(&entered),
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
    let client = ClientFacts::of_connection(peer);
    RequestContext::new(worker, peer, ClientFormat::default(), client)
        .refuse(refusal, None, respond)
}
