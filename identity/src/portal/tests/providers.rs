//! The notes of `docs/login.md` about providers: their discovery, their tokens, and the settings
//! that fit them.

use super::*;

/// A provider as documented.
struct Known {
    name: &'static str,
    /// Settings of the login, and of the issuer.
    settings: [Value; 2],
    discovery: Value,
    /// Parameters of the authorization request, `None` for those that must be absent.
    asks: &'static [(&'static str, Option<&'static str>)],
    /// Claims of the ID token besides `iss`, `aud`, `exp`, `iat` and `nonce`.
    id_token: Value,
    userinfo: (u16, Value),
    user: &'static str,
    groups: &'static [&'static str],
}

const NO_USERINFO: u16 = 403;

fn google() -> Known {
    Known {
        name: "Google",
        settings: [
            json!({"authorizationParameters": {"access_type": "offline", "prompt": "consent"}}),
            json!({}),
        ],
        discovery: json!({"scopes_supported": ["openid", "email", "profile"]}),
        asks: &[
            ("scope", Some("openid email profile")),
            ("access_type", Some("offline")),
            ("prompt", Some("consent")),
        ],
        id_token: json!({
            "azp": "portcullis", "sub": "10769150350006150715113082367", "hd": "example.com",
            "email": "ann@example.com", "email_verified": true, "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q",
            "name": "Ann", "given_name": "Ann",
        }),
        userinfo: (200, json!({"sub": "10769150350006150715113082367", "name": "Ann"})),
        user: "ann@example.com",
        groups: &[],
    }
}

fn entra() -> Known {
    Known {
        name: "Entra ID",
        settings: [
            json!({"authorizationParameters": {"prompt": ""}}),
            json!({"userClaim": "preferred_username", "userEvidence": [{"claim": "scp"}]}),
        ],
        discovery: json!({"scopes_supported": ["openid", "profile", "email", "offline_access"]}),
        asks: &[("scope", Some("openid email profile offline_access")), ("prompt", None)],
        id_token: json!({
            "ver": "2.0", "tid": "9188040d-6c67-4c5b-b112-36a304b66dad",
            "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474", "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
            "preferred_username": "ann@example.com", "email": "ann@example.com", "name": "Ann",
            "groups": ["17944e55-5d6f-4a3d-8f0c-9b1a0a3d4f61"], "rh": "0.AX", "uti": "x",
        }),
        // Its userinfo is an API of another audience, with another `sub` claim set.
        userinfo: (NO_USERINFO, json!({})),
        user: "ann@example.com",
        groups: &["17944e55-5d6f-4a3d-8f0c-9b1a0a3d4f61"],
    }
}

fn keycloak() -> Known {
    Known {
        name: "Keycloak",
        settings: [
            json!({}),
            json!({"userClaim": "preferred_username", "userEvidence": [{"claim": "auth_time"}]}),
        ],
        discovery: json!({
            "scopes_supported": ["openid", "offline_access", "email", "profile", "roles", "basic"],
            "authorization_response_iss_parameter_supported": false,
        }),
        asks: &[
            ("scope", Some("openid email profile offline_access")),
            ("prompt", Some("consent")),
        ],
        id_token: json!({
            "typ": "ID", "azp": "portcullis", "auth_time": NOW, "jti": "5ae2", "acr": "1",
            "sub": "f4b3e0a1-6f0b-4a57-9a05-3b7d4b4c3a11", "sid": "c2d5", "at_hash": "x",
            "preferred_username": "ann", "email_verified": false, "groups": ["/ops", "/dev"],
        }),
        userinfo: (200, json!({})),
        user: "ann",
        groups: &["/ops", "/dev"],
    }
}

fn okta() -> Known {
    Known {
        name: "Okta",
        settings: [
            json!({"scopes": ["openid", "email", "profile", "groups", "offline_access"]}),
            json!({}),
        ],
        discovery: json!({"scopes_supported": ["openid", "email", "profile", "address", "phone", "offline_access", "groups"]}),
        asks: &[("scope", Some("openid email profile groups offline_access"))],
        // A thin ID token: the rest is in userinfo.
        id_token: json!({
            "ver": 1, "sub": "00uid4BxXw6I6TV4m0g3", "jti": "ID.1", "amr": ["pwd"],
            "idp": "00o1", "auth_time": NOW, "preferred_username": "ann@example.com", "at_hash": "x",
        }),
        userinfo: (
            200,
            json!({
                "sub": "00uid4BxXw6I6TV4m0g3", "email": "ann@example.com", "email_verified": true,
                "groups": ["Everyone", "ops"], "zoneinfo": "Europe/Berlin",
            }),
        ),
        user: "ann@example.com",
        groups: &["Everyone", "ops"],
    }
}

fn auth0() -> Known {
    Known {
        name: "Auth0",
        settings: [json!({}), json!({"groupClaim": "https://example.com/groups"})],
        discovery: json!({"scopes_supported": ["openid", "profile", "offline_access", "name", "email"]}),
        asks: &[("scope", Some("openid email profile offline_access"))],
        id_token: json!({
            "nickname": "ann", "name": "Ann", "sub": "auth0|5f7c8ec7c33c6c004bbafe82", "sid": "LQ3x",
            "email": "ann@example.com", "email_verified": true, "https://example.com/groups": ["ops"],
        }),
        userinfo: (NO_USERINFO, json!({})),
        user: "ann@example.com",
        groups: &["ops"],
    }
}

/// One that lists no scopes: discovery documents need not.
fn unspecific() -> Known {
    Known {
        name: "a provider without scopes_supported",
        settings: [json!({}), json!({})],
        discovery: json!({"scopes_supported": []}),
        asks: &[("scope", Some("openid email profile")), ("prompt", None)],
        id_token: json!({"sub": "1", "email": "ann@example.com", "email_verified": true}),
        userinfo: (500, json!({})),
        user: "ann@example.com",
        groups: &[],
    }
}

#[tokio::test]
async fn users_of_known_providers_log_in() {
    for known in [google(), entra(), keycloak(), okta(), auth0(), unspecific()] {
        let name = known.name;
        let [login, issuer] = known.settings;
        let mut trip = Trip::with(login, issuer, known.discovery).await;
        let sent = trip.begin(&own("/login")).await;
        for (parameter, value) in known.asks {
            assert_eq!(sent.get(*parameter).map(String::as_str), *value, "{name}: {parameter}");
        }
        let mut claims = json!({
            "iss": trip.fake.url, "aud": "portcullis", "exp": NOW + 300, "iat": NOW,
            "nonce": sent["nonce"],
        });
        merge(&mut claims, &known.id_token);
        trip.fake.returns_claims("r", &claims);
        *trip.fake.userinfo.lock().unwrap() = known.userinfo;
        let reply = trip.callback(&sent["state"], "").await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{name}");
        let session = trip.portal.session(&trip.request(Method::GET, &own("/"), ""), at(NOW));
        let user = &session.expect(name).user;
        assert_eq!(&*user.name, known.user, "{name}");
        assert_eq!(
            user.groups.iter().map(|group| &**group).collect::<Vec<_>>(),
            known.groups,
            "{name}"
        );
    }
}

#[tokio::test]
async fn userinfo_that_fails_matters_only_if_it_is_needed() {
    let mut trip = Trip::start().await;
    for (claims, userinfo, status) in [
        (json!({"groups": null}), (403, json!({})), StatusCode::SEE_OTHER),
        (json!({"groups": null}), (401, json!({"error": "invalid_token"})), StatusCode::SEE_OTHER),
        (json!({"groups": null}), (200, json!("a.signed.one")), StatusCode::SEE_OTHER),
        (json!({"groups": null}), (503, json!({})), StatusCode::SEE_OTHER),
        (json!({"email": null}), (403, json!({})), StatusCode::FORBIDDEN),
        // Another subject's.
        (
            json!({"groups": null}),
            (200, json!({"sub": "8", "groups": ["x"]})),
            StatusCode::FORBIDDEN,
        ),
        (
            json!({"email_verified": null, "groups": []}),
            (200, json!({"sub": "7", "email_verified": true})),
            StatusCode::SEE_OTHER,
        ),
    ] {
        let sent = trip.begin_again().await;
        let mut all = json!({"nonce": sent["nonce"]});
        merge(&mut all, &claims);
        trip.fake.returns("r", &all);
        *trip.fake.userinfo.lock().unwrap() = userinfo.clone();
        let reply = trip.callback(&sent["state"], "").await;
        assert_eq!(reply.status, status, "{claims} {userinfo:?}");
    }
    // A refresh is repeated later: the user's groups may come from there.
    let sent = trip.begin_again().await;
    trip.fake.returns("r", &json!({"nonce": sent["nonce"], "groups": null}));
    *trip.fake.userinfo.lock().unwrap() = (200, json!({"sub": "7", "groups": ["ops"]}));
    trip.callback(&sent["state"], "").await;
    *trip.fake.userinfo.lock().unwrap() = (503, json!({}));
    trip.fake.returns("r", &json!({"groups": null, "exp": NOW + 9999}));
    assert!(trip.is_signed_in(NOW + 300).await);
    let session = trip.portal.session(&trip.request(Method::GET, &own("/"), ""), at(NOW + 300));
    assert_eq!(session.unwrap().user.groups.len(), 1);
}
