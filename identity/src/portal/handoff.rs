//! Hands a session from the portal to the host of a service.
//!
//! | step | where | carries | proves |
//! | --- | --- | --- | --- |
//! | 1 | `/.well-known/portcullis/login?to=` of the service's host | the destination | nothing |
//! | 2 | `/login?to=` of the portal | an [`Intent`], sealed for the host | the browser at the portal |
//! | 3 | `/.well-known/portcullis/login?intent=` of the host | a [`Ticket`], sealed for the portal | the browser at the host |
//! | 4 | `/handoff?ticket=` of the portal | a [`Code`], sealed for the host | that both are one browser |
//! | 5 | `/.well-known/portcullis/session?code=` of the host | the session, as a cookie | |
//!
//! At each host the browser is known by a cookie ([`Browser`]). Nothing in a URL says which browser
//! a code is for: a ticket is valid only in the browser that began at the portal, and a code only in
//! the browser that the ticket named. Every reply in the way is a redirect, so that no code stays in
//! the URL of a document. All hosts behave alike: whether a service exists shows only later, to
//! authorized users.

use std::time::SystemTime;

use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use super::browser::{self, Browser};
use super::destination::{Destination, Unusable, local};
use super::failure::Failure;
use super::{Portal, PortalRequest, Reply, internal_error};
use crate::session::cookie;
use crate::session::{Id, Purpose, Session};

/// The path where a login starts, on every host.
pub(super) const LOGIN: &str = "/.well-known/portcullis/login";
/// The path where it ends.
pub(super) const SESSION: &str = "/.well-known/portcullis/session";
/// The path of the portal where a host sends the browser.
pub(super) const HANDOFF: &str = "/handoff";
const PREFIX: &str = "/.well-known/portcullis/";
/// The query of a login whose destination is too long to be kept.
const TOO_LONG: &str = "too-long=yes";
/// Lifetime of a code, in seconds.
const LASTS: u64 = 60;

/// The portal intends to hand a session to a host.
#[derive(Serialize, Deserialize)]
struct Intent {
    /// Hash of the browser at the portal.
    browser: String,
    to: String,
    until: u64,
}

/// A host asks for the session of its browser.
#[derive(Serialize, Deserialize)]
struct Ticket {
    /// Hash of the browser at the portal, from the intent.
    browser: String,
    /// Hash of the browser at the host.
    there: String,
    host: String,
    to: String,
    until: u64,
}

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

/// Returns the path of a login on any host that returns to `path`, a path with its query; of an
/// explanation, if that is too long.
pub fn login_path(path: &str) -> String {
    // Never return to a step of the login itself.
    match local(path).map(|path| if path.starts_with(PREFIX) { "/" } else { path }) {
        Err(Unusable::TooLong) => format!("{LOGIN}?{TOO_LONG}"),
        to => {
            let to = to.unwrap_or("/").as_bytes();
            format!("{LOGIN}?to={}", form_urlencoded::byte_serialize(to).collect::<String>())
        }
    }
}

/// Like [`login_path`], for a session that is still good without it; `None` if the path is too long.
pub fn revalidation_path(path: &str) -> Option<String> {
    (local(path) != Err(Unusable::TooLong)).then(|| login_path(path))
}

/// Whether the portal handles this path on every host.
pub(super) fn is_everywhere(path: &str) -> bool {
    matches!(path, LOGIN | SESSION)
}

// === impl Portal ===

impl Portal {
    /// On a service's host: redirects to the portal, and later back there with the proof of this
    /// browser.
    pub(super) fn begin_handoff(&self, request: &PortalRequest, now: SystemTime) -> Option<Reply> {
        let parameters = request.parameters();
        if let Some(intent) = parameters.get("intent") {
            return self.accept_intent(intent, request, now);
        }
        let path = match parameters.get("to").map(|path| local(path)) {
            Some(Ok(path)) if !path.starts_with(PREFIX) => path,
            Some(Err(Unusable::TooLong)) => return Some(self.too_long(request)),
            None if parameters.contains_key("too-long") => return Some(self.too_long(request)),
            _ => "/",
        };
        self.to_portal(&request.host, path)
    }

    fn too_long(&self, request: &PortalRequest) -> Reply {
        let to = Destination { host: request.host.clone(), path: "/".into() };
        Failure::LinkTooLong.redirect(Some(&to), &self.origin)
    }

    fn to_portal(&self, host: &str, path: &str) -> Option<Reply> {
        let to = self.origin.url(host, path);
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("to", &to).finish();
        Reply::redirect(&self.origin.own(&format!("/login?{query}")))
    }

    /// At the portal: redirects a user with a session to the host of the destination, which proves
    /// the browser there.
    pub(super) fn hand_over(
        &self,
        session: &Session,
        to: Option<&Destination>,
        request: &PortalRequest,
        now: SystemTime,
    ) -> Option<Reply> {
        let snapshot = self.live.snapshot.load();
        let Some(to) = to.filter(|to| to.is_for(&session.user, &self.origin, &snapshot)) else {
            return Reply::redirect(&self.origin.own("/"));
        };
        let sealer = &self.sessions.sealer;
        let (browser, cookie) = Browser::begin(sealer, &request.host, &request.headers, now)?;
        let intent = Intent {
            browser: browser.hash(),
            to: to.path.clone().into(),
            until: seconds(now).saturating_add(browser::LASTS.as_secs()),
        };
        let intent = sealer.seal(Purpose::Intent, &to.host, &intent, now)?;
        Reply::redirect(&self.origin.url(&to.host, &format!("{LOGIN}?intent={intent}")))
            .map(|reply| reply.with([cookie]))
    }

    /// On a service's host: binds the browser, and redirects to the portal with the proof of it.
    fn accept_intent(
        &self,
        intent: &str,
        request: &PortalRequest,
        now: SystemTime,
    ) -> Option<Reply> {
        let sealer = &self.sessions.sealer;
        let opened: Option<Intent> = sealer.open(Purpose::Intent, &request.host, intent);
        let Some(intent) = opened else { return self.to_portal(&request.host, "/") };
        if intent.until <= seconds(now) {
            return self.to_portal(&request.host, &intent.to);
        }
        let (browser, cookie) = Browser::begin(sealer, &request.host, &request.headers, now)?;
        let ticket = Ticket {
            browser: intent.browser,
            there: browser.hash(),
            host: request.host.clone().into(),
            to: intent.to,
            until: intent.until,
        };
        let ticket = sealer.seal(Purpose::Ticket, &self.origin.host, &ticket, now)?;
        Reply::redirect(&self.origin.own(&format!("{HANDOFF}?ticket={ticket}")))
            .map(|reply| reply.with([cookie]))
    }

    /// At the portal: gives a code to the host, if its ticket is of this browser.
    pub(super) async fn hand_out_code(&self, request: &PortalRequest, now: SystemTime) -> Reply {
        let sealer = &self.sessions.sealer;
        let parameters = request.parameters();
        let ticket = parameters
            .get("ticket")
            .and_then(|ticket| sealer.open::<Ticket>(Purpose::Ticket, &request.host, ticket));
        let browser = Browser::find(sealer, &request.host, &request.headers, now);
        let Some(ticket) = ticket.filter(|ticket| {
            seconds(now) < ticket.until
                && browser.is_some_and(|browser| browser.hash() == ticket.browser)
        }) else {
            return Failure::BegunElsewhere
                .redirect(None, &self.origin)
                .with_outcome("begun_elsewhere");
        };
        let to = Destination { host: ticket.host.into(), path: ticket.to.into() };
        let session = self.session(request, now);
        let reply = match session.filter(|session| self.sessions.is_trusted(session, now)) {
            Some(session) => self.code(session, &to, ticket.there, now),
            None => self.begin(request, Some(&to), now).await,
        };
        reply.unwrap_or_else(internal_error)
    }

    fn code(
        &self,
        session: Session,
        to: &Destination,
        browser: String,
        now: SystemTime,
    ) -> Option<Reply> {
        let snapshot = self.live.snapshot.load();
        if !to.is_for(&session.user, &self.origin, &snapshot) {
            return Reply::redirect(&self.origin.own("/"));
        }
        let code = Code {
            id: Id::random().ok()?,
            browser,
            to: to.path.clone().into(),
            until: seconds(now).saturating_add(LASTS),
            session,
        };
        let code = self.sessions.sealer.seal(Purpose::Code, &to.host, &code, now)?;
        Reply::redirect(&self.origin.url(&to.host, &format!("{SESSION}?code={code}")))
    }

    /// On a service's host: takes the session. Why a code is rejected is not revealed, and it leaves
    /// the URL in any case.
    pub(super) fn finish_handoff(&self, request: &PortalRequest, now: SystemTime) -> Option<Reply> {
        let parameters = request.parameters();
        let code = parameters.get("code")?;
        match self.accept_code(code, request, now) {
            Some(reply) => Some(reply),
            None => Reply::redirect(SESSION),
        }
    }

    fn accept_code(&self, code: &str, request: &PortalRequest, now: SystemTime) -> Option<Reply> {
        let code: Code = self.sessions.sealer.open(Purpose::Code, &request.host, code)?;
        let browser = Browser::find(&self.sessions.sealer, &request.host, &request.headers, now)?;
        let holds = seconds(now) < code.until
            && browser.hash() == code.browser
            && self.sessions.is_valid(&code.session, now);
        if !holds || !self.used_codes.take(&code.id, code.until, now) {
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
