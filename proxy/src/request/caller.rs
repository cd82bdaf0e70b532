//! Authentication of the caller, before the host is looked up.

use std::rc::Rc;
use std::time::SystemTime;

use portcullis_identity::authenticator::{Authenticated, Introspected};
use portcullis_identity::client_network::ClientNetwork;
use portcullis_identity::rejected::Rejected;

use crate::access::caller_cache::CachedCaller;
use crate::access::{Fields, PresentedCredentials};
use crate::decision::Undecided;
use crate::exchange::Peer;
use crate::normalize::Request;
use crate::worker_context::WorkerContext;

/// The caller, where the worker's cache has it: an anonymous one, or one authenticated recently.
/// Callers with a client certificate are not cached.
pub(super) fn cached(
    worker: &WorkerContext,
    peer: &Peer,
    request: &Request,
    now: SystemTime,
) -> Option<Rc<CachedCaller>> {
    if peer.certificate.is_some() {
        None
    } else if !request.may_identify {
        Some(worker.caller_cache.anonymous())
    } else {
        worker.caller_cache.find(
            &Fields::of(&request.headers),
            request.authority.host.as_str(),
            worker.authenticator.generation(),
            now,
        )
    }
}

/// Authenticates the caller. It takes the same time for every host, except those that are open.
///
/// A service that requires nothing needs no caller, and its clients' tokens may be its own: its
/// issuer is not asked about them.
pub(super) async fn authenticate(
    worker: &WorkerContext,
    peer: &Peer,
    request: &Request,
    undecided: &Undecided<'_>,
    client: ClientNetwork,
    now: SystemTime,
) -> Rc<CachedCaller> {
    let (fields, host) = (Fields::of(&request.headers), request.authority.host.as_str());
    // Read before the look-ups: a change during them makes the entry stale.
    let generation = worker.authenticator.generation();
    let presented = PresentedCredentials::read(&fields, peer.certificate.clone());
    // The route is looked up for every host alike.
    let is_unneeded =
        worker.authenticator.needs_introspection(&presented.presented()) && undecided.is_open();
    let authenticated = if is_unneeded {
        let unanswered = Some(Err(Rejected::Unanswered));
        verify(worker, &presented, client, host, now, &unanswered).await
    } else {
        check(worker, &presented, client, host, now).await
    };
    let caller = Rc::new(CachedCaller::new(presented, authenticated));
    if peer.certificate.is_none() {
        worker.caller_cache.insert(&fields, host, generation, &caller);
    }
    caller
}

/// Checks credentials; an opaque token by asking its issuer.
pub(super) async fn check(
    worker: &WorkerContext,
    presented: &PresentedCredentials,
    client: ClientNetwork,
    host: &str,
    now: SystemTime,
) -> Authenticated {
    let introspected = worker.authenticator.introspect(&presented.presented(), client, now).await;
    verify(worker, presented, client, host, now, &introspected).await
}

/// Verifies credentials; waits for a permit where that needs a signature check.
async fn verify(
    worker: &WorkerContext,
    presented: &PresentedCredentials,
    client: ClientNetwork,
    host: &str,
    now: SystemTime,
    introspected: &Introspected,
) -> Authenticated {
    let (authenticator, presented) = (&worker.authenticator, presented.presented());
    let try_acquire = || worker.verification_queue.try_acquire();
    if let Ok(authenticated) =
        authenticator.authenticate(&presented, host, now, introspected, try_acquire)
    {
        return authenticated;
    }
    worker.verification_queue.acquire(client).await;
    authenticator.authenticate(&presented, host, now, introspected, || true).unwrap_or_default()
}
