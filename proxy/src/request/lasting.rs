//! Access of a request that lasts: it ends with the rule, the grants and the credentials that gave
//! it.

use std::time::SystemTime;

use http::HeaderMap;
use portcullis_config::snapshot::access::Require;
use portcullis_identity::caller::{Authorization, Caller, authorize, granted};
use portcullis_identity::client_network::ClientNetwork;

use super::caller;
use crate::decision::Admitted;
use crate::exchange::{PathAndQuery, Peer};
use crate::filter;
use crate::normalize::{Host, Request};
use crate::route::{self, RouteInput};
use crate::worker_context::WorkerContext;

/// An admitted request, to decide it again.
pub(super) struct Lasting<'a> {
    pub(super) worker: &'a WorkerContext,
    pub(super) peer: &'a Peer,
    pub(super) client: ClientNetwork,
    /// Without its header fields.
    pub(super) request: &'a Request,
    pub(super) original: Option<Box<Original>>,
}

/// A request as it was routed, where that differs from what is forwarded.
pub(super) struct Original {
    host: Host,
    target: PathAndQuery,
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

// === impl Original ===

impl Original {
    /// Copies what is forwarded differently; `None` if routes match no header fields and the rule
    /// does not rewrite the request, as most do not.
    pub(super) fn of(request: &Request, admitted: &Admitted) -> Option<Box<Self>> {
        let is_forwarded = admitted.matched_headers.is_empty()
            && !filter::has_rewrite(&admitted.routed.rule.filters);
        if is_forwarded {
            return None;
        }
        let mut headers = HeaderMap::new();
        for name in &*admitted.matched_headers {
            let values = request.headers.get_all(name).iter();
            headers.extend(values.map(|value| (Some(name.clone()), value.clone())));
        }
        let (host, target) = (request.authority.host.clone(), request.target.clone());
        Some(Box::new(Self { host, target, headers }))
    }
}

// === impl Lasting ===

impl Lasting<'_> {
    /// Whether the request would still be admitted, by the rule that matches it now.
    pub(super) async fn is_allowed(&self, admitted: &Admitted) -> bool {
        match self.verdict(admitted, None) {
            Verdict::Allowed => return true,
            Verdict::Denied => return false,
            Verdict::NeedsCaller => {}
        }
        let (presented, host) = (&admitted.caller.presented, self.input().host);
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
        let Self { request, original, .. } = self;
        let forwarded = RouteInput::from(*request);
        match original {
            None => forwarded,
            Some(original) => RouteInput {
                host: original.host.as_str(),
                target: &original.target,
                headers: &original.headers,
                ..forwarded
            },
        }
    }
}
