//! A signed word to the backend about who is calling: a JSON Web Token (RFC 7519, ES256) for one
//! host and five minutes.
//!
//! A header field can be believed because nobody but the gateway can reach the pod; this can be
//! believed without that. The keys are derived from those that seal sessions, so that all replicas
//! have the same, and rotating the one rotates the other: a new key is published at once, and signs
//! when every replica has heard of it.

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
use serde_json::json;

use super::identity;

/// Where the keys are published, on every host.
pub(crate) const JWKS_PATH: &str = "/.well-known/portcullis/jwks.json";
/// How long a token holds.
const LASTS: Duration = Duration::from_secs(300);

/// Signs.
pub(crate) struct Assertions {
    issuer: String,
    keys: ArcSwap<Keys>,
    /// Until there are others.
    own: [u8; 32],
}

struct Keys {
    keys: Vec<Arc<Key>>,
    published: Bytes,
}

/// What signs.
pub(super) struct Key {
    id: String,
    pair: EcdsaKeyPair,
    point: Vec<u8>,
    created: Option<SystemTime>,
}

// === impl Assertions ===

impl Assertions {
    /// Signs as `https://{zone}`, with a key of this process until others are learnt.
    pub(crate) fn new(zone: &str) -> Result<Self, NoRandomness> {
        let mut own = [0; 32];
        aws_lc_rs::rand::fill(&mut own).map_err(|_| NoRandomness)?;
        let keys = ArcSwap::from_pointee(Keys::new(Key::derive(&own, None).into_iter().collect()));
        Ok(Self { issuer: format!("https://{zone}"), keys, own })
    }

    /// Follows the keys of the snapshot, forever: a task of the control plane.
    pub(crate) async fn follow(&self, live: &Live) {
        let mut known = Vec::new();
        let learn = |snapshot: &Snapshot| {
            if snapshot.credentials.session_keys != known {
                known.clone_from(&snapshot.credentials.session_keys);
                self.learn(&known);
            }
        };
        live.follow(learn).await;
    }

    /// Takes the keys that are derived from these into use.
    pub(crate) fn learn(&self, keys: &[SessionKey]) {
        let derived: Vec<Key> =
            keys.iter().filter_map(|key| Key::derive(key.key.expose(), key.created)).collect();
        let keys = if derived.is_empty() {
            Key::derive(&self.own, None).into_iter().collect()
        } else {
            derived
        };
        self.keys.store(Arc::new(Keys::new(keys)));
    }

    /// The public keys, as a JSON Web Key Set (RFC 7517).
    pub(crate) fn published(&self) -> Bytes {
        self.keys.load().published.clone()
    }

    /// What signs at `now`.
    pub(super) fn in_use(&self, now: SystemTime) -> Option<Arc<Key>> {
        in_use(&self.keys.load().keys, |key| key.created, now).cloned()
    }

    /// A token for `host` about the caller. `None` only where the cryptography fails.
    pub(super) fn sign(
        &self,
        key: &Key,
        caller: &Caller,
        host: &str,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        key.sign(self.claims(caller, host), now)
    }

    /// All but the times.
    fn claims(&self, caller: &Caller, host: &str) -> serde_json::Value {
        let mut claims = json!({ "iss": self.issuer, "aud": host });
        if let Some(application) = &caller.application {
            claims["sub"] = json!(format!("application:{application}"));
            claims["application"] = json!(application);
        }
        if let Some(user) = &caller.user {
            claims["sub"] = json!(user.name);
            claims["email"] = json!(user.email);
            claims["preferred_username"] = json!(user.preferred_username);
            claims["groups"] = json!(identity::told_groups(user).collect::<Vec<_>>());
        }
        claims
    }
}

// === impl Keys ===

impl Keys {
    fn new(keys: Vec<Key>) -> Self {
        let published: Vec<_> = keys.iter().map(Key::public).collect();
        Self {
            keys: keys.into_iter().map(Arc::new).collect(),
            published: json!({ "keys": published }).to_string().into(),
        }
    }
}

// === impl Key ===

impl Key {
    /// The key on P-256 that belongs to this secret. Which scalars are none is found by trying:
    /// about one in 2^32.
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

    fn public(&self) -> serde_json::Value {
        // 4, then both coordinates (SEC 1 §2.3.3).
        let (x, y) =
            self.point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    }

    fn sign(&self, mut claims: serde_json::Value, now: SystemTime) -> Option<HeaderValue> {
        let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        claims["iat"] = json!(now);
        claims["exp"] = json!(now + LASTS.as_secs());
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.id });
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
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
    use serde_json::Value;

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

    /// What a backend does.
    fn verified(
        assertions: &Assertions,
        token: &HeaderValue,
        audience: &str,
    ) -> Result<Value, jsonwebtoken::errors::Error> {
        let keys: JwkSet = serde_json::from_slice(&assertions.published()).unwrap();
        let header = jsonwebtoken::decode_header(token).unwrap();
        let key = DecodingKey::from_jwk(
            keys.find(header.kid.as_deref().unwrap()).expect("it is published"),
        )
        .unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&["https://apps.test"]);
        decode::<Value>(token, &key, &validation).map(|token| token.claims)
    }

    #[test]
    fn a_backend_can_verify_who_called_and_that_it_was_meant() {
        let assertions = Assertions::new("apps.test").unwrap();
        let token = token(&assertions, "web.apps.test", now());
        let claims = verified(&assertions, &token, "web.apps.test").unwrap();
        assert_eq!(
            (&claims["sub"], &claims["application"], &claims["groups"]),
            (&json!("ann@example.com"), &json!("shop"), &json!(["dev"]))
        );
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
        assert!(verified(&assertions, &token, "other.apps.test").is_err());
    }

    #[test]
    fn replicas_with_the_same_secrets_have_the_same_keys_and_rotate_with_overlap() {
        let (one, other) =
            (Assertions::new("apps.test").unwrap(), Assertions::new("apps.test").unwrap());
        assert_ne!(one.published(), other.published(), "keys of their own");
        for replica in [&one, &other] {
            replica.learn(&[key(1, 1000), key(2, 10)]);
        }
        assert_eq!(one.published(), other.published());
        let first = token(&one, "a", now());
        assert!(verified(&other, &first, "a").is_ok());
        // The new key is published, and signs only when it has been for a while.
        let kid = |token: &HeaderValue| jsonwebtoken::decode_header(token).unwrap().kid;
        let later = token(&one, "a", now() + Duration::from_secs(60));
        assert_ne!(kid(&first), kid(&later));
        assert!(verified(&other, &later, "a").is_ok());
        other.learn(&[key(2, 70)]);
        assert!(verified(&other, &later, "a").is_ok());
    }
}
