//! The claims of a token, independent of whether they are verified.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::rejected::Rejected;

/// Allowed clock skew.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// The claims of a token (RFC 7519 §4). A duplicate name makes all of them malformed: parsers
/// differ in which value they take.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(BTreeMap<String, Value>);

// === impl Claims ===

impl Claims {
    /// Returns a claim that is a non-empty string.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Returns a claim of any type.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Returns the strings of a claim that is a string or an array.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        let (one, list) = match self.0.get(name) {
            Some(Value::String(text)) => (Some(text.as_str()), &[][..]),
            Some(Value::Array(list)) => (None, list.as_slice()),
            _ => (None, &[][..]),
        };
        one.into_iter().chain(list.iter().filter_map(Value::as_str)).filter(|text| !text.is_empty())
    }

    /// Adds those claims of `other` that are missing or `null`. Whether an e-mail address is
    /// verified is what the document with the address says, else one without another address.
    pub fn filled(mut self, mut other: Self) -> Self {
        let has_word = |claims: &Self| claims.get("email_verified").is_some_and(|it| !it.is_null());
        match (self.text("email"), other.text("email")) {
            (None, Some(_)) if has_word(&other) => drop(self.0.remove("email_verified")),
            (Some(own), Some(address)) if own != address => {
                drop(other.0.remove("email_verified"));
            }
            _ => {}
        }
        for (name, value) in other.0 {
            let known = self.0.entry(name).or_insert(Value::Null);
            if known.is_null() {
                *known = value;
            }
        }
        self
    }

    /// Whether `aud` has one of `wanted` (RFC 7519 §4.1.3). An array with anything but strings has
    /// none.
    pub fn is_for(&self, wanted: &[String]) -> bool {
        match self.0.get("aud") {
            Some(Value::String(audience)) => wanted.contains(audience),
            Some(Value::Array(list)) => {
                list.iter().all(Value::is_string)
                    && list
                        .iter()
                        .filter_map(Value::as_str)
                        .any(|audience| wanted.iter().any(|wanted| wanted == audience))
            }
            _ => false,
        }
    }

    /// Returns the expiry if the token is valid at `now` (RFC 7519 §4.1.4 to §4.1.6). `exp` is
    /// required, and all times must be numbers.
    pub fn valid_until(&self, now: SystemTime) -> Result<SystemTime, Rejected> {
        let expires = self.time("exp")?.ok_or(Rejected::Claims)?;
        if expires + LEEWAY <= now {
            return Err(Rejected::Expired);
        }
        for from in ["nbf", "iat"] {
            if self.time(from)?.is_some_and(|from| from > now + LEEWAY) {
                return Err(Rejected::NotYetValid);
            }
        }
        Ok(expires + LEEWAY)
    }

    fn time(&self, name: &str) -> Result<Option<SystemTime>, Rejected> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                let seconds = number
                    .as_f64()
                    .filter(|seconds| (0.0..1e11).contains(seconds))
                    .ok_or(Rejected::Claims)?;
                Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
            }
            Some(_) => Err(Rejected::Claims),
        }
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClaimsVisitor;

        impl<'de> Visitor<'de> for ClaimsVisitor {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    match claims.entry(name) {
                        Entry::Vacant(entry) => drop(entry.insert(value)),
                        Entry::Occupied(_) => return Err(de::Error::custom("a name stands twice")),
                    }
                }
                Ok(Claims(claims))
            }
        }

        deserializer.deserialize_map(ClaimsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        serde_json::from_str(json).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn duplicate_claims_are_malformed() {
        assert!(serde_json::from_str::<Claims>(r#"{"sub":"a","sub":"b"}"#).is_err());
        assert!(serde_json::from_str::<Claims>(r#"["sub"]"#).is_err());
    }

    #[test]
    fn exp_is_required_and_must_be_a_number() {
        for (json, wanted) in [
            (r#"{"exp":1000}"#, Ok(at(1060))),
            (r#"{"exp":1000.5}"#, Ok(at(1060) + Duration::from_millis(500))),
            (r#"{"exp":939}"#, Err(Rejected::Expired)),
            (r#"{"exp":940}"#, Err(Rejected::Expired)),
            (r#"{"exp":941}"#, Ok(at(1001))),
            (r#"{}"#, Err(Rejected::Claims)),
            (r#"{"exp":null}"#, Err(Rejected::Claims)),
            (r#"{"exp":"1000"}"#, Err(Rejected::Claims)),
            (r#"{"exp":-1}"#, Err(Rejected::Claims)),
            (r#"{"exp":1e300}"#, Err(Rejected::Claims)),
            (r#"{"exp":[1000]}"#, Err(Rejected::Claims)),
            (r#"{"exp":1000,"nbf":1061}"#, Err(Rejected::NotYetValid)),
            (r#"{"exp":1000,"nbf":1060}"#, Ok(at(1060))),
            (r#"{"exp":1000,"nbf":"0"}"#, Err(Rejected::Claims)),
            (r#"{"exp":9000,"iat":5000}"#, Err(Rejected::NotYetValid)),
        ] {
            assert_eq!(claims(json).valid_until(at(1000)), wanted, "{json}");
        }
    }

    #[test]
    fn an_address_is_verified_by_the_document_that_has_it() {
        let verified = r#"{"email":"a@b","email_verified":true}"#;
        for (own, other, email, is_verified) in [
            ("{}", verified, "a@b", true),
            (verified, r#"{"email":"c@d","email_verified":false}"#, "a@b", true),
            (r#"{"email":"a@b"}"#, verified, "a@b", true),
            (r#"{"email":null,"email_verified":null}"#, verified, "a@b", true),
            (r#"{"email":"c@d"}"#, verified, "c@d", false),
            (r#"{"email":"c@d"}"#, r#"{"email_verified":true}"#, "c@d", true),
            (r#"{"email_verified":true}"#, r#"{"email":"c@d"}"#, "c@d", true),
            (r#"{"email":"a@b","email_verified":false}"#, verified, "a@b", false),
            (
                r#"{"email_verified":true}"#,
                r#"{"email":"c@d","email_verified":false}"#,
                "c@d",
                false,
            ),
            (r#"{"email":"c@d","email_verified":false}"#, verified, "c@d", false),
        ] {
            let filled = claims(own).filled(claims(other));
            assert_eq!(filled.text("email"), Some(email), "{own} {other}");
            let found = filled.get("email_verified") == Some(&Value::Bool(true));
            assert_eq!(found, is_verified, "{own} {other}");
        }
    }

    #[test]
    fn the_audience_must_match() {
        let wanted = ["portcullis".to_owned(), "shop".to_owned()];
        for (json, is_for) in [
            (r#"{"aud":"shop"}"#, true),
            (r#"{"aud":["x","portcullis"]}"#, true),
            (r#"{"aud":["portcullis",1]}"#, false),
            (r#"{"aud":[]}"#, false),
            (r#"{"aud":"Shop"}"#, false),
            (r#"{"aud":"shop portcullis"}"#, false),
            (r#"{"aud":{"shop":"shop"}}"#, false),
            (r#"{"aud":null}"#, false),
            (r#"{}"#, false),
        ] {
            assert_eq!(claims(json).is_for(&wanted), is_for, "{json}");
        }
    }
}
