//! Access of a request that lasts: it ends with the rule, the grants and the credentials that gave
//! it.

use std::time::SystemTime;

use http::{HeaderMap, Method};
use portcullis_config::snapshot::access::Require;
use portcullis_identity::caller::{Authorization, Caller, authorize, granted};
use portcullis_identity::client_network::ClientNetwork;

use super::caller;
use crate::decision::Admitted;
use crate::exchange::{PathAndQuery, Peer};
use crate::normalize::{Host, Reading, Request};
use crate::route::{self, RouteInput};
use crate::worker_context::WorkerContext;

/// What is retained of an admitted request to decide it again.
pub(super) struct Lasting<'a> {
    worker: &'a WorkerContext,
    peer: &'a Peer,
    client: ClientNetwork,
    /// The request as it was routed, before a rule rewrites it.
    host: Host,
    target: PathAndQuery,
    reading: Reading,
    method: Method,
    /// The fields that routes of the host match.
    headers: HeaderMap,
}

/// How the router would decide a request now.
enum Verdict {
    /// No route matches, it is another resource's, or the caller is denied.
    Denied,
    Allowed,
    /// The route requires credentials.
    NeedsCaller,
}

// === impl Lasting ===

impl<'a> Lasting<'a> {
    pub(super) fn new(
        worker: &'a WorkerContext,
        peer: &'a Peer,
        client: ClientNetwork,
        request: &Request,
        admitted: &Admitted,
    ) -> Self {
        let mut headers = HeaderMap::new();
        for name in &*admitted.matched_headers {
            let values = request.headers.get_all(name).iter();
            headers.extend(values.map(|value| (Some(name.clone()), value.clone())));
        }
        Self {
            worker,
            peer,
            client,
            host: request.authority.host.clone(),
            target: request.target.clone(),
            reading: request.reading,
            method: request.method.clone(),
            headers,
        }
    }

    /// Whether the request would still be admitted, by the rule that matches it now.
    pub(super) async fn is_allowed(&self, admitted: &Admitted) -> bool {
        match self.verdict(admitted, None) {
            Verdict::Allowed => return true,
            Verdict::Denied => return false,
            Verdict::NeedsCaller => {}
        }
        let (presented, host) = (&admitted.caller.presented, self.host.as_str());
        let now = SystemTime::now();
        let caller = caller::check(self.worker, presented, self.client, host, now).await.caller;
        // The snapshot may be another one now.
        matches!(self.verdict(admitted, Some(&caller)), Verdict::Allowed)
    }

    fn verdict(&self, admitted: &Admitted, caller: Option<&Caller>) -> Verdict {
        let snapshot = self.worker.live.snapshot.load();
        let Some(listener) = snapshot.listener(self.peer.listener) else { return Verdict::Denied };
        let lookup = route::lookup_uniform(listener, self.input());
        let rule = &lookup.granted.route.rule;
        if !lookup.is_found || !rule.origin.is_same(&admitted.routed.rule.origin) {
            return Verdict::Denied;
        }
        if rule.policy.access.require == Require::Nothing {
            return Verdict::Allowed;
        }
        let Some(caller) = caller else { return Verdict::NeedsCaller };
        let granted = granted(listener.hosts.grants(), caller);
        match authorize(lookup.granted, caller, &granted) {
            Authorization::Allowed => Verdict::Allowed,
            Authorization::NotIdentified | Authorization::NotGranted => Verdict::Denied,
        }
    }

    fn input(&self) -> RouteInput<'_> {
        RouteInput {
            host: self.host.as_str(),
            target: &self.target,
            reading: self.reading,
            method: &self.method,
            headers: &self.headers,
        }
    }
}
