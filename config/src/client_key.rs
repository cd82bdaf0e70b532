//! Client keys, which applications present: their format, and the hash that is stored.
//!
//! A key is `pck_`, then 32 random octets as 43 characters, then a CRC-32 (IEEE 802.3) of 6: letters and
//! digits only, so that a double click selects all of it. Secret scanners find leaked keys by
//! prefix and checksum, and a mistyped key is rejected without a lookup.
//! `docs/access.md` describes it.

pub mod secret;

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

/// The prefix of every key.
pub const PREFIX: &str = "pck_";
/// The length of a key in octets.
pub const LENGTH: usize = PREFIX.len() + SECRET + CHECKSUM;
/// The prefix of a written hash.
pub const HASH_PREFIX: &str = "sha256:";

/// The fewest base-62 digits that hold 256 bits.
const SECRET: usize = 43;
/// The fewest base-62 digits that hold 32 bits.
const CHECKSUM: usize = 6;
/// The base-62 digits, in ASCII order.
const DIGITS: [u8; 62] = *b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key. It is shown once, to its owner, and never stored.
#[derive(Clone)]
pub struct Key(String);

// === impl Key ===

impl Key {
    /// The key made of 32 random octets.
    #[must_use]
    pub fn new(random: &[u8; 32]) -> Self {
        let body = format!("{PREFIX}{}", base62::<SECRET>(random));
        let checksum = base62::<CHECKSUM>(&crc32fast::hash(body.as_bytes()).to_be_bytes());
        Self(body + &checksum)
    }

    /// The key itself. Name this call in review: what it returns must go to no log, metric, page or
    /// error.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The hash, which is what is stored of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Whether `text` has the format of a key: prefix, length, characters and checksum.
///
/// It does not check whether such a key was issued.
#[must_use]
pub fn is_well_formed(text: &str) -> bool {
    let Some((body, checksum)) =
        text.len().checked_sub(CHECKSUM).and_then(|end| text.split_at_checked(end))
    else {
        return false;
    };
    let Some(secret) = body.strip_prefix(PREFIX) else { return false };
    secret.len() == SECRET
        && secret.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && checksum.bytes().eq(digits::<CHECKSUM>(&crc32fast::hash(body.as_bytes()).to_be_bytes()))
}

/// SHA-256 of a key as it is written. A key has 256 bits of randomness, so a deliberately slow hash
/// would add nothing.
#[must_use]
pub fn hash(key: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.iter_mut()
        .zip(digest(&SHA256, key.as_bytes()).as_ref())
        .for_each(|(to, from)| *to = *from);
    hash
}

/// Writes a hash as in Secrets: `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn write_hash(hash: &[u8; 32]) -> String {
    format!("{HASH_PREFIX}{}", hex::encode(hash))
}

/// Reads a hash as [`write_hash`] writes it; `None` where `text` is not a hash.
#[must_use]
pub fn read_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text.strip_prefix(HASH_PREFIX)?, &mut hash).ok()?;
    Some(hash)
}

fn base62<const LENGTH: usize>(number: &[u8]) -> String {
    digits::<LENGTH>(number).into_iter().map(char::from).collect()
}

/// Converts a number from base 256 to base 62, both big-endian, truncated to `LENGTH` digits.
fn digits<const LENGTH: usize>(number: &[u8]) -> [u8; LENGTH] {
    let mut digits = [0_u8; LENGTH];
    for octet in number {
        let mut carry = u16::from(*octet);
        for digit in digits.iter_mut().rev() {
            let value = u16::from(*digit) << 8 | carry;
            // Less than 62.
            *digit = (value % 62) as u8;
            carry = value / 62;
        }
    }
    digits.map(|digit| DIGITS.get(usize::from(digit)).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Octets from 0 to 31; the digits and the checksum were computed by Python's integers and
    /// zlib.
    const KNOWN: &str = "pck_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1T7Jj1";

    fn known() -> Key {
        Key::new(&std::array::from_fn(|index| index as u8))
    }

    #[test]
    fn keys_and_checksums_match_those_of_other_implementations() {
        assert_eq!(known().expose(), KNOWN);
        assert_eq!(
            write_hash(&hash(KNOWN)),
            "sha256:36fa011c791e70a34fb59b2368f1b89faf186edf98496a354dc4781e194a63fa"
        );
    }

    #[test]
    fn a_key_with_any_single_mistake_is_rejected() {
        let key = known();
        assert!(is_well_formed(key.expose()));
        for index in 0..LENGTH {
            for wrong in ('!'..='~').filter(|wrong| key.expose().chars().nth(index) != Some(*wrong))
            {
                let mistyped: String = key
                    .expose()
                    .chars()
                    .enumerate()
                    .map(|(at, char)| if at == index { wrong } else { char })
                    .collect();
                assert!(!is_well_formed(&mistyped), "{mistyped}");
            }
            let (before, after) = key.expose().split_at(index);
            assert!(!is_well_formed(before));
            assert!(!is_well_formed(&format!("{before}0{after}")));
            assert!(!is_well_formed(&format!("{before}\u{e9}{}", &after[1..])));
        }
        for text in [
            "",
            "pck_",
            " ",
            "\u{1f511}",
            &KNOWN.to_ascii_uppercase(),
            &format!("{KNOWN} "),
            &format!(" {KNOWN}"),
        ] {
            assert!(!is_well_formed(text), "{text}");
        }
    }

    #[test]
    fn a_key_does_not_print() {
        assert_eq!(format!("{:?}", known()), "[secret]");
    }

    #[test]
    fn a_malformed_hash_is_rejected() {
        let good = write_hash(&[0xab; 32]);
        assert_eq!(read_hash(&good), Some([0xab; 32]));
        assert_eq!(
            read_hash(&good.to_ascii_uppercase().replace("SHA256", "sha256")),
            Some([0xab; 32])
        );
        let hexadecimal = "ab".repeat(32);
        for text in [
            "",
            "sha256:",
            &hexadecimal,
            &good[1..],
            &good[..70],
            &format!("{good}a"),
            &format!("{good}ab"),
            &good.replacen("ab", "a+", 1),
        ] {
            assert_eq!(read_hash(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_key_is_well_formed_and_of_one_length(random: [u8; 32]) {
            let key = Key::new(&random);
            prop_assert_eq!(key.expose().len(), LENGTH);
            prop_assert!(is_well_formed(key.expose()));
            prop_assert_eq!(read_hash(&write_hash(&key.hash())), Some(hash(key.expose())));
        }

        #[test]
        fn a_text_with_a_wrong_checksum_is_rejected(text in "\\PC{0,60}|pck_[0-9A-Za-z]{49}") {
            prop_assert!(!is_well_formed(&text));
        }
    }

    #[test]
    fn different_octets_give_different_keys() {
        let of = |octet, bit| {
            let mut random = [0; 32];
            random[octet] = 1_u8 << bit;
            Key::new(&random).expose().to_owned()
        };
        let keys: BTreeSet<String> =
            (0..32).flat_map(|octet| (0..8).map(move |bit| of(octet, bit))).collect();
        assert_eq!(keys.len(), 256);
    }
}
