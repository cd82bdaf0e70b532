//! Who is calling: found out before the host is looked at.

use std::rc::Rc;
use std::time::SystemTime;

use portcullis_identity::authenticator::Authenticated;
use portcullis_identity::caller::authorize;
use portcullis_identity::client_network::ClientNetwork;

use super::context::Routed;
use crate::access::caller_cache::Recognised;
use crate::access::{Fields, Shown};
use crate::exchange::Peer;
use crate::normalize::{Authority, Request};
use crate::worker_context::WorkerContext;

/// Who is calling, where nothing need be looked up for that: nobody, or who came a moment ago. What
/// a client certificate is worth is known with its connection.
pub(super) fn known(
    worker: &WorkerContext,
    peer: &Peer,
    request: &Request,
    now: SystemTime,
) -> Option<Rc<Recognised>> {
    let fields = Fields::of(&request.headers);
    if peer.certificate.is_some() {
        None
    } else if fields.are_absent() {
        Some(worker.recent.nobody())
    } else {
        worker.recent.find(
            &fields,
            request.authority.host.as_str(),
            worker.authenticator.generation(),
            now,
        )
    }
}

/// Who is calling. It takes as long for every host.
pub(super) async fn recognise(
    worker: &WorkerContext,
    peer: &Peer,
    request: &Request,
    client: ClientNetwork,
    now: SystemTime,
) -> Rc<Recognised> {
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
async fn identify(
    worker: &WorkerContext,
    shown: &Shown,
    client: ClientNetwork,
    host: &str,
    now: SystemTime,
) -> Authenticated {
    let authenticator = &worker.authenticator;
    let presented = shown.presented();
    let introspected = authenticator.introspect(&presented, client, now).await;
    let may_check = || worker.turns.take();
    if let Ok(found) = authenticator.authenticate(&presented, host, now, &introspected, may_check) {
        return found;
    }
    worker.turns.wait(client).await;
    authenticator.authenticate(&presented, host, now, &introspected, || true).unwrap_or_default()
}

/// Whether whoever shows these credentials may still go where she went.
pub(super) async fn still_may(
    worker: &WorkerContext,
    peer: &Peer,
    shown: &Shown,
    client: ClientNetwork,
    authority: &Authority,
    path: &str,
    routed: &Routed,
) -> bool {
    let caller =
        identify(worker, shown, client, authority.host.as_str(), SystemTime::now()).await.caller;
    let snapshot = worker.live.snapshot.load();
    let host = snapshot
        .listener(peer.listener)
        .and_then(|listener| listener.hosts.find(authority.host.as_str()));
    let mut routes = host
        .into_iter()
        .flat_map(|host| &host.routes)
        .filter(|route| route.matches.path.matches(path));
    routes.any(|route| {
        route.rule.origin.is_same(&routed.rule.origin)
            && authorize(&route.rule.policy.access, &caller)
    })
}
