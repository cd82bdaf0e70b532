//! Logging in at the provider, and coming back.

use std::time::SystemTime;

use http::StatusCode;
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use super::browser::{self, Browser};
use super::destination::Destination;
use super::{Ask, Portal, Reply, defect, pages};
use crate::provider::{Person, ProviderError, Returned, Sent};
use crate::session::{Purpose, random_text};

/// A login that is under way. It travels as the `state`, sealed.
#[derive(Serialize, Deserialize)]
struct Attempt {
    /// The hash of the browser that it is for.
    browser: String,
    nonce: String,
    /// PKCE's (RFC 7636 §4.1).
    verifier: String,
    at: u64,
    /// Where she wanted to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// By which that host knows the browser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    there: Option<String>,
}

// === impl Portal ===

impl Portal {
    /// Sends a visitor to where she wants to be if she has a session, and else to the provider.
    pub(super) async fn login(&self, ask: &Ask, now: SystemTime) -> Option<Reply> {
        let mut parameters = ask.parameters();
        let to = parameters.get("to").and_then(|to| Destination::parse(to, &self.place));
        let there = parameters.remove("browser").filter(|hash| hash.len() == 43 && to.is_some());
        let visitor = self.visitor(ask, now).await;
        let reply = match &visitor.session {
            Some(session) => self.hand_over(session, to.as_ref(), there.as_deref(), now),
            None => self.begin(ask, to.as_ref(), there, now).await,
        };
        Some(reply.unwrap_or_else(defect).with(visitor.cookies))
    }

    async fn begin(
        &self,
        ask: &Ask,
        to: Option<&Destination>,
        there: Option<String>,
        now: SystemTime,
    ) -> Option<Reply> {
        let (browser, cookie) =
            Browser::begin(&self.sessions.sealer, &ask.host, &ask.headers, now)?;
        let attempt = Attempt {
            browser: browser.hash(),
            nonce: random_text::<16>().ok()?,
            verifier: random_text::<32>().ok()?,
            at: seconds(now),
            to: to.map(|to| to.url(&self.place)),
            there,
        };
        let state = self.sessions.sealer.seal(Purpose::State, &ask.host, &attempt, now)?;
        let Ok(_place) = self.at_provider.try_acquire() else { return Some(away()) };
        let challenge = browser::hash(&attempt.verifier);
        let redirect_uri = self.place.own("/callback");
        let sent = Sent {
            redirect_uri: &redirect_uri,
            state: &state,
            nonce: &attempt.nonce,
            challenge: &challenge,
        };
        match self.provider.begin(&sent).await {
            Ok(url) => Reply::redirect(&url).map(|reply| reply.with([cookie]).told("begun")),
            Err(error) => {
                tracing::warn!(%error, "nobody can log in");
                Some(away())
            }
        }
    }

    /// A visitor comes back from the provider.
    pub(super) async fn callback(&self, ask: &Ask, now: SystemTime) -> Reply {
        let parameters = ask.parameters();
        let get = |name: &str| parameters.get(name).map(String::as_str);
        let attempt = get("state").and_then(|state| {
            self.sessions.sealer.open::<Attempt>(Purpose::State, &ask.host, state)
        });
        let browser = Browser::find(&self.sessions.sealer, &ask.host, &ask.headers, now);
        let is_fresh =
            |attempt: &Attempt| seconds(now).saturating_sub(attempt.at) < browser::LASTS.as_secs();
        let is_same =
            |attempt: &Attempt| browser.is_some_and(|browser| browser.hash() == attempt.browser);
        let Some(attempt) = attempt.filter(is_fresh).filter(is_same) else {
            return begun_elsewhere();
        };
        if let Some(error) = get("error") {
            let error: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
            tracing::info!(error, "the provider did not log somebody in");
            return refused(&attempt).told("refused_by_provider");
        }
        let Some(code) = get("code") else { return begun_elsewhere() };
        let Ok(_place) = self.at_provider.try_acquire() else { return away() };
        let redirect_uri = self.place.own("/callback");
        let returned = Returned {
            redirect_uri: &redirect_uri,
            code,
            issuer: get("iss"),
            nonce: &attempt.nonce,
            verifier: &attempt.verifier,
        };
        match self.provider.finish(&returned, now).await {
            Ok(person) => self.welcome(person, &attempt, now).unwrap_or_else(defect),
            Err(error) => {
                tracing::warn!(%error, "somebody could not log in");
                failed(&error, &attempt).told(error.word())
            }
        }
    }

    /// A session begins: a new one, whatever the browser had before.
    fn welcome(&self, person: Person, attempt: &Attempt, now: SystemTime) -> Option<Reply> {
        let session = match self.sessions.begin(person.user, person.session, now) {
            Ok(session) => session,
            Err(error) => {
                tracing::warn!(%error, "somebody could not log in");
                return None;
            }
        };
        tracing::info!(user = %session.user.name, groups = session.user.groups.len(), "logged in");
        let to = attempt.to.as_deref().and_then(|to| Destination::parse(to, &self.place));
        let reply = self.hand_over(&session, to.as_ref(), attempt.there.as_deref(), now)?;
        Some(
            reply
                .with(self.cookies(&session, person.refresh_token.as_ref(), now))
                .told("logged_in"),
        )
    }
}

/// Where the same login can be tried anew.
fn again(attempt: &Attempt) -> String {
    match &attempt.to {
        Some(to) => format!(
            "/login?to={}",
            form_urlencoded::byte_serialize(to.as_bytes()).collect::<String>()
        ),
        None => "/login".to_owned(),
    }
}

fn away() -> Reply {
    let text = "The identity provider cannot be reached. Who is signed in already stays so.";
    Reply::page(
        StatusCode::SERVICE_UNAVAILABLE,
        pages::message("Signing in is not possible now", text, Some(("/login", "Try again"))),
    )
    .told("provider_away")
}

fn begun_elsewhere() -> Reply {
    let text = "This sign-in took too long, or was begun in another browser.";
    Reply::page(
        StatusCode::BAD_REQUEST,
        pages::message("You are not signed in", text, Some(("/login", "Sign in"))),
    )
    .told("begun_elsewhere")
}

fn refused(attempt: &Attempt) -> Reply {
    let text = "The identity provider did not sign you in.";
    Reply::page(
        StatusCode::FORBIDDEN,
        pages::message("You are not signed in", text, Some((&again(attempt), "Try again"))),
    )
}

fn failed(error: &ProviderError, attempt: &Attempt) -> Reply {
    match error {
        ProviderError::Fetch(_) | ProviderError::Discovery(_) => away(),
        ProviderError::Nobody(_) => {
            let text = "The identity provider does not say who you are in the way that is needed \
                        here, such as by a verified e-mail address.";
            Reply::page(
                StatusCode::FORBIDDEN,
                pages::message("You are not signed in", text, Some((&again(attempt), "Try again"))),
            )
        }
        _ => refused(attempt),
    }
}
