//! Sign-out on all hosts, by the user or by the provider.

use std::time::SystemTime;

use futures::future::join_all;
use http::StatusCode;

use super::browser::hash;
use super::{Portal, PortalRequest, Reply, clear_cookies, pages};
use crate::provider::LogoutToken;
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
        self.end(&session, form.contains_key("everywhere"), now).await;
        tracing::info!(user = %session.user.name, "signed out");
        self.signed_out().with(clear_cookies()).with_outcome("signed_out")
    }

    /// Revokes a session; with `everywhere`, or if too many of its user were revoked singly, all
    /// sessions of the user, which is one revocation.
    pub(super) async fn end(&self, session: &Session, everywhere: bool, now: SystemTime) {
        let (issuer, subject) = (&*session.user.issuer, &*session.user.subject);
        let is_exceeded =
            self.sign_outs.is_exceeded(issuer, subject, self.sessions.max_lifetime(), now);
        let whose = match is_exceeded || everywhere {
            true => Revoked::User { issuer, subject },
            false => Revoked::Session(&session.id),
        };
        self.sessions.revoke_with(session, whose, now).await;
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
                if let Some(suppressed) = self.logs.logout_tokens.permit(now) {
                    tracing::warn!(%rejected, suppressed, "rejected a logout token");
                }
                return Reply::bad_logout("invalid_request").with_outcome("bad_logout_token");
            }
            None => return Reply::bad_logout("invalid_request").with_outcome("bad_logout_token"),
        };
        let issuer = &*logout.issuer;
        let revocations = meant(&logout).into_iter().map(|whose| self.sessions.revoke(whose, now));
        if !join_all(revocations).await.into_iter().all(|is_published| is_published) {
            // §2.8: 200 means that the user is signed out, on all replicas.
            return Reply::bad_logout("server_error").with_outcome("logout_not_published");
        }
        tracing::info!(issuer, "revoked sessions for the provider");
        Reply::empty(StatusCode::OK).with_outcome("ended_by_provider")
    }

    fn signed_out(&self) -> Reply {
        Reply::page(StatusCode::OK, pages::signed_out(self.provider.sign_out().as_deref()))
    }
}

/// Returns all sessions that a logout token may mean (§2.7). A session whose ID token had no `sid`
/// may be any of the user's, or without `sub` any user's. Providers with `sid` have it in ID tokens
/// too (OpenID Connect Back-Channel Logout 1.0 §2.1), so usually there is no such session.
fn meant(logout: &LogoutToken) -> Vec<Revoked<'_>> {
    let issuer = &*logout.issuer;
    match (logout.session.as_deref(), logout.subject.as_deref()) {
        (Some(sid), Some(subject)) => vec![
            Revoked::ProviderSession { issuer, sid },
            Revoked::UserWithoutSid { issuer, subject },
        ],
        (Some(sid), None) => {
            vec![Revoked::ProviderSession { issuer, sid }, Revoked::WithoutSid { issuer }]
        }
        (None, Some(subject)) => vec![Revoked::User { issuer, subject }],
        (None, None) => Vec::new(),
    }
}

/// The CSRF token of the sign-out form, bound to the session.
fn token(session: &Session) -> String {
    hash(&format!("sign out {}", session.id.expose()))
}
