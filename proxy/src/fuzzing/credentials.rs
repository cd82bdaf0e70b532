//! Invariants of reading credentials.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, header};
use portcullis_config::settings::access::AccessSettings;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::caller::Caller;
use portcullis_identity::session::Sessions;
use serde_json::json;

use crate::access::{Fields, PresentedCredentials, strip_set_cookies};

const HOST: &str = "web--staging.apps.example.com";

/// An authenticator with an issuer, whose keys are those of RFC 7515 Appendix A, and login.
static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let settings: AccessSettings = serde_json::from_value(json!({
        "credentialsNamespace": "portcullis",
        "issuers": [{ "name": "corp", "issuer": "https://id.example.com", "audiences": ["portcullis"], "algorithms": ["ES256", "RS256", "EdDSA"] }],
        "login": { "issuer": "corp", "clientId": "portcullis" },
    }))
    .expect("they are well-formed");
    let sessions = settings
        .login
        .as_ref()
        .map(|login| Arc::new(Sessions::new(login, None).expect("there are random numbers")));
    let authenticator = Authenticator::new(&settings, sessions).expect("there are random numbers");
    let keys = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "kid": "a",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }] });
    for issuer in authenticator.issuers() {
        issuer.load(keys.to_string().as_bytes()).expect("they are keys");
    }
    authenticator
});

/// Checks credentials: the values of `Authorization`, `X-Api-Key` and `Cookie`, one per line.
///
/// - Unsigned credentials authenticate no caller, and the result is deterministic.
/// - Credentials and the gateway's cookies are removed from requests to backends.
///
/// # Panics
/// Panics if an invariant is violated.
pub fn credentials(octets: &[u8]) {
    let mut headers = HeaderMap::new();
    let names =
        [header::AUTHORIZATION, header::HeaderName::from_static("x-api-key"), header::COOKIE];
    for (name, line) in names.into_iter().zip(octets.split(|octet| *octet == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let shown = PresentedCredentials::read(&Fields::of(&headers), None);
    let found = AUTHENTICATOR
        .authenticate(&shown.presented(), HOST, now, &None, || true)
        .expect("not limited");
    assert_eq!(found.caller, Caller::default());
    assert!(found.session.is_none());
    let repeated = AUTHENTICATOR
        .authenticate(&shown.presented(), HOST, now, &None, || true)
        .expect("not limited");
    assert_eq!((repeated.token, repeated.rejected), (found.token, found.rejected));

    let mut set = HeaderMap::new();
    for line in octets.split(|octet| *octet == b'\n') {
        set.extend(HeaderValue::from_bytes(line).map(|value| (header::SET_COOKIE, value)));
    }
    strip_set_cookies(&mut set);
    let own = |value: &HeaderValue| value.as_bytes().starts_with(b"__Host-portcullis");
    assert!(!set.values().any(own));

    shown.strip(&mut headers, found.token, false);
    let left = PresentedCredentials::read(&Fields::of(&headers), None);
    assert!(left.presented().session.is_none() && left.presented().api_key.is_none());
    assert!(!headers.get_all(header::COOKIE).iter().any(own));
}
