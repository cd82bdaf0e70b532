//! Hands a session from the portal to the host of a service.
//!
//! The host binds the browser by a cookie of its own before the portal is asked, and the code that
//! the portal gives holds for that host, that browser and a minute, once. It is the same on every
//! host: whether there is a service shows only afterwards, to those who may know.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use super::browser::Browser;
use super::destination::{Destination, local};
use super::{Ask, Portal, Reply};
use crate::session::cookie;
use crate::session::{Id, Purpose, Session};

/// Where a login begins on every host.
pub(super) const LOGIN: &str = "/.well-known/portcullis/login";
/// Where it comes back to.
pub(super) const SESSION: &str = "/.well-known/portcullis/session";
const PREFIX: &str = "/.well-known/portcullis/";
/// How long a code holds, in seconds.
const LASTS: u64 = 60;
/// The most codes of the last minute that are remembered; further ones are not accepted until there
/// is room.
const MAX_USED: usize = 64 * 1024;

/// A session on its way.
#[derive(Serialize, Deserialize)]
struct Code {
    id: Id,
    /// The hash of the browser that it is for.
    browser: String,
    to: String,
    until: u64,
    session: Session,
}

/// Codes that were used, until they end by themselves. Those that another replica has seen are not
/// among them: there, for the rest of its minute, a code holds once more in the browser that it was
/// for, which has the session already.
#[derive(Default)]
pub(super) struct UsedCodes(Mutex<HashMap<Id, u64>>);

/// The path on any host where a login begins that comes back to `path`, a path with its query.
pub fn login_path(path: &str) -> String {
    // Nobody comes back to a step on her way.
    let to = local(path).filter(|path| !path.starts_with(PREFIX)).unwrap_or("/");
    format!("{LOGIN}?to={}", form_urlencoded::byte_serialize(to.as_bytes()).collect::<String>())
}

/// Whether a path is one of those that are the same on every host.
pub(super) fn is_everywhere(path: &str) -> bool {
    matches!(path, LOGIN | SESSION)
}

// === impl Portal ===

impl Portal {
    /// On the host of a service: binds the browser, and sends it to the portal.
    pub(super) fn begin_handoff(&self, ask: &Ask, now: SystemTime) -> Option<Reply> {
        let parameters = ask.parameters();
        let path = parameters
            .get("to")
            .and_then(|path| local(path))
            .filter(|path| !path.starts_with(PREFIX))
            .unwrap_or("/");
        let (browser, cookie) =
            Browser::begin(&self.sessions.sealer, &ask.host, &ask.headers, now)?;
        let to = self.place.url(&ask.host, path);
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("to", &to)
            .append_pair("browser", &browser.hash())
            .finish();
        Reply::redirect(&self.place.own(&format!("/login?{query}")))
            .map(|reply| reply.with([cookie]))
    }

    /// At the portal: sends a person with a session to where she wants to be, by way of that host
    /// where it has not bound her browser yet.
    pub(super) fn hand_over(
        &self,
        session: &Session,
        to: Option<&Destination>,
        browser: Option<&str>,
        now: SystemTime,
    ) -> Option<Reply> {
        let snapshot = self.live.snapshot.load();
        let Some(to) = to.filter(|to| to.is_for(&session.user, &self.place, &snapshot)) else {
            return Reply::redirect(&self.place.own("/"));
        };
        let Some(browser) = browser else {
            return Reply::redirect(&self.place.url(&to.host, &login_path(&to.path)));
        };
        let code = Code {
            id: Id::random().ok()?,
            browser: browser.to_owned(),
            to: to.path.clone().into(),
            until: seconds(now).saturating_add(LASTS),
            session: session.clone(),
        };
        let code = self.sessions.sealer.seal(Purpose::Code, &to.host, &code, now)?;
        Reply::redirect(&self.place.url(&to.host, &format!("{SESSION}?code={code}")))
    }

    /// On the host of a service: takes the session over. What is wrong with a code is not told.
    pub(super) fn finish_handoff(&self, ask: &Ask, now: SystemTime) -> Option<Reply> {
        let parameters = ask.parameters();
        let code: Code =
            self.sessions.sealer.open(Purpose::Code, &ask.host, parameters.get("code")?)?;
        let browser = Browser::find(&self.sessions.sealer, &ask.host, &ask.headers, now)?;
        let holds = seconds(now) < code.until
            && browser.hash() == code.browser
            && self.sessions.holds(&code.session, now);
        if !holds || !self.used.add(&code.id, code.until, seconds(now)) {
            return None;
        }
        let session = Session { renewed_at: seconds(now), asked_at: seconds(now), ..code.session };
        let sealed = self.sessions.seal(Purpose::Session, &ask.host, &session, now)?;
        let cookie = cookie::SESSION.set(&sealed, self.sessions.lasts(&session, now))?;
        let to = Destination { host: ask.host.clone(), path: code.to.into() };
        Reply::redirect(&to.url(&self.place)).map(|reply| reply.with([cookie]).told("handed_over"))
    }
}

// === impl UsedCodes ===

impl UsedCodes {
    /// Whether it was not used yet; from now on it is.
    fn add(&self, id: &Id, until: u64, now: u64) -> bool {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MAX_USED {
            used.retain(|_, until| *until > now);
        }
        if used.len() >= MAX_USED || used.contains_key(id) {
            return false;
        }
        used.insert(id.clone(), until);
        true
    }
}
