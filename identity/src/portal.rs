//! The login portal: a host of its own that hands sessions to the hosts of services.
//!
//! | step | where | module |
//! | --- | --- | --- |
//! | a user without a session on a service's host follows the login link of the hidden answer | `/.well-known/portcullis/login` of that host, of any host | [`handoff`] |
//! | without a session at the portal, the user is redirected to the provider | `/login` | [`login`] |
//! | the provider redirects back, and a session begins at the portal | `/callback` | [`login`] |
//! | the portal and the service's host prove that they see the same browser | `/.well-known/portcullis/login` of that host, `/handoff` | [`handoff`] |
//! | a single-use code takes the session to the service's host | `/.well-known/portcullis/session` of that host | [`handoff`] |
//! | a step failed | `/sign-in-failed` | [`failure`] |
//! | the provider confirms users again | `/`, `/login` | [`revalidation`] |
//! | the user sees the services that they may use | `/` | [`home`] |
//! | the user signs out, or the provider revokes sessions | `/logout`, `/backchannel-logout` | [`logout`] |
//!
//! Both redirects are bound to one browser by a cookie ([`browser`]): a link or code from elsewhere
//! logs nobody in. Everything runs on the control runtime; workers send requests by a bounded queue
//! ([`portal_client`]).

mod browser;
mod destination;
mod failure;
mod granted_groups;
mod handoff;
mod home;
mod login;
mod logout;
mod pages;
mod portal_client;
mod portal_origin;
mod portal_paths;
mod provider_slots;
mod refresh_single_flight;
mod reply;
mod revalidation;
mod sign_out_limiter;
mod single_use;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::settings::access::LoginSettings;

use self::failure::Failure;
pub use self::handoff::{login_path, revalidation_path};
pub use self::portal_client::PortalClient;
use self::portal_origin::PortalOrigin;
pub use self::portal_paths::PortalPaths;
use self::provider_slots::ProviderSlots;
use self::refresh_single_flight::RefreshSingleFlight;
pub use self::reply::Reply;
use self::sign_out_limiter::SignOutLimiter;
use self::single_use::SingleUse;
use crate::authenticator::Authenticator;
use crate::client_network::ClientNetwork;
use crate::log_limiter::LogLimiter;
use crate::provider::{Provider, UnusableProvider};
use crate::session::Sessions;
use crate::session::cookie::{PORTAL, REFRESH};

/// Maximum size of a request body, in octets.
pub const MAX_BODY: usize = 16 * 1024;

/// The login portal.
pub struct Portal {
    origin: PortalOrigin,
    sessions: Arc<Sessions>,
    provider: Provider,
    live: Arc<Live>,
    used_states: SingleUse,
    used_codes: SingleUse,
    refreshes: RefreshSingleFlight,
    sign_outs: SignOutLimiter,
    slots: ProviderSlots,
    logs: Logs,
}

/// Limits the log lines of each kind that anyone can cause.
#[derive(Default)]
struct Logs {
    logins: LogLimiter,
    refreshes: LogLimiter,
    logout_tokens: LogLimiter,
}

/// A request to the portal, or to one of its paths on another host.
#[derive(Debug)]
pub struct PortalRequest {
    /// The client, for fairness.
    pub client: ClientNetwork,
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
            used_states: SingleUse::default(),
            used_codes: SingleUse::default(),
            refreshes: RefreshSingleFlight::default(),
            sign_outs: SignOutLimiter::default(),
            slots: ProviderSlots::new(),
            logs: Logs::default(),
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
            "/login" if is_read => Some(self.login(request, now).await),
            "/callback" if request.method == Method::GET => Some(self.callback(request, now).await),
            handoff::HANDOFF if request.method == Method::GET => {
                Some(self.hand_out_code(request, now).await)
            }
            failure::PATH if is_read => self.sign_in_failed(request),
            "/logout" if is_read => Some(self.ask_to_sign_out(request, now)),
            "/logout" if request.method == Method::POST => Some(self.sign_out(request, now).await),
            "/backchannel-logout" if request.method == Method::POST => {
                Some(self.backchannel_logout(request, now).await)
            }
            // A provider that redirects a form by 307 has the browser post to a URL with a code.
            "/callback" | handoff::HANDOFF if !request.query.is_empty() => {
                Some(Failure::BegunElsewhere.redirect(None, &self.origin))
            }
            "/" | "/login" | "/callback" | handoff::HANDOFF | failure::PATH => {
                Some(Reply::not_allowed("GET"))
            }
            "/logout" => Some(Reply::not_allowed("GET, POST")),
            "/backchannel-logout" => Some(Reply::not_allowed("POST")),
            _ => None,
        }
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
