//! Signed assertions of the caller's identity for backends: JSON Web Tokens (RFC 7519, ES256), each
//! valid for one host and five minutes.
//!
//! Plain identity headers can be trusted only where no client but the gateway can reach the pod;
//! an assertion can be verified anywhere. Signing keys are derived from the session keys, so that
//! all replicas have the same ones, and rotating session keys rotates them too: a new key is
//! published at once, and signs only when every replica has loaded it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::agreement::{self, ECDH_P256};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{self, HKDF_SHA256};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderValue;
use portcullis_config::live::Live;
use portcullis_config::session::keys::in_use;
use portcullis_config::snapshot::Snapshot;
use portcullis_config::snapshot::access::SessionKey;
use portcullis_identity::caller::Caller;
use portcullis_identity::session::NoRandomness;
use serde_json::{Map, Value, json};

use super::identity;

/// The path of the key set, on every host.
pub(crate) const JWKS_PATH: &str = "/.well-known/portcullis/jwks.json";
/// The lifetime of a token.
const LIFETIME: Duration = Duration::from_secs(300);

/// Issues assertions.
pub(crate) struct Assertions {
    issuer: String,
    keys: ArcSwap<Keys>,
    /// The secret to use while there are no session keys.
    fallback: [u8; 32],
}

/// The signing keys in use, and the key set that they are published as.
struct Keys {
    keys: Vec<Arc<Key>>,
    jwks: Bytes,
}

/// A signing key.
pub(super) struct Key {
    id: String,
    pair: EcdsaKeyPair,
    point: Vec<u8>,
    created: Option<SystemTime>,
}

// === impl Assertions ===

impl Assertions {
    /// Creates an issuer `https://{zone}`, with a random key until session keys are loaded.
    pub(crate) fn new(zone: &str) -> Result<Self, NoRandomness> {
        let mut fallback = [0; 32];
        aws_lc_rs::rand::fill(&mut fallback).map_err(|_| NoRandomness)?;
        let keys =
            ArcSwap::from_pointee(Keys::new(Key::derive(&fallback, None).into_iter().collect()));
        Ok(Self { issuer: format!("https://{zone}"), keys, fallback })
    }

    /// Loads the keys of each new snapshot, forever: a task of the control plane.
    pub(crate) async fn watch(&self, live: &Live) {
        let mut loaded = Vec::new();
        let load = |snapshot: &Snapshot| {
            if snapshot.credentials.session_keys != loaded {
                loaded.clone_from(&snapshot.credentials.session_keys);
                self.load(&loaded);
            }
        };
        live.watch(load).await;
    }

    /// Replaces the signing keys by those derived from `keys`.
    pub(crate) fn load(&self, keys: &[SessionKey]) {
        let derived: Vec<Key> =
            keys.iter().filter_map(|key| Key::derive(key.key.expose(), key.created)).collect();
        let keys = if derived.is_empty() {
            Key::derive(&self.fallback, None).into_iter().collect()
        } else {
            derived
        };
        self.keys.store(Arc::new(Keys::new(keys)));
    }

    /// The public keys, as a JSON Web Key Set (RFC 7517).
    pub(crate) fn jwks(&self) -> Bytes {
        self.keys.load().jwks.clone()
    }

    /// The key that signs at `now`.
    pub(super) fn in_use(&self, now: SystemTime) -> Option<Arc<Key>> {
        in_use(&self.keys.load().keys, |key| key.created, now).cloned()
    }

    /// Issues a token for `host` about `caller`; `None` only if the cryptography fails.
    pub(super) fn sign(
        &self,
        key: &Key,
        caller: &Caller,
        host: &str,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        key.sign(self.claims(caller, host), now)
    }

    /// All claims except the times.
    fn claims(&self, caller: &Caller, host: &str) -> Map<String, Value> {
        let mut claims = Map::new();
        let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        set("iss", json!(self.issuer));
        set("aud", json!(host));
        if let Some(application) = &caller.application {
            set("sub", json!(format!("application:{}", &**application)));
            set("application", json!(&**application));
        }
        if let Some(user) = &caller.user {
            set("sub", json!(user.name));
            set("email", json!(user.email));
            set("preferred_username", json!(user.preferred_username));
            set("groups", json!(identity::forwarded_groups(user).collect::<Vec<_>>()));
        }
        claims
    }
}

// === impl Keys ===

impl Keys {
    fn new(keys: Vec<Key>) -> Self {
        let public: Vec<_> = keys.iter().map(Key::public).collect();
        Self {
            keys: keys.into_iter().map(Arc::new).collect(),
            jwks: json!({ "keys": public }).to_string().into(),
        }
    }
}

// === impl Key ===

impl Key {
    /// Derives a P-256 key from `secret`. About one in 2^32 scalars is not valid; then the next
    /// one is tried.
    fn derive(secret: &[u8], created: Option<SystemTime>) -> Option<Self> {
        let secret = hkdf::Salt::new(HKDF_SHA256, b"portcullis").extract(secret);
        (0_u8..8).find_map(|round| {
            let mut scalar = [0; 32];
            secret
                .expand(&[b"assertion ES256", &[round]], HKDF_SHA256)
                .ok()?
                .fill(&mut scalar)
                .ok()?;
            let point = agreement::PrivateKey::from_private_key(&ECDH_P256, &scalar)
                .ok()?
                .compute_public_key()
                .ok()?;
            let point = point.as_ref().to_vec();
            let pair = EcdsaKeyPair::from_private_key_and_public_key(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &scalar,
                &point,
            )
            .ok()?;
            let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, &point).as_ref().get(..12)?);
            Some(Self { id, pair, point, created })
        })
    }

    /// The public key as a JSON Web Key.
    fn public(&self) -> Value {
        // The octet 4, then both coordinates (SEC 1 §2.3.3).
        let (x, y) =
            self.point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    }

    fn sign(&self, mut claims: Map<String, Value>, now: SystemTime) -> Option<HeaderValue> {
        let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        claims.insert("iat".to_owned(), json!(now));
        claims.insert("exp".to_owned(), json!(now + LIFETIME.as_secs()));
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.id });
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(Value::Object(claims).to_string())
        );
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).ok()?;
        let mut token = HeaderValue::try_from(format!(
            "{message}.{}",
            URL_SAFE_NO_PAD.encode(signature.as_ref())
        ))
        .ok()?;
        token.set_sensitive(true);
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use portcullis_config::model::Origin;
    use portcullis_identity::caller::ann;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::now()
    }

    fn key(octet: u8, age: u64) -> SessionKey {
        SessionKey {
            origin: Origin::default(),
            key: vec![octet; 32].into(),
            created: Some(now() - Duration::from_secs(age)),
        }
    }

    fn token(assertions: &Assertions, host: &str, now: SystemTime) -> HeaderValue {
        let key = assertions.in_use(now).unwrap();
        assertions.sign(&key, &ann(), host, now).unwrap()
    }

    /// Verifies a token as a backend does.
    fn verify(
        assertions: &Assertions,
        token: &HeaderValue,
        audience: &str,
    ) -> Result<Value, jsonwebtoken::errors::Error> {
        let keys: JwkSet = serde_json::from_slice(&assertions.jwks()).unwrap();
        let header = jsonwebtoken::decode_header(token).unwrap();
        let key = DecodingKey::from_jwk(
            keys.find(header.kid.as_deref().unwrap()).expect("the key is published"),
        )
        .unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&["https://apps.test"]);
        decode::<Value>(token, &key, &validation).map(|token| token.claims)
    }

    #[test]
    fn a_token_verifies_for_its_audience_alone() {
        let assertions = Assertions::new("apps.test").unwrap();
        let token = token(&assertions, "web.apps.test", now());
        let claims = verify(&assertions, &token, "web.apps.test").unwrap();
        assert_eq!(
            (&claims["sub"], &claims["application"], &claims["groups"]),
            (&json!("ann@example.com"), &json!("shop"), &json!(["dev"]))
        );
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
        assert!(verify(&assertions, &token, "other.apps.test").is_err());
    }

    #[test]
    fn replicas_derive_the_same_keys_and_rotate_with_overlap() {
        let (one, other) =
            (Assertions::new("apps.test").unwrap(), Assertions::new("apps.test").unwrap());
        assert_ne!(one.jwks(), other.jwks(), "random keys until session keys are loaded");
        for replica in [&one, &other] {
            replica.load(&[key(1, 1000), key(2, 10)]);
        }
        assert_eq!(one.jwks(), other.jwks());
        let first = token(&one, "a", now());
        assert!(verify(&other, &first, "a").is_ok());
        // The new key is published at once, and signs only after a while.
        let kid = |token: &HeaderValue| jsonwebtoken::decode_header(token).unwrap().kid;
        let later = token(&one, "a", now() + Duration::from_secs(60));
        assert_ne!(kid(&first), kid(&later));
        assert!(verify(&other, &later, "a").is_ok());
        other.load(&[key(2, 70)]);
        assert!(verify(&other, &later, "a").is_ok());
    }
}
