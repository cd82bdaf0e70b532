//! Why a request would go where it goes, or be refused: the steps of the request path, walked
//! without a client and a backend.
//!
//! It calls the functions that [`request`](crate::request) calls, in the same order, and writes
//! down what each decides.

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

use crate::access::{Fields, Shown};
use crate::exchange::{BodyLength, RequestHead, Target};
use crate::live_table::{Backend, describe, origin, word};
use crate::normalize::{Reading, Request};
use crate::{filter, local_reply, normalize, route};

/// A request to be explained, from a client in no trusted network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// `http://` or `https://`, a host, and a path.
    pub url: String,
    /// The method.
    pub method: String,
    /// Name and value of each header; a `Host` among them takes the place of the URL's.
    pub headers: Vec<(String, String)>,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What each step decided, in their order; the last one is where the way ended.
    pub steps: Vec<Step>,
    /// What the client gets.
    pub verdict: Verdict,
}

/// What one step decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The step: `listener`, `normalise`, `redirect`, `portal`, `host`, `route`, `access`,
    /// `filters`, `backend`, `endpoint`.
    pub step: String,
    /// What it decided.
    pub decision: String,
    /// The resource that made it so, with its file and line where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<String>,
}

/// What the client gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Verdict {
    /// An answer of the gateway's own.
    Answered {
        /// Its status code.
        status: u16,
    },
    /// The answer of a backend: one of these, by weight.
    Forwarded {
        /// The backends that may get the request.
        backends: Vec<Backend>,
    },
    /// Nothing: there is no such listener.
    Unreachable,
}

/// Why a question cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidQuestion {
    /// No URL with `http` or `https`, and a host.
    Url(String),
    /// No method.
    Method(String),
    /// No header.
    Header(String),
    /// No fault of the question: the system gives no random numbers.
    NoRandomness,
}

/// Walks the steps of the request path. Client keys are those of the snapshot; the keys of issuers
/// are not known, so that no token holds.
///
/// # Errors
/// `question` is no request that a client could send.
pub fn explain(
    settings: &Settings,
    snapshot: &Snapshot,
    question: &Question,
) -> Result<Explanation, InvalidQuestion> {
    let authenticator =
        Authenticator::new(&settings.access, None).map_err(|_| InvalidQuestion::NoRandomness)?;
    authenticator.learn(&snapshot.credentials);
    explain_by(settings, snapshot, &authenticator, question)
}

/// The same, with what a running gateway knows of credentials.
pub(crate) fn explain_by(
    settings: &Settings,
    snapshot: &Snapshot,
    authenticator: &Authenticator,
    question: &Question,
) -> Result<Explanation, InvalidQuestion> {
    let (head, tls) = question.head()?;
    let mut walk = Walk { steps: Vec::new(), authenticator };
    let verdict = walk.listener(settings, snapshot, head, tls);
    Ok(Explanation { steps: walk.steps, verdict })
}

/// The steps so far. Each method is a step that goes on to the next one, or ends the way.
struct Walk<'a> {
    steps: Vec<Step>,
    authenticator: &'a Authenticator,
}

const HIDDEN: Verdict = Verdict::Answered { status: 404 };
const UNAVAILABLE: Verdict = Verdict::Answered { status: 503 };

// === impl Walk ===

impl Walk<'_> {
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
                    format!("refused for `{}`, before any route was looked for", refusal.reason),
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
                "; some servers would read this path otherwise, so hosts with rules about paths do \
                 not take it"
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
                format!("plain HTTP is redirected for every name alike, to {}", lossy(&location)),
                None,
            );
            return Verdict::Answered { status: 308 };
        }
        if let Some(login) = &settings.access.login
            && let Some((decision, status)) = portcullis_identity::portal::outlook(
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
            self.step("host", "no resource claims this host, nor a wildcard above it", None);
            return HIDDEN;
        };
        self.step("host", claimed(host), Some(origin(&host.origin)));
        let Some((_, route)) = route::find(listener, request) else {
            self.step(
                "route",
                format!("none of the host's {} routes takes this request", host.routes.len()),
                Some(origin(&host.origin)),
            );
            return HIDDEN;
        };
        let place = host
            .routes
            .iter()
            .position(|other| std::ptr::eq(other, route))
            .map_or(0, |index| index + 1);
        let decision = format!(
            "{} (route {place} of {}), to the service {}",
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
        let shown = Shown::read(&Fields::of(&request.headers), None);
        let (now, client) = (SystemTime::now(), IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        let authenticated = self.authenticator.authenticate(
            &shown.presented(),
            request.authority.host.as_str(),
            now,
            &self.authenticator.introspect_known(&shown.presented(), client, now),
            || true,
        );
        let authenticated = authenticated.unwrap_or_default();
        let no_user = if authenticated.has_token_without_user() {
            self.authenticator.why_no_user(&shown.presented())
        } else {
            None
        };
        let (demand, shown) = (demand(access), who(&authenticated, no_user));
        if !authorize(access, &authenticated.caller) {
            self.step(
                "access",
                format!("{demand}; {shown}: the same answer as for a host that does not exist"),
                rule,
            );
            return HIDDEN;
        }
        self.step("access", format!("{demand}; {shown}: let in"), rule);
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
            self.step(
                "backend",
                "no backend has a share of the traffic",
                Some(origin(&rule.origin)),
            );
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

/// What is demanded, and who is let in.
fn demand(access: &Access) -> String {
    let mut demand = format!("`require: {}`", word(&access.require));
    for list in access.applications.iter().filter(|_| access.require.application()) {
        demand.push_str(&format!(", application one of: {}", names(list)));
    }
    for circle in access.users.iter().filter(|_| access.require.user()) {
        demand.push_str(&format!(
            ", user one of: {}; or of the groups: {}",
            names(&circle.users),
            names(&circle.groups)
        ));
    }
    demand
}

fn names(patterns: &[NamePattern]) -> String {
    if patterns.is_empty() {
        "nobody".to_owned()
    } else {
        patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Who shows herself, by credentials that hold.
fn who(Authenticated { caller, rejected, .. }: &Authenticated, no_user: Option<NoUser>) -> String {
    let application = caller
        .application
        .as_ref()
        .map_or("no application".to_owned(), |name| format!("the application {name}"));
    let user =
        caller.user.as_ref().map_or("no user".to_owned(), |user| format!("the user {}", user.name));
    let rejected =
        rejected.map_or(String::new(), |reason| format!(" (a credential does not hold: {reason})"));
    let no_user =
        no_user.map_or(String::new(), |reason| format!(" (the token shows no user: {reason})"));
    format!("the request shows {application} and {user}{rejected}{no_user}")
}

fn claimed(host: &VirtualHost) -> String {
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
            format!("no pod is ready; those that are shutting down still serve: {}", list(draining))
        }
        (ready, _) => format!("the less loaded of two of {} ready: {}", ready.len(), list(ready)),
    }
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

// === impl Question ===

impl Question {
    /// The head as HTTP/1.1 carries it, and whether it comes over TLS.
    fn head(&self) -> Result<(RequestHead, bool), InvalidQuestion> {
        let invalid = || InvalidQuestion::Url(self.url.clone());
        let uri: Uri = self.url.parse().map_err(|_| invalid())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let host = uri.authority().ok_or_else(invalid)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host.as_str()).map_err(|_| invalid())?);
        let mut given = HeaderMap::new();
        for (name, value) in &self.headers {
            let invalid = || InvalidQuestion::Header(name.clone());
            given.append(
                HeaderName::try_from(name).map_err(|_| invalid())?,
                HeaderValue::from_str(value).map_err(|_| invalid())?,
            );
        }
        if given.contains_key(header::HOST) {
            headers.clear();
        }
        headers.extend(given);
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| InvalidQuestion::Method(self.method.clone()))?;
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

// === impl InvalidQuestion ===

impl fmt::Display for InvalidQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => {
                write!(f, "`{url}` is no URL such as https://shop--staging.apps.example.com/cart")
            }
            Self::Method(method) => write!(f, "`{method}` is no method such as GET"),
            Self::Header(header) => {
                write!(f, "`{header}` with its value is no header such as `X-Version: 2`")
            }
            Self::NoRandomness => {
                f.write_str("it cannot be looked at: the system gives no random numbers")
            }
        }
    }
}

impl std::error::Error for InvalidQuestion {}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
