//! Removes what credentials must not pass: client keys and the gateway's cookies from requests to
//! backends, and cookies under the gateway's names from their responses.

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use portcullis_config::client_key;
use portcullis_identity::presented::is_client_key;
use portcullis_identity::session::cookie;
use smallvec::SmallVec;

use super::presented::credential;
use crate::normalize::has_client_key;

/// Removes every field with a client key in its value, valid or not: a key that was sent in a wrong
/// form, or in a wrong field, does not reach a backend either.
pub(super) fn strip_client_keys(headers: &mut HeaderMap) {
    let with_key = |(name, value): (&HeaderName, &HeaderValue)| {
        (*name != header::COOKIE && has_client_key(value.as_bytes())).then(|| name.clone())
    };
    let names: SmallVec<[HeaderName; 1]> = headers.iter().filter_map(with_key).collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a value of a field for credentials is meant as a client key: by its prefix, or because
/// one is encoded in it.
pub(super) fn is_key(value: &HeaderValue) -> bool {
    let is_whole = |text: &str| is_client_key(text.rsplit(' ').next().unwrap_or(text));
    credential(value).is_some_and(is_whole) || is_encoded_key(value)
}

/// Whether a value is `Basic` credentials, or another scheme's in base64, with a client key as user
/// or password (RFC 7617 §2). Tokens of `Bearer` are not in base64 as a whole.
fn is_encoded_key(value: &HeaderValue) -> bool {
    let encoded = credential(value)
        .and_then(|text| text.split_once([' ', '\t']))
        .filter(|(scheme, _)| !scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, encoded)| {
            LENIENT.decode(encoded.trim().replace('-', "+").replace('_', "/")).ok()
        });
    encoded.is_some_and(|octets| {
        let is_meant = |part: &[u8]| part.starts_with(client_key::PREFIX.as_bytes());
        octets.split(|octet| *octet == b':').any(is_meant) || has_client_key(&octets)
    })
}

/// Decodes base64 as lenient recipients do: with padding or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Removes all cookies of the gateway, whatever their values, and those with a client key; the others
/// stay unchanged.
pub(super) fn strip_cookies(headers: &mut HeaderMap) {
    let is_ours = |pair: &[u8]| {
        pair.trim_ascii_start().starts_with(cookie::PREFIX.as_bytes()) || has_client_key(pair)
    };
    let Some(value) = headers.get(header::COOKIE) else { return };
    let (mut others, mut has_ours) = (SmallVec::<[&[u8]; 8]>::new(), false);
    for pair in cookie::pairs(value.as_bytes()) {
        if is_ours(pair) {
            has_ours = true;
        } else {
            others.push(pair.trim_ascii());
        }
    }
    if !has_ours {
        return;
    }
    let joined = others.join(&b"; "[..]);
    drop(others);
    match HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        Ok(value) if !value.is_empty() => drop(headers.insert(header::COOKIE, value)),
        _ => drop(headers.remove(header::COOKIE)),
    }
}

/// Removes from a response the cookies that would replace the gateway's own: a backend must not
/// sign a user in as another one.
pub(crate) fn strip_set_cookies(headers: &mut HeaderMap) {
    // A cookie without a name is sent back as its value alone.
    let is_nothing = |byte: &u8| matches!(byte, b' ' | b'\t' | b'=');
    let is_ours = |value: &HeaderValue| {
        let start = value.as_bytes().iter().position(|byte| !is_nothing(byte)).unwrap_or_default();
        value
            .as_bytes()
            .get(start..)
            .is_some_and(|rest| rest.starts_with(cookie::PREFIX.as_bytes()))
    };
    if !headers.get_all(header::SET_COOKIE).iter().any(is_ours) {
        return;
    }
    let others: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| !is_ours(value))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in others {
        headers.append(header::SET_COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::presented::tests::{headers, strip};

    fn basic(credentials: &str) -> String {
        format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(credentials))
    }

    #[test]
    fn client_keys_reach_no_backend_in_any_form() {
        let key = client_key::Key::new(&[7; 32]);
        let key = key.expose();
        for (name, value) in [
            ("authorization", format!("Bearer {key}")),
            ("authorization", format!("bearer   {key} ")),
            ("authorization", key.to_owned()),
            ("authorization", format!("Bearer {key} x")),
            ("authorization", format!("Token token={key}, nonce=1")),
            ("authorization", format!("Bearer \"{key}\"")),
            ("x-api-key", key.to_owned()),
            ("x-api-key", format!("Bearer {key}")),
            ("x-api-key", format!("\"{key}\"")),
            ("x-api-key", format!("\u{e9}{key}")),
            ("x-api-key", "pck_mistyped".to_owned()),
            ("authorization", basic(&format!("{key}:"))),
            ("authorization", basic(&format!("user:{key}"))),
            ("authorization", basic(&format!("user:{key}")).trim_end_matches('=').to_owned()),
            ("authorization", basic(&format!("user:x{key}x"))),
            ("authorization", basic("user:pck_mistyped")),
            ("authorization", basic(&format!("\u{ff}\u{fe}?>:{key}")).replace('/', "_")),
            ("authorization", basic(&format!("api:{key}")).replace("Basic", "basic  ")),
            ("x_api_key", key.to_owned()),
            ("x.api.key", key.to_owned()),
            ("apikey", key.to_owned()),
            ("x-auth-token", format!("Bearer {key}")),
            ("sec-websocket-protocol", format!("v1, {key}")),
            ("cookie", format!("token={key}")),
            ("cookie", format!("\"{key}\"")),
        ] {
            for (ours, pass) in [(false, false), (false, true), (true, true)] {
                let mut stripped = headers(&[(name, &value)]);
                strip(&mut stripped, ours, pass);
                assert!(stripped.is_empty(), "{name}: {value}");
                if name == "cookie" {
                    continue;
                }
                let mut stripped = headers(&[(name, "other"), (name, &value)]);
                strip(&mut stripped, ours, pass);
                assert!(stripped.is_empty(), "{name}: other, {value}");
            }
        }
        let mut cookies = headers(&[("cookie", &format!("a=b; token={key}; c=d"))]);
        strip(&mut cookies, false, true);
        assert_eq!(cookies, headers(&[("cookie", "a=b; c=d")]));
        let foreign = [("authorization", "Bearer xpck_y"), ("x-api-key", "my-pck_key")];
        let mut forwarded = headers(&foreign);
        strip(&mut forwarded, false, true);
        assert_eq!(forwarded, headers(&foreign));
    }

    #[test]
    fn a_backend_cannot_set_cookies_of_the_gateway() {
        let mut response = headers(&[
            ("set-cookie", "a=b; Path=/"),
            ("set-cookie", "__Host-portcullis=evil; Path=/; Secure"),
            ("set-cookie", " =__Host-portcullis-browser=evil"),
            ("set-cookie", ""),
            ("set-cookie", "c=__Host-portcullis"),
        ]);
        strip_set_cookies(&mut response);
        assert_eq!(
            response,
            headers(&[
                ("set-cookie", "a=b; Path=/"),
                ("set-cookie", ""),
                ("set-cookie", "c=__Host-portcullis")
            ])
        );
    }
}
