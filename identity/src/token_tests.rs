use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use serde_json::{Value, json};

use super::*;

/// 2026-11-21 00:00 UTC.
const NOW: u64 = 1_795_219_200;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Two keys of one issuer, on P-256 and Ed25519.
struct Signer {
    p256: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Signer {
    fn new() -> Self {
        Self {
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed25519: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn keys(&self) -> Keys {
        Keys::parse(self.document().to_string().as_bytes()).unwrap()
    }

    fn document(&self) -> Value {
        let point = self.p256.public_key().as_ref();
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "a", "x": encoded(&point[1..33]), "y": encoded(&point[33..])},
            {"kty": "OKP", "crv": "Ed25519", "kid": "b", "alg": "EdDSA", "use": "sig", "x": encoded(self.ed25519.public_key())},
            {"kty": "oct", "kid": "c", "k": encoded("secret")},
            {"kty": "of the future", "kid": "d"},
        ]})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let signature = match header["alg"].as_str() {
            Some("EdDSA") => self.ed25519.sign(message.as_bytes()).as_ref().to_vec(),
            _ => {
                self.p256.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
        };
        format!("{message}.{}", encoded(signature))
    }
}

fn issuer() -> IssuerSettings {
    serde_json::from_value(json!({"name": "corp", "issuer": "https://id.example.com", "audiences": ["portcullis"], "prefix": "corp:"}))
        .unwrap()
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example.com", "aud": "portcullis", "exp": NOW + 300, "iat": NOW, "sub": "248289761001",
        "email": "ann@example.com", "email_verified": true, "preferred_username": "ann", "groups": ["dev", 7, "ops", ""], "azp": "shop"
    })
}

fn verified(token: &str, keys: &Keys) -> Result<Caller, Rejected> {
    let (issuer, parts) = (issuer(), Parts::read(token)?);
    if !parts.is_of_type(&CALLERS) {
        return Err(Rejected::Type);
    }
    let (claims, until) = parts.verify(&issuer, keys, &issuer.audiences, now())?;
    Ok(caller(&claims, &issuer, until))
}

#[test]
fn a_token_names_application_and_user() {
    let signer = Signer::new();
    for header in [
        json!({"alg": "ES256", "kid": "a", "typ": "JWT"}),
        json!({"alg": "ES256"}),
        json!({"alg": "EdDSA", "kid": "b", "typ": "application/AT+jwt"}),
    ] {
        let caller = verified(&signer.sign(&header, &claims()), &signer.keys()).unwrap();
        assert_eq!(caller.application.as_deref(), Some("corp:shop"));
        let user = caller.user.unwrap();
        assert_eq!(
            (&*user.name, user.email.as_deref(), &*user.subject),
            ("corp:ann@example.com", Some("ann@example.com"), "248289761001")
        );
        assert_eq!(
            user.groups.iter().map(|group| &**group).collect::<Vec<_>>(),
            ["corp:dev", "corp:ops"]
        );
        assert_eq!(caller.until, Some(now() + Duration::from_secs(360)));
    }
}

#[test]
fn a_token_without_a_verified_name_identifies_no_user() {
    let signer = Signer::new();
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        verified(&signer.sign(&json!({"alg": "ES256"}), &claims), &signer.keys()).unwrap()
    };
    for (name, value) in [
        ("email_verified", json!(false)),
        ("email_verified", json!("true")),
        ("email_verified", Value::Null),
        ("email", json!("")),
        ("email", json!(["ann@example.com"])),
        ("sub", json!(1)),
        ("sub", json!("")),
        // A client's own token.
        ("sub", json!("shop")),
    ] {
        let caller = with(name, value.clone());
        assert_eq!(
            (caller.application.as_deref(), caller.user),
            (Some("corp:shop"), None),
            "{name}: {value}"
        );
    }
    assert_eq!(with("azp", json!(["shop"])).application, None);
}

#[test]
fn only_unchanged_tokens_signed_by_the_issuer_are_accepted() {
    let (signer, other) = (Signer::new(), Signer::new());
    let header = json!({"alg": "ES256", "kid": "a"});
    let good = signer.sign(&header, &claims());
    assert!(verified(&good, &signer.keys()).is_ok());
    assert_eq!(verified(&other.sign(&header, &claims()), &signer.keys()), Err(Rejected::Signature));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = message.split_once('.').unwrap();
    let mut more = claims();
    more["groups"] = json!(["admin"]);
    assert_eq!(
        verified(&format!("{head}.{}.{signature}", encoded(more.to_string())), &signer.keys()),
        Err(Rejected::Signature)
    );
    for signature in [
        "",
        "AAAA",
        &encoded([0; 64]),
        &encoded([255; 64]),
        &format!("{signature}="),
        &signature[..signature.len() - 4],
    ] {
        assert_eq!(
            verified(&format!("{message}.{signature}"), &signer.keys()),
            Err(Rejected::Signature),
            "{signature}"
        );
    }
}

#[test]
fn the_algorithm_must_be_configured_and_fit_the_key() {
    let signer = Signer::new();
    for alg in ["none", "None", "", "HS256", "HS384", "HS512", "ES512", "es256", "RS1", "PS256"] {
        let token = signer.sign(&json!({"alg": alg, "kid": "a"}), &claims());
        assert_eq!(verified(&token, &signer.keys()), Err(Rejected::Algorithm), "{alg}");
    }
    // Allowed, but not for this key.
    for (alg, kid) in [
        ("RS256", "a"),
        ("EdDSA", "a"),
        ("ES256", "b"),
        ("ES256", "c"),
        ("ES256", "z"),
        ("RS256", ""),
    ] {
        assert_eq!(
            verified(&signer.sign(&json!({"alg": alg, "kid": kid}), &claims()), &signer.keys()),
            Err(Rejected::UnknownKey),
            "{alg} {kid}"
        );
    }
}

#[test]
fn invalid_headers_are_rejected() {
    let signer = Signer::new();
    for (header, wanted) in [
        (json!({"alg": "ES256", "crit": ["exp"]}), Rejected::Critical),
        (json!({"alg": "ES256", "crit": []}), Rejected::Critical),
        (json!({"alg": "ES256", "crit": null}), Rejected::Critical),
        (json!({"alg": "ES256", "typ": "logout+jwt"}), Rejected::Type),
        (json!({"alg": "ES256", "typ": "application/secevent+jwt"}), Rejected::Type),
        (json!({"alg": "ES256", "typ": ""}), Rejected::Type),
        (json!({"alg": "ES256", "typ": 1}), Rejected::Malformed),
        (json!({"alg": "ES256", "kid": 1}), Rejected::Malformed),
        (json!({"alg": ["ES256"]}), Rejected::Malformed),
        (json!({}), Rejected::Malformed),
        (json!([]), Rejected::Malformed),
    ] {
        assert_eq!(
            verified(&signer.sign(&header, &claims()), &signer.keys()),
            Err(wanted),
            "{header}"
        );
    }
}

#[test]
fn keys_in_the_token_header_are_ignored() {
    let (signer, other) = (Signer::new(), Signer::new());
    let jwk = other.document()["keys"][0].clone();
    let header = json!({"alg": "ES256", "kid": "a", "jwk": jwk, "jku": "https://evil.example/keys", "x5u": "https://evil.example/chain"});
    assert_eq!(verified(&other.sign(&header, &claims()), &signer.keys()), Err(Rejected::Signature));
    assert!(verified(&signer.sign(&header, &claims()), &signer.keys()).is_ok());
}

#[test]
fn a_document_without_a_verification_key_is_rejected() {
    use super::super::keys::UnusableKeys::{Empty, Malformed};
    for (document, wanted) in [
        ("", Malformed),
        ("{}", Malformed),
        ("[]", Malformed),
        (r#"{"keys":[]}"#, Empty),
        (r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, Empty),
        (r#"{"keys":[{"kty":"EC","crv":"P-256","use":"enc","x":"AAAA","y":"AAAA"}]}"#, Empty),
        (r#"{"keys":[{"kty":"RSA"},7,null]}"#, Empty),
    ] {
        assert_eq!(Keys::parse(document.as_bytes()).err(), Some(wanted), "{document}");
    }
}
