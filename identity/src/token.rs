//! Signed tokens of issuers: JSON Web Tokens (RFC 7519), read strictly and verified by the issuer's
//! keys (RFC 8725).
//!
//! A token says nothing about where its keys are to be found: `jku`, `x5u`, `jwk` and `x5c` are not
//! even read.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use portcullis_config::settings::access::{IssuerSettings, SignatureAlgorithm};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::caller::Caller;
use super::claims::Claims;
use super::keys::{Keys, registered};
use super::person;
use super::rejected::Rejected;

/// A token's three parts, decoded but not verified.
pub struct Parts<'t> {
    header: Header,
    claims: Claims,
    /// What was signed.
    message: &'t str,
    signature: &'t str,
}

/// A token of which all holds but perhaps its signature.
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
    /// Takes a token apart (RFC 7515 §7.1).
    pub fn read(token: &'t str) -> Result<Self, Rejected> {
        let (message, signature) = token.rsplit_once('.').ok_or(Rejected::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Rejected::Malformed)?;
        Ok(Self { header: decoded(header)?, claims: decoded(claims)?, message, signature })
    }

    /// Who says to have issued it.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.text("iss")
    }

    /// Its claims, which nobody has vouched for yet.
    pub fn unverified(&self) -> &Claims {
        &self.claims
    }

    /// Its claims, once they may be believed, and when that ends.
    pub fn verify(
        self,
        issuer: &IssuerSettings,
        keys: &Keys,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<(Claims, SystemTime), Rejected> {
        self.check(issuer, keys, audiences, now)?.verify()
    }

    /// Looks at all but the signature, which comes last: what can be refused for less costs less.
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
    /// `application/`; none at all where `types` is empty.
    pub fn is_of_type(&self, types: &[&str]) -> bool {
        let Some(own) = self.header.typ.as_deref() else { return true };
        let own = own
            .get(..12)
            .filter(|start| start.eq_ignore_ascii_case("application/"))
            .map_or(own, |_| own.get(12..).unwrap_or_default());
        types.iter().any(|known| own.eq_ignore_ascii_case(known))
    }
}

// === impl Signed ===

impl Signed<'_, '_> {
    /// Checks the signature.
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

/// The types of tokens that say who is calling: ID tokens and access tokens (RFC 9068 §2.1).
pub const CALLERS: [&str; 2] = ["JWT", "at+jwt"];

/// That it is there, whatever it is.
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

/// Whom the claims of a verified token name.
pub fn caller(claims: &Claims, issuer: &IssuerSettings, until: SystemTime) -> Caller {
    let application = issuer.application_claims.iter().find_map(|claim| claims.text(claim));
    Caller {
        application: application.map(|name| format!("{}{name}", issuer.prefix).into()),
        user: person::of_bearer(claims, issuer).ok().map(Into::into),
        until: Some(until),
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
