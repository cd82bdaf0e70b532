//! Routes of a host: which requests they match, and the rules for them.
//!
//! The precedence of Gateway API (`HTTPRouteRule.matches`) is the [`Ord`] of [`Precedence`]: the
//! routes of a host are sorted by it once, and the first that matches wins.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use http::{HeaderName, Method};
use regex::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

use super::backend::WeightedBackends;
use super::filter::{Filter, Mirror};
use super::policy::Policy;
use super::split::Split;
use crate::model::{NamespacedName, Origin};

/// A match and its rule. A rule with several matches is listed once for each.
#[derive(Debug, Clone, Serialize)]
pub struct Route {
    /// The requests that it matches.
    pub matches: RouteMatch,
    /// The rule for them.
    pub rule: Arc<Rule>,
}

/// How the requests of a route are handled.
#[derive(Debug, Clone, Serialize)]
pub struct Rule {
    /// The resource that defines it.
    pub origin: Origin,
    /// The service's name in metrics and logs.
    pub service: Arc<str>,
    /// Changes to requests and responses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Where requests are forwarded.
    pub backends: WeightedBackends,
    /// How they share the requests, where they are variants of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Arc<Split>>,
    /// Access, timeouts, retries and limits.
    pub policy: Policy,
}

/// The requests that a route matches. All parts must match.
#[derive(Debug, Clone, Serialize)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "method")]
    pub method: Option<Method>,
    /// Headers that must be present.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that must be present; of several with one name the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
}

/// The paths that match. They are compared as the bytes that are forwarded, without decoding.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMatch {
    /// This path.
    Exact(Arc<str>),
    /// A path whose first elements, split at `/`, are these: `/abc` matches `/abc`, `/abc/` and
    /// `/abc/d`, not `/abcd`.
    Prefix(PathPrefix),
    /// A path that the expression matches completely.
    Regex(Pattern),
}

/// A path prefix, without its trailing `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(Arc<str>);

/// A header that must be present.
#[derive(Debug, Clone, Serialize)]
pub struct HeaderMatch {
    /// The header's name.
    #[serde(serialize_with = "header_name")]
    pub name: HeaderName,
    /// The required value; several fields of one name are joined by `,` first.
    pub value: ValueMatch,
}

/// A query parameter that must be present.
#[derive(Debug, Clone, Serialize)]
pub struct QueryMatch {
    /// The parameter's name, compared as written in the request.
    pub name: Arc<str>,
    /// The required value.
    pub value: ValueMatch,
}

/// A required value.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueMatch {
    /// This value.
    Exact(Arc<str>),
    /// A value that the expression matches completely.
    Regex(Pattern),
}

/// A regular expression that must match the whole text.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: Arc<str>,
    anchored: Regex,
}

/// The order in which routes are matched: less is earlier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    path: PathPrecedence,
    any_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// The creation time of the resource in seconds since 1970: the oldest first.
    pub created: i64,
    /// The resource, in alphabetical order.
    pub resource: NamespacedName,
    /// The index of the rule, and of the match in the rule.
    pub position: (usize, usize),
}

/// Exact before regular expressions (the longest first) before prefixes (the longest first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PathPrecedence {
    Exact,
    Regex(Reverse<usize>),
    Prefix(Reverse<usize>),
}

// === impl Rule ===

impl Rule {
    /// Where copies of its requests go.
    pub fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        self.filters.iter().filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(mirror),
            _ => None,
        })
    }
}

// === impl RouteMatch ===

impl RouteMatch {
    /// Matches every request whose path starts with `prefix`.
    #[must_use]
    pub fn prefix(prefix: PathPrefix) -> Self {
        Self {
            path: PathMatch::Prefix(prefix),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }

    /// Its precedence among the routes of a host.
    #[must_use]
    pub fn precedence(
        &self,
        created: i64,
        resource: NamespacedName,
        position: (usize, usize),
    ) -> Precedence {
        let path = match &self.path {
            PathMatch::Exact(_) => PathPrecedence::Exact,
            PathMatch::Regex(pattern) => PathPrecedence::Regex(Reverse(pattern.source.len())),
            PathMatch::Prefix(prefix) => PathPrecedence::Prefix(Reverse(prefix.0.len())),
        };
        Precedence {
            path,
            any_method: self.method.is_none(),
            headers: Reverse(self.headers.len()),
            query: Reverse(self.query.len()),
            created,
            resource,
            position,
        }
    }
}

// === impl PathMatch ===

impl PathMatch {
    /// Whether `path`, without query, matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => prefix.matches(path),
            Self::Regex(pattern) => pattern.matches(path),
        }
    }
}

// === impl PathPrefix ===

impl PathPrefix {
    /// The prefix of all paths.
    #[must_use]
    pub fn root() -> Self {
        Self("".into())
    }

    /// Creates a prefix; `None` where it does not start with `/`, or has an empty element. A
    /// trailing `/` is ignored (Gateway API `PathMatchPathPrefix`).
    #[must_use]
    pub fn new(prefix: &str) -> Option<Self> {
        let well_formed = prefix.starts_with('/') && !prefix.contains("//");
        well_formed.then(|| Self(prefix.strip_suffix('/').unwrap_or(prefix).into()))
    }

    /// The prefix without a trailing `/`; empty for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of `prefixes` matches it.
    #[must_use]
    pub fn is_within(&self, prefixes: &BTreeSet<Self>) -> bool {
        let path = self.as_str();
        let above = path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        above.chain([path]).any(|prefix| prefixes.contains(prefix))
    }

    /// Whether `path` is below it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Borrow<str> for PathPrefix {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for PathPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

// === impl ValueMatch ===

impl ValueMatch {
    /// Whether `value` matches.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Regex(pattern) => pattern.matches(value),
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// The longest expression, in bytes as written.
    pub const MAX_LENGTH: usize = 1024;
    const MAX_COMPILED: usize = 64 * 1024;

    /// Compiles an expression of the `regex` crate's syntax; matching takes time linear in the
    /// text.
    ///
    /// # Errors
    /// It is malformed, longer than [`Pattern::MAX_LENGTH`], or compiles to more than 64 KiB.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        if source.len() > Self::MAX_LENGTH {
            return Err(regex::Error::CompiledTooBig(Self::MAX_LENGTH));
        }
        // Compiled by itself first: `a)|(b` is well-formed only inside the group of the anchors.
        RegexBuilder::new(source).size_limit(Self::MAX_COMPILED).build()?;
        let anchored = RegexBuilder::new(&format!(r"\A(?:{source})\z"))
            .size_limit(Self::MAX_COMPILED)
            .build()?;
        Ok(Self { source: source.into(), anchored })
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.anchored.is_match(text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

fn header_name<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

fn method<S: Serializer>(method: &Option<Method>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(method.as_ref().map_or("", |method| method.as_str()))
}

#[cfg(test)]
mod tests;
