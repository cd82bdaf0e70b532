//! Explains how a request would be routed, or why it would be rejected, without sending it.
//!
//! [`decision`] decides, as it does for requests that are served. Here each of its
//! decisions is put into words.

mod describe;
mod explain_request;

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::snapshot::Listener;
use portcullis_config::snapshot::host::HostEntry;
use portcullis_config::snapshot::rule::{Route, Rule};
use portcullis_config::snapshot::split::Split;
use portcullis_identity::authenticator::{Authenticated, Authenticator};
use portcullis_identity::caller::{Authorization, Caller};
use portcullis_identity::session::cookie::VISITOR;
use portcullis_identity::visitor::Visitor;
use serde::{Deserialize, Serialize};

pub use self::explain_request::{AssumedCaller, ExplainRequest, InvalidExplainRequest};
use crate::access::caller_cache::CachedCaller;
use crate::access::{Fields, PresentedCredentials};
use crate::certificates::acme::challenges::Challenges;
use crate::choose::{self, Reason, Traits};
use crate::decision::{self, Arrived, Decision, DenialReason, LocalPath, LocalPaths, Trace};
use crate::live_table::{Backend, describe as describe_match, origin};
use crate::normalize::{self, Reading, Request};
use crate::route::Lookup;

/// The explanation of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The decisions of all steps, in order; the last one is final.
    pub steps: Vec<Step>,
    /// The response that the client receives.
    pub verdict: Verdict,
}

/// The decision of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The name of the step: `listener`, `normalise`, `local`, `caller`, `host`, `route`, `access`,
    /// `filters`, `limits`, `variant`, `shadow`, `backend`, `endpoint`.
    pub step: String,
    /// The decision.
    pub decision: String,
    /// The resource that determines it, with file and line if known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<String>,
}

/// The response that the client receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Verdict {
    /// A local reply of the gateway.
    Answered {
        /// Its status code.
        status: u16,
    },
    /// The response of one of these backends, selected by weight.
    Forwarded {
        /// The backends that can receive the request.
        backends: Vec<Backend>,
    },
    /// None: there is no such listener.
    Unreachable,
}

/// The parts of a gateway that decide.
pub(crate) struct Gateway<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) live: &'a Live,
    pub(crate) authenticator: &'a Authenticator,
    pub(crate) local_paths: &'a LocalPaths,
}

/// Explains a request with the client keys of the snapshot, without a running gateway. Issuers'
/// keys are not available, so that all tokens are invalid.
///
/// # Errors
/// Returns an error if no client could send the request.
pub fn explain(
    settings: &Settings,
    live: &Live,
    request: &ExplainRequest,
) -> Result<Explanation, InvalidExplainRequest> {
    let authenticator = Authenticator::new(&settings.access, None)
        .map_err(|_| InvalidExplainRequest::NoRandomness)?;
    authenticator.load(&live.snapshot.load().credentials);
    let local_paths = LocalPaths::new(settings, Arc::<Challenges>::default());
    let gateway =
        Gateway { settings, live, authenticator: &authenticator, local_paths: &local_paths };
    gateway.explain(request)
}

/// Collects the decisions of all steps.
#[derive(Default)]
struct Tracer {
    steps: Vec<Step>,
}

const HIDDEN: Verdict = Verdict::Answered { status: 404 };
const UNAVAILABLE: Verdict = Verdict::Answered { status: 503 };

// === impl Gateway ===

impl Gateway<'_> {
    /// Explains a request.
    pub(crate) fn explain(
        &self,
        explain: &ExplainRequest,
    ) -> Result<Explanation, InvalidExplainRequest> {
        let mut tracer = Tracer::default();
        let (head, tls) = explain.head()?;
        let own = if tls { Listener::HTTPS } else { Listener::HTTP };
        let Some(listener) = self.listener(own) else {
            let listener = own;
            let decision =
                format!("there is no listener `{listener}`: see `listeners` in the configuration");
            tracer.step("listener", decision, None);
            return Ok(Explanation { steps: tracer.steps, verdict: Verdict::Unreachable });
        };
        let proxy = if listener == own { "" } else { ", from a trusted proxy that ends TLS" };
        tracer.step("listener", format!("the listener `{listener}`{proxy}"), None);
        let verdict = match normalize::request(head, false, self.settings.limits.request_headers) {
            Ok(request) => {
                tracer.normalised(&request);
                let at = SystemTime::now();
                self.decide(Arrived { request: &request, listener, tls, at }, explain, &mut tracer)
            }
            Err(refusal) => {
                let decision = format!("rejected with reason `{}`, before routing", refusal.reason);
                tracer.step("normalise", decision, None);
                Verdict::Answered { status: refusal.status.as_u16() }
            }
        };
        Ok(Explanation { steps: tracer.steps, verdict })
    }

    /// Returns the listener `own`, or the one that gets its requests from a trusted proxy that ends
    /// TLS.
    fn listener(&self, own: &'static str) -> Option<&'static str> {
        let exists = |name: &&str| self.live.snapshot.load().listener(name).is_some();
        let has_proxies = own == Listener::HTTPS && !self.settings.trusted_networks.is_empty();
        Some(own).filter(exists).or(Some(Listener::HTTP).filter(exists).filter(|_| has_proxies))
    }

    fn decide(
        &self,
        arrived: Arrived<'_>,
        explain: &ExplainRequest,
        tracer: &mut Tracer,
    ) -> Verdict {
        let undecided = match decision::begin(arrived, self.local_paths, self.live) {
            Ok(undecided) => undecided,
            Err(path) => return tracer.local(path, self.local_paths, arrived.request),
        };
        let caller = match &explain.caller {
            Some(assumed) => {
                tracer.assumed(assumed, assumed.caller(&self.settings.access.name_prefixes()))
            }
            None => self.authenticate(arrived, tracer),
        };
        match undecided.decide(Rc::new(caller), tracer) {
            Decision::Revalidate(location) => {
                let decision = format!(
                    "the session is revalidated at the provider, by {}",
                    describe::lossy(&location)
                );
                tracer.step("local", decision, None);
                Verdict::Answered { status: 303 }
            }
            Decision::Denied(denied) if denied.is_unchecked() => {
                tracer.unchecked();
                UNAVAILABLE
            }
            Decision::Denied(_) => HIDDEN,
            Decision::Redirect(admitted, status, location) => {
                let decision = format!("redirected to {}", describe::lossy(&location));
                let rule = origin(&admitted.routed.rule.origin);
                tracer.step("filters", decision, Some(rule));
                Verdict::Answered { status: status.as_u16() }
            }
            Decision::Forward(admitted) => {
                let rule = &admitted.routed.rule;
                tracer.limits(rule);
                let variant = rule.split.as_ref().and_then(|split| {
                    let traits = Traits {
                        headers: &arrived.request.headers,
                        user: admitted.caller.user_name(),
                        browser: self.visitor(arrived.request).map(Visitor::id),
                        client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    };
                    tracer.variant(rule, split, traits)
                });
                tracer.shadows(rule, arrived.request);
                tracer.backend(rule, variant)
            }
        }
    }

    /// The browser of the request's cookie.
    fn visitor(&self, request: &Request) -> Option<Visitor> {
        let value = VISITOR.find(&request.headers)?;
        self.authenticator.visitors().open(request.authority.host.as_str(), value)
    }

    /// Authenticates the credentials of a request. Issuers are not asked: what they said recently
    /// counts.
    fn authenticate(&self, arrived: Arrived<'_>, tracer: &mut Tracer) -> CachedCaller {
        let Arrived { request, at, .. } = arrived;
        let credentials = PresentedCredentials::read(&Fields::of(&request.headers), None);
        let presented = credentials.presented();
        let client = IpAddr::V4(Ipv4Addr::UNSPECIFIED).into();
        let introspected = self.authenticator.introspect_cached(&presented, client, at);
        let host = request.authority.host.as_str();
        let authenticated = self
            .authenticator
            .authenticate(&presented, host, at, &introspected, || true)
            .unwrap_or_default();
        let no_user = if authenticated.has_token_without_user() {
            self.authenticator.why_no_user(&presented)
        } else {
            None
        };
        tracer.step("caller", describe::identity(&authenticated, no_user), None);
        CachedCaller::new(credentials, authenticated)
    }
}

// === impl Tracer ===

impl Tracer {
    fn step(&mut self, step: &str, decision: impl Into<String>, origin: Option<String>) {
        self.steps.push(Step { step: step.to_owned(), decision: decision.into(), origin });
    }

    fn normalised(&mut self, request: &Request) {
        let reading = match request.reading {
            Reading::Plain => "",
            Reading::Several => {
                "; servers could interpret this path differently, so hosts with path rules do not \
                 match it"
            }
        };
        let Request { method, authority, target, .. } = request;
        let decision = format!("{method} {target} for the host {}{reading}", authority.host);
        self.step("normalise", decision, None);
    }

    fn local(&mut self, path: LocalPath, paths: &LocalPaths, request: &Request) -> Verdict {
        let (decision, status) = match path {
            LocalPath::Challenge(_) => {
                ("on every host, the response to an ACME challenge".to_owned(), 200)
            }
            LocalPath::HttpsRedirect(location) => {
                let location = describe::lossy(&location);
                (format!("plain HTTP is redirected for all hosts, to {location}"), 308)
            }
            LocalPath::Portal => paths
                .preview_portal(request)
                .map_or_else(Default::default, |(decision, status)| (decision.to_owned(), status)),
            LocalPath::Preflight(_) => {
                ("on every host, preflights of the configured origins are allowed".to_owned(), 204)
            }
            LocalPath::Jwks => ("on every host, the key set of assertions".to_owned(), 200),
            LocalPath::Hidden => {
                ("a path of the gateway, which has no such method or protocol".to_owned(), 404)
            }
        };
        self.step("local", decision, None);
        Verdict::Answered { status }
    }

    fn assumed(&mut self, assumed: &AssumedCaller, caller: Caller) -> CachedCaller {
        let authenticated = Authenticated { caller, ..Authenticated::default() };
        let identity = describe::identity(&authenticated, None);
        let groups = match assumed.groups.as_slice() {
            [] => String::new(),
            groups => format!(" of the groups {}", groups.join(", ")),
        };
        self.step("caller", format!("assumed: {identity}{groups}"), None);
        CachedCaller::new(PresentedCredentials::default(), authenticated)
    }

    /// A denied caller whose credential could not be checked.
    fn unchecked(&mut self) {
        let decision = "the token could not be checked, so the caller is asked to retry; its \
                        issuer may not have been asked yet";
        self.step("caller", decision, None);
    }

    /// The limits on the number of requests. How much is left of them is not asked.
    fn limits(&mut self, rule: &Rule) {
        for limit in &*rule.policy.rate_limits {
            self.step("limits", describe::rate(limit), Some(origin(&limit.owner)));
        }
    }

    /// The position of the variant that the request gets; `None` if it is dealt by weight.
    fn variant(&mut self, rule: &Rule, split: &Split, traits: Traits<'_>) -> Option<usize> {
        let assignment = choose::assign(split, &rule.policy.affinity, traits, || 0);
        let position = assignment.variant.position();
        let variant = rule.backends.all().get(position).map_or("", |backend| &backend.variant);
        let decision = describe::assignment(&assignment, variant, split);
        self.step("variant", decision, Some(origin(&rule.origin)));
        // The address of the client is not known here.
        let is_known = !matches!(assignment.reason, Reason::Weight | Reason::SourceIp);
        is_known.then_some(position)
    }

    /// The shadows that get copies of such requests.
    fn shadows(&mut self, rule: &Rule, request: &Request) {
        for mirror in rule.mirrors() {
            self.step("shadow", describe::mirror(mirror, request), Some(origin(&rule.origin)));
        }
    }

    /// The backends that the request can reach: the one of the `variant`, else all with a weight.
    fn backend(&mut self, rule: &Rule, variant: Option<usize>) -> Verdict {
        let all: Vec<Backend> = rule.backends.all().iter().map(Backend::new).collect();
        let total: u64 = all.iter().map(|backend| u64::from(backend.weight)).sum();
        let is_empty = |backend: &Backend| backend.ready.is_empty() && backend.draining.is_empty();
        let is_chosen = |(position, backend): &(usize, Backend)| match variant {
            Some(variant) => *position == variant,
            None => backend.weight > 0,
        };
        let mut positions: Vec<(usize, Backend)> =
            all.iter().cloned().enumerate().filter(is_chosen).collect();
        let falls_back = rule.split.is_some()
            && positions.iter().any(|(position, backend)| *position > 0 && is_empty(backend))
            && positions.iter().all(|(position, _)| *position > 0);
        if falls_back {
            positions.extend(all.into_iter().take(1).map(|stable| (0, stable)));
        }
        let chosen: Vec<Backend> = positions.into_iter().map(|(_, backend)| backend).collect();
        if chosen.is_empty() {
            self.step("backend", "no backend has a weight above 0", Some(origin(&rule.origin)));
            return UNAVAILABLE;
        }
        for backend in &chosen {
            let Backend { variant, service, protocol, weight, .. } = backend;
            self.step(
                "backend",
                format!("{service} ({variant}, {protocol}), weight {weight} of {total}"),
                Some(origin(&rule.origin)),
            );
            self.step("endpoint", describe::endpoints(backend, &rule.policy), None);
        }
        if chosen.iter().all(is_empty) {
            return UNAVAILABLE;
        }
        Verdict::Forwarded { backends: chosen }
    }
}

impl Trace for Tracer {
    fn route(&mut self, lookup: &Lookup<'_>) {
        let Some(host) = lookup.host.map(HostEntry::host) else {
            self.step("host", "no resource claims this host or a matching wildcard", None);
            return;
        };
        self.step("host", describe::host(host), Some(origin(&host.origin)));
        let (count, route) = (host.routes.len(), lookup.granted.route);
        if !lookup.is_found {
            let decision = format!("none of the host's {count} routes matches this request");
            self.step("route", decision, Some(origin(&host.origin)));
            return;
        }
        let number = host
            .routes
            .iter()
            .position(|other| std::ptr::eq(other, route))
            .map_or(0, |index| index + 1);
        let decision = format!(
            "{} (route {number} of {count}), to the service {}",
            describe_match(&route.matches),
            route.rule.service
        );
        self.step("route", decision, Some(origin(&route.rule.origin)));
    }

    fn access(&mut self, route: &Route, authorization: Authorization) {
        let requirement = describe::requirement(&route.rule.policy.access);
        let outcome = match authorization {
            Authorization::Allowed => "allowed".to_owned(),
            Authorization::NotIdentified => denied(DenialReason::NotIdentified),
            Authorization::NotGranted => denied(DenialReason::NotGranted),
        };
        let rule = origin(&route.rule.origin);
        self.step("access", format!("{requirement}; {outcome}"), Some(rule));
    }
}

fn denied(reason: DenialReason) -> String {
    format!("denied (`{}`) with the 404 of an unknown host", reason.label())
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
