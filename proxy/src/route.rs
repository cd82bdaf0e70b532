//! Matches requests to routes.

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, Method};
use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::snapshot::Listener;
use portcullis_config::snapshot::backend::WeightedBackends;
use portcullis_config::snapshot::grants::RouteGrants;
use portcullis_config::snapshot::host::{GrantedRoute, HostEntry};
use portcullis_config::snapshot::policy::Policy;
use portcullis_config::snapshot::rule::{
    HeaderMatch, PathPrefix, QueryMatch, Route, RouteMatch, Rule,
};

use crate::exchange::PathAndQuery;
use crate::normalize::{Reading, Request};

/// What routes match of a request.
#[derive(Clone, Copy)]
pub(crate) struct RouteInput<'r> {
    pub(crate) host: &'r str,
    pub(crate) target: &'r PathAndQuery,
    pub(crate) reading: Reading,
    pub(crate) method: &'r Method,
    pub(crate) headers: &'r HeaderMap,
}

/// The route of a request.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'s> {
    /// The virtual host, whether or not one of its routes matches.
    pub(crate) host: Option<&'s HostEntry>,
    /// The first matching route; if none matches, one that denies everyone.
    pub(crate) granted: GrantedRoute<'s>,
    /// Whether a route matches.
    pub(crate) is_found: bool,
}

/// Looks up the route of a request, by precedence. Requests for existing and unknown hosts take the
/// same time, whatever the number of their routes.
///
/// No route matches for unclaimed hosts and paths. Neither for an ambiguous path
/// ([`Reading::Several`]) if the host has path rules: servers disagree about which of them it
/// matches.
pub(crate) fn lookup_uniform<'s>(listener: &'s Listener, input: RouteInput<'_>) -> Lookup<'s> {
    let is_served = |_: &&HostEntry| {
        listener.hostname.as_ref().is_none_or(|pattern| covers(pattern, input.host))
    };
    let host = listener.hosts.entry(input.host).filter(is_served);
    let is_ambiguous =
        input.reading == Reading::Several && host.is_some_and(HostEntry::has_path_rules);
    let found = listener
        .hosts
        .route(host, input.target.path(), |matches| is_match(matches, input))
        .filter(|_| !is_ambiguous);
    let (route, grants) = &*DENIED;
    let denied = GrantedRoute { route, grants };
    Lookup { host, granted: found.unwrap_or(denied), is_found: found.is_some() }
}

/// A route that denies everyone, with as many grants to evaluate as a typical route.
static DENIED: LazyLock<(Route, RouteGrants)> = LazyLock::new(|| {
    let rule = Rule {
        origin: Origin { kind: "Service", namespace: "".into(), name: "".into(), place: None },
        service: "".into(),
        filters: Vec::new(),
        backends: WeightedBackends::new(Vec::new()),
        split: None,
        policy: Policy::default(),
    };
    let route = Route { matches: RouteMatch::prefix(PathPrefix::root()), rule: Arc::new(rule) };
    (route, RouteGrants::of_no_route())
});

fn covers(pattern: &HostPattern, name: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => exact.as_str() == name,
        HostPattern::Wildcard(parent) => name
            .strip_suffix(parent.as_str())
            .is_some_and(|labels| labels.len() > 1 && labels.ends_with('.')),
    }
}

fn is_match(matches: &RouteMatch, input: RouteInput<'_>) -> bool {
    matches.path.matches(input.target.path())
        && matches.method.as_ref().is_none_or(|method| method == input.method)
        && matches.headers.iter().all(|expected| has_header(input.headers, expected))
        && matches.query.iter().all(|expected| has_parameter(input.target.query(), expected))
}

fn has_header(headers: &HeaderMap, expected: &HeaderMatch) -> bool {
    let mut values = headers.get_all(&expected.name).iter();
    let Some(Ok(first)) = values.next().map(|value| std::str::from_utf8(value.as_bytes())) else {
        return false;
    };
    let mut joined = None;
    for value in values {
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            return false;
        };
        let joined = joined.get_or_insert_with(|| first.to_owned());
        joined.push(',');
        joined.push_str(value);
    }
    expected.value.matches(joined.as_deref().unwrap_or(first))
}

fn has_parameter(query: Option<&str>, expected: &QueryMatch) -> bool {
    let parameters = query.unwrap_or_default().split('&');
    let mut values = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (!parameter.is_empty() && name == &*expected.name).then_some(value)
    });
    values.next().is_some_and(|value| expected.value.matches(value))
}

// === impl RouteInput ===

impl<'r> From<&'r Request> for RouteInput<'r> {
    fn from(request: &'r Request) -> Self {
        Self {
            host: request.authority.host.as_str(),
            target: &request.target,
            reading: request.reading,
            method: &request.method,
            headers: &request.headers,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
