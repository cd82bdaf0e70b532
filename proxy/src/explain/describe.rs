//! The words of an explanation.

use http::HeaderValue;
use portcullis_config::model::NamePattern;
use portcullis_config::snapshot::access::Access;
use portcullis_config::snapshot::filter::Mirror;
use portcullis_config::snapshot::host::VirtualHost;
use portcullis_config::snapshot::policy::{LoadBalancing, Policy};
use portcullis_config::snapshot::rate_limit::RateLimit;
use portcullis_config::snapshot::split::{Affinity, Bucket, Split};
use portcullis_identity::authenticator::Authenticated;
use portcullis_identity::person::NoUser;

use crate::choose::{Assignment, Reason};
use crate::filter;
use crate::live_table::{Backend, variant_name};
use crate::normalize::Request;

/// Describes the access rule.
pub(super) fn requirement(access: &Access) -> String {
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

/// Describes a limit on the number of requests.
pub(super) fn rate(limit: &RateLimit) -> String {
    let RateLimit { per, requests, window, burst, divided, .. } = limit;
    let divided = if *divided { ", divided by the number of replicas" } else { "" };
    let window = variant_name(window);
    format!("at most {requests} requests a {window} per {per}, and {burst} at once{divided}")
}

/// Describes the authenticated caller.
pub(super) fn identity(authenticated: &Authenticated, no_user: Option<NoUser>) -> String {
    let Authenticated { caller, rejected, .. } = authenticated;
    let application = caller
        .application
        .as_deref()
        .map_or("no application".to_owned(), |name| format!("the application {name}"));
    let user =
        caller.user.as_ref().map_or("no user".to_owned(), |user| format!("the user {}", user.name));
    let rejected =
        rejected.map_or(String::new(), |reason| format!(" (invalid credential: {reason})"));
    let no_user =
        no_user.map_or(String::new(), |reason| format!(" (the token has no user: {reason})"));
    format!("{application}, {user}{rejected}{no_user}")
}

pub(super) fn host(host: &VirtualHost) -> String {
    match &*host.environment {
        "" => host.pattern.to_string(),
        environment => format!("{}, in the environment {environment}", host.pattern),
    }
}

/// Describes why a request gets `variant`.
pub(super) fn assignment(assignment: &Assignment, variant: &str, split: &Split) -> String {
    let (salt, generation) = (split.salt(), split.generation());
    let split = format!("salt `{salt}`, generation {generation}");
    let bucket = assignment.bucket.map_or(0, Bucket::number);
    let by = match assignment.reason {
        Reason::ForcedHeader => return format!("{variant}: a header asks for it; {split}"),
        Reason::ForcedCookie => return format!("{variant}: a cookie asks for it; {split}"),
        Reason::Weight => return format!("one by weight, for each request anew; {split}"),
        Reason::User => "the user",
        Reason::Browser => "the browser",
        Reason::SourceIp => return format!("one by the client's address; {split}"),
        Reason::Header => "the value of the header",
    };
    format!("{variant}: {by} is in bucket {bucket}; {split}")
}

/// Describes the copies of such requests.
pub(super) fn mirror(mirror: &Mirror, request: &Request) -> String {
    let Backend { service, variant, protocol, .. } = Backend::new(&mirror.backend);
    let shadow = format!("{service} ({variant}, {protocol})");
    if !filter::is_mirrored(mirror, request) {
        return format!(
            "{shadow} gets no copy: the request may change something, or is a WebSocket"
        );
    }
    let (whole, rest) = (mirror.per_million / 10_000, mirror.per_million % 10_000);
    let percent = format!("{whole}.{rest:04}");
    let percent = percent.trim_end_matches('0').trim_end_matches('.');
    format!("{shadow} gets a copy of {percent} % of such requests, without credentials")
}

/// How the endpoint of a backend is chosen.
pub(super) fn endpoints(backend: &Backend, policy: &Policy) -> String {
    let list = |addresses: &[std::net::SocketAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    match (backend.ready.as_slice(), backend.draining.as_slice()) {
        ([], []) => format!("no pod of {} is ready: 503", backend.service),
        ([], draining) => {
            format!("no pod is ready; terminating pods still serve: {}", list(draining))
        }
        (ready, _) => {
            let how = match policy.load_balancing {
                LoadBalancing::LeastLatency => "the less loaded of two random ones of",
                LoadBalancing::RoundRobin => "the next in turn of",
            };
            let (kept, count) = (kept_by(policy), ready.len());
            format!("{kept}{how} {count} ready: {}", list(ready))
        }
    }
}

/// Which callers keep their endpoint, as the beginning of a sentence.
fn kept_by(policy: &Policy) -> String {
    let by = match &policy.affinity {
        Affinity::User => "its user, else of its browser",
        Affinity::Cookie => "its browser",
        Affinity::SourceIp => "its address",
        Affinity::Header(name) => &format!("its header {name}"),
        Affinity::None => "",
    };
    if policy.keeps_endpoint { format!("that of {by}, else ") } else { String::new() }
}

pub(super) fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
