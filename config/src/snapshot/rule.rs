//! Which requests of a host a route takes, and what happens to them.
//!
//! The precedence of Gateway API (`HTTPRouteRule.matches`) is the [`Ord`] of [`Precedence`]: a
//! host's routes are sorted by it once, and the first that matches wins.

use std::cmp::Reverse;
use std::sync::Arc;

use http::{HeaderName, Method};
use regex::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

use super::backend::WeightedBackends;
use super::filter::Filter;
use super::policy::Policy;
use crate::model::{NamespacedName, Origin};

/// One match with the rule that it leads to. A rule with several matches is in the list once for
/// each.
#[derive(Debug, Clone, Serialize)]
pub struct Route {
    /// Which requests it takes.
    pub matches: RouteMatch,
    /// What happens to them.
    pub rule: Arc<Rule>,
}

/// What happens to the requests of a route.
#[derive(Debug, Clone, Serialize)]
pub struct Rule {
    /// The resource that says so.
    pub origin: Origin,
    /// The service's name in metrics and logs.
    pub service: Arc<str>,
    /// What is changed on the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Where the requests go.
    pub backends: WeightedBackends,
    /// What is demanded of them, and granted to them.
    pub policy: Policy,
}

/// Which requests a route takes. All parts must match.
#[derive(Debug, Clone, Serialize)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method; `None` is any.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "method")]
    pub method: Option<Method>,
    /// Headers that must be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that must be there; the first of several of one name counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
}

/// Which paths match. Paths are compared as the bytes that the backend gets: no decoding.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathMatch {
    /// This path.
    Exact(Arc<str>),
    /// A path whose first elements, split at `/`, are these: `/abc` matches `/abc`, `/abc/` and
    /// `/abc/d`, not `/abcd`.
    Prefix(PathPrefix),
    /// A path that the expression matches as a whole.
    Regex(Pattern),
}

/// A path prefix, without its trailing `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(Arc<str>);

/// A header that must be there.
#[derive(Debug, Clone, Serialize)]
pub struct HeaderMatch {
    /// The header's name.
    #[serde(serialize_with = "header_name")]
    pub name: HeaderName,
    /// What its value must be; several fields of one name are joined by `,` first.
    pub value: ValueMatch,
}

/// A query parameter that must be there.
#[derive(Debug, Clone, Serialize)]
pub struct QueryMatch {
    /// The parameter's name, compared as it is written in the request.
    pub name: Arc<str>,
    /// What its value must be.
    pub value: ValueMatch,
}

/// What a value must be.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueMatch {
    /// This.
    Exact(Arc<str>),
    /// What the expression matches as a whole.
    Regex(Pattern),
}

/// A regular expression that must match the whole text.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: Arc<str>,
    anchored: Regex,
}

/// The order in which routes are tried: less is earlier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    path: PathPrecedence,
    any_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    /// Creation of the resource, seconds since 1970: the oldest first.
    pub created: i64,
    /// The resource, in the order of the alphabet.
    pub resource: NamespacedName,
    /// The place of the rule, and of the match in the rule.
    pub position: (usize, usize),
}

/// Exact before regular expressions (the longest first) before prefixes (the longest first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PathPrecedence {
    Exact,
    Regex(Reverse<usize>),
    Prefix(Reverse<usize>),
}

// === impl RouteMatch ===

impl RouteMatch {
    /// Every request whose path starts with `prefix`.
    #[must_use]
    pub fn prefix(prefix: PathPrefix) -> Self {
        Self {
            path: PathMatch::Prefix(prefix),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }

    /// Its place among the routes of a host.
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

    /// A prefix; `None` where it does not start with `/`, or has an empty element. A trailing `/`
    /// makes no difference (Gateway API `PathMatchPathPrefix`).
    #[must_use]
    pub fn new(prefix: &str) -> Option<Self> {
        let well_formed = prefix.starts_with('/') && !prefix.contains("//");
        well_formed.then(|| Self(prefix.strip_suffix('/').unwrap_or(prefix).into()))
    }

    /// Without a trailing `/`; empty for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` is below it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
        // Compiled alone first: `a)|(b` would be well-formed only inside of the anchors' group.
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
