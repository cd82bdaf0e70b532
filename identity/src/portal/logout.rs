//! Signing out: everywhere at once, by the person or by the provider.

use std::time::SystemTime;

use http::StatusCode;

use super::browser::hash;
use super::{Ask, Portal, Reply, gone, pages};
use crate::session::{Revoked, Session};

// === impl Portal ===

impl Portal {
    /// Nobody is signed out by following a link: a page asks.
    pub(super) fn ask_to_sign_out(&self, ask: &Ask, now: SystemTime) -> Reply {
        match self.session(ask, now) {
            Some(session) => {
                Reply::page(StatusCode::OK, pages::sign_out(&session.user.name, &token(&session)))
            }
            None => self.signed_out(),
        }
    }

    /// Ends the session on all hosts; with `everywhere`, all sessions of the person in all
    /// browsers.
    pub(super) async fn sign_out(&self, ask: &Ask, now: SystemTime) -> Reply {
        let Some(session) = self.session(ask, now) else { return self.signed_out().with(gone()) };
        let form = ask.form();
        // Hosts of services are of the same site, so that `SameSite` alone keeps none of them from
        // posting here.
        if form.get("token") != Some(&token(&session)) {
            return Reply::page(
                StatusCode::FORBIDDEN,
                pages::sign_out(&session.user.name, &token(&session)),
            );
        }
        let (issuer, subject) = (&*session.user.issuer, &*session.user.subject);
        let too_often = self.often.is_too_often(issuer, subject, self.sessions.lasting(), now);
        // That of the person stands for each of hers.
        let whose = match too_often || form.contains_key("everywhere") {
            true => Revoked::User { issuer, subject },
            false => Revoked::Session(&session.id),
        };
        self.sessions.end(whose, now).await;
        tracing::info!(user = %session.user.name, "signed out");
        self.signed_out().with(gone()).told("signed_out")
    }

    /// The provider ends sessions (OpenID Connect Back-Channel Logout 1.0 §2.5 to §2.8).
    pub(super) async fn backchannel_logout(&self, ask: &Ask, now: SystemTime) -> Reply {
        let form = ask.form();
        let ended = form.get("logout_token").map(|token| self.provider.ended(token, now));
        let ended = match ended {
            Some(Ok(ended)) => ended,
            Some(Err(rejected)) => {
                tracing::warn!(%rejected, "a logout token is not believed");
                return Reply::bad_logout().told("bad_logout_token");
            }
            None => return Reply::bad_logout().told("bad_logout_token"),
        };
        let issuer = &*ended.issuer;
        match (&ended.session, &ended.subject) {
            (Some(sid), _) => {
                self.sessions.end(Revoked::ProviderSession { issuer, sid }, now).await
            }
            (None, Some(subject)) => {
                self.sessions.end(Revoked::User { issuer, subject }, now).await
            }
            (None, None) => {}
        }
        tracing::info!(issuer, "the provider has ended sessions");
        Reply::empty(StatusCode::OK).told("ended_by_provider")
    }

    fn signed_out(&self) -> Reply {
        Reply::page(StatusCode::OK, pages::signed_out(self.provider.sign_out().as_deref()))
    }
}

/// What only a page of the portal, shown to that session, can have.
fn token(session: &Session) -> String {
    hash(&format!("sign out {}", session.id.expose()))
}
