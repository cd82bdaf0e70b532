use std::net::IpAddr;

use futures::FutureExt;
use serde_json::json;

use super::*;
use crate::caller::{Caller, ann};

const TOKEN: &str = "2YotnFZFEjr1zCsicMWpAA";

/// Asks an issuer, but nobody takes what is asked out of its queue.
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

/// The issuer said `age` seconds before `now` that this token is good.
fn know(introspection: &Introspection, token: &str, now: SystemTime, age: u64) {
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
fn signed_tokens_are_not_asked_about() {
    assert!(Introspection::is_for(TOKEN));
    assert!(!Introspection::is_for("header.claims.signature"));
    assert!(!Introspection::is_for("short"));
    assert!(!Introspection::is_for(&"a".repeat(5000)));
}

#[tokio::test(start_paused = true)]
async fn overload_lets_known_callers_in_and_is_no_answer_about_others() {
    let (introspection, now) = (overloaded(), SystemTime::now());
    know(&introspection, TOKEN, now, 30);
    let start = Instant::now();
    let found = introspection.ask(TOKEN, client(1), now).await;
    assert_eq!(found.unwrap().application, ann().application);
    assert_eq!(start.elapsed(), PATIENCE_OF_KNOWN);
    // The question is under way still: whoever comes next does not wait.
    assert!(introspection.ask(TOKEN, client(2), now).await.is_ok());
    assert_eq!(start.elapsed(), PATIENCE_OF_KNOWN);
    assert_eq!(introspection.0.flights.len(), 1);

    let unknown = "a token that nobody has seen";
    for _ in 0..2 {
        let found = introspection.ask(unknown, client(1), now).await;
        assert_eq!(found, Err(Rejected::Unanswered));
        assert_eq!(introspection.find(unknown, client(1), now), Err(Rejected::Unanswered));
    }
    // As soon as the issuer has time for it, it counts.
    know(&introspection, unknown, now, 0);
    assert!(introspection.ask(unknown, client(1), now).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_known_caller_goes_on_for_the_stated_time_and_no_longer() {
    let (introspection, now) = (overloaded(), SystemTime::now());
    know(&introspection, TOKEN, now, 63);
    assert!(introspection.ask(TOKEN, client(1), now).await.is_ok());
    let later = now + Duration::from_secs(1);
    assert_eq!(introspection.ask(TOKEN, client(1), later).await, Err(Rejected::Unanswered));
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_unknown_tokens_pushes_out_no_known_one_and_no_other_client() {
    let (introspection, now) = (overloaded(), SystemTime::now());
    know(&introspection, TOKEN, now, 30);
    let crowd: Vec<_> = (0..400).map(|number| format!("junk-token-number-{number}")).collect();
    let mut crowd: Vec<_> =
        crowd.iter().map(|token| Box::pin(introspection.ask(token, client(1), now))).collect();
    crowd.iter_mut().for_each(|asked| drop(asked.as_mut().now_or_never()));
    let counts = introspection.queues().next().unwrap();
    assert_eq!((counts.waiting(), counts.rejected()), (WAITING as u64, 400 - WAITING as u64));
    let mut other = Box::pin(introspection.ask("another client's token", client(2), now));
    assert!(futures::poll!(&mut other).is_pending(), "it has found room");
    let mut known = Box::pin(introspection.ask(TOKEN, client(1), now));
    assert!(futures::poll!(&mut known).is_pending());
    assert!(known.await.is_ok());
    assert!(futures::poll!(&mut other).is_pending());
    assert_eq!(counts.rejected(), 402 - WAITING as u64, "two of the crowd made room");
}
