//! Callers of the builder: users with tokens of an issuer, keys that expire and are replaced.

use serde_json::{Value, json};

use super::builder::{self, Builder};
use super::manifests;
use super::registry::Registry;
use crate::access::issuer::Issuer;
use crate::harness::eventually;

#[tokio::test]
async fn users_call_with_tokens_of_an_issuer_and_programs_do_not() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let (issuer, stranger) = (Issuer::start("key-1").await, Issuer::start("key-1").await);
    let grant = |scope: &str, environment: &str| json!([{ "scope": scope, "services": ["web"], "environments": [environment] }]);
    let further = json!({
        "issuers": [issuer.settings("corp", "")],
        "users": [
            { "users": ["Ann@example.com"], "grants": grant("deploy", "staging") },
            { "groups": ["ops"], "grants": grant("read", "production") },
        ],
    });
    let builder = Builder::start_with(&registry, None, &further).await;
    let token = |issuer: &Issuer, change: fn(&mut Value)| {
        let mut claims = issuer.claims();
        change(&mut claims);
        issuer.token(&issuer.header(), &claims)
    };
    let ann = token(&issuer, |_| {});
    eventually("the issuer's keys are there", || async {
        builder.get_as(&ann, "/api/v1/releases").await.status == 200
    })
    .await;
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    let created = builder.post_as(&ann, "/api/v1/releases", &request).await;
    assert_eq!(
        (created.status, &created.json()["createdBy"]),
        (201, &json!("user:ann@example.com"))
    );
    let deploy = |environment: &str| json!({ "release": "web.1", "environment": environment });
    let post = async |token: &str, environment: &str| {
        builder.post_as(token, "/api/v1/deployments", &deploy(environment)).await.status
    };
    assert_eq!((post(&ann, "staging").await, post(&ann, "production").await), (202, 404));
    let ops = token(&issuer, |claims| {
        claims["email"] = "bob@example.com".into();
        claims["groups"] = json!(["ops"]);
    });
    assert_eq!((post(&ops, "staging").await, post(&ops, "production").await), (404, 403));
    // One who has no grant, a program with the same name, an address that is not verified, a token
    // that has expired, for someone else, of another issuer, and none at all.
    for token in [
        token(&issuer, |claims| claims["email"] = "eve@example.com".into()),
        token(&issuer, |claims| {
            claims["email"] = Value::Null;
            claims["sub"] = "ann@example.com".into();
            claims["azp"] = "ci".into();
        }),
        token(&issuer, |claims| claims["email_verified"] = false.into()),
        token(&issuer, |claims| claims["exp"] = 1.into()),
        token(&issuer, |claims| claims["aud"] = "another".into()),
        token(&stranger, |_| {}),
        "x.y.z".to_owned(),
        String::new(),
    ] {
        let answer = builder.get_as(&token, "/api/v1/releases").await;
        assert_eq!(answer.status, 401, "{token}");
    }
    let audit = builder.get("admin", "/api/v1/audit").await.text();
    assert!(audit.contains("user:ann@example.com"), "{audit}");
}

#[tokio::test]
async fn a_key_is_replaced_by_another_and_its_last_use_is_known() {
    let registry = Registry::start().await;
    let builder = Builder::start(&registry, None).await;
    let keys = async || builder.get("admin", "/api/v1/keys").await.json()["items"].clone();
    let of = |keys: &Value, caller: &str| -> Value {
        let mut keys = keys.as_array().expect("keys").iter();
        keys.find(|key| key["caller"] == caller).expect("the caller").clone()
    };
    let before = keys().await;
    assert_eq!(of(&before, "reader")["usedAt"], Value::Null);
    assert!(!before.to_string().contains(&builder::token("reader")));
    builder.get("reader", "/api/v1/releases").await;
    eventually("the use is recorded", || async { of(&keys().await, "reader")["usedAt"].is_u64() })
        .await;
    let first = of(&keys().await, "reader");
    builder.get("reader", "/api/v1/releases").await;
    assert_eq!(of(&keys().await, "reader"), first, "it is recorded once a minute");
    let shown = builder.cli("admin", &["audit", "keys"]).await.unwrap();
    assert!(shown.contains("reader") && shown.contains("never"), "{shown}");
    assert_eq!(builder.get("ci", "/api/v1/keys").await.status, 403);
}
