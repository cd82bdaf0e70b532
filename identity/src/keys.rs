//! The signing keys of an issuer (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use portcullis_config::settings::access::SignatureAlgorithm;
use serde::Deserialize;
use serde_json::Value;

/// Maximum number of keys of one issuer; further ones are ignored.
const MAX_KEYS: usize = 128;

/// An issuer's keys.
#[derive(Default)]
pub struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    /// The algorithms that its type can be used with.
    algorithms: &'static [SignatureAlgorithm],
    /// The only algorithm that it may be used with, if the key names one.
    meant: Option<KeyAlgorithm>,
    key: DecodingKey,
}

/// Why a document is not a usable key set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnusableKeys {
    /// It is not JSON, or has another structure.
    #[error("it is not a JSON Web Key Set")]
    Malformed,
    /// It has no key that can verify a signature.
    #[error("it has no key that can verify signatures")]
    Empty,
}

// === impl Keys ===

impl Keys {
    /// Parses a JSON Web Key Set. Symmetric, encryption and unsupported keys are ignored.
    pub fn parse(json: &[u8]) -> Result<Self, UnusableKeys> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|_| UnusableKeys::Malformed)?;
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::read).take(MAX_KEYS).collect();
        if keys.is_empty() { Err(UnusableKeys::Empty) } else { Ok(Self(keys)) }
    }

    /// Returns the key for a signature: the one with this identifier; without an identifier, the
    /// only one that fits.
    pub fn find(&self, id: Option<&str>, algorithm: SignatureAlgorithm) -> Option<&DecodingKey> {
        let mut fitting = self.0.iter().filter(|key| {
            key.is_for(algorithm) && id.is_none_or(|id| key.id.as_deref() == Some(id))
        });
        let first = fitting.next()?;
        fitting.next().is_none().then_some(&first.key)
    }
}

// === impl Key ===

impl Key {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        use SignatureAlgorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let algorithms: &[SignatureAlgorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[EdDSA]
            }
            // Above all, symmetric keys are ignored.
            _ => return None,
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, algorithms, meant: jwk.common.key_algorithm, key })
    }

    fn is_for(&self, algorithm: SignatureAlgorithm) -> bool {
        self.algorithms.contains(&algorithm)
            && self.meant.is_none_or(|meant| registered(algorithm).1 == meant)
    }
}

/// Returns the library's names of the algorithm: for tokens, and for keys.
pub fn registered(algorithm: SignatureAlgorithm) -> (Algorithm, KeyAlgorithm) {
    match algorithm {
        SignatureAlgorithm::RS256 => (Algorithm::RS256, KeyAlgorithm::RS256),
        SignatureAlgorithm::RS384 => (Algorithm::RS384, KeyAlgorithm::RS384),
        SignatureAlgorithm::RS512 => (Algorithm::RS512, KeyAlgorithm::RS512),
        SignatureAlgorithm::PS256 => (Algorithm::PS256, KeyAlgorithm::PS256),
        SignatureAlgorithm::PS384 => (Algorithm::PS384, KeyAlgorithm::PS384),
        SignatureAlgorithm::PS512 => (Algorithm::PS512, KeyAlgorithm::PS512),
        SignatureAlgorithm::ES256 => (Algorithm::ES256, KeyAlgorithm::ES256),
        SignatureAlgorithm::ES384 => (Algorithm::ES384, KeyAlgorithm::ES384),
        SignatureAlgorithm::EdDSA => (Algorithm::EdDSA, KeyAlgorithm::EdDSA),
    }
}
