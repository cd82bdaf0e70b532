use std::net::IpAddr;

use futures::FutureExt;
use serde_json::json;

use super::*;
use crate::caller::{Caller, ann};

const TOKEN: &str = "2YotnFZFEjr1zCsicMWpAA";

/// An introspection client whose queues are never served.
fn overloaded() -> Introspection {
    let settings = serde_json::from_value(json!({
        "name": "corp", "issuer": "https://id.example.com", "audiences": ["portcullis"],
        "introspection": {
            "clientId": "gateway", "clientSecretFile": "secret", "staleIfError": "1m",
        },
    }));
    let issuers = [Arc::new(Issuer::new(settings.unwrap()))];
    Introspection::new(&issuers, &Arc::new(Fingerprints::new().unwrap())).unwrap()
}

fn client(last: u8) -> ClientNetwork {
    IpAddr::from([192, 0, 2, last]).into()
}

/// Caches an active response for this token that is `age` seconds old at `now`.
fn cache_active(introspection: &Introspection, token: &str, now: SystemTime, age: u64) {
    let shared = &introspection.0;
    let answer = Answer {
        verdict: Ok(Caller { until: None, ..ann() }),
        issuer: 0,
        at: now - Duration::from_secs(age),
        stale_if_error: Duration::from_secs(60),
    };
    shared.answers.insert(shared.fingerprint(token).unwrap(), client(1), &answer);
}

#[test]
fn signed_tokens_are_not_introspected() {
    assert!(Introspection::is_for(TOKEN));
    assert!(!Introspection::is_for("header.claims.signature"));
    assert!(!Introspection::is_for("short"));
    assert!(!Introspection::is_for(&"a".repeat(5000)));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_allows_cached_tokens_and_caches_no_verdict_about_others() {
    let (introspection, now) = (overloaded(), SystemTime::now());
    cache_active(&introspection, TOKEN, now, 30);
    let start = Instant::now();
    let found = introspection.ask(TOKEN, client(1), now).await;
    assert_eq!(found.unwrap().application, ann().application);
    assert_eq!(start.elapsed(), TIMEOUT_WITH_CACHED);
    // The query is still in flight: the next caller does not wait.
    assert!(introspection.ask(TOKEN, client(2), now).await.is_ok());
    assert_eq!(start.elapsed(), TIMEOUT_WITH_CACHED);
    assert_eq!(introspection.0.flights.len(), 1);

    let unknown = "a token that was never seen";
    for _ in 0..2 {
        let found = introspection.ask(unknown, client(1), now).await;
        assert_eq!(found, Err(Rejected::Unanswered));
        assert_eq!(introspection.find(unknown, client(1), now), Err(Rejected::Unanswered));
    }
    // As soon as the issuer answers, the response is used.
    cache_active(&introspection, unknown, now, 0);
    assert!(introspection.ask(unknown, client(1), now).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_cached_token_stays_valid_for_stale_if_error() {
    let (introspection, now) = (overloaded(), SystemTime::now());
    cache_active(&introspection, TOKEN, now, 63);
    assert!(introspection.ask(TOKEN, client(1), now).await.is_ok());
    let later = now + Duration::from_secs(1);
    assert_eq!(introspection.ask(TOKEN, client(1), later).await, Err(Rejected::Unanswered));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_tokens_displaces_no_known_token_and_no_other_client() {
    let (introspection, now) = (overloaded(), SystemTime::now());
    cache_active(&introspection, TOKEN, now, 30);
    let crowd: Vec<_> = (0..400).map(|number| format!("junk-token-number-{number}")).collect();
    let mut crowd: Vec<_> =
        crowd.iter().map(|token| Box::pin(introspection.ask(token, client(1), now))).collect();
    crowd.iter_mut().for_each(|asked| drop(asked.as_mut().now_or_never()));
    let counts = introspection.queues().next().unwrap();
    assert_eq!((counts.waiting(), counts.rejected()), (WAITING as u64, 400 - WAITING as u64));
    let mut other = Box::pin(introspection.ask("another client's token", client(2), now));
    assert!(futures::poll!(&mut other).is_pending(), "it is queued");
    let mut cached = Box::pin(introspection.ask(TOKEN, client(1), now));
    assert!(futures::poll!(&mut cached).is_pending());
    assert!(cached.await.is_ok());
    assert!(futures::poll!(&mut other).is_pending());
    assert_eq!(counts.rejected(), 402 - WAITING as u64, "two of the crowd were dropped");
}
