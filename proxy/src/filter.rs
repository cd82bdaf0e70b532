//! What a rule changes about a request or a response on its way.
//!
//! `Mirror` and `Cors` are not here: nothing translates into them yet.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode};
use portcullis_config::snapshot::filter::{Filter, HeaderChanges, PathChange, Redirect};
use portcullis_config::snapshot::rule::PathMatch;

use crate::normalize::{Request, Role, role};

/// The redirect with which a rule answers: its status and `Location`. `tls` is whether the request
/// came encrypted.
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

/// Changes host and path as a rule's filters say. Before the headers for the backend are made.
pub(crate) fn rewrite(filters: &[Filter], matched: &PathMatch, request: &mut Request) {
    for filter in filters {
        let Filter::Rewrite(rewrite) = filter else { continue };
        if let Some(name) = &rewrite.hostname {
            request.authority.host = name.into();
            request.authority.port = None;
        }
        if let Some(change) = &rewrite.path
            && let Some(target) = changed(change, matched, &request.target)
        {
            request.target = target;
        }
    }
}

/// Changes a request's headers as a rule's filters say. After the headers for the backend are made:
/// whoever writes rules has the last word.
pub(crate) fn request_headers(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        if let Filter::RequestHeaders(changes) = filter {
            apply(changes, headers);
        }
    }
}

/// Changes a response's headers as a rule's filters say.
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

/// What frames a message, or says which host it is for, no rule can change as a header.
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

/// `scheme://host:port/path?query`; a port that is the scheme's own is left out (Gateway API
/// `HTTPRequestRedirectFilter.port`).
fn location(redirect: &Redirect, matched: &PathMatch, request: &Request, tls: bool) -> String {
    let scheme = redirect.scheme.unwrap_or(if tls { "https" } else { "http" });
    let host =
        redirect.hostname.as_ref().map_or(request.authority.host.as_str(), |name| name.as_str());
    let own = if scheme == "https" { 443 } else { 80 };
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => port.get(),
        (None, Some(_)) => own,
        (None, None) => request.authority.port.unwrap_or(own),
    };
    let target =
        redirect.path.as_ref().and_then(|change| changed(change, matched, &request.target));
    let target = target.as_ref().unwrap_or(&request.target);
    if port == own {
        format!("{scheme}://{host}{target}")
    } else {
        format!("{scheme}://{host}:{port}{target}")
    }
}

/// The target with another path; `None` where the change yields no path.
fn changed(
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
                // A path that begins with `//` would be read as a host by whoever resolves it.
                ("", rest) => Cow::Owned(format!("/{}", rest.trim_start_matches('/'))),
                (prefix, rest) => Cow::Owned(format!("{prefix}{rest}")),
            }
        }
    };
    let path = if path.is_empty() { "/" } else { &*path };
    match target.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
        None => PathAndQuery::try_from(path).ok(),
    }
}

#[cfg(test)]
mod tests;
