//! Signed tokens: JSON Web Tokens (RFC 7519), parsed strictly and verified by the issuer's keys
//! (RFC 8725).
//!
//! A token cannot name its own keys: `jku`, `x5u`, `jwk` and `x5c` are ignored.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use portcullis_config::settings::access::{IssuerSettings, SignatureAlgorithm};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::caller::{Application, Caller};
use super::claims::Claims;
use super::keys::{Keys, registered};
use super::person;
use super::rejected::Rejected;

/// A token's three parts, decoded but not verified.
pub struct Parts<'t> {
    header: Header,
    claims: Claims,
    /// The signed octets.
    message: &'t str,
    signature: &'t str,
}

/// A token that is valid except for its signature, which is not verified yet.
pub struct Signed<'t, 'k> {
    parts: Parts<'t>,
    key: &'k DecodingKey,
    algorithm: SignatureAlgorithm,
    until: SystemTime,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

// === impl Parts ===

impl<'t> Parts<'t> {
    /// Parses a token (RFC 7515 §7.1).
    pub fn read(token: &'t str) -> Result<Self, Rejected> {
        let (message, signature) = token.rsplit_once('.').ok_or(Rejected::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Rejected::Malformed)?;
        Ok(Self { header: decoded(header)?, claims: decoded(claims)?, message, signature })
    }

    /// The issuer that it names.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.text("iss")
    }

    /// Its unverified claims.
    pub fn unverified(&self) -> &Claims {
        &self.claims
    }

    /// Verifies it, and returns its claims and expiry.
    pub fn verify(
        self,
        issuer: &IssuerSettings,
        keys: &Keys,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<(Claims, SystemTime), Rejected> {
        self.check(issuer, keys, audiences, now)?.verify()
    }

    /// Checks all but the signature, which costs most and comes last.
    pub fn check<'k>(
        self,
        issuer: &IssuerSettings,
        keys: &'k Keys,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<Signed<'t, 'k>, Rejected> {
        if self.issuer() != Some(&issuer.issuer) {
            return Err(Rejected::UnknownIssuer);
        }
        if self.header.crit {
            return Err(Rejected::Critical);
        }
        let until = self.claims.valid_until(now)?;
        if !self.claims.is_for(audiences) {
            return Err(Rejected::Audience);
        }
        let algorithm = algorithm(&self.header.alg)
            .filter(|algorithm| issuer.algorithms.contains(algorithm))
            .ok_or(Rejected::Algorithm)?;
        let key = keys.find(self.header.kid.as_deref(), algorithm).ok_or(Rejected::UnknownKey)?;
        Ok(Signed { parts: self, key, algorithm, until })
    }

    /// Whether its type is one of `types` (RFC 8725 §3.11), compared without case and without
    /// `application/`. A token without a type matches.
    pub fn is_of_type(&self, types: &[&str]) -> bool {
        let Some(own) = self.header.typ.as_deref() else { return true };
        let own = own
            .get(..12)
            .filter(|start| start.eq_ignore_ascii_case("application/"))
            .map_or(own, |_| own.get(12..).unwrap_or_default());
        types.iter().any(|name| own.eq_ignore_ascii_case(name))
    }
}

// === impl Signed ===

impl Signed<'_, '_> {
    /// Verifies the signature.
    pub fn verify(self) -> Result<(Claims, SystemTime), Rejected> {
        let Self { parts, key, algorithm, until } = self;
        match jsonwebtoken::crypto::verify(
            parts.signature,
            parts.message.as_bytes(),
            key,
            registered(algorithm).0,
        ) {
            Ok(true) => Ok((parts.claims, until)),
            Ok(false) | Err(_) => Err(Rejected::Signature),
        }
    }
}

/// The types of tokens that identify a caller: ID tokens and access tokens (RFC 9068 §2.1).
pub const CALLERS: [&str; 2] = ["JWT", "at+jwt"];

/// Deserializes any value to `true`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

fn decoded<T: DeserializeOwned>(part: &str) -> Result<T, Rejected> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Rejected::Malformed)
}

fn algorithm(name: &str) -> Option<SignatureAlgorithm> {
    SignatureAlgorithm::deserialize(
        serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name),
    )
    .ok()
}

/// Returns the caller that the claims of a verified token identify.
pub fn caller(claims: &Claims, issuer: &IssuerSettings, until: SystemTime) -> Caller {
    let application = issuer.application_claims.iter().find_map(|claim| claims.text(claim));
    Caller {
        application: application.map(|name| Application::of_issuer(&issuer.prefix, name)),
        user: person::of_bearer(claims, issuer).ok().map(Into::into),
        until: Some(until),
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
