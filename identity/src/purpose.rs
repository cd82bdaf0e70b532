//! What a token is for: one that says who is calling, and nothing else, is a credential.
//!
//! The header's `typ` says it where issuers set it ([`CALLERS`](super::token::CALLERS)), but many
//! sign everything as `JWT`. What the claims say is therefore looked at as well (RFC 8725 §3.12).

use serde_json::Value;

use super::claims::Claims;
use super::rejected::Rejected;

/// Claims that only other tokens have: security events (RFC 8417 §2.2), among them logout tokens
/// (OpenID Connect Back-Channel Logout 1.0 §2.4), and signed answers about tokens (RFC 9701 §5).
const OTHER_TOKENS: [&str; 3] = ["events", "toe", "token_introspection"];

/// Claims that say what the token is, with a word of [`CALLER_WORDS`] where it is a caller's:
/// Keycloak's `typ`, Cognito's `token_use`, Oracle's `tok_type`.
const TYPES: [&str; 3] = ["typ", "token_use", "tok_type"];
const CALLER_WORDS: [&str; 9] =
    ["bearer", "jwt", "at+jwt", "at", "access", "access_token", "it", "id", "id_token"];

/// Claims that say it in words of the provider's own, or say how the token is to be used (RFC 7662
/// §2.2): what no caller's token is called is known, not what each one is called.
const LOOSE_TYPES: [&str; 3] = ["token_type", "tokenType", "tokenName"];
const OTHER_WORDS: [&str; 7] = ["refresh", "offline", "logout", "dpop", "pop", "mac", "n_a"];

/// Whether the token says who somebody is.
///
/// # Errors
/// [`Rejected::Type`]: it is for something else, such as to sign somebody out or to get other
/// tokens with.
pub fn check_identity(claims: &Claims) -> Result<(), Rejected> {
    // An issuer that answers questions about tokens may write `null` for what it does not say.
    let said = |name: &str| claims.get(name).filter(|value| !value.is_null());
    let is_other = OTHER_TOKENS.iter().any(|name| claims.get(name).is_some())
        || TYPES.iter().any(|name| said(name).is_some_and(|value| !is_caller_word(value)))
        || LOOSE_TYPES.iter().any(|name| said(name).is_some_and(is_other_word));
    if is_other { Err(Rejected::Type) } else { Ok(()) }
}

/// Whether the token is a credential of whoever bears it.
///
/// # Errors
/// As [`check_identity`]; or [`Rejected::SenderConstrained`]: it is bound to a key by `cnf`
/// (RFC 7800 §3.1, RFC 8705 §3.1, RFC 9449 §6), and nothing here proves who has that.
pub fn check_bearer(claims: &Claims) -> Result<(), Rejected> {
    check_identity(claims)?;
    if claims.get("cnf").is_some() { Err(Rejected::SenderConstrained) } else { Ok(()) }
}

fn is_caller_word(value: &Value) -> bool {
    value.as_str().is_some_and(|text| is_one_of(text, &CALLER_WORDS))
}

/// Whether one of the words of a text, such as `refresh_token`, is no caller's.
fn is_other_word(value: &Value) -> bool {
    value.as_str().is_none_or(|text| {
        is_one_of(text, &OTHER_WORDS)
            || text
                .split(|char: char| !char.is_ascii_alphanumeric())
                .any(|word| is_one_of(word, &OTHER_WORDS))
    })
}

fn is_one_of(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
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
    fn what_is_for_something_else_identifies_nobody() {
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
    fn what_is_bound_to_a_key_is_no_bearers() {
        for cnf in [
            json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
            json!({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}),
            json!({"jwk": {}}),
            json!({}),
            Value::Null,
        ] {
            let claims = with("cnf", cnf.clone());
            assert_eq!(check_bearer(&claims), Err(Rejected::SenderConstrained), "{cnf}");
            assert_eq!(check_identity(&claims), Ok(()), "the issuer itself handed it to us");
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
