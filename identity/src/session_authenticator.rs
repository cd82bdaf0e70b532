//! Login sessions as credentials: opened once, and remembered by hash like tokens are.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use portcullis_config::settings::access::{AccessSettings, LoginSettings};

use super::cache::{Cache, Fingerprints};
use super::caller::Caller;
use super::rejected::Rejected;
use crate::session::{Purpose, Session, Sessions, cookie};

/// Opens the sessions of people.
pub(super) struct Logins {
    sessions: Arc<Sessions>,
    /// The provider's client that people log in by: the application of whoever comes with a
    /// session.
    application: Arc<str>,
    fingerprints: Arc<Fingerprints>,
    opened: Cache<Opened>,
}

#[derive(Clone)]
struct Opened {
    session: Arc<Session>,
    /// Of the keys that it was opened with.
    keys: u64,
    /// Of the ends among which it was looked up.
    ends: u64,
}

// === impl Logins ===

impl Logins {
    pub(super) fn new(
        sessions: Arc<Sessions>,
        settings: &AccessSettings,
        login: &LoginSettings,
        fingerprints: Arc<Fingerprints>,
        remembered: usize,
    ) -> Self {
        let issuer = settings.issuers.iter().find(|issuer| issuer.name == login.issuer);
        let prefix = issuer.map_or("github:", |issuer| &issuer.prefix);
        let application = format!("{prefix}{}", login.client_id).into();
        Self { sessions, application, fingerprints, opened: Cache::new(remembered) }
    }

    /// Grows when a session may have ended.
    pub(super) fn generation(&self) -> u64 {
        self.sessions.revocations.generation() + self.sessions.sealer.generation()
    }

    /// Whose session a cookie of this host is.
    pub(super) fn find(
        &self,
        host: &str,
        value: &str,
        now: SystemTime,
    ) -> Result<(Caller, Arc<Session>), Rejected> {
        let fingerprint =
            self.fingerprints.of("session", &[host, value]).ok_or(Rejected::Session)?;
        // Taken before the look-ups that they stand for: what changes in the meantime is looked up
        // again.
        let (keys, ends) =
            (self.sessions.sealer.generation(), self.sessions.revocations.generation());
        let keep = |session: &Arc<Session>| {
            self.opened.insert(fingerprint, Opened { session: Arc::clone(session), keys, ends })
        };
        let session = match self.opened.get(&fingerprint).filter(|opened| opened.keys == keys) {
            Some(opened) if opened.ends == ends && !self.sessions.is_over(&opened.session, now) => {
                opened.session
            }
            Some(opened) if self.sessions.holds(&opened.session, now) => {
                keep(&opened.session);
                opened.session
            }
            _ => {
                let session = Arc::new(
                    self.sessions
                        .open(Purpose::Session, host, value, now)
                        .ok_or(Rejected::Session)?,
                );
                keep(&session);
                session
            }
        };
        let until = Some(self.sessions.until(&session));
        Ok((
            Caller {
                application: Some(Arc::clone(&self.application)),
                user: Some(Arc::clone(&session.user)),
                until,
            },
            session,
        ))
    }

    /// The `Set-Cookie` by which a session that is in use goes on; `None` while the one that the
    /// browser has is good enough.
    pub(super) fn renewal(
        &self,
        session: &Session,
        host: &str,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        let renewed = self.sessions.renewed(session, now)?;
        let sealed = self.sessions.seal(Purpose::Session, host, &renewed, now)?;
        cookie::SESSION.set(&sealed, self.sessions.lasts(&renewed, now))
    }
}
