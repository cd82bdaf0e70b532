//! What happens to a request: one sequence of decisions, for serving and for explaining.
//!
//! local paths → the caller → revalidation → route → authorization → redirect. The types enforce
//! the order: only [`begin`] returns an [`Undecided`] request, which needs a caller to be decided.
//! The caller is authenticated between the two, before the host is looked up, so that it takes the
//! same time for every host.

mod local_paths;
mod revalidation;

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, StatusCode};
use portcullis_config::live::Live;
use portcullis_config::snapshot::Listener;
use portcullis_config::snapshot::access::Require;
use portcullis_config::snapshot::rule::{PathMatch, Route, Rule};
use portcullis_identity::caller::{Authorization, authorize};

pub(crate) use self::local_paths::{LocalPath, LocalPaths};
use crate::access::caller_cache::CachedCaller;
use crate::normalize::Request;
use crate::route::Lookup;
use crate::{filter, route};

/// A normalized request, and where it arrived.
#[derive(Clone, Copy)]
pub(crate) struct Arrived<'a> {
    pub(crate) request: &'a Request,
    /// The name of the snapshot's listener.
    pub(crate) listener: &'a str,
    pub(crate) tls: bool,
    pub(crate) at: SystemTime,
}

/// A request that the gateway does not serve itself.
pub(crate) struct Undecided<'a> {
    arrived: Arrived<'a>,
    live: &'a Live,
}

/// What happens to a request.
pub(crate) enum Decision {
    /// The caller's browser is redirected to the portal, which revalidates the session.
    Revalidate(HeaderValue),
    /// The caller must not learn whether the host exists.
    Denied(Denied),
    /// The rule redirects to this location.
    Redirect(Admitted, StatusCode, HeaderValue),
    /// It is forwarded to a backend of the rule.
    Forward(Admitted),
}

/// A request that is not routed. Nothing is retained of a route that the caller may not use.
pub(crate) struct Denied {
    pub(crate) caller: Rc<CachedCaller>,
    pub(crate) reason: DenialReason,
}

/// Why a request is denied. Only the log contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DenialReason {
    /// No route matches.
    NoRoute,
    /// A required application or user is not identified.
    NotIdentified,
    /// The caller is identified, and not granted access.
    NotGranted,
}

/// A request whose caller may use its route.
pub(crate) struct Admitted {
    pub(crate) caller: Rc<CachedCaller>,
    pub(crate) routed: Routed,
    /// The path that the route matches.
    pub(crate) matched: PathMatch,
    /// The fields that routes of the host match.
    pub(crate) matched_headers: Arc<[HeaderName]>,
}

/// The route of a request, by the snapshot at its arrival.
pub(crate) struct Routed {
    pub(crate) environment: Arc<str>,
    pub(crate) rule: Arc<Rule>,
}

/// Observes the decisions as they are made, to explain them.
pub(crate) trait Trace {
    /// The virtual host and the route of the request.
    fn route(&mut self, lookup: &Lookup<'_>);
    /// Whether the caller may use the route.
    fn access(&mut self, route: &Route, authorization: Authorization);
}

/// Observes nothing.
pub(crate) struct Untraced;

/// Begins with a request: the gateway serves it itself, or it is to be decided.
///
/// # Errors
/// Returns what the gateway serves.
pub(crate) fn begin<'a>(
    arrived: Arrived<'a>,
    local_paths: &LocalPaths,
    live: &'a Live,
) -> Result<Undecided<'a>, LocalPath> {
    match local_paths.find(arrived.request, arrived.tls) {
        Some(path) => Err(path),
        None => Ok(Undecided { arrived, live }),
    }
}

// === impl Undecided ===

impl Undecided<'_> {
    /// Whether the request's rule requires nothing, so that no caller is needed. It takes as long
    /// for hosts that do not exist, which are not open.
    pub(crate) fn is_open(&self) -> bool {
        let snapshot = self.live.snapshot.load();
        snapshot.listener(self.arrived.listener).is_some_and(|listener| {
            let lookup = route::lookup_uniform(listener, self.arrived.request.into());
            lookup.is_found && lookup.granted.route.rule.policy.access.require == Require::Nothing
        })
    }

    /// Decides the request of this caller. Hosts that do not exist and hosts that the caller may
    /// not see get the same decision, after the same work.
    pub(crate) fn decide(self, caller: Rc<CachedCaller>, trace: &mut impl Trace) -> Decision {
        let Arrived { request, listener, tls, at } = self.arrived;
        if let Some(location) = revalidation::redirect(request, &caller.authenticated, at) {
            return Decision::Revalidate(location);
        }
        let snapshot = self.live.snapshot.load();
        let admitted = admit(snapshot.listener(listener), request, &caller, trace);
        let (routed, matched, matched_headers) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => return Decision::Denied(Denied { caller, reason }),
        };
        let redirect = filter::redirect(&routed.rule.filters, &matched, request, tls);
        let admitted = Admitted { caller, routed, matched, matched_headers };
        match redirect {
            Some((status, location)) => Decision::Redirect(admitted, status, location),
            None => Decision::Forward(admitted),
        }
    }
}

/// Finds the route of a request, if there is one and the caller is authorized.
fn admit(
    listener: Option<&Listener>,
    request: &Request,
    caller: &CachedCaller,
    trace: &mut impl Trace,
) -> Result<(Routed, PathMatch, Arc<[HeaderName]>), DenialReason> {
    let listener = listener.ok_or(DenialReason::NoRoute)?;
    // Before the host is looked up, whatever grants it has.
    let granted = caller.granted(listener.hosts.grants());
    let lookup = route::lookup_uniform(listener, request.into());
    trace.route(&lookup);
    let Lookup { granted: route, .. } = lookup;
    let authorization = authorize(route, &caller.authenticated.caller, &granted);
    let entry = lookup.host.filter(|_| lookup.is_found).ok_or(DenialReason::NoRoute)?;
    let (host, route) = (entry.host(), route.route);
    trace.access(route, authorization);
    match authorization {
        Authorization::Allowed => {
            let routed = Routed {
                environment: Arc::clone(&host.environment),
                rule: Arc::clone(&route.rule),
            };
            Ok((routed, route.matches.path.clone(), Arc::clone(entry.header_names())))
        }
        Authorization::NotIdentified => Err(DenialReason::NotIdentified),
        Authorization::NotGranted => Err(DenialReason::NotGranted),
    }
}

// === impl Denied ===

impl Denied {
    /// Whether a credential could not be checked, so that the caller should retry.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.caller.authenticated.is_unchecked()
    }
}

// === impl DenialReason ===

impl DenialReason {
    /// The reason in the access log.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NotIdentified => "not_identified",
            Self::NotGranted => "not_granted",
        }
    }
}

// === impl Untraced ===

impl Trace for Untraced {
    fn route(&mut self, _: &Lookup<'_>) {}
    fn access(&mut self, _: &Route, _: Authorization) {}
}
