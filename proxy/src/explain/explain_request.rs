//! The request to explain.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use portcullis_identity::caller::{Application, Caller, User};
use serde::{Deserialize, Serialize};

use crate::exchange::{BodyLength, PathAndQuery, RequestHead, Target};

/// A request to explain, from an untrusted client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// `http://` or `https://`, a host, and a path.
    pub url: String,
    /// The method of the request.
    pub method: String,
    /// Name and value of each header; a `Host` overrides that of the URL.
    pub headers: Vec<(String, String)>,
    /// The caller to assume, instead of the one that credentials in `headers` identify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<AssumedCaller>,
}

/// A caller whom the person asking names, without any credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AssumedCaller {
    /// The application's name, as grants have it.
    pub application: Option<String>,
    /// The user's name, as grants have it.
    pub user: Option<String>,
    /// The user's groups, as grants have them.
    pub groups: Vec<String>,
}

/// Why a request cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidExplainRequest {
    /// The URL is invalid, or has no host, `http` or `https`.
    Url(String),
    /// The method is invalid.
    Method(String),
    /// A header is invalid.
    Header(String),
    /// The system returned no random numbers.
    NoRandomness,
}

// === impl ExplainRequest ===

impl ExplainRequest {
    /// Returns the head, as HTTP/1.1 sends it, and whether it is sent over TLS.
    pub(super) fn head(&self) -> Result<(RequestHead, bool), InvalidExplainRequest> {
        let invalid = || InvalidExplainRequest::Url(self.url.clone());
        let (tls, host, target) = self.url_parts().ok_or_else(invalid)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).map_err(|_| invalid())?);
        let mut extra = HeaderMap::new();
        for (name, value) in &self.headers {
            let invalid = || InvalidExplainRequest::Header(name.clone());
            extra.append(
                HeaderName::try_from(name).map_err(|_| invalid())?,
                HeaderValue::from_str(value).map_err(|_| invalid())?,
            );
        }
        if extra.contains_key(header::HOST) {
            headers.clear();
        }
        headers.extend(extra);
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| InvalidExplainRequest::Method(self.method.clone()))?;
        let head = RequestHead {
            method,
            version: Version::HTTP_11,
            authority: None,
            scheme: None,
            target: Target::Path(target),
            headers,
            body: BodyLength::None,
            protocol: None,
        };
        Ok((head, tls))
    }

    /// Returns whether the URL is of `https`, its host with the port, and its path with the query.
    fn url_parts(&self) -> Option<(bool, &str, PathAndQuery)> {
        let (scheme, rest) = self.url.split_once("://")?;
        let tls = scheme.eq_ignore_ascii_case("https");
        if !tls && !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        // Clients do not send the fragment (RFC 9110 §4.2.5).
        let rest = rest.split('#').next()?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at_checked(end)?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        let target = PathAndQuery::new(format!("{slash}{path}"))?;
        (!host.is_empty()).then_some((tls, host, target))
    }
}

// === impl AssumedCaller ===

impl AssumedCaller {
    /// The caller, whose names may begin with one of these prefixes of issuers. Groups without a
    /// user are those of a user without a name.
    pub(super) fn caller<'p>(&self, prefixes: &(impl Iterator<Item = &'p str> + Clone)) -> Caller {
        let prefix = |name: &str| {
            prefixes.clone().find(|prefix| name.starts_with(prefix)).unwrap_or_default().len()
        };
        let is_user = self.user.is_some() || !self.groups.is_empty();
        let name = self.user.as_deref().unwrap_or_default();
        let first = self.user.iter().chain(&self.groups).next();
        let user = is_user.then(|| User {
            name: name.into(),
            prefix: first.map_or(0, |name| prefix(name)),
            email: None,
            preferred_username: None,
            groups: self.groups.iter().map(|group| group.as_str().into()).collect(),
            issuer: "".into(),
            subject: "".into(),
        });
        Caller {
            application: self.application.as_deref().map(|name| {
                let (prefix, name) = name.split_at_checked(prefix(name)).unwrap_or_default();
                Application::of_issuer(prefix, name)
            }),
            user: user.map(Into::into),
            until: None,
        }
    }
}

// === impl InvalidExplainRequest ===

impl fmt::Display for InvalidExplainRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => {
                write!(f, "`{url}` is not a URL like https://shop--staging.apps.example.com/cart")
            }
            Self::Method(method) => write!(f, "`{method}` is not a method like GET"),
            Self::Header(header) => {
                write!(f, "`{header}` with its value is not a header like `X-Version: 2`")
            }
            Self::NoRandomness => f.write_str("the system returned no random numbers"),
        }
    }
}

impl std::error::Error for InvalidExplainRequest {}
