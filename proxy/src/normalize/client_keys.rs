//! Client keys in places where the gateway reads no credentials. From there, too, they must not
//! reach a backend: whoever operates it could use them elsewhere.

use portcullis_config::client_key;
use smallvec::SmallVec;

use crate::exchange::PathAndQuery;

/// Whether a client key occurs anywhere in `octets`, valid or not: only its format is checked.
pub(crate) fn has_client_key(octets: &[u8]) -> bool {
    // Few values have an underscore, and fewer have one after the rest of the prefix.
    memchr::memchr_iter(b'_', octets).any(|underscore| {
        (underscore + 1)
            .checked_sub(client_key::PREFIX.len())
            .and_then(|start| octets.get(start..)?.get(..client_key::LENGTH))
            .and_then(|key| std::str::from_utf8(key).ok())
            .is_some_and(client_key::is_well_formed)
    })
}

/// The same for the path and the query, also percent-encoded.
pub(super) fn is_in_target(target: &PathAndQuery) -> bool {
    let octets = target.as_str().as_bytes();
    has_client_key(octets)
        || memchr::memchr(b'%', octets).is_some() && has_client_key(&decoded(octets))
}

/// Decodes what is percent-encoded; a query may have percent signs that encode nothing.
fn decoded(octets: &[u8]) -> SmallVec<[u8; 256]> {
    let mut decoded = SmallVec::with_capacity(octets.len());
    let mut rest = octets;
    while let Some((first, after)) = rest.split_first() {
        let encoded = (*first == b'%').then(|| after.split_first_chunk::<2>()).flatten();
        let encoded = encoded.and_then(|([high, low], after)| {
            let digit = |octet: u8| char::from(octet).to_digit(16);
            Some((u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?, after))
        });
        let (octet, after) = encoded.unwrap_or((*first, after));
        decoded.push(octet);
        rest = after;
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        client_key::Key::new(&[7; 32]).expose().to_owned()
    }

    #[test]
    fn a_key_is_found_anywhere() {
        let key = key();
        for text in [
            key.clone(),
            format!("_{key}_"),
            format!("a_pck_{key}, b_c"),
            format!("\u{e9}\"{key}\""),
            format!("pck_{}{key}", "0".repeat(49)),
        ] {
            assert!(has_client_key(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn other_text_is_none() {
        let key = key();
        let mistyped = key.replace("pck_", "pck_x");
        for text in ["", "_", "pck_", "pck", "a_b", &key[1..], &key[..key.len() - 1], &mistyped] {
            assert!(!has_client_key(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_key_is_found_in_a_target_however_it_is_encoded() {
        let key = key();
        let all: String = key.bytes().map(|octet| format!("%{octet:02x}")).collect();
        let found = |target: String| is_in_target(&PathAndQuery::new(target).unwrap());
        assert!(found(format!("/{key}")));
        assert!(found(format!("/?100%&a={key}")));
        assert!(found(format!("/a?b={}", key.replace('_', "%5F"))));
        assert!(found(format!("/a?b=%{all}")));
        assert!(!found(format!("/a?b={}%", key.replace('_', "%5"))));
    }
}
