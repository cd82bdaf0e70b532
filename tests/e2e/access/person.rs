//! A token identifies a user only with positive evidence: tokens of providers for people and for
//! programs.

use serde_json::{Value, json};

use super::issuer::{Issuer, now};
use super::{bearer, portcullis};
use crate::harness::{Gateway, Service, World, echo, eventually};

/// Requires an application and a user, any of them.
const BOTH: &str = "web--both.apps.test";
/// Requires a user.
const USERS: &str = "web--users.apps.test";
/// Requires an application.
const APPS: &str = "web--apps.apps.test";

/// A provider: its configuration, and the claims of its tokens for programs and for people.
struct Provider {
    name: &'static str,
    settings: Value,
    programs: Vec<Value>,
    people: Vec<Value>,
}

fn providers() -> Vec<Provider> {
    vec![
        Provider {
            name: "keycloak",
            settings: json!({"userClaim": "preferred_username", "userEvidence": [{"claim": "email"}, {"claim": "auth_time"}]}),
            programs: vec![json!({
                "typ": "Bearer", "azp": "billing", "client_id": "billing",
                "sub": "d952cf23-bf92-4c8f-a3ff-4972b4f2bc5b",
                "preferred_username": "service-account-billing", "email_verified": false,
            })],
            people: vec![json!({
                "typ": "Bearer", "azp": "shop", "sub": "0b6c", "sid": "77aa", "auth_time": now() - 60,
                "preferred_username": "ann", "email_verified": false,
            })],
        },
        Provider {
            name: "auth0",
            settings: json!({"userClaim": "sub", "userEvidence": [{"claim": "sub", "value": "auth0|*"}]}),
            programs: vec![
                json!({"sub": "x1YbZ@clients", "azp": "x1YbZ", "gty": "client-credentials"}),
            ],
            people: vec![json!({"sub": "auth0|5f7c", "azp": "shop", "scope": "openid"})],
        },
        Provider {
            name: "entra",
            settings: json!({
                "userClaim": "sub", "applicationClaims": ["azp", "appid"],
                "userEvidence": [{"claim": "scp"}, {"claim": "idtyp", "value": "user"}],
            }),
            programs: vec![
                json!({"appid": "6e74", "appidacr": "1", "idtyp": "app", "oid": "a3c0", "sub": "a3c0", "roles": ["Read"]}),
                json!({"azp": "6e74", "azpacr": "2", "oid": "a3c0", "sub": "a3c0", "roles": ["Read"]}),
            ],
            people: vec![
                json!({"azp": "6e74", "azpacr": "1", "oid": "c5e2", "sub": "pair", "scp": "access_as_user"}),
            ],
        },
        Provider {
            name: "okta",
            settings: json!({"userClaim": "sub", "applicationClaims": ["cid"], "userEvidence": [{"claim": "uid"}]}),
            programs: vec![
                json!({"cid": "0oa1", "sub": "0oa1", "scp": ["read"]}),
                json!({"cid": "0oa1", "sub": "billing", "scp": ["read"]}),
            ],
            people: vec![
                json!({"cid": "0oa1", "uid": "00u9", "sub": "ann@example.com", "scp": ["openid"]}),
            ],
        },
        Provider {
            name: "google",
            settings: json!({}),
            programs: vec![
                json!({"azp": "1070", "sub": "1070", "email": "build@shop.iam.gserviceaccount.com", "email_verified": true}),
            ],
            people: vec![
                json!({"azp": "1070.apps", "sub": "1104", "email": "ann@example.com", "email_verified": true}),
            ],
        },
        Provider {
            name: "cognito",
            settings: json!({"userClaim": "sub", "userEvidence": [{"claim": "username"}]}),
            programs: vec![
                json!({"sub": "6jv0", "client_id": "6jv0", "token_use": "access", "auth_time": now()}),
            ],
            people: vec![
                json!({"sub": "aaaa", "client_id": "6jv0", "token_use": "access", "username": "ann"}),
            ],
        },
        Provider {
            name: "workloads",
            settings: json!({"userClaim": "sub", "userEvidence": []}),
            programs: vec![
                json!({"azp": "ci", "sub": "repo:shop/web:ref:refs/heads/main", "actor": "ann"}),
                json!({"azp": "ci", "sub": "1", "email": "ann@example.com", "email_verified": true}),
            ],
            people: vec![],
        },
        // No evidence is configured.
        Provider {
            name: "unknown",
            settings: json!({"userClaim": "sub"}),
            programs: vec![
                json!({"azp": "billing", "client_id": "billing", "sub": "7d1f", "groups": ["ops"]}),
                json!({"azp": "billing", "sub": "7d1f", "email": "billing@example.com", "email_verified": "true"}),
            ],
            people: vec![
                json!({"azp": "shop", "sub": "818727", "email": "ann@example.com", "email_verified": true}),
            ],
        },
    ]
}

fn world(pod: &crate::harness::Echo) -> World {
    World::empty()
        .with(Service::new("web").environment("both").pod(pod))
        .annotation("both", "require", "app+user")
        .annotation("both", "allow-apps", "*")
        .annotation("both", "allow-users", "*")
        .with(Service::new("web").environment("users").pod(pod))
        .annotation("users", "require", "user")
        .annotation("users", "allow-users", "*")
        .with(Service::new("web").environment("apps").pod(pod))
        .annotation("apps", "require", "app")
        .annotation("apps", "allow-apps", "*")
}

/// A token of this issuer with these claims beside those that all have.
fn token(issuer: &Issuer, claims: &Value) -> String {
    let mut all =
        json!({"iss": issuer.name(), "aud": "portcullis", "iat": now(), "exp": now() + 600});
    for (name, value) in claims.as_object().expect("an object") {
        all[name] = value.clone();
    }
    issuer.token(&issuer.header(), &all)
}

#[tokio::test]
async fn a_machine_token_never_authenticates_a_user() {
    let pod = echo("pod-1").await;
    let mut all = Vec::new();
    let mut issuers = Vec::new();
    for provider in providers() {
        let issuer = Issuer::start("key").await;
        let mut settings = issuer.settings(provider.name, &format!("{}:", provider.name));
        for (name, value) in provider.settings.as_object().expect("an object") {
            settings[name] = value.clone();
        }
        issuers.push(settings);
        all.push((provider, issuer));
    }
    let gateway = Gateway::of(world(&pod))
        .settings(json!({ "access": { "issuers": issuers } }))
        .start()
        .await;
    let status = async |host: &str, token: &str| {
        gateway.curl(host, "/").header(&bearer(token)).run().await.status
    };
    for (Provider { name, programs, people, .. }, issuer) in &all {
        for program in programs {
            let token = token(issuer, program);
            eventually("the program is known as an application", || async {
                status(APPS, &token).await == 200
            })
            .await;
            for host in [BOTH, USERS] {
                assert_eq!(status(host, &token).await, 404, "{name}: {program} at {host}");
            }
        }
        for person in people {
            let token = token(issuer, person);
            eventually("the person is let in", || async { status(BOTH, &token).await == 200 })
                .await;
            assert_eq!(status(USERS, &token).await, 200, "{name}: {person}");
        }
    }
    // The reason and the required configuration are reported.
    let (keycloak, issuer) = &all[0];
    let header = bearer(&token(issuer, &keycloak.programs[0]));
    let (url, admin) = (format!("https://{BOTH}/"), gateway.admin().to_string());
    let explained = portcullis(&["explain", "--admin", &admin, &url, "-H", &header]).await;
    assert!(
        explained.contains("no user (the token has no user: it is a program's own"),
        "{explained}"
    );
    let configuration = gateway.folder().join("portcullis.yaml");
    let checked = portcullis(&["check", &configuration.to_string_lossy()]).await;
    for reported in [checked, gateway.log()] {
        assert!(reported.contains("access.issuers[7].userEvidence"), "{reported}");
        assert!(!reported.contains("access.issuers[0].userEvidence"), "{reported}");
    }
}

#[tokio::test]
async fn a_token_with_another_purpose_authenticates_no_caller() {
    let pod = echo("pod-1").await;
    let issuer = Issuer::start("key").await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the-gateways-own-secret").expect("a file");
    let mut settings = issuer.settings("corp", "");
    settings["introspection"] = json!({ "clientId": "gateway", "clientSecretFile": secret });
    let gateway = Gateway::of(world(&pod))
        .settings(json!({ "access": { "issuers": [settings] } }))
        .start()
        .await;
    let status = async |host: &str, token: &str| {
        gateway.curl(host, "/").header(&bearer(token)).run().await.status
    };
    let with = |name: &str, value: &Value| {
        let mut claims = issuer.claims();
        if !name.is_empty() {
            claims[name] = value.clone();
        }
        claims
    };
    // Opaque tokens are introspected.
    let opaque = |number: usize, mut claims: Value| {
        claims["active"] = json!(true);
        let token = format!("opaque-token-number-{number}");
        issuer.say(&token, claims);
        token
    };
    let ann = issuer.token(&issuer.header(), &with("", &Value::Null));
    let seen = opaque(0, with("", &Value::Null));
    for good in [&ann, &seen] {
        eventually("what it is made from is good", || async { status(BOTH, good).await == 200 })
            .await;
    }
    let logout = "http://schemas.openid.net/event/backchannel-logout";
    for (number, (name, value)) in [
        ("events", json!({logout: {}})),
        (
            "events",
            json!({"https://schemas.openid.net/secevent/risc/event-type/account-disabled": {}}),
        ),
        ("toe", json!(now())),
        ("typ", json!("Refresh")),
        ("typ", json!("Offline")),
        ("token_type", json!("refresh_token")),
        ("token_use", json!("refresh")),
        ("cnf", json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})),
        ("cnf", json!({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"})),
    ]
    .into_iter()
    .enumerate()
    {
        let claims = with(name, &value);
        let signed = issuer.token(&issuer.header(), &claims);
        for token in [signed, opaque(number + 1, claims)] {
            for host in [BOTH, USERS, APPS] {
                assert_eq!(status(host, &token).await, 404, "{name}: {value} at {host}");
            }
        }
    }
}
