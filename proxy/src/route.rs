//! Finds the route of a request.

use std::sync::{Arc, LazyLock};

use http::HeaderMap;
use portcullis_config::model::{HostPattern, NamePattern, Origin};
use portcullis_config::snapshot::Listener;
use portcullis_config::snapshot::access::{Access, Circle, Require};
use portcullis_config::snapshot::backend::WeightedBackends;
use portcullis_config::snapshot::host::VirtualHost;
use portcullis_config::snapshot::policy::Policy;
use portcullis_config::snapshot::rule::{
    HeaderMatch, PathMatch, PathPrefix, QueryMatch, Route, RouteMatch, Rule,
};

use crate::normalize::{Reading, Request};

/// The virtual host and the first of its routes that takes the request. Routes are sorted by
/// precedence already.
///
/// `None` is for a host, or a path, that nobody claimed: what does not exist. It is also for a path
/// that some parsers read otherwise than by its octets ([`Reading::Several`]), where the host has
/// rules about paths: no rule can tell what it means.
pub(crate) fn find<'s>(
    listener: &'s Listener,
    request: &Request,
) -> Option<(&'s Arc<VirtualHost>, &'s Route)> {
    let (host, route) = find_or_nowhere(listener, request);
    host.map(|host| (host, route))
}

/// The same; what nobody claimed has a route that is for nobody, so that the same is done for a
/// host that exists and one that does not.
pub(crate) fn find_or_nowhere<'s>(
    listener: &'s Listener,
    request: &Request,
) -> (Option<&'s Arc<VirtualHost>>, &'s Route) {
    let nowhere = &*NOWHERE;
    let name = request.authority.host.as_str();
    let host = listener
        .hosts
        .find(name)
        .filter(|_| listener.hostname.as_ref().is_none_or(|pattern| covers(pattern, name)));
    let routes = host.map_or(std::slice::from_ref(nowhere), |host| &host.routes);
    let in_doubt = request.reading == Reading::Several
        && routes.iter().any(|route| looks_at_paths(&route.matches.path));
    match routes.iter().find(|route| takes(&route.matches, request)).filter(|_| !in_doubt) {
        Some(route) => (host, route),
        None => (None, nowhere),
    }
}

/// As much to look at as where somebody was granted something. What it says does not count.
static NOWHERE: LazyLock<Route> = LazyLock::new(|| {
    let origin = Origin { kind: "Service", namespace: "".into(), name: "".into(), place: None };
    let pattern = |text: &str| text.parse::<NamePattern>().into_iter().collect::<Vec<_>>();
    let access = Access {
        require: Require::ApplicationAndUser,
        applications: vec![pattern("nobody").into()],
        users: vec![Arc::new(Circle {
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

fn looks_at_paths(path: &PathMatch) -> bool {
    !matches!(path, PathMatch::Prefix(prefix) if *prefix == PathPrefix::root())
}

fn takes(matches: &RouteMatch, request: &Request) -> bool {
    matches.path.matches(request.target.path())
        && matches.method.as_ref().is_none_or(|method| *method == request.method)
        && matches.headers.iter().all(|wanted| has_header(&request.headers, wanted))
        && matches.query.iter().all(|wanted| has_parameter(request.target.query(), wanted))
}

fn has_header(headers: &HeaderMap, wanted: &HeaderMatch) -> bool {
    let mut values = headers.get_all(&wanted.name).iter();
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
    wanted.value.matches(joined.as_deref().unwrap_or(first))
}

fn has_parameter(query: Option<&str>, wanted: &QueryMatch) -> bool {
    let parameters = query.unwrap_or_default().split('&');
    let mut values = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (!parameter.is_empty() && name == &*wanted.name).then_some(value)
    });
    values.next().is_some_and(|value| wanted.value.matches(value))
}

#[cfg(test)]
pub(crate) mod tests;
