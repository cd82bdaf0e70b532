//! The login portal: a host of its own that hands sessions to the hosts of services.
//!
//! | step | where | module |
//! | --- | --- | --- |
//! | a user without a session on a service's host follows the login link of the hidden answer | `/.well-known/portcullis/login` of that host, of any host | [`handoff`] |
//! | without a session at the portal, the user is redirected to the provider | `/login` | [`login`] |
//! | the provider redirects back, and a session begins at the portal | `/callback` | [`login`] |
//! | a single-use code takes the session to the service's host | `/.well-known/portcullis/session` of that host | [`handoff`] |
//! | the user sees the services that they may use | `/` | [`home`] |
//! | the user signs out, or the provider revokes sessions | `/logout`, `/backchannel-logout` | [`logout`] |
//!
//! Both redirects are bound to one browser by a cookie ([`browser`]): a link or code from elsewhere
//! logs nobody in. Everything runs on the control runtime; workers send requests by a bounded queue
//! ([`portal_client`]).

mod browser;
mod destination;
mod handoff;
mod home;
mod login;
mod logout;
mod pages;
mod portal_client;
mod portal_origin;
mod portal_paths;
mod refresh_single_flight;
mod reply;
mod sign_out_limiter;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::settings::access::LoginSettings;
use portcullis_config::unix_time::seconds;
use tokio::sync::Semaphore;

use self::handoff::UsedCodes;
pub use self::handoff::login_path;
pub use self::portal_client::PortalClient;
use self::portal_origin::PortalOrigin;
pub use self::portal_paths::PortalPaths;
use self::refresh_single_flight::RefreshSingleFlight;
pub use self::reply::Reply;
use self::sign_out_limiter::SignOutLimiter;
use crate::authenticator::Authenticator;
use crate::provider::{Provider, RefreshToken, UnusableProvider};
use crate::session::cookie::{PORTAL, REFRESH};
use crate::session::{Purpose, Revoked, Session, Sessions};

/// Maximum size of a request body, in octets.
pub const MAX_BODY: usize = 16 * 1024;

/// Maximum number of concurrent provider requests for logins: fewer than the portal serves of one
/// client, so that a slow provider does not block requests that do not need it.
const AT_PROVIDER: usize = 32;
/// The same for users with a session; users without one cannot take these slots.
const AT_PROVIDER_WITH_SESSION: usize = 16;

/// The login portal.
pub struct Portal {
    origin: PortalOrigin,
    sessions: Arc<Sessions>,
    provider: Provider,
    live: Arc<Live>,
    used: UsedCodes,
    refreshes: RefreshSingleFlight,
    sign_outs: SignOutLimiter,
    at_provider: Semaphore,
    at_provider_with_session: Semaphore,
}

/// A request to the portal, or to one of its paths on another host.
#[derive(Debug)]
pub struct PortalRequest {
    /// The method.
    pub method: Method,
    /// In lower case, without port.
    pub host: Box<str>,
    /// Starts with `/`.
    pub path: Box<str>,
    /// Without `?`; empty if there is none.
    pub query: Box<str>,
    /// The request headers.
    pub headers: HeaderMap,
    /// At most [`MAX_BODY`] octets.
    pub body: Bytes,
}

/// The user at the portal, and the cookies to set.
#[derive(Default)]
struct Visitor {
    session: Option<Session>,
    cookies: Vec<HeaderValue>,
}

// === impl Portal ===

impl Portal {
    /// Creates the portal.
    ///
    /// # Errors
    /// The configured provider does not exist or cannot be used.
    pub fn new(
        settings: &Settings,
        login: &LoginSettings,
        authenticator: &Authenticator,
        sessions: Arc<Sessions>,
        live: Arc<Live>,
    ) -> Result<Self, UnusableProvider> {
        let provider = Provider::new(login, authenticator)?;
        Ok(Self {
            origin: PortalOrigin::new(&settings.zone, login),
            sessions,
            provider,
            live,
            used: UsedCodes::default(),
            refreshes: RefreshSingleFlight::default(),
            sign_outs: SignOutLimiter::default(),
            at_provider: Semaphore::new(AT_PROVIDER),
            at_provider_with_session: Semaphore::new(AT_PROVIDER_WITH_SESSION),
        })
    }

    /// Handles a request; `None` stands for the hidden answer.
    pub async fn respond(&self, request: &PortalRequest, now: SystemTime) -> Option<Reply> {
        if !self.origin.is_portal(&request.host) {
            return match (&request.method, &*request.path) {
                (&Method::GET, handoff::LOGIN) => self.begin_handoff(request, now),
                (&Method::GET, handoff::SESSION) => self.finish_handoff(request, now),
                _ => None,
            };
        }
        let is_read = matches!(request.method, Method::GET | Method::HEAD);
        match &*request.path {
            "/" if is_read => Some(self.home(request, now).await),
            "/login" if is_read => self.login(request, now).await,
            "/callback" if request.method == Method::GET => Some(self.callback(request, now).await),
            "/logout" if is_read => Some(self.ask_to_sign_out(request, now)),
            "/logout" if request.method == Method::POST => Some(self.sign_out(request, now).await),
            "/backchannel-logout" if request.method == Method::POST => {
                Some(self.backchannel_logout(request, now).await)
            }
            "/" | "/login" | "/callback" => Some(Reply::not_allowed("GET")),
            "/logout" => Some(Reply::not_allowed("GET, POST")),
            "/backchannel-logout" => Some(Reply::not_allowed("POST")),
            _ => None,
        }
    }

    /// Returns the visitor's session if it is valid, refreshed at the provider when that is due.
    async fn visitor(&self, request: &PortalRequest, now: SystemTime) -> Visitor {
        let Some(session) = self.session(request, now) else { return Visitor::default() };
        let asked = match self.refresh_token(request, &session).filter(|_| session.is_stale(now)) {
            Some(token) => self.refresh(&session, &token, now).await,
            None => None,
        };
        match asked {
            Some(visitor) => visitor,
            None => match self.sessions.renewed(&session, now) {
                Some(renewed) => Visitor {
                    cookies: self.portal_cookie(&renewed, now).into_iter().collect(),
                    session: Some(renewed),
                },
                None => Visitor { session: Some(session), cookies: Vec::new() },
            },
        }
    }

    /// Refreshes a session at the provider; `None` if that fails or is in progress already.
    async fn refresh(
        &self,
        session: &Session,
        token: &RefreshToken,
        now: SystemTime,
    ) -> Option<Visitor> {
        let lock = self.refreshes.lock(&session.id);
        let mut last = lock.try_lock().ok()?;
        let _permit = self.at_provider_with_session.try_acquire().ok()?;
        if let Some((renewed, token)) = last.as_ref().filter(|(renewed, _)| !renewed.is_stale(now))
        {
            return Some(Visitor {
                cookies: self.cookies(renewed, token.as_ref(), now),
                session: Some(renewed.clone()),
            });
        }
        match self.provider.refresh(&session.user.subject, token, now).await {
            Ok(person) => {
                let at = seconds(now);
                let renewed = Session {
                    user: person.user.into(),
                    asked_at: at,
                    renewed_at: at,
                    ..session.clone()
                }
                .fitted()
                .ok()?;
                let cookies = self.cookies(&renewed, person.refresh_token.as_ref(), now);
                *last = Some((renewed.clone(), person.refresh_token));
                Some(Visitor { session: Some(renewed), cookies })
            }
            Err(error) if error.is_final() => {
                tracing::info!(user = %session.user.name, %error, "revoked a session: the provider no longer confirms its user");
                self.sessions.revoke(Revoked::Session(&session.id), now).await;
                Some(Visitor { session: None, cookies: clear_cookies() })
            }
            Err(error) => {
                tracing::warn!(user = %session.user.name, %error, "failed to refresh a user at the provider: the session stays valid");
                None
            }
        }
    }

    fn session(&self, request: &PortalRequest, now: SystemTime) -> Option<Session> {
        self.sessions.open(Purpose::Portal, &request.host, PORTAL.find(&request.headers)?, now)
    }

    fn refresh_token(&self, request: &PortalRequest, session: &Session) -> Option<RefreshToken> {
        let sealed: (Box<str>, RefreshToken) = self.sessions.sealer.open(
            Purpose::Refresh,
            &request.host,
            REFRESH.find(&request.headers)?,
        )?;
        (*sealed.0 == *session.id.expose()).then_some(sealed.1)
    }

    /// Returns the cookies of a session on the portal's own host.
    fn cookies(
        &self,
        session: &Session,
        token: Option<&RefreshToken>,
        now: SystemTime,
    ) -> Vec<HeaderValue> {
        let token = token.and_then(|token| {
            let sealed = self.sessions.sealer.seal(
                Purpose::Refresh,
                &self.origin.host,
                &(session.id.expose(), token),
                now,
            )?;
            // Browsers store no larger cookie; without it the session is not refreshed.
            if sealed.len() <= 3584 {
                REFRESH.set(&sealed, self.sessions.cookie_max_age(session, now))
            } else {
                None
            }
        });
        self.portal_cookie(session, now).into_iter().chain(token).collect()
    }

    fn portal_cookie(&self, session: &Session, now: SystemTime) -> Option<HeaderValue> {
        let sealed = self.sessions.seal(Purpose::Portal, &self.origin.host, session, now)?;
        PORTAL.set(&sealed, self.sessions.cookie_max_age(session, now))
    }
}

/// Returns the `Set-Cookie`s that remove the portal's cookies.
fn clear_cookies() -> Vec<HeaderValue> {
    [PORTAL.clear(), REFRESH.clear()].into_iter().flatten().collect()
}

// === impl PortalRequest ===

impl PortalRequest {
    /// Returns the query parameters; the first of each name counts.
    fn parameters(&self) -> HashMap<String, String> {
        parameters(self.query.as_bytes())
    }

    /// Returns the fields of a posted form.
    fn form(&self) -> HashMap<String, String> {
        let is_form = self
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        if is_form { parameters(&self.body) } else { HashMap::new() }
    }
}

fn parameters(text: &[u8]) -> HashMap<String, String> {
    let mut all = HashMap::new();
    for (name, value) in form_urlencoded::parse(text).take(32) {
        all.entry(name.into_owned()).or_insert_with(|| value.into_owned());
    }
    all
}

/// The system returned no random numbers, or a value cannot be sealed.
fn internal_error() -> Reply {
    Reply::page(
        StatusCode::INTERNAL_SERVER_ERROR,
        pages::message("Internal error", "Signing in is not possible at the moment.", None),
    )
}

#[cfg(test)]
mod tests;
