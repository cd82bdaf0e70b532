//! Sign-out on all hosts, by the user or by the provider.

use std::time::SystemTime;

use http::StatusCode;

use super::browser::hash;
use super::{Portal, PortalRequest, Reply, clear_cookies, pages};
use crate::session::{Revoked, Session};

// === impl Portal ===

impl Portal {
    /// Shows a confirmation page: following a link signs nobody out.
    pub(super) fn ask_to_sign_out(&self, request: &PortalRequest, now: SystemTime) -> Reply {
        match self.session(request, now) {
            Some(session) => {
                Reply::page(StatusCode::OK, pages::sign_out(&session.user.name, &token(&session)))
            }
            None => self.signed_out(),
        }
    }

    /// Revokes the session on all hosts; with `everywhere`, all sessions of the user.
    pub(super) async fn sign_out(&self, request: &PortalRequest, now: SystemTime) -> Reply {
        let Some(session) = self.session(request, now) else {
            return self.signed_out().with(clear_cookies());
        };
        let form = request.form();
        // Service hosts are same-site, so that `SameSite` does not keep them from posting here.
        if form.get("token") != Some(&token(&session)) {
            return Reply::page(
                StatusCode::FORBIDDEN,
                pages::sign_out(&session.user.name, &token(&session)),
            );
        }
        let (issuer, subject) = (&*session.user.issuer, &*session.user.subject);
        let is_exceeded =
            self.sign_outs.is_exceeded(issuer, subject, self.sessions.max_lifetime(), now);
        // A revocation by user replaces those of single sessions.
        let whose = match is_exceeded || form.contains_key("everywhere") {
            true => Revoked::User { issuer, subject },
            false => Revoked::Session(&session.id),
        };
        self.sessions.revoke(whose, now).await;
        tracing::info!(user = %session.user.name, "signed out");
        self.signed_out().with(clear_cookies()).with_outcome("signed_out")
    }

    /// Revokes sessions for the provider (OpenID Connect Back-Channel Logout 1.0 §2.5 to §2.8).
    pub(super) async fn backchannel_logout(
        &self,
        request: &PortalRequest,
        now: SystemTime,
    ) -> Reply {
        let form = request.form();
        let logout =
            form.get("logout_token").map(|token| self.provider.verify_logout_token(token, now));
        let logout = match logout {
            Some(Ok(logout)) => logout,
            Some(Err(rejected)) => {
                tracing::warn!(%rejected, "rejected a logout token");
                return Reply::bad_logout().with_outcome("bad_logout_token");
            }
            None => return Reply::bad_logout().with_outcome("bad_logout_token"),
        };
        let issuer = &*logout.issuer;
        match (&logout.session, &logout.subject) {
            (Some(sid), _) => {
                self.sessions.revoke(Revoked::ProviderSession { issuer, sid }, now).await
            }
            (None, Some(subject)) => {
                self.sessions.revoke(Revoked::User { issuer, subject }, now).await
            }
            (None, None) => {}
        }
        tracing::info!(issuer, "revoked sessions for the provider");
        Reply::empty(StatusCode::OK).with_outcome("ended_by_provider")
    }

    fn signed_out(&self) -> Reply {
        Reply::page(StatusCode::OK, pages::signed_out(self.provider.sign_out().as_deref()))
    }
}

/// The CSRF token of the sign-out form, bound to the session.
fn token(session: &Session) -> String {
    hash(&format!("sign out {}", session.id.expose()))
}
