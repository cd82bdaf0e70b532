//! Revalidation: has the provider confirm the users of sessions, again and again.
//!
//! With a refresh token the portal asks by itself. Without one, the user logs in again when the
//! provider's last word is too old, which most providers do without a question.

use std::time::SystemTime;

use http::HeaderValue;
use portcullis_config::unix_time::seconds;

use super::{Portal, PortalRequest, clear_cookies, granted_groups};
use crate::fair_queue::Class;
use crate::provider::{Person, ProviderError, RefreshToken};
use crate::session::cookie::{PORTAL, REFRESH};
use crate::session::{Oversized, Purpose, Session};

/// The user at the portal, and the cookies to set.
#[derive(Default)]
pub(super) struct Visitor {
    /// The session; the provider confirmed its user recently enough.
    pub(super) session: Option<Session>,
    pub(super) cookies: Vec<HeaderValue>,
}

/// The result of a question to the provider.
enum Confirmation {
    Confirmed(Session, Option<RefreshToken>),
    /// The provider denies the user.
    Denied,
    /// The provider is unavailable.
    Unavailable,
    /// It was not asked, or gave no answer that counts.
    Open,
}

// === impl Portal ===

impl Portal {
    /// Returns the visitor's session if it is valid and trusted, confirmed by the provider when that
    /// is due.
    pub(super) async fn visitor(&self, request: &PortalRequest, now: SystemTime) -> Visitor {
        let Some(session) = self.session(request, now) else { return Visitor::default() };
        if !self.sessions.is_stale(&session, now) {
            return self.kept(session, now);
        }
        match self.confirm(request, &session, now).await {
            Confirmation::Confirmed(session, token) => Visitor {
                cookies: self.cookies(&session, token.as_ref(), now),
                session: Some(session),
            },
            Confirmation::Denied => Visitor { session: None, cookies: clear_cookies() },
            Confirmation::Unavailable => {
                let excused = Session { unavailable_at: Some(seconds(now)), ..session };
                let cookie = self.portal_cookie(&excused, now);
                let visitor = self.kept(excused, now);
                Visitor { cookies: cookie.into_iter().collect(), ..visitor }
            }
            Confirmation::Open => self.kept(session, now),
        }
    }

    /// Returns a session that stays as it is, if it is trusted.
    fn kept(&self, session: Session, now: SystemTime) -> Visitor {
        if !self.sessions.is_trusted(&session, now) {
            return Visitor::default();
        }
        match self.sessions.renewed(&session, now) {
            Some(renewed) => Visitor {
                cookies: self.portal_cookie(&renewed, now).into_iter().collect(),
                session: Some(renewed),
            },
            None => Visitor { session: Some(session), cookies: Vec::new() },
        }
    }

    async fn confirm(
        &self,
        request: &PortalRequest,
        session: &Session,
        now: SystemTime,
    ) -> Confirmation {
        let is_trusted = self.sessions.is_trusted(session, now);
        let Some(token) = self.refresh_token(request, session) else {
            return if is_trusted { Confirmation::Open } else { self.probe(request).await };
        };
        let lock = self.refreshes.lock(&session.id);
        let mut last = if is_trusted {
            // Another tab asks already.
            let Ok(last) = lock.try_lock() else { return Confirmation::Open };
            last
        } else {
            lock.lock().await
        };
        if let Some((renewed, token)) =
            last.as_ref().filter(|(renewed, _)| !self.sessions.is_stale(renewed, now))
        {
            return Confirmation::Confirmed(renewed.clone(), token.clone());
        }
        let Some(_slot) = self.slots.acquire(Class::Known, request.client).await else {
            return Confirmation::Open;
        };
        match self.provider.refresh(&session.user.subject, &token, now).await {
            Ok(person) => match self.confirmed(session, person, now) {
                Ok((renewed, token)) => {
                    *last = Some((renewed.clone(), token.clone()));
                    Confirmation::Confirmed(renewed, token)
                }
                Err(error) => {
                    tracing::warn!(user = %session.user.name, %error, "failed to refresh a user");
                    Confirmation::Open
                }
            },
            Err(error) => self.failed_to_confirm(session, &error, now).await,
        }
    }

    fn confirmed(
        &self,
        session: &Session,
        person: Person,
        now: SystemTime,
    ) -> Result<(Session, Option<RefreshToken>), Oversized> {
        let at = seconds(now);
        let renewed = Session {
            user: person.user.into(),
            provider_session: session.provider_session.clone().or(person.session),
            asked_at: at,
            renewed_at: at,
            confirmed_at: at,
            unavailable_at: None,
            ..session.clone()
        };
        Ok((self.fitted(renewed)?, person.refresh_token))
    }

    async fn failed_to_confirm(
        &self,
        session: &Session,
        error: &ProviderError,
        now: SystemTime,
    ) -> Confirmation {
        let user = &*session.user.name;
        if error.is_final() {
            tracing::info!(user, %error, "revoked a session: the provider no longer confirms its user");
            self.end(session, false, now).await;
            return Confirmation::Denied;
        }
        if let Some(suppressed) = self.logs.refreshes.permit(now) {
            tracing::warn!(user, %error, suppressed, "failed to refresh a user at the provider: the session stays valid for a limited time");
        }
        if error.is_unavailable() { Confirmation::Unavailable } else { Confirmation::Open }
    }

    /// Finds out whether a provider is unavailable that cannot be asked about this user.
    async fn probe(&self, request: &PortalRequest) -> Confirmation {
        let Some(_slot) = self.slots.acquire(Class::Known, request.client).await else {
            return Confirmation::Open;
        };
        if self.provider.is_unavailable().await {
            Confirmation::Unavailable
        } else {
            Confirmation::Open
        }
    }

    /// Fits a session into a cookie: groups that grants name come first.
    pub(super) fn fitted(&self, session: Session) -> Result<Session, Oversized> {
        session.fitted(|groups| granted_groups::arrange(&self.live.snapshot.load(), groups))
    }

    /// Returns the session of a request, trusted or not.
    pub(super) fn session(&self, request: &PortalRequest, now: SystemTime) -> Option<Session> {
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
    pub(super) fn cookies(
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
            // Browsers store no larger cookie; without it the session is not refreshed. An earlier
            // token may have been used up, and the provider takes another use for theft.
            if sealed.len() <= 3584 {
                REFRESH.set(&sealed, self.sessions.cookie_max_age(session, now))
            } else {
                REFRESH.clear()
            }
        });
        self.portal_cookie(session, now).into_iter().chain(token).collect()
    }

    fn portal_cookie(&self, session: &Session, now: SystemTime) -> Option<HeaderValue> {
        let sealed = self.sessions.seal(Purpose::Portal, &self.origin.host, session, now)?;
        PORTAL.set(&sealed, self.sessions.cookie_max_age(session, now))
    }
}
