//! Finds the route of a request.

use std::sync::Arc;

use http::HeaderMap;
use portcullis_config::snapshot::Listener;
use portcullis_config::snapshot::host::{HostPattern, VirtualHost};
use portcullis_config::snapshot::rule::{HeaderMatch, PathMatch, PathPrefix, QueryMatch, Route, RouteMatch};

use crate::normalize::{Reading, Request};

/// The virtual host and the first of its routes that takes the request. Routes are sorted by precedence already.
///
/// `None` is for a host, or a path, that nobody claimed: what does not exist. It is also for a path that some parsers read
/// otherwise than by its octets ([`Reading::Several`]), where the host has rules about paths: no rule can tell what it means.
pub(crate) fn find<'s>(listener: &'s Listener, request: &Request) -> Option<(&'s Arc<VirtualHost>, &'s Route)> {
    let name = request.authority.host.as_str();
    if listener.hostname.as_ref().is_some_and(|pattern| !covers(pattern, name)) {
        return None;
    }
    let host = listener.hosts.find(name)?;
    if request.reading == Reading::Several && host.routes.iter().any(|route| looks_at_paths(&route.matches.path)) {
        return None;
    }
    host.routes.iter().find(|route| takes(&route.matches, request)).map(|route| (host, route))
}

fn covers(pattern: &HostPattern, name: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => exact.as_str() == name,
        HostPattern::Wildcard(parent) => name.strip_suffix(parent.as_str()).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.')),
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
