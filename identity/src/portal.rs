//! Where people log in: a host of its own, from which a session is handed to the hosts of services.
//!
//! | step | where | module |
//! | --- | --- | --- |
//! | somebody asks for a service, has no session there, and follows the link of the hidden answer | `/.well-known/portcullis/login` of that host, of any host | [`handoff`] |
//! | she has no session at the portal either, and is sent to the provider | `/login` | [`login`] |
//! | she comes back from the provider: a session begins at the portal | `/callback` | [`login`] |
//! | a single-use code takes the session to the host that she came from | `/.well-known/portcullis/session` of that host | [`handoff`] |
//! | she sees what she may use | `/` | [`home`] |
//! | she signs out, or the provider says that she has | `/logout`, `/backchannel-logout` | [`logout`] |
//!
//! Both ends of each journey are bound to one browser by a cookie ([`browser`]): a link or a code
//! from elsewhere logs nobody in. Everything runs on the control runtime; workers ask by a bounded
//! queue ([`reception`]).

mod browser;
mod destination;
mod handoff;
mod home;
mod login;
mod logout;
mod pages;
mod portal_client;
mod portal_origin;
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
pub use self::portal_client::Reception;
use self::portal_origin::Place;
use self::refresh_single_flight::Asking;
pub use self::reply::Reply;
use self::sign_out_limiter::Often;
use crate::authenticator::Authenticator;
use crate::provider::{Provider, RefreshToken, UnusableProvider};
use crate::session::cookie::{PORTAL, REFRESH};
use crate::session::{Purpose, Revoked, Session, Sessions};

/// The largest body of a request to the portal, in octets.
pub const MAX_BODY: usize = 16 * 1024;

/// Questions to the provider at a time about people who log in: fewer than the portal answers
/// requests of one client, so that a provider that is slow holds up nobody who needs it not.
const AT_PROVIDER: usize = 32;
/// The same about people who have a session: whoever has none cannot take their places.
const AT_PROVIDER_WITH_SESSION: usize = 16;

/// Where people log in.
pub struct Portal {
    place: Place,
    sessions: Arc<Sessions>,
    provider: Provider,
    live: Arc<Live>,
    used: UsedCodes,
    asking: Asking,
    often: Often,
    at_provider: Semaphore,
    at_provider_with_session: Semaphore,
}

/// A request to it, or to one of its paths on another host.
#[derive(Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Lower case, without port.
    pub host: Box<str>,
    /// Begins with `/`.
    pub path: Box<str>,
    /// Without `?`; empty where there is none.
    pub query: Box<str>,
    /// The fields as they came.
    pub headers: HeaderMap,
    /// At most [`MAX_BODY`].
    pub body: Bytes,
}

/// Who is at the portal, and the cookies by which she will be from now on.
#[derive(Default)]
struct Visitor {
    session: Option<Session>,
    cookies: Vec<HeaderValue>,
}

// === impl Portal ===

impl Portal {
    /// # Errors
    /// The provider that the settings name is not there or cannot be used.
    pub fn new(
        settings: &Settings,
        login: &LoginSettings,
        authenticator: &Authenticator,
        sessions: Arc<Sessions>,
        live: Arc<Live>,
    ) -> Result<Self, UnusableProvider> {
        let provider = Provider::new(login, authenticator)?;
        Ok(Self {
            place: Place::new(&settings.zone, login),
            sessions,
            provider,
            live,
            used: UsedCodes::default(),
            asking: Asking::default(),
            often: Often::default(),
            at_provider: Semaphore::new(AT_PROVIDER),
            at_provider_with_session: Semaphore::new(AT_PROVIDER_WITH_SESSION),
        })
    }

    /// Answers; `None` stands for the hidden answer.
    pub async fn respond(&self, ask: &Ask, now: SystemTime) -> Option<Reply> {
        if !self.place.is_portal(&ask.host) {
            return match (&ask.method, &*ask.path) {
                (&Method::GET, handoff::LOGIN) => self.begin_handoff(ask, now),
                (&Method::GET, handoff::SESSION) => self.finish_handoff(ask, now),
                _ => None,
            };
        }
        let is_read = matches!(ask.method, Method::GET | Method::HEAD);
        match &*ask.path {
            "/" if is_read => Some(self.home(ask, now).await),
            "/login" if is_read => self.login(ask, now).await,
            "/callback" if ask.method == Method::GET => Some(self.callback(ask, now).await),
            "/logout" if is_read => Some(self.ask_to_sign_out(ask, now)),
            "/logout" if ask.method == Method::POST => Some(self.sign_out(ask, now).await),
            "/backchannel-logout" if ask.method == Method::POST => {
                Some(self.backchannel_logout(ask, now).await)
            }
            "/" | "/login" | "/callback" => Some(Reply::not_allowed("GET")),
            "/logout" => Some(Reply::not_allowed("GET, POST")),
            "/backchannel-logout" => Some(Reply::not_allowed("POST")),
            _ => None,
        }
    }

    /// The visitor's session, if it holds; the provider is asked about her when that is due.
    async fn visitor(&self, ask: &Ask, now: SystemTime) -> Visitor {
        let Some(session) = self.session(ask, now) else { return Visitor::default() };
        let asked = match self.refresh_token(ask, &session).filter(|_| session.is_stale(now)) {
            Some(token) => self.ask_again(&session, &token, now).await,
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

    /// What the provider says of her now; `None` where it says nothing, or is asked about her
    /// already.
    async fn ask_again(
        &self,
        session: &Session,
        token: &RefreshToken,
        now: SystemTime,
    ) -> Option<Visitor> {
        let turn = self.asking.turn(&session.id);
        let mut said = turn.try_lock().ok()?;
        let _place = self.at_provider_with_session.try_acquire().ok()?;
        if let Some((renewed, token)) = said.as_ref().filter(|(renewed, _)| !renewed.is_stale(now))
        {
            return Some(Visitor {
                cookies: self.cookies(renewed, token.as_ref(), now),
                session: Some(renewed.clone()),
            });
        }
        match self.provider.again(&session.user.subject, token, now).await {
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
                *said = Some((renewed.clone(), person.refresh_token));
                Some(Visitor { session: Some(renewed), cookies })
            }
            Err(error) if error.is_final() => {
                tracing::info!(user = %session.user.name, %error, "a session ends: the provider does not vouch for its user any more");
                self.sessions.end(Revoked::Session(&session.id), now).await;
                Some(Visitor { session: None, cookies: gone() })
            }
            Err(error) => {
                tracing::warn!(user = %session.user.name, %error, "the provider could not be asked about a user: her session goes on");
                None
            }
        }
    }

    fn session(&self, ask: &Ask, now: SystemTime) -> Option<Session> {
        self.sessions.open(Purpose::Portal, &ask.host, PORTAL.find(&ask.headers)?, now)
    }

    fn refresh_token(&self, ask: &Ask, session: &Session) -> Option<RefreshToken> {
        let sealed: (Box<str>, RefreshToken) =
            self.sessions.sealer.open(Purpose::Refresh, &ask.host, REFRESH.find(&ask.headers)?)?;
        (*sealed.0 == *session.id.expose()).then_some(sealed.1)
    }

    /// The cookies of a session on the portal's own host.
    fn cookies(
        &self,
        session: &Session,
        token: Option<&RefreshToken>,
        now: SystemTime,
    ) -> Vec<HeaderValue> {
        let token = token.and_then(|token| {
            let sealed = self.sessions.sealer.seal(
                Purpose::Refresh,
                &self.place.host,
                &(session.id.expose(), token),
                now,
            )?;
            // Browsers keep no larger one; without it the provider is just not asked.
            if sealed.len() <= 3584 {
                REFRESH.set(&sealed, self.sessions.lasts(session, now))
            } else {
                None
            }
        });
        self.portal_cookie(session, now).into_iter().chain(token).collect()
    }

    fn portal_cookie(&self, session: &Session, now: SystemTime) -> Option<HeaderValue> {
        let sealed = self.sessions.seal(Purpose::Portal, &self.place.host, session, now)?;
        PORTAL.set(&sealed, self.sessions.lasts(session, now))
    }
}

/// What the portal does with a request, if it is for it, and with which status: as far as can be
/// told without its cookies and the provider.
pub fn outlook(
    zone: &str,
    login: &LoginSettings,
    host: &str,
    path: &str,
) -> Option<(&'static str, u16)> {
    if Place::new(zone, login).is_portal(host) {
        return Some(match path {
            "/" | "/logout" => ("the portal, where people log in, answers", 200),
            "/login" => ("the portal sends whoever has no session to the provider", 303),
            "/callback" | "/backchannel-logout" => {
                ("the portal takes only what the provider sends here", 400)
            }
            _ => ("the portal has no such page", 404),
        });
    }
    match path {
        handoff::LOGIN => Some(("on every host, a login begins here", 303)),
        handoff::SESSION => Some((
            "on every host, a login ends here with a code of the portal's, and without one there \
             is nothing",
            404,
        )),
        _ => None,
    }
}

/// Takes the portal's cookies away.
fn gone() -> Vec<HeaderValue> {
    [PORTAL.clear(), REFRESH.clear()].into_iter().flatten().collect()
}

// === impl Ask ===

impl Ask {
    /// The parameters of the query; of several of one name the first counts.
    fn parameters(&self) -> HashMap<String, String> {
        parameters(self.query.as_bytes())
    }

    /// The fields of a posted form.
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

/// That the system gives no random numbers, or a value cannot be sealed.
fn defect() -> Reply {
    Reply::page(
        StatusCode::INTERNAL_SERVER_ERROR,
        pages::message("Something is broken", "Nobody can sign in at the moment.", None),
    )
}

#[cfg(test)]
mod tests;
