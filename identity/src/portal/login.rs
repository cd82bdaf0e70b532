//! Login at the provider, and the callback.

use std::time::SystemTime;

use http::StatusCode;
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use super::browser::{self, Browser};
use super::destination::Destination;
use super::{Portal, PortalRequest, Reply, internal_error, pages};
use crate::provider::{AuthorizationRequest, AuthorizationResponse, Person, ProviderError};
use crate::session::{Purpose, random_text};

/// A login in progress, sealed in the `state` parameter.
#[derive(Serialize, Deserialize)]
struct Attempt {
    /// Hash of the browser that it is bound to.
    browser: String,
    nonce: String,
    /// The PKCE verifier (RFC 7636 §4.1).
    verifier: String,
    at: u64,
    /// Destination after login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// Hash of the browser at the destination's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    there: Option<String>,
}

// === impl Portal ===

impl Portal {
    /// Redirects a user with a session to the destination, and other users to the provider.
    pub(super) async fn login(&self, request: &PortalRequest, now: SystemTime) -> Option<Reply> {
        let mut parameters = request.parameters();
        let to = parameters.get("to").and_then(|to| Destination::parse(to, &self.origin));
        let there = parameters.remove("browser").filter(|hash| hash.len() == 43 && to.is_some());
        let visitor = self.visitor(request, now).await;
        let reply = match &visitor.session {
            Some(session) => self.hand_over(session, to.as_ref(), there.as_deref(), now),
            None => self.begin(request, to.as_ref(), there, now).await,
        };
        Some(reply.unwrap_or_else(internal_error).with(visitor.cookies))
    }

    async fn begin(
        &self,
        request: &PortalRequest,
        to: Option<&Destination>,
        there: Option<String>,
        now: SystemTime,
    ) -> Option<Reply> {
        let (browser, cookie) =
            Browser::begin(&self.sessions.sealer, &request.host, &request.headers, now)?;
        let attempt = Attempt {
            browser: browser.hash(),
            nonce: random_text::<16>().ok()?,
            verifier: random_text::<32>().ok()?,
            at: seconds(now),
            to: to.map(|to| to.url(&self.origin)),
            there,
        };
        let state = self.sessions.sealer.seal(Purpose::State, &request.host, &attempt, now)?;
        let Ok(_permit) = self.at_provider.try_acquire() else {
            return Some(provider_unavailable());
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
                tracing::warn!(%error, "failed to start a login");
                Some(provider_unavailable())
            }
        }
    }

    /// Handles the authorization response of the provider.
    pub(super) async fn callback(&self, request: &PortalRequest, now: SystemTime) -> Reply {
        let parameters = request.parameters();
        let get = |name: &str| parameters.get(name).map(String::as_str);
        let attempt = get("state").and_then(|state| {
            self.sessions.sealer.open::<Attempt>(Purpose::State, &request.host, state)
        });
        let browser = Browser::find(&self.sessions.sealer, &request.host, &request.headers, now);
        let is_fresh =
            |attempt: &Attempt| seconds(now).saturating_sub(attempt.at) < browser::LASTS.as_secs();
        let is_same =
            |attempt: &Attempt| browser.is_some_and(|browser| browser.hash() == attempt.browser);
        let Some(attempt) = attempt.filter(is_fresh).filter(is_same) else {
            return begun_elsewhere();
        };
        if let Some(error) = get("error") {
            let error: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
            tracing::info!(error, "the provider rejected a login");
            return refused(&attempt).with_outcome("refused_by_provider");
        }
        let Some(code) = get("code") else { return begun_elsewhere() };
        let Ok(_permit) = self.at_provider.try_acquire() else { return provider_unavailable() };
        let redirect_uri = self.origin.own("/callback");
        let response = AuthorizationResponse {
            redirect_uri: &redirect_uri,
            code,
            issuer: get("iss"),
            nonce: &attempt.nonce,
            verifier: &attempt.verifier,
        };
        match self.provider.finish(&response, now).await {
            Ok(person) => self.welcome(person, &attempt, now).unwrap_or_else(internal_error),
            Err(error) => {
                tracing::warn!(%error, "failed to complete a login");
                failed(&error, &attempt).with_outcome(error.label())
            }
        }
    }

    /// Begins a new session, even if the browser has one.
    fn welcome(&self, person: Person, attempt: &Attempt, now: SystemTime) -> Option<Reply> {
        let session = match self.sessions.begin(person.user, person.session, now) {
            Ok(session) => session,
            Err(error) => {
                tracing::warn!(%error, "failed to begin a session");
                return None;
            }
        };
        tracing::info!(user = %session.user.name, groups = session.user.groups.len(), "logged in");
        let to = attempt.to.as_deref().and_then(|to| Destination::parse(to, &self.origin));
        let reply = self.hand_over(&session, to.as_ref(), attempt.there.as_deref(), now)?;
        Some(
            reply
                .with(self.cookies(&session, person.refresh_token.as_ref(), now))
                .with_outcome("logged_in"),
        )
    }
}

/// The URL that retries the same login.
fn retry_url(attempt: &Attempt) -> String {
    match &attempt.to {
        Some(to) => format!(
            "/login?to={}",
            form_urlencoded::byte_serialize(to.as_bytes()).collect::<String>()
        ),
        None => "/login".to_owned(),
    }
}

fn provider_unavailable() -> Reply {
    let text = "The identity provider cannot be reached. Users who are signed in stay signed in.";
    Reply::page(
        StatusCode::SERVICE_UNAVAILABLE,
        pages::message("Sign-in is not available", text, Some(("/login", "Try again"))),
    )
    .with_outcome("provider_away")
}

fn begun_elsewhere() -> Reply {
    let text = "This sign-in took too long, or was started in another browser.";
    Reply::page(
        StatusCode::BAD_REQUEST,
        pages::message("You are not signed in", text, Some(("/login", "Sign in"))),
    )
    .with_outcome("begun_elsewhere")
}

fn refused(attempt: &Attempt) -> Reply {
    let text = "The identity provider did not sign you in.";
    Reply::page(
        StatusCode::FORBIDDEN,
        pages::message("You are not signed in", text, Some((&retry_url(attempt), "Try again"))),
    )
}

fn failed(error: &ProviderError, attempt: &Attempt) -> Reply {
    match error {
        ProviderError::Fetch(_) | ProviderError::Discovery(_) => provider_unavailable(),
        ProviderError::NoUser(_) => {
            let text = "The identity provider does not identify you as required here, for example \
                        by a verified e-mail address.";
            Reply::page(
                StatusCode::FORBIDDEN,
                pages::message(
                    "You are not signed in",
                    text,
                    Some((&retry_url(attempt), "Try again")),
                ),
            )
        }
        _ => refused(attempt),
    }
}
