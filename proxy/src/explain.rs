//! Explains how a request would be routed, or why it would be rejected, without sending it.
//!
//! It calls the functions of [`request`](crate::request) in the same order, and collects the
//! decision of each step.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use portcullis_config::model::NamePattern;
use portcullis_config::settings::{PlainHttp, Settings};
use portcullis_config::snapshot::access::Access;
use portcullis_config::snapshot::host::VirtualHost;
use portcullis_config::snapshot::rule::{Route, Rule};
use portcullis_config::snapshot::{Listener, Snapshot};
use portcullis_identity::authenticator::{Authenticated, Authenticator};
use portcullis_identity::caller::authorize;
use portcullis_identity::person::NoUser;
use serde::{Deserialize, Serialize};

use crate::access::{Fields, PresentedCredentials};
use crate::exchange::{BodyLength, RequestHead, Target};
use crate::live_table::{Backend, describe, origin, variant_name};
use crate::normalize::{Reading, Request};
use crate::{filter, local_reply, normalize, route};

/// A request to explain, from an untrusted client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// `http://` or `https://`, a host, and a path.
    pub url: String,
    /// The method of the request.
    pub method: String,
    /// Name and value of each header; a `Host` overrides that of the URL.
    pub headers: Vec<(String, String)>,
}

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
    /// The name of the step: `listener`, `normalise`, `redirect`, `portal`, `host`, `route`,
    /// `access`, `filters`, `backend`, `endpoint`.
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

/// Why a request cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidExplainRequest {
    /// The URL is invalid, or has no host, `http` or `https`.
    Url(String),
    /// The method is invalid.
    Method(String),
    /// A header is invalid.
    Header(String),
    /// The system returned no random numbers.
    NoRandomness,
}

/// Explains a request with the client keys of the snapshot, without a running gateway. Issuers'
/// keys are not available, so that all tokens are invalid.
///
/// # Errors
/// Returns an error if no client could send the request.
pub fn explain(
    settings: &Settings,
    snapshot: &Snapshot,
    request: &ExplainRequest,
) -> Result<Explanation, InvalidExplainRequest> {
    let authenticator = Authenticator::new(&settings.access, None)
        .map_err(|_| InvalidExplainRequest::NoRandomness)?;
    authenticator.load(&snapshot.credentials);
    explain_with(settings, snapshot, &authenticator, request)
}

/// Explains a request with the authenticator of a running gateway.
pub(crate) fn explain_with(
    settings: &Settings,
    snapshot: &Snapshot,
    authenticator: &Authenticator,
    request: &ExplainRequest,
) -> Result<Explanation, InvalidExplainRequest> {
    let (head, tls) = request.head()?;
    let mut tracer = Tracer { steps: Vec::new(), authenticator };
    let verdict = tracer.listener(settings, snapshot, head, tls);
    Ok(Explanation { steps: tracer.steps, verdict })
}

/// Collects steps. Each method is a step that calls the next one, or returns the verdict.
struct Tracer<'a> {
    steps: Vec<Step>,
    authenticator: &'a Authenticator,
}

const HIDDEN: Verdict = Verdict::Answered { status: 404 };
const UNAVAILABLE: Verdict = Verdict::Answered { status: 503 };

// === impl Tracer ===

impl Tracer<'_> {
    fn step(&mut self, step: &str, decision: impl Into<String>, origin: Option<String>) {
        self.steps.push(Step { step: step.to_owned(), decision: decision.into(), origin });
    }

    fn listener(
        &mut self,
        settings: &Settings,
        snapshot: &Snapshot,
        head: RequestHead,
        tls: bool,
    ) -> Verdict {
        let name = if tls { Listener::HTTPS } else { Listener::HTTP };
        let Some(listener) = snapshot.listener(name) else {
            self.step(
                "listener",
                format!("there is no listener `{name}`: see `listeners` in the configuration"),
                None,
            );
            return Verdict::Unreachable;
        };
        self.step("listener", format!("the listener `{name}`"), None);
        match normalize::request(head, false, settings.limits.request_headers) {
            Ok(request) => self.normalised(settings, listener, &request, tls),
            Err(refusal) => {
                self.step(
                    "normalise",
                    format!("rejected with reason `{}`, before routing", refusal.reason),
                    None,
                );
                Verdict::Answered { status: refusal.status.as_u16() }
            }
        }
    }

    fn normalised(
        &mut self,
        settings: &Settings,
        listener: &Listener,
        request: &Request,
        tls: bool,
    ) -> Verdict {
        let reading = match request.reading {
            Reading::Plain => "",
            Reading::Several => {
                "; servers could interpret this path differently, so hosts with path rules do not \
                 match it"
            }
        };
        let Request { method, authority, target, .. } = request;
        self.step(
            "normalise",
            format!("{method} {target} for the host {}{reading}", authority.host),
            None,
        );
        if !tls && settings.listeners.http.mode == PlainHttp::Redirect {
            let location = local_reply::https_location(
                authority,
                target.as_str(),
                settings.listeners.http.redirect_port,
            );
            self.step(
                "redirect",
                format!("plain HTTP is redirected for all hosts, to {}", lossy(&location)),
                None,
            );
            return Verdict::Answered { status: 308 };
        }
        if let Some(login) = &settings.access.login
            && let Some((decision, status)) = portcullis_identity::portal::preview(
                &settings.zone,
                login,
                request.authority.host.as_str(),
                request.target.path(),
            )
        {
            self.step("portal", decision, None);
            return Verdict::Answered { status };
        }
        self.route(listener, request, tls)
    }

    fn route(&mut self, listener: &Listener, request: &Request, tls: bool) -> Verdict {
        let Some(host) = listener.hosts.find(request.authority.host.as_str()) else {
            self.step("host", "no resource claims this host or a matching wildcard", None);
            return HIDDEN;
        };
        self.step("host", host_decision(host), Some(origin(&host.origin)));
        let Some((_, route)) = route::find(listener, request) else {
            self.step(
                "route",
                format!("none of the host's {} routes matches this request", host.routes.len()),
                Some(origin(&host.origin)),
            );
            return HIDDEN;
        };
        let number = host
            .routes
            .iter()
            .position(|other| std::ptr::eq(other, route))
            .map_or(0, |index| index + 1);
        let decision = format!(
            "{} (route {number} of {}), to the service {}",
            describe(&route.matches),
            host.routes.len(),
            route.rule.service
        );
        self.step("route", decision, Some(origin(&route.rule.origin)));
        self.access(route, request, tls)
    }

    fn access(&mut self, route: &Route, request: &Request, tls: bool) -> Verdict {
        let access = &route.rule.policy.access;
        let rule = Some(origin(&route.rule.origin));
        let shown = PresentedCredentials::read(&Fields::of(&request.headers), None);
        let (now, client) = (SystemTime::now(), IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        let authenticated = self.authenticator.authenticate(
            &shown.presented(),
            request.authority.host.as_str(),
            now,
            &self.authenticator.introspect_cached(&shown.presented(), client, now),
            || true,
        );
        let authenticated = authenticated.unwrap_or_default();
        let no_user = if authenticated.has_token_without_user() {
            self.authenticator.why_no_user(&shown.presented())
        } else {
            None
        };
        let (requirement, identity) = (requirement(access), identity(&authenticated, no_user));
        if !authorize(access, &authenticated.caller) {
            self.step(
                "access",
                format!("{requirement}; {identity}; denied with the 404 of an unknown host"),
                rule,
            );
            return HIDDEN;
        }
        self.step("access", format!("{requirement}; {identity}; allowed"), rule);
        if let Some((status, location)) =
            filter::redirect(&route.rule.filters, &route.matches.path, request, tls)
        {
            self.step(
                "filters",
                format!("redirected to {}", lossy(&location)),
                Some(origin(&route.rule.origin)),
            );
            return Verdict::Answered { status: status.as_u16() };
        }
        self.backend(&route.rule)
    }

    fn backend(&mut self, rule: &Rule) -> Verdict {
        let all: Vec<Backend> = rule.backends.all().iter().map(Backend::new).collect();
        let total: u64 = all.iter().map(|backend| u64::from(backend.weight)).sum();
        let chosen: Vec<Backend> = all.into_iter().filter(|backend| backend.weight > 0).collect();
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
            self.step("endpoint", endpoints(backend), None);
        }
        if chosen.iter().all(|backend| backend.ready.is_empty() && backend.draining.is_empty()) {
            return UNAVAILABLE;
        }
        Verdict::Forwarded { backends: chosen }
    }
}

/// Describes the access rule.
fn requirement(access: &Access) -> String {
    let mut requirement = format!("`require: {}`", variant_name(&access.require));
    for list in access.applications.iter().filter(|_| access.require.application()) {
        requirement.push_str(&format!(", application one of: {}", names(list)));
    }
    for subjects in access.users.iter().filter(|_| access.require.user()) {
        requirement.push_str(&format!(
            ", user one of: {}; or of the groups: {}",
            names(&subjects.users),
            names(&subjects.groups)
        ));
    }
    requirement
}

fn names(patterns: &[NamePattern]) -> String {
    if patterns.is_empty() {
        "none".to_owned()
    } else {
        patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Describes the authenticated caller.
fn identity(authenticated: &Authenticated, no_user: Option<NoUser>) -> String {
    let Authenticated { caller, rejected, .. } = authenticated;
    let application = caller
        .application
        .as_ref()
        .map_or("no application".to_owned(), |name| format!("the application {name}"));
    let user =
        caller.user.as_ref().map_or("no user".to_owned(), |user| format!("the user {}", user.name));
    let rejected =
        rejected.map_or(String::new(), |reason| format!(" (invalid credential: {reason})"));
    let no_user =
        no_user.map_or(String::new(), |reason| format!(" (the token has no user: {reason})"));
    format!("caller: {application}, {user}{rejected}{no_user}")
}

fn host_decision(host: &VirtualHost) -> String {
    match &*host.environment {
        "" => host.pattern.to_string(),
        environment => format!("{}, in the environment {environment}", host.pattern),
    }
}

fn endpoints(backend: &Backend) -> String {
    let list = |addresses: &[std::net::SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    match (backend.ready.as_slice(), backend.draining.as_slice()) {
        ([], []) => format!("no pod of {} is ready: 503", backend.service),
        ([], draining) => {
            format!("no pod is ready; terminating pods still serve: {}", list(draining))
        }
        (ready, _) => {
            format!("the less loaded of two random ones of {} ready: {}", ready.len(), list(ready))
        }
    }
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

// === impl ExplainRequest ===

impl ExplainRequest {
    /// Returns the head, as HTTP/1.1 sends it, and whether it is sent over TLS.
    fn head(&self) -> Result<(RequestHead, bool), InvalidExplainRequest> {
        let invalid = || InvalidExplainRequest::Url(self.url.clone());
        let uri: Uri = self.url.parse().map_err(|_| invalid())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let host = uri.authority().ok_or_else(invalid)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host.as_str()).map_err(|_| invalid())?);
        let mut extra = HeaderMap::new();
        for (name, value) in &self.headers {
            let invalid = || InvalidExplainRequest::Header(name.clone());
            extra.append(
                HeaderName::try_from(name).map_err(|_| invalid())?,
                HeaderValue::from_str(value).map_err(|_| invalid())?,
            );
        }
        if extra.contains_key(header::HOST) {
            headers.clear();
        }
        headers.extend(extra);
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| InvalidExplainRequest::Method(self.method.clone()))?;
        let target = uri
            .into_parts()
            .path_and_query
            .map_or(Target::Path(http::uri::PathAndQuery::from_static("/")), Target::Path);
        let head = RequestHead {
            method,
            version: Version::HTTP_11,
            authority: None,
            scheme: None,
            target,
            headers,
            body: BodyLength::None,
            protocol: None,
        };
        Ok((head, tls))
    }
}

// === impl InvalidExplainRequest ===

impl fmt::Display for InvalidExplainRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => {
                write!(f, "`{url}` is not a URL like https://shop--staging.apps.example.com/cart")
            }
            Self::Method(method) => write!(f, "`{method}` is not a method like GET"),
            Self::Header(header) => {
                write!(f, "`{header}` with its value is not a header like `X-Version: 2`")
            }
            Self::NoRandomness => f.write_str("the system returned no random numbers"),
        }
    }
}

impl std::error::Error for InvalidExplainRequest {}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
