//! The purpose of a token: only one that identifies its caller is a credential.
//!
//! The header's `typ` shows it where issuers set it ([`CALLERS`](super::token::CALLERS)), but many
//! sign everything as `JWT`. The claims are therefore checked as well (RFC 8725 §3.12).

use serde_json::Value;

use super::claims::Claims;
use super::rejected::Rejected;

/// Claims that only other tokens have: security events (RFC 8417 §2.2), among them logout tokens
/// (OpenID Connect Back-Channel Logout 1.0 §2.4), and signed introspection responses (RFC 9701 §5).
const OTHER_TOKENS: [&str; 3] = ["events", "toe", "token_introspection"];

/// Claims with the type of the token, one of [`CALLER_TYPES`] for a caller's: Keycloak's `typ`,
/// Cognito's `token_use`, Oracle's `tok_type`.
const TYPES: [&str; 3] = ["typ", "token_use", "tok_type"];
const CALLER_TYPES: [&str; 9] =
    ["bearer", "jwt", "at+jwt", "at", "access", "access_token", "it", "id", "id_token"];

/// Claims with a provider-specific type, or with the way the token is used (RFC 7662 §2.2). Types
/// of other tokens are rejected; all other values are accepted.
const LOOSE_TYPES: [&str; 3] = ["token_type", "tokenType", "tokenName"];
const OTHER_TYPES: [&str; 7] = ["refresh", "offline", "logout", "dpop", "pop", "mac", "n_a"];

/// Checks that the token identifies a user or an application.
///
/// # Errors
/// [`Rejected::Type`] if it has another purpose, such as logout or refresh.
pub fn check_identity(claims: &Claims) -> Result<(), Rejected> {
    // Introspection responses may have `null` for what is unknown.
    let value_of = |name: &str| claims.get(name).filter(|value| !value.is_null());
    let is_other = OTHER_TOKENS.iter().any(|name| claims.get(name).is_some())
        || TYPES.iter().any(|name| value_of(name).is_some_and(|value| !is_caller_type(value)))
        || LOOSE_TYPES.iter().any(|name| value_of(name).is_some_and(is_other_type));
    if is_other { Err(Rejected::Type) } else { Ok(()) }
}

/// Checks that the token is a bearer credential.
///
/// # Errors
/// As [`check_identity`]; or [`Rejected::SenderConstrained`] if it is bound to a key by `cnf` (RFC
/// 7800 §3.1, RFC 8705 §3.1, RFC 9449 §6), whose possession is not verified here.
pub fn check_bearer(claims: &Claims) -> Result<(), Rejected> {
    check_identity(claims)?;
    if claims.get("cnf").is_some() { Err(Rejected::SenderConstrained) } else { Ok(()) }
}

fn is_caller_type(value: &Value) -> bool {
    value.as_str().is_some_and(|text| is_one_of(text, &CALLER_TYPES))
}

/// Whether one of the words of a text, such as `refresh_token`, belongs to another type of token.
fn is_other_type(value: &Value) -> bool {
    value.as_str().is_none_or(|text| {
        is_one_of(text, &OTHER_TYPES)
            || text
                .split(|char: char| !char.is_ascii_alphanumeric())
                .any(|word| is_one_of(word, &OTHER_TYPES))
    })
}

fn is_one_of(text: &str, types: &[&str]) -> bool {
    types.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(name: &str, value: Value) -> Claims {
        let mut claims = json!({"iss": "https://id.example.com", "sub": "1", "azp": "shop"});
        claims[name] = value;
        serde_json::from_value(claims).unwrap()
    }

    #[test]
    fn tokens_for_another_purpose_are_rejected() {
        let logout = "http://schemas.openid.net/event/backchannel-logout";
        for (name, value) in [
            ("events", json!({logout: {}})),
            (
                "events",
                json!({"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}}),
            ),
            ("events", json!({})),
            ("events", Value::Null),
            ("toe", json!(1_795_219_200)),
            ("token_introspection", json!({"active": true})),
            ("typ", json!("Refresh")),
            ("typ", json!("Offline")),
            ("typ", json!("Logout")),
            ("typ", json!("Serialized-ID")),
            ("typ", json!("RegistrationAccessToken")),
            ("typ", json!("reset-credentials")),
            ("typ", json!("")),
            ("typ", json!(["Bearer"])),
            ("token_use", json!("refresh")),
            ("tok_type", json!("RT")),
            ("token_type", json!("refresh")),
            ("token_type", json!("refresh_token")),
            ("token_type", json!("N_A")),
            ("token_type", json!("DPoP")),
            ("tokenType", json!("refresh-token")),
            ("tokenName", json!("refresh_token")),
        ] {
            let claims = with(name, value.clone());
            assert_eq!(check_identity(&claims), Err(Rejected::Type), "{name}: {value}");
            assert_eq!(check_bearer(&claims), Err(Rejected::Type), "{name}: {value}");
        }
    }

    #[test]
    fn sender_constrained_tokens_are_not_bearer_tokens() {
        for cnf in [
            json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
            json!({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}),
            json!({"jwk": {}}),
            json!({}),
            Value::Null,
        ] {
            let claims = with("cnf", cnf.clone());
            assert_eq!(check_bearer(&claims), Err(Rejected::SenderConstrained), "{cnf}");
            assert_eq!(check_identity(&claims), Ok(()), "received from the issuer itself");
        }
    }

    #[test]
    fn access_and_id_tokens_identify_a_caller() {
        for (name, value) in [
            ("scope", json!("openid offline_access")),
            ("typ", json!("Bearer")),
            ("typ", json!("ID")),
            ("token_type", Value::Null),
            ("token_use", json!("access")),
            ("token_use", json!("id")),
            ("tok_type", json!("AT")),
            ("token_type", json!("Bearer")),
            ("token_type", json!("urn:pingidentity.com:oauth2:validated_token")),
            ("tokenType", json!("JWTToken")),
            ("tokenName", json!("access_token")),
        ] {
            assert_eq!(check_bearer(&with(name, value.clone())), Ok(()), "{name}: {value}");
        }
    }
}
