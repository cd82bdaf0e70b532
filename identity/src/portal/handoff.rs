//! Hands a session from the portal to the host of a service.
//!
//! The host binds the browser by its own cookie before the portal is involved, and the portal's
//! code is valid once, for one minute, for that host and browser. All hosts behave alike: whether a
//! service exists shows only later, to authorized users.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use super::browser::Browser;
use super::destination::{Destination, local};
use super::{Portal, PortalRequest, Reply};
use crate::session::cookie;
use crate::session::{Id, Purpose, Session};

/// The path where a login starts, on every host.
pub(super) const LOGIN: &str = "/.well-known/portcullis/login";
/// The path where it ends.
pub(super) const SESSION: &str = "/.well-known/portcullis/session";
const PREFIX: &str = "/.well-known/portcullis/";
/// Lifetime of a code, in seconds.
const LASTS: u64 = 60;
/// Maximum number of used codes of the last minute; beyond it codes are rejected until there is
/// room.
const MAX_USED: usize = 64 * 1024;

/// A session on its way to a service's host.
#[derive(Serialize, Deserialize)]
struct Code {
    id: Id,
    /// Hash of the browser that it is bound to.
    browser: String,
    to: String,
    until: u64,
    session: Session,
}

/// Used codes, until they expire. Other replicas do not know them: there a code is valid once more
/// until it expires, in the same browser, which has the session already.
#[derive(Default)]
pub(super) struct UsedCodes(Mutex<HashMap<Id, u64>>);

/// Returns the path of a login on any host that returns to `path`, a path with its query.
pub fn login_path(path: &str) -> String {
    // Never return to a step of the login itself.
    let to = local(path).filter(|path| !path.starts_with(PREFIX)).unwrap_or("/");
    format!("{LOGIN}?to={}", form_urlencoded::byte_serialize(to.as_bytes()).collect::<String>())
}

/// Whether the portal handles this path on every host.
pub(super) fn is_everywhere(path: &str) -> bool {
    matches!(path, LOGIN | SESSION)
}

// === impl Portal ===

impl Portal {
    /// On a service's host: binds the browser, and redirects to the portal.
    pub(super) fn begin_handoff(&self, request: &PortalRequest, now: SystemTime) -> Option<Reply> {
        let parameters = request.parameters();
        let path = parameters
            .get("to")
            .and_then(|path| local(path))
            .filter(|path| !path.starts_with(PREFIX))
            .unwrap_or("/");
        let (browser, cookie) =
            Browser::begin(&self.sessions.sealer, &request.host, &request.headers, now)?;
        let to = self.origin.url(&request.host, path);
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("to", &to)
            .append_pair("browser", &browser.hash())
            .finish();
        Reply::redirect(&self.origin.own(&format!("/login?{query}")))
            .map(|reply| reply.with([cookie]))
    }

    /// At the portal: redirects a user with a session to the destination, by way of its login path
    /// if its browser is not bound yet.
    pub(super) fn hand_over(
        &self,
        session: &Session,
        to: Option<&Destination>,
        browser: Option<&str>,
        now: SystemTime,
    ) -> Option<Reply> {
        let snapshot = self.live.snapshot.load();
        let Some(to) = to.filter(|to| to.is_for(&session.user, &self.origin, &snapshot)) else {
            return Reply::redirect(&self.origin.own("/"));
        };
        let Some(browser) = browser else {
            return Reply::redirect(&self.origin.url(&to.host, &login_path(&to.path)));
        };
        let code = Code {
            id: Id::random().ok()?,
            browser: browser.to_owned(),
            to: to.path.clone().into(),
            until: seconds(now).saturating_add(LASTS),
            session: session.clone(),
        };
        let code = self.sessions.sealer.seal(Purpose::Code, &to.host, &code, now)?;
        Reply::redirect(&self.origin.url(&to.host, &format!("{SESSION}?code={code}")))
    }

    /// On a service's host: takes the session. Why a code is rejected is not revealed.
    pub(super) fn finish_handoff(&self, request: &PortalRequest, now: SystemTime) -> Option<Reply> {
        let parameters = request.parameters();
        let code: Code =
            self.sessions.sealer.open(Purpose::Code, &request.host, parameters.get("code")?)?;
        let browser = Browser::find(&self.sessions.sealer, &request.host, &request.headers, now)?;
        let holds = seconds(now) < code.until
            && browser.hash() == code.browser
            && self.sessions.is_valid(&code.session, now);
        if !holds || !self.used.add(&code.id, code.until, seconds(now)) {
            return None;
        }
        let session = Session { renewed_at: seconds(now), asked_at: seconds(now), ..code.session };
        let sealed = self.sessions.seal(Purpose::Session, &request.host, &session, now)?;
        let cookie = cookie::SESSION.set(&sealed, self.sessions.cookie_max_age(&session, now))?;
        let to = Destination { host: request.host.clone(), path: code.to.into() };
        Reply::redirect(&to.url(&self.origin))
            .map(|reply| reply.with([cookie]).with_outcome("handed_over"))
    }
}

// === impl UsedCodes ===

impl UsedCodes {
    /// Marks a code as used; returns false if it was used before.
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
