//! The cookie by which an anonymous browser keeps its variant and endpoint.

use http::{HeaderName, HeaderValue, Method, header};
use portcullis_config::snapshot::rule::Rule;
use portcullis_config::snapshot::split::Affinity;
use portcullis_identity::session::cookie::VISITOR;
use portcullis_identity::visitor::Visitor;

use super::context::RequestContext;
use crate::access::caller_cache::CachedCaller;
use crate::choose::{Choice, Reason};
use crate::normalize::Request;

static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

// === impl RequestContext ===

impl RequestContext<'_> {
    /// The browser that a request is assigned by: the one of its cookie, or a new one if it
    /// navigates. `None` where callers keep neither variant nor endpoint, or this one keeps them by
    /// something else.
    pub(super) fn visitor(
        &self,
        request: &Request,
        rule: &Rule,
        caller: &CachedCaller,
    ) -> Option<Visitor> {
        if rule.split.is_none() && !rule.policy.keeps_endpoint {
            return None;
        }
        let is_assigned_by = match rule.policy.affinity {
            Affinity::User => caller.user_name().is_none(),
            Affinity::Cookie => true,
            Affinity::SourceIp | Affinity::Header(_) | Affinity::None => false,
        };
        // Browsers neither store nor send a cookie of this prefix without TLS.
        if !is_assigned_by || !self.client.tls {
            return None;
        }
        let (visitors, random) = (self.worker.authenticator.visitors(), &self.worker.random);
        let open = |value| visitors.open(request.authority.host.as_str(), value);
        let known = VISITOR.find(&request.headers).and_then(open);
        known.or_else(|| {
            let id = || u128::from(random.next()) << 64 | u128::from(random.next());
            navigates(request).then(|| Visitor::new(id()))
        })
    }

    /// The `Set-Cookie` of a browser that keeps its variant or endpoint from now on, or still.
    pub(super) fn visitor_cookie(
        &self,
        visitor: Option<Visitor>,
        choice: &Choice<'_>,
        request: &Request,
    ) -> Option<HeaderValue> {
        let is_assigned = choice.assignment.is_some_and(|by| by.reason == Reason::Browser);
        let visitor = visitor.filter(|_| is_assigned || choice.caller.is_some())?;
        let host = request.authority.host.as_str();
        self.worker.authenticator.visitors().cookie(visitor, host, self.at)
    }
}

/// Whether a person opens a page. Programs keep no cookies, and scripts' requests come after one.
fn navigates(request: &Request) -> bool {
    let headers = &request.headers;
    let accepts_pages = || {
        let accept = headers.get(header::ACCEPT).map_or(&b""[..], HeaderValue::as_bytes);
        memchr::memmem::find(accept, b"text/html").is_some()
    };
    request.method == Method::GET
        && match headers.get(&SEC_FETCH_MODE) {
            Some(mode) => mode.as_bytes() == b"navigate",
            None => accepts_pages(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::tests::read;

    #[test]
    fn only_pages_that_a_person_opens_begin_a_visit() {
        for (line, headers, expected) in [
            ("GET /", "Host: a\nsec-fetch-mode: navigate", true),
            ("GET /", "Host: a\naccept: text/html,*/*;q=0.8", true),
            ("GET /", "Host: a\nsec-fetch-mode: cors\naccept: text/html", false),
            ("POST /", "Host: a\nsec-fetch-mode: navigate\ncontent-length: 0", false),
            ("GET /", "Host: a\naccept: */*", false),
            ("GET /", "Host: a", false),
        ] {
            let request = read(&format!("{line} HTTP/1.1\n{headers}")).unwrap();
            assert_eq!(navigates(&request), expected, "{line} {headers}");
        }
    }
}
