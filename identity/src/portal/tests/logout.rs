//! Sign-out by the provider.

use futures::future::BoxFuture;
use portcullis_config::session::Change;
use portcullis_config::store::credentials::{Store, StoreError};

use super::*;
use crate::session::RevocationQueue;

#[derive(Debug)]
struct Unavailable;

impl Store for Unavailable {
    fn change(&self, _: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Err(StoreError::Superseded) })
    }
}

impl Trip {
    /// Sends a logout token with these claims besides the usual ones.
    async fn logout(&mut self, claims: Value) -> StatusCode {
        let mut all = json!({
            "iss": self.fake.url, "aud": "portcullis", "exp": NOW + 120, "iat": NOW, "jti": "1",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        merge(&mut all, &claims);
        let body = format!("logout_token={}", self.fake.sign("logout+jwt", &all));
        let url = own("/backchannel-logout");
        self.call(Method::POST, &url, &body, NOW).await.unwrap().status
    }

    async fn log_in_with(&mut self, claims: Value) {
        let sent = self.begin_again().await;
        let mut all = json!({"nonce": sent["nonce"]});
        merge(&mut all, &claims);
        self.fake.returns("r", &all);
        assert_eq!(self.callback(&sent["state"], "").await.status, StatusCode::SEE_OTHER);
    }
}

#[tokio::test]
async fn an_acknowledged_logout_revokes_every_session_that_it_may_mean() {
    let without = json!({"sid": null});
    for (login, logout, is_meant) in [
        (json!({}), json!({"sid": "s1"}), true),
        (json!({}), json!({"sid": "s1", "sub": "7"}), true),
        (json!({}), json!({"sub": "7"}), true),
        (json!({}), json!({"sid": "other"}), false),
        (json!({}), json!({"sid": "other", "sub": "7"}), false),
        (json!({}), json!({"sub": "8"}), false),
        // The ID token did not say which session it belongs to.
        (without.clone(), json!({"sid": "s1", "sub": "7"}), true),
        (without.clone(), json!({"sid": "s1"}), true),
        (without.clone(), json!({"sub": "7"}), true),
        (without.clone(), json!({"sid": "s1", "sub": "8"}), false),
        (json!({"sid": ""}), json!({"sid": "s1", "sub": "7"}), true),
    ] {
        let mut trip = Trip::start().await;
        trip.log_in_with(login.clone()).await;
        assert_eq!(trip.logout(logout.clone()).await, StatusCode::OK);
        assert_eq!(trip.is_signed_in(NOW).await, !is_meant, "{login} {logout}");
    }
}

impl Trip {
    /// Signs out by the form of the portal.
    async fn sign_out(&mut self, further: &str, now: u64) {
        let page = self.get(&own("/logout"), now).await.unwrap();
        let html = String::from_utf8_lossy(&page.body).into_owned();
        let token = html.split_once("name=\"token\" value=\"").unwrap().1;
        let body = format!("token={}{further}", token.split('"').next().unwrap());
        self.call(Method::POST, &own("/logout"), &body, now).await.unwrap();
    }
}

#[tokio::test]
async fn a_session_that_began_by_a_clock_that_is_ahead_is_revoked_too() {
    for further in ["", "&everywhere=yes"] {
        let mut trip = Trip::start().await;
        trip.log_in("r").await;
        let cookies = trip.jar.clone();
        // This replica's clock is behind that of the one where the user logged in.
        trip.sign_out(further, NOW - 30).await;
        trip.jar = cookies;
        for now in [NOW - 30, NOW, NOW + 30] {
            assert!(!trip.is_signed_in(now).await, "{further} {now}");
        }
    }
}

#[tokio::test]
async fn a_user_whom_the_provider_denies_often_takes_few_revocations() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    let sessions = Arc::clone(&trip.portal.sessions);
    let cookies = trip.jar.clone();
    let name = "__Host-portcullis-portal".to_owned();
    let value = &cookies[&(PORTAL_HOST.to_owned(), name)];
    let session = sessions.open(crate::session::Purpose::Portal, PORTAL_HOST, value, at(NOW));
    let session = session.unwrap();
    for _ in 0..300 {
        let id = crate::session::Id::random().unwrap();
        trip.portal.end(&crate::session::Session { id, ..session.clone() }, false, at(NOW)).await;
    }
    assert!(!trip.is_signed_in(NOW).await, "by then all sessions of the user are revoked");
    // A denial by the provider counts like a sign-out.
    let mut trip = Trip::start().await;
    for _ in 0..256 {
        trip.portal.sign_outs.is_exceeded("corp", "7", Duration::from_secs(8 * 3600), at(NOW));
    }
    trip.log_in("r").await;
    let other = std::mem::take(&mut trip.jar);
    trip.log_in("r").await;
    trip.fake.returns_error("invalid_grant");
    assert!(!trip.is_signed_in(NOW + 300).await);
    trip.jar = other;
    assert!(!trip.is_signed_in(NOW + 1).await, "it was one revocation for all");
}

#[tokio::test]
async fn a_logout_that_other_replicas_cannot_know_of_is_not_acknowledged() {
    let mut trip = Trip::start().await;
    let settings = crate::session::testing::settings();
    let (queue, publisher) = RevocationQueue::new(
        Arc::new(Unavailable),
        Arc::default(),
        settings.absolute,
        Arc::default(),
    );
    tokio::spawn(publisher.run());
    trip.portal.sessions = Arc::new(Sessions::new(&settings, Some(queue)).unwrap());
    trip.log_in("r").await;
    assert_eq!(trip.logout(json!({"sid": "s1"})).await, StatusCode::BAD_REQUEST);
    assert!(!trip.is_signed_in(NOW).await, "it applies here");
}
