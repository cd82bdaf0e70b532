//! Applies the filters of a rule to requests and responses.
//!
//! Copies of requests ([`Mirror`]) are sent by [`shadow`](crate::shadow).

pub(crate) mod cors;

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use portcullis_config::snapshot::filter::{Filter, HeaderChanges, Mirror, PathChange, Redirect};
use portcullis_config::snapshot::rule::PathMatch;

use crate::exchange::PathAndQuery;
use crate::normalize::{Kind, Request, Role, role};

/// Returns the status and `Location` of the rule's redirect, if any. `tls` is whether the request
/// used TLS.
pub(crate) fn redirect(
    filters: &[Filter],
    matched: &PathMatch,
    request: &Request,
    tls: bool,
) -> Option<(StatusCode, HeaderValue)> {
    let redirect = filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect),
        _ => None,
    })?;
    let location = HeaderValue::try_from(location(redirect, matched, request, tls)).ok()?;
    Some((redirect.status, location))
}

/// Rewrites host and path. Call before the headers for the backend are set.
pub(crate) fn rewrite(filters: &[Filter], matched: &PathMatch, request: &mut Request) {
    for filter in filters {
        let Filter::Rewrite(rewrite) = filter else { continue };
        if let Some(name) = &rewrite.hostname {
            request.authority.host = name.into();
            request.authority.port = None;
        }
        if let Some(change) = &rewrite.path
            && let Some(target) = with_path(change, matched, &request.target)
        {
            request.target = target;
        }
    }
}

/// Whether requests like this one are copied: a WebSocket never is, and a request that may change
/// something only where that is allowed.
pub(crate) fn is_mirrored(mirror: &Mirror, request: &Request) -> bool {
    let is_safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    request.kind != Kind::WebSocket && (is_safe || mirror.unsafe_methods)
}

/// Whether a filter rewrites host or path.
pub(crate) fn has_rewrite(filters: &[Filter]) -> bool {
    filters.iter().any(|filter| matches!(filter, Filter::Rewrite(_)))
}

/// Whether a filter modifies the request's headers.
pub(crate) fn has_request_headers(filters: &[Filter]) -> bool {
    filters.iter().any(|filter| matches!(filter, Filter::RequestHeaders(_)))
}

/// Modifies the request's headers. Call after the headers for the backend are set, so that the rule
/// takes precedence.
pub(crate) fn request_headers(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::RequestHeaders(changes) = filter {
            apply(changes, headers);
        }
    }
}

/// Modifies the response's headers.
pub(crate) fn response_headers(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(changes) = filter {
            apply(changes, headers);
        }
    }
}

fn apply(changes: &HeaderChanges, headers: &mut HeaderMap) {
    for (name, value) in changes.set.iter().filter(|(name, _)| is_changeable(name.as_str())) {
        headers.insert(name, value.clone());
    }
    for (name, value) in changes.add.iter().filter(|(name, _)| is_changeable(name.as_str())) {
        headers.append(name, value.clone());
    }
    for name in changes.remove.iter().filter(|name| is_changeable(name.as_str())) {
        headers.remove(name);
    }
}

/// Returns whether rules may modify a header: not framing, hop-by-hop fields and `Host`.
fn is_changeable(name: &str) -> bool {
    !matches!(
        role(name),
        Role::Host
            | Role::Length
            | Role::Connection
            | Role::Upgrade
            | Role::Te
            | Role::HopByHop
            | Role::Http2Settings
    )
}

/// Formats `scheme://host:port/path?query`, without the scheme's default port (Gateway API
/// `HTTPRequestRedirectFilter.port`).
fn location(redirect: &Redirect, matched: &PathMatch, request: &Request, tls: bool) -> String {
    let scheme = redirect.scheme.unwrap_or(if tls { "https" } else { "http" });
    let host =
        redirect.hostname.as_ref().map_or(request.authority.host.as_str(), |name| name.as_str());
    let default_port = if scheme == "https" { 443 } else { 80 };
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => port.get(),
        (None, Some(_)) => default_port,
        (None, None) => request.authority.port.unwrap_or(default_port),
    };
    let target =
        redirect.path.as_ref().and_then(|change| with_path(change, matched, &request.target));
    let target = target.as_ref().unwrap_or(&request.target);
    if port == default_port {
        format!("{scheme}://{host}{target}")
    } else {
        format!("{scheme}://{host}:{port}{target}")
    }
}

/// Returns the target with a changed path; `None` if the change does not apply.
fn with_path(
    change: &PathChange,
    matched: &PathMatch,
    target: &PathAndQuery,
) -> Option<PathAndQuery> {
    let path: Cow<'_, str> = match change {
        PathChange::Full(path) => Cow::Borrowed(path),
        PathChange::Prefix(prefix) => {
            let PathMatch::Prefix(matched) = matched else { return None };
            let rest = target.path().strip_prefix(matched.as_str())?;
            match (prefix.trim_end_matches('/'), rest) {
                ("", "") => Cow::Borrowed("/"),
                // A client would resolve a path that starts with `//` as a host.
                ("", rest) => Cow::Owned(format!("/{}", rest.trim_start_matches('/'))),
                (prefix, rest) => Cow::Owned(format!("{prefix}{rest}")),
            }
        }
    };
    let path = if path.is_empty() { "/" } else { &*path };
    match target.query() {
        Some(query) => PathAndQuery::new(format!("{path}?{query}")),
        None => PathAndQuery::new(path.to_owned()),
    }
}

#[cfg(test)]
mod tests;
