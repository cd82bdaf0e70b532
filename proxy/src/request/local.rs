//! Requests that are not forwarded.

use http::StatusCode;

use super::context::{LogContext, RequestContext};
use super::reply::Reply;
use crate::decision::{Denied, LocalPath};
use crate::exchange::{Respond, Source};
use crate::normalize::Request;
use crate::{filter, local_reply};

// === impl RequestContext ===

impl RequestContext<'_> {
    /// Serves what the gateway serves itself, on every host alike.
    pub(super) async fn serve_local<B: Source, R: Respond>(
        &self,
        path: LocalPath,
        request: &Request,
        body: &mut B,
        respond: &mut R,
    ) -> Reply {
        let log = LogContext { request: Some(request), ..LogContext::default() };
        let context = self.reply_context();
        let reply = match path {
            LocalPath::Challenge(page) => local_reply::challenge(page, &context),
            LocalPath::HttpsRedirect(location) => {
                local_reply::redirect(StatusCode::PERMANENT_REDIRECT, location, &context)
            }
            LocalPath::Preflight(origin) => {
                local_reply::no_content(filter::cors::allow(origin), &context)
            }
            LocalPath::Portal => match &self.worker.portal {
                Some(portal) => return self.portal(portal, request, body, respond).await,
                None => return self.hide(request, respond),
            },
            LocalPath::Jwks => match self.worker.identity_headers.assertions() {
                Some(assertions) => local_reply::document(assertions.jwks(), &context),
                None => return self.hide(request, respond),
            },
            LocalPath::Hidden => return self.hide(request, respond),
        };
        self.reply(reply, log, respond)
    }

    /// Replies to a caller who must not learn whether the host exists. A caller whose credentials
    /// could not be checked is asked to retry, on every host alike.
    pub(super) fn deny<R: Respond>(
        &self,
        denied: &Denied,
        request: &Request,
        respond: &mut R,
    ) -> Reply {
        let authenticated = &denied.caller.authenticated;
        let log = LogContext {
            request: Some(request),
            caller: Some(&authenticated.caller),
            rejected: authenticated.rejected,
            denied: Some(denied.reason.label()),
            ..LogContext::default()
        };
        if denied.is_unchecked() {
            self.fail(StatusCode::SERVICE_UNAVAILABLE, log, respond)
        } else {
            self.reply(self.hidden(request), log, respond)
        }
    }
}
