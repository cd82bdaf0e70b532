//! Login sessions as credentials: opened once, and cached like tokens.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use portcullis_config::settings::access::{AccessSettings, GITHUB_PREFIX, LoginSettings};

use super::cache::{Cache, Fingerprints};
use super::caller::{Application, Caller};
use super::rejected::Rejected;
use crate::session::{Purpose, Session, Sessions, cookie};

/// Authenticates session cookies.
pub(super) struct SessionAuthenticator {
    sessions: Arc<Sessions>,
    /// The application of callers with a session: the gateway's client at the provider.
    application: Application,
    fingerprints: Arc<Fingerprints>,
    opened: Cache<Opened>,
}

#[derive(Clone)]
struct Opened {
    session: Arc<Session>,
    /// Generation of the keys that it was opened with.
    keys: u64,
    /// Generation of the revocations that it was checked against.
    revocations: u64,
}

// === impl SessionAuthenticator ===

impl SessionAuthenticator {
    pub(super) fn new(
        sessions: Arc<Sessions>,
        settings: &AccessSettings,
        login: &LoginSettings,
        fingerprints: Arc<Fingerprints>,
        capacity: usize,
    ) -> Self {
        let issuer = settings.issuers.iter().find(|issuer| issuer.name == login.issuer);
        let prefix = issuer.map_or(GITHUB_PREFIX, |issuer| &issuer.prefix);
        let application = Application::of_issuer(prefix, &login.client_id);
        Self { sessions, application, fingerprints, opened: Cache::new(capacity) }
    }

    /// Grows when a session may have been revoked.
    pub(super) fn generation(&self) -> u64 {
        self.sessions.revocations.generation() + self.sessions.sealer.generation()
    }

    /// Returns the session of a cookie of this host, trusted or not.
    pub(super) fn find(
        &self,
        host: &str,
        value: &str,
        now: SystemTime,
    ) -> Result<Arc<Session>, Rejected> {
        let fingerprint =
            self.fingerprints.of("session", &[host, value]).ok_or(Rejected::Session)?;
        // Read before the lookups that they stand for: a later change causes another lookup.
        let (keys, revocations) =
            (self.sessions.sealer.generation(), self.sessions.revocations.generation());
        let store = |session: &Arc<Session>| {
            self.opened
                .insert(fingerprint, Opened { session: Arc::clone(session), keys, revocations })
        };
        let session = match self.opened.get(&fingerprint).filter(|opened| opened.keys == keys) {
            Some(opened)
                if opened.revocations == revocations
                    && !self.sessions.is_expired(&opened.session, now) =>
            {
                opened.session
            }
            Some(opened) if self.sessions.is_valid(&opened.session, now) => {
                store(&opened.session);
                opened.session
            }
            _ => {
                let session = Arc::new(
                    self.sessions
                        .open(Purpose::Session, host, value, now)
                        .ok_or(Rejected::Session)?,
                );
                store(&session);
                session
            }
        };
        Ok(session)
    }

    /// Returns the caller of a session.
    ///
    /// # Errors
    /// The provider has not confirmed the user recently enough.
    pub(super) fn caller(&self, session: &Session, now: SystemTime) -> Result<Caller, Rejected> {
        if !self.sessions.is_trusted(session, now) {
            return Err(Rejected::SessionUnconfirmed);
        }
        Ok(Caller {
            application: Some(self.application.clone()),
            user: Some(Arc::clone(&session.user)),
            until: Some(self.sessions.accepted_until(session)),
        })
    }

    /// Returns when the portal must have the provider confirm the user.
    pub(super) fn revalidate_at(&self, session: &Session) -> SystemTime {
        self.sessions.revalidate_at(session)
    }

    /// Returns the `Set-Cookie` that renews a session in use; `None` while that is not due.
    pub(super) fn renewal(
        &self,
        session: &Session,
        host: &str,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        let renewed = self.sessions.renewed(session, now)?;
        let sealed = self.sessions.seal(Purpose::Session, host, &renewed, now)?;
        cookie::SESSION.set(&sealed, self.sessions.cookie_max_age(&renewed, now))
    }
}
