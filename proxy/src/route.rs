//! Matches requests to routes.

use std::sync::{Arc, LazyLock};

use http::HeaderMap;
use portcullis_config::model::{HostPattern, NamePattern, Origin};
use portcullis_config::snapshot::Listener;
use portcullis_config::snapshot::access::{Access, Require, Subjects};
use portcullis_config::snapshot::backend::WeightedBackends;
use portcullis_config::snapshot::host::VirtualHost;
use portcullis_config::snapshot::policy::Policy;
use portcullis_config::snapshot::rule::{
    HeaderMatch, PathMatch, PathPrefix, QueryMatch, Route, RouteMatch, Rule,
};

use crate::normalize::{Reading, Request};

/// The route of a request.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'s> {
    /// The virtual host, whether or not one of its routes matches.
    pub(crate) host: Option<&'s Arc<VirtualHost>>,
    /// The first matching route; if none matches, one that denies everyone.
    pub(crate) route: &'s Route,
    /// Whether a route matches.
    pub(crate) is_found: bool,
}

/// Looks up the route of a request. Routes are sorted by precedence. Requests for existing and
/// unknown hosts take the same time.
///
/// No route matches for unclaimed hosts and paths. Neither for an ambiguous path
/// ([`Reading::Several`]) if the host has path rules: servers disagree about which of them it
/// matches.
pub(crate) fn lookup_uniform<'s>(listener: &'s Listener, request: &Request) -> Lookup<'s> {
    let denied = &*DENIED;
    let name = request.authority.host.as_str();
    let host = listener
        .hosts
        .find(name)
        .filter(|_| listener.hostname.as_ref().is_none_or(|pattern| covers(pattern, name)));
    let routes = host.map_or(std::slice::from_ref(denied), |host| &host.routes);
    let is_ambiguous = request.reading == Reading::Several
        && routes.iter().any(|route| is_path_rule(&route.matches.path));
    let found =
        routes.iter().find(|route| is_match(&route.matches, request)).filter(|_| !is_ambiguous);
    Lookup { host, route: found.unwrap_or(denied), is_found: host.is_some() && found.is_some() }
}

/// A route that denies everyone, with as many grants to evaluate as a typical route.
static DENIED: LazyLock<Route> = LazyLock::new(|| {
    let origin = Origin { kind: "Service", namespace: "".into(), name: "".into(), place: None };
    let pattern = |text: &str| text.parse::<NamePattern>().into_iter().collect::<Vec<_>>();
    let access = Access {
        require: Require::ApplicationAndUser,
        applications: vec![pattern("nobody").into()],
        users: vec![Arc::new(Subjects {
            users: pattern("*@nowhere.invalid"),
            groups: pattern("nobody"),
        })],
        ..Access::default()
    };
    let policy = Policy { access, ..Policy::default() };
    let rule = Rule {
        origin,
        service: "".into(),
        filters: Vec::new(),
        backends: WeightedBackends::new(Vec::new()),
        policy,
    };
    Route { matches: RouteMatch::prefix(PathPrefix::root()), rule: Arc::new(rule) }
});

fn covers(pattern: &HostPattern, name: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => exact.as_str() == name,
        HostPattern::Wildcard(parent) => name
            .strip_suffix(parent.as_str())
            .is_some_and(|labels| labels.len() > 1 && labels.ends_with('.')),
    }
}

fn is_path_rule(path: &PathMatch) -> bool {
    !matches!(path, PathMatch::Prefix(prefix) if *prefix == PathPrefix::root())
}

fn is_match(matches: &RouteMatch, request: &Request) -> bool {
    matches.path.matches(request.target.path())
        && matches.method.as_ref().is_none_or(|method| *method == request.method)
        && matches.headers.iter().all(|expected| has_header(&request.headers, expected))
        && matches.query.iter().all(|expected| has_parameter(request.target.query(), expected))
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

#[cfg(test)]
pub(crate) mod tests;
