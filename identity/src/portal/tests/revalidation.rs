//! How old the provider's word may be.

use super::*;

const HOUR: u64 = 3600;

async fn start(login: Value) -> Trip {
    let mut settings = json!({"idle": "8h", "absolute": "24h", "staleIfError": "3h"});
    merge(&mut settings, &login);
    Trip::with(settings, json!({}), json!({})).await
}

#[tokio::test]
async fn a_session_that_cannot_be_refreshed_is_good_for_an_hour() {
    for takes_cookie_away in [false, true] {
        let mut trip = start(json!({})).await;
        trip.log_in(if takes_cookie_away { "r" } else { "" }).await;
        trip.jar.retain(|(_, name), _| !name.ends_with("-refresh"));
        assert!(trip.is_signed_in(NOW + HOUR - 1).await);
        assert!(!trip.is_signed_in(NOW + HOUR).await, "{takes_cookie_away}");
        let reply = trip.get(&own("/login"), NOW + HOUR).await.unwrap();
        assert!(location(&reply).starts_with(&trip.fake.url), "logs in again: {:?}", reply.headers);
    }
}

#[tokio::test]
async fn an_answer_without_a_word_about_the_user_does_not_prolong_a_session() {
    for (status, answer) in [
        (400, json!({"error": "invalid_client"})),
        (403, json!({"error": "access_denied"})),
        (200, json!("nonsense")),
        (404, json!({})),
    ] {
        let mut trip = start(json!({})).await;
        trip.log_in("r").await;
        *trip.fake.answer.lock().unwrap() = (status, answer.clone());
        assert!(trip.is_signed_in(NOW + HOUR - 1).await, "{answer}");
        assert!(!trip.is_signed_in(NOW + HOUR).await, "{answer}");
    }
}

#[tokio::test]
async fn an_unavailable_provider_prolongs_a_session_for_a_limited_time() {
    for refresh_token in ["r", ""] {
        let mut trip = start(json!({})).await;
        trip.log_in(refresh_token).await;
        trip.fake.is_down.store(true, Ordering::Relaxed);
        for now in [1800, HOUR, 2 * HOUR - 1, 2 * HOUR, 4 * HOUR - 1] {
            assert!(trip.is_signed_in(NOW + now).await, "{refresh_token:?} after {now} s");
        }
        assert!(!trip.is_signed_in(NOW + 4 * HOUR).await, "{refresh_token:?}");
    }
}

#[tokio::test]
async fn a_session_at_a_service_is_as_old_as_the_provider_s_word() {
    let mut trip = start(json!({})).await;
    trip.log_in("").await;
    let begun = format!("https://{SHOP}:8443/.well-known/portcullis/login?to=/a");
    trip.follow(&begun, ":8443/a", NOW + HOUR - 1).await;
    let value = &trip.jar[&(SHOP.to_owned(), "__Host-portcullis".to_owned())];
    let sessions = &trip.portal.sessions;
    let purpose = crate::session::Purpose::Session;
    let session = sessions.open(purpose, SHOP, value, at(NOW + HOUR)).expect("a session");
    assert!(sessions.is_trusted(&session, at(NOW + HOUR - 1)));
    assert!(!sessions.is_trusted(&session, at(NOW + HOUR)));
}

#[tokio::test]
async fn a_refreshed_session_gets_the_provider_session_that_it_lacked() {
    let mut trip = start(json!({})).await;
    let sent = trip.begin(&own("/login")).await;
    trip.fake.returns("r", &json!({"nonce": sent["nonce"], "sid": null}));
    trip.callback(&sent["state"], "").await;
    trip.fake.returns("r", &json!({"sid": "s2", "exp": NOW + 9999}));
    assert!(trip.is_signed_in(NOW + 300).await);
    trip.portal
        .sessions
        .revocations
        .revoke(Revoked::ProviderSession { issuer: "corp", sid: "s2" }, at(NOW + 300));
    assert!(!trip.is_signed_in(NOW + 300).await);
}
