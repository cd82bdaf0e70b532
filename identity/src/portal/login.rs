//! Login at the provider, and the callback.

use std::time::SystemTime;

use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use super::browser::{self, Browser};
use super::destination::{Destination, Unusable};
use super::failure::Failure;
use super::{Portal, PortalRequest, Reply, internal_error};
use crate::fair_queue::Class;
use crate::provider::{AuthorizationRequest, AuthorizationResponse, Person, ProviderError};
use crate::session::{Id, Purpose, random_text};

/// A login in progress, sealed in the `state` parameter.
#[derive(Serialize, Deserialize)]
struct Attempt {
    id: Id,
    /// Hash of the browser that it is bound to.
    browser: String,
    nonce: String,
    /// The PKCE verifier (RFC 7636 §4.1).
    verifier: String,
    at: u64,
    /// Destination after login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
}

// === impl Portal ===

impl Portal {
    /// Redirects a user with a session to the destination, and other users to the provider.
    pub(super) async fn login(&self, request: &PortalRequest, now: SystemTime) -> Reply {
        let to = match request.parameters().get("to").map(|to| Destination::parse(to, &self.origin))
        {
            Some(Err(Unusable::TooLong)) => {
                return Failure::LinkTooLong.page(None, &self.origin);
            }
            Some(Ok(to)) => Some(to),
            Some(Err(Unusable::Invalid)) | None => None,
        };
        let visitor = self.visitor(request, now).await;
        let reply = match &visitor.session {
            Some(session) => self.hand_over(session, to.as_ref(), request, now),
            None => self.begin(request, to.as_ref(), now).await,
        };
        reply.unwrap_or_else(internal_error).with(visitor.cookies)
    }

    /// Redirects the browser to the provider.
    pub(super) async fn begin(
        &self,
        request: &PortalRequest,
        to: Option<&Destination>,
        now: SystemTime,
    ) -> Option<Reply> {
        let (browser, cookie) =
            Browser::begin(&self.sessions.sealer, &request.host, &request.headers, now)?;
        let attempt = Attempt {
            id: Id::random().ok()?,
            browser: browser.hash(),
            nonce: random_text::<16>().ok()?,
            verifier: random_text::<32>().ok()?,
            at: seconds(now),
            to: to.map(|to| to.url(&self.origin)),
        };
        let state = self.sessions.sealer.seal(Purpose::State, &request.host, &attempt, now)?;
        let unavailable =
            || Failure::ProviderUnavailable.page(to, &self.origin).with_outcome("provider_away");
        let Some(_slot) = self.slots.acquire(Class::Anonymous, request.client).await else {
            return Some(unavailable());
        };
        let challenge = browser::hash(&attempt.verifier);
        let redirect_uri = self.origin.own("/callback");
        let authorization = AuthorizationRequest {
            redirect_uri: &redirect_uri,
            state: &state,
            nonce: &attempt.nonce,
            challenge: &challenge,
        };
        match self.provider.begin(&authorization).await {
            Ok(url) => {
                Reply::redirect(&url).map(|reply| reply.with([cookie]).with_outcome("begun"))
            }
            Err(error) => {
                if let Some(suppressed) = self.logs.logins.permit(now) {
                    tracing::warn!(%error, suppressed, "failed to start a login");
                }
                Some(unavailable())
            }
        }
    }

    /// Handles the authorization response of the provider. Every reply is a redirect: the code must
    /// not stay in the URL of a page.
    pub(super) async fn callback(&self, request: &PortalRequest, now: SystemTime) -> Reply {
        let parameters = request.parameters();
        let get = |name: &str| parameters.get(name).map(String::as_str);
        let Some(attempt) = get("state").and_then(|state| self.attempt(state, request, now)) else {
            return self.without_attempt(None, request, now);
        };
        let to = attempt.to.as_deref().and_then(|to| Destination::parse(to, &self.origin).ok());
        // Before the provider is asked: a state that is sent many times costs one request to it.
        let until = attempt.at.saturating_add(browser::LASTS.as_secs());
        if !self.used_states.take(&attempt.id, until, now) {
            return self.without_attempt(to.as_ref(), request, now);
        }
        if let Some(error) = get("error") {
            let error: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
            if let Some(suppressed) = self.logs.logins.permit(now) {
                tracing::info!(error, suppressed, "the provider rejected a login");
            }
            return Failure::Refused
                .redirect(to.as_ref(), &self.origin)
                .with_outcome("refused_by_provider");
        }
        let Some(code) = get("code") else {
            return self.without_attempt(to.as_ref(), request, now);
        };
        let Some(_slot) = self.slots.acquire(Class::Anonymous, request.client).await else {
            return Failure::ProviderUnavailable
                .redirect(to.as_ref(), &self.origin)
                .with_outcome("provider_away");
        };
        let redirect_uri = self.origin.own("/callback");
        let response = AuthorizationResponse {
            redirect_uri: &redirect_uri,
            code,
            issuer: get("iss"),
            nonce: &attempt.nonce,
            verifier: &attempt.verifier,
        };
        match self.provider.finish(&response, now).await {
            Ok(person) => {
                self.welcome(person, to.as_ref(), request, now).unwrap_or_else(internal_error)
            }
            Err(error) => {
                if let Some(suppressed) = self.logs.logins.permit(now) {
                    tracing::warn!(%error, suppressed, "failed to complete a login");
                }
                failure(&error).redirect(to.as_ref(), &self.origin).with_outcome(error.label())
            }
        }
    }

    /// Opens the state of a login that this browser began.
    fn attempt(&self, state: &str, request: &PortalRequest, now: SystemTime) -> Option<Attempt> {
        let sealer = &self.sessions.sealer;
        let attempt: Attempt = sealer.open(Purpose::State, &request.host, state)?;
        let browser = Browser::find(sealer, &request.host, &request.headers, now)?;
        let is_fresh = seconds(now).saturating_sub(attempt.at) < browser::LASTS.as_secs();
        (is_fresh && browser.hash() == attempt.browser).then_some(attempt)
    }

    /// Replies to a callback without a login to finish, for example a reloaded one: a user who is
    /// signed in goes on.
    fn without_attempt(
        &self,
        to: Option<&Destination>,
        request: &PortalRequest,
        now: SystemTime,
    ) -> Reply {
        let session = self.session(request, now);
        match session.filter(|session| self.sessions.is_trusted(session, now)) {
            Some(session) => {
                self.hand_over(&session, to, request, now).unwrap_or_else(internal_error)
            }
            None => Failure::BegunElsewhere.redirect(to, &self.origin),
        }
        .with_outcome("begun_elsewhere")
    }

    /// Begins a new session, even if the browser has one.
    fn welcome(
        &self,
        person: Person,
        to: Option<&Destination>,
        request: &PortalRequest,
        now: SystemTime,
    ) -> Option<Reply> {
        let begun = self.sessions.begin(person.user, person.session, now);
        let session = match begun.map(|session| self.fitted(session)) {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to begin a session");
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "failed to begin a session");
                return None;
            }
        };
        tracing::info!(user = %session.user.name, groups = session.user.groups.len(), "logged in");
        let reply = self.hand_over(&session, to, request, now)?;
        Some(
            reply
                .with(self.cookies(&session, person.refresh_token.as_ref(), now))
                .with_outcome("logged_in"),
        )
    }
}

fn failure(error: &ProviderError) -> Failure {
    match error {
        ProviderError::Fetch(_) | ProviderError::Discovery(_) => Failure::ProviderUnavailable,
        ProviderError::NoUser(_) => Failure::NotIdentified,
        _ => Failure::Refused,
    }
}
