use serde_json::json;

use super::*;

/// A provider as configured in docs/access.md, with the tokens that it issues.
struct Provider {
    name: &'static str,
    /// The settings of its issuer.
    settings: Value,
    /// Claims of tokens of programs.
    programs: Vec<Value>,
    /// Claims of tokens of people, and the name of the user.
    people: Vec<(Value, &'static str)>,
}

fn issuer(settings: &Value) -> IssuerSettings {
    let mut all =
        json!({"name": "corp", "issuer": "https://id.example.com", "audiences": ["portcullis"]});
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn claims(value: &Value) -> Claims {
    serde_json::from_value(value.clone()).unwrap()
}

fn providers() -> Vec<Provider> {
    vec![
        Provider {
            name: "Keycloak",
            settings: json!({
                "userClaim": "preferred_username",
                "userEvidence": [{"claim": "email"}, {"claim": "auth_time"}],
            }),
            programs: vec![
                json!({
                    "typ": "Bearer", "azp": "billing", "client_id": "billing", "acr": "1",
                    "sub": "d952cf23-bf92-4c8f-a3ff-4972b4f2bc5b", "scope": "profile email",
                    "preferred_username": "service-account-billing", "email_verified": false,
                    "clientHost": "10.0.0.7", "clientAddress": "10.0.0.7",
                }),
                // With refresh tokens, an address set by an administrator, and the older spelling.
                json!({
                    "typ": "Bearer", "azp": "billing", "clientId": "billing", "auth_time": 0,
                    "sub": "d952cf23-bf92-4c8f-a3ff-4972b4f2bc5b", "sid": "5b1e", "session_state": "5b1e",
                    "preferred_username": "service-account-billing",
                    "email": "billing@example.com", "email_verified": true,
                }),
                // Without its scopes.
                json!({"typ": "Bearer", "azp": "billing", "sub": "d952cf23-bf92", "preferred_username": "billing", "sid": "5b1e"}),
                // Its ID token.
                json!({"typ": "ID", "azp": "billing", "aud": "billing", "sub": "d952cf23-bf92", "at_hash": "x", "preferred_username": "service-account-billing"}),
            ],
            people: vec![
                (
                    json!({
                        "typ": "Bearer", "azp": "shop", "sub": "0b6c", "sid": "77aa", "acr": "1",
                        "auth_time": 1_795_219_000, "preferred_username": "ann", "email_verified": false,
                    }),
                    "ann",
                ),
                (
                    json!({
                        "typ": "Bearer", "azp": "shop", "sub": "0b6c", "preferred_username": "ann",
                        "email": "ann@example.com", "email_verified": true,
                    }),
                    "ann",
                ),
            ],
        },
        Provider {
            name: "Auth0",
            settings: json!({"userClaim": "sub", "userEvidence": [{"claim": "sub", "value": "auth0|*"}, {"claim": "sub", "value": "google-oauth2|*"}]}),
            programs: vec![
                json!({"sub": "x1YbZ@clients", "azp": "x1YbZ", "gty": "client-credentials", "scope": "read:all"}),
                json!({"sub": "auth0|machine", "azp": "x1YbZ", "gty": ["client-credentials"]}),
                json!({"sub": "x1YbZ@clients"}),
            ],
            people: vec![
                (
                    json!({"sub": "auth0|5f7c8ec7", "azp": "shop", "scope": "openid profile"}),
                    "auth0|5f7c8ec7",
                ),
                (
                    json!({"sub": "google-oauth2|1138", "azp": "shop", "gty": "password"}),
                    "google-oauth2|1138",
                ),
            ],
        },
        Provider {
            name: "Entra ID",
            settings: json!({
                "userClaim": "oid", "applicationClaims": ["azp", "appid"],
                "userEvidence": [{"claim": "scp"}, {"claim": "idtyp", "value": "user"}, {"claim": "preferred_username"}],
            }),
            programs: vec![
                json!({"ver": "1.0", "appid": "6e74", "appidacr": "1", "oid": "a3c0", "sub": "a3c0", "roles": ["Read"], "tid": "7f"}),
                json!({"ver": "2.0", "azp": "6e74", "azpacr": "2", "oid": "a3c0", "sub": "a3c0", "roles": ["Read"], "tid": "7f"}),
                json!({"ver": "2.0", "azp": "6e74", "azpacr": "1", "idtyp": "app", "oid": "a3c0", "sub": "b4d1"}),
                json!({"ver": "2.0", "azp": "6e74", "oid": "a3c0", "sub": "b4d1", "idtyp": "device", "scp": "x"}),
                json!({"ver": "1.0", "appid": "6e74", "appidacr": "2", "oid": "a3c0", "sub": "a3c0", "xms_mirid": "/subscriptions/x", "preferred_username": "x"}),
            ],
            people: vec![
                (
                    json!({"ver": "2.0", "azp": "6e74", "azpacr": "1", "oid": "c5e2", "sub": "pair", "scp": "access_as_user"}),
                    "c5e2",
                ),
                (
                    json!({"ver": "1.0", "appid": "6e74", "appidacr": "0", "oid": "c5e2", "sub": "pair", "scp": "User.Read", "idtyp": "user"}),
                    "c5e2",
                ),
                // An ID token.
                (
                    json!({"ver": "2.0", "aud": "portcullis", "oid": "c5e2", "sub": "pair", "preferred_username": "ann@example.com"}),
                    "c5e2",
                ),
            ],
        },
        Provider {
            name: "Okta",
            settings: json!({"userClaim": "sub", "applicationClaims": ["cid"], "userEvidence": [{"claim": "uid"}, {"claim": "email"}]}),
            programs: vec![
                json!({"ver": 1, "cid": "0oa1", "sub": "0oa1", "scp": ["read"]}),
                json!({"ver": 1, "cid": "0oa1", "sub": "billing", "scp": ["read"]}),
            ],
            people: vec![(
                json!({"ver": 1, "cid": "0oa1", "uid": "00u9", "sub": "ann@example.com", "scp": ["openid"], "auth_time": 1_795_219_000}),
                "ann@example.com",
            )],
        },
        Provider {
            name: "Google",
            settings: json!({}),
            programs: vec![
                json!({"azp": "1070", "sub": "1070", "email": "build@shop.iam.gserviceaccount.com", "email_verified": true}),
                json!({"azp": "1070", "sub": "2080", "email": "1070-compute@developer.gserviceaccount.com", "email_verified": true}),
                json!({"azp": "1070", "sub": "2080", "email": "X@GServiceAccount.com", "email_verified": true}),
            ],
            people: vec![(
                json!({"azp": "1070.apps.googleusercontent.com", "sub": "1104", "email": "ann@example.com", "email_verified": true, "hd": "example.com"}),
                "ann@example.com",
            )],
        },
        Provider {
            name: "Cognito",
            settings: json!({"userClaim": "sub", "applicationClaims": ["client_id"], "userEvidence": [{"claim": "username"}, {"claim": "cognito:username"}]}),
            programs: vec![
                json!({"sub": "6jv0", "client_id": "6jv0", "token_use": "access", "scope": "api/read", "auth_time": 1_795_219_000}),
            ],
            people: vec![
                (
                    json!({"sub": "aaaa", "client_id": "6jv0", "token_use": "access", "username": "ann", "cognito:groups": ["ops"]}),
                    "aaaa",
                ),
                (
                    json!({"sub": "aaaa", "aud": "6jv0", "token_use": "id", "cognito:username": "ann"}),
                    "aaaa",
                ),
            ],
        },
        Provider {
            name: "authentik",
            settings: json!({"userClaim": "preferred_username", "userEvidence": [{"claim": "user_type", "value": "internal"}]}),
            programs: vec![
                json!({"azp": "x", "sub": "1f0d", "uid": "y", "preferred_username": "ak-shop-client_credentials", "email": "", "email_verified": true, "auth_time": 1_795_219_000}),
                json!({"azp": "x", "sub": "1f0d", "preferred_username": "build", "user_type": "service_account", "email_verified": true}),
            ],
            people: vec![(
                json!({"azp": "x", "sub": "2e1c", "preferred_username": "ann", "user_type": "internal"}),
                "ann",
            )],
        },
        Provider {
            name: "Zitadel, Dex and GitLab",
            settings: json!({"userClaim": "sub"}),
            programs: vec![
                // A machine user's ID token.
                json!({"aud": ["portcullis"], "azp": "portcullis", "sub": "2719", "auth_time": 1_795_219_000, "amr": ["user"], "at_hash": "x"}),
                // A job of GitLab CI.
                json!({"sub": "project_path:shop/web:ref_type:branch:ref:main", "user_login": "ann", "user_email": "ann@example.com", "pipeline_id": "1", "job_id": "2"}),
            ],
            people: vec![(
                json!({"aud": "portcullis", "sub": "2720", "email": "ann@example.com", "email_verified": true}),
                "2720",
            )],
        },
        Provider {
            name: "workloads, whose issuers know no people",
            settings: json!({"userClaim": "sub", "userEvidence": []}),
            programs: vec![
                json!({"sub": "repo:shop/web:ref:refs/heads/main", "actor": "ann", "job_workflow_ref": "x", "email": "a@b", "email_verified": true}),
                json!({"sub": "system:serviceaccount:shop:web", "kubernetes.io": {"namespace": "shop"}}),
                json!({"sub": "spiffe://example.com/web", "email": "a@b", "email_verified": true}),
                json!({"sub": "anything", "email": "a@b", "email_verified": true}),
            ],
            people: vec![],
        },
        Provider {
            name: "a client of an issuer by RFC 9068, and by its audience alone",
            settings: json!({"userClaim": "sub", "applicationClaims": ["client"], "userEvidence": [{"claim": "idp"}]}),
            programs: vec![
                json!({"client_id": "billing", "sub": "billing", "idp": "local"}),
                json!({"client": "billing", "sub": "Billing", "idp": "local"}),
                json!({"aud": "billing", "sub": "billing", "idp": "local"}),
                json!({"aud": ["a", "billing"], "sub": "billing", "idp": "local"}),
                json!({"sub": "5d1f", "client_id": "billing", "grant_type": "client_credentials", "idp": "local"}),
                json!({"sub": "5d1f", "client_id": "billing", "sub_type": "client", "idp": "local"}),
                json!({"sub": "5d1f", "client_id": "billing"}),
            ],
            people: vec![(
                json!({"client_id": "shop", "sub": "818727", "idp": "local", "amr": ["pwd"]}),
                "818727",
            )],
        },
    ]
}

#[test]
fn tokens_of_people_and_programs_are_distinguished_for_every_provider() {
    for Provider { name, settings, programs, people } in providers() {
        let issuer = issuer(&settings);
        for program in &programs {
            let found = of_bearer(&claims(program), &issuer);
            assert!(found.is_err(), "{name}: {program} is {found:?}");
        }
        for (person, user) in &people {
            let found = of_bearer(&claims(person), &issuer).map(|user| user.name);
            assert_eq!(found.as_deref(), Ok(*user), "{name}: {person}");
        }
    }
}

#[test]
fn no_program_is_a_user_by_default_for_any_user_claim() {
    let programs = providers().into_iter().flat_map(|provider| provider.programs);
    let anything = json!({"sub": "anything", "email": "a@b", "email_verified": true});
    for program in programs.filter(|program| *program != anything) {
        for claim in ["sub", "preferred_username", "oid", "azp", "email", "username"] {
            let found = of_bearer(&claims(&program), &issuer(&json!({"userClaim": claim})));
            assert!(found.is_err(), "{program} by {claim} is {found:?}");
        }
    }
}

#[test]
fn a_mark_of_a_program_overrides_all_evidence() {
    let person = json!({
        "sub": "1001", "azp": "shop", "email": "ann@example.com", "email_verified": true,
        "preferred_username": "ann", "scp": "x",
    });
    let settings = issuer(&json!({"userClaim": "preferred_username"}));
    assert!(of_bearer(&claims(&person), &settings).is_ok());
    for (name, value, mark) in [
        ("sub", json!("shop"), "sub"),
        ("sub", json!("x@clients"), "sub"),
        ("cid", json!("1001"), "sub"),
        ("appid", json!("ann"), "sub"),
        ("client_id", json!(1001), "sub"),
        ("aud", json!(["x", "1001"]), "sub"),
        ("sub", json!("(age!shop)"), "sub"),
        ("sub", json!("client:shop"), "sub"),
        ("preferred_username", json!("Application:billing"), "preferred_username"),
        ("gty", json!("client_credentials"), "gty"),
        ("idtyp", json!("app"), "idtyp"),
        ("idtyp", json!(1), "idtyp"),
        ("preferred_username", json!("service-account-shop"), "preferred_username"),
        ("email", json!("a@b.iam.gserviceaccount.com"), "email"),
        ("username", json!("Service-Account-shop"), "username"),
        ("clientHost", json!("10.0.0.7"), "clientHost"),
        ("kubernetes.io", json!({}), "kubernetes.io"),
        ("aut", json!("APPLICATION"), "aut"),
    ] {
        let mut program = person.clone();
        program[name] = value.clone();
        for found in [of_bearer, of_login].map(|judge| judge(&claims(&program), &settings)) {
            assert_eq!(found, Err(NoUser::Program(mark)), "{name}: {value}");
        }
    }
}

#[test]
fn evidence_is_a_claim_with_a_truthy_value() {
    let evident = |evidence: Value, value: Value| {
        let settings = issuer(&json!({"userClaim": "sub", "userEvidence": evidence}));
        let token = json!({"sub": "1001", "email": "ann@example.com", "mark": value});
        of_bearer(&claims(&token), &settings).is_ok()
    };
    let any = || json!([{"claim": "mark"}]);
    for value in [json!("x"), json!(true), json!(7), json!(["x"]), json!({"a": 1})] {
        assert!(evident(any(), value.clone()), "{value}");
    }
    for value in [
        Value::Null,
        json!(false),
        json!(0),
        json!(""),
        json!("false"),
        json!([]),
        json!([""]),
        json!({}),
    ] {
        assert!(!evident(any(), value.clone()), "{value}");
    }
    let human = || json!([{"claim": "absent"}, {"claim": "mark", "value": "human*"}]);
    assert!(evident(human(), json!("humanoid")));
    assert!(evident(human(), json!(["x", "human"])));
    for value in [json!("x"), json!(["x"]), json!(true), Value::Null] {
        assert!(!evident(human(), value.clone()), "{value}");
    }
    assert!(!evident(json!([{"claim": "email"}]), json!("x")), "it is not verified");
}

#[test]
fn a_login_of_the_gateway_needs_no_other_evidence() {
    let settings = issuer(&json!({"userClaim": "sub", "userEvidence": []}));
    let token = claims(&json!({"sub": "1001", "aud": "portcullis", "nonce": "n"}));
    assert_eq!(of_bearer(&token, &settings), Err(NoUser::NoEvidence));
    assert_eq!(of_login(&token, &settings).map(|user| user.name).as_deref(), Ok("1001"));
    let nameless = claims(&json!({"aud": "portcullis", "email": "a@b", "email_verified": true}));
    assert_eq!(of_login(&nameless, &settings), Err(NoUser::Unnamed));
}
