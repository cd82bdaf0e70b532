//! Keys that seal the data of Secrets in the store.
//!
//! A sealed value is `sealed:HASH:DATA`. `HASH` is the beginning of a keyed hash of the value and its
//! place: it is what people see, and what tells equal values of one place from different ones. `DATA` is the base64 of a nonce,
//! the ciphertext and a tag (AES-256-GCM-SIV, RFC 8452), bound to the place of the value, so that it
//! cannot be moved to another one.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The octets of a key.
const KEY_LEN: usize = 32;
/// The hexadecimal digits of the hash of a value.
const DIGITS: usize = 16;
/// What a sealed value begins with.
const PREFIX: &str = "sealed:";

/// The keys: the first one seals, each can open.
#[derive(Default)]
pub struct SealingKeys(Vec<SealingKey>);

struct SealingKey {
    sealing: RandomizedNonceKey,
    hashing: hmac::Key,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKey {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
    /// It is not a key.
    #[error(
        "{0} is not a key: write 32 random octets in base64, such as `openssl rand -base64 32`"
    )]
    Format(String),
}

/// A value cannot be sealed: there is no key, or no randomness.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data of a Secret cannot be sealed")]
pub struct NotSealed;

/// A value is not one that a key of these has sealed for this place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("its data is sealed by a key that is not one of `sealingKeys`")]
pub struct NotOpened;

// === impl SealingKeys ===

impl SealingKeys {
    /// Reads keys from files.
    ///
    /// # Errors
    /// A file cannot be read, or has no key of 32 octets in base64.
    pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Self, InvalidKey> {
        let read = |path: &P| {
            let (path, name) = (path.as_ref(), path.as_ref().display().to_string());
            let text = std::fs::read_to_string(path)
                .map_err(|error| InvalidKey::File(name.clone(), error))?;
            let octets = STANDARD.decode(text.trim()).ok();
            octets.and_then(|octets| SealingKey::new(&octets)).ok_or(InvalidKey::Format(name))
        };
        paths.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seals a value for a place, such as a key of a Secret of a service.
    ///
    /// # Errors
    /// There is no key, or the system has no randomness.
    pub fn seal(&self, place: &str, value: &[u8]) -> Result<String, NotSealed> {
        let key = self.0.first().ok_or(NotSealed)?;
        let mut sealed = value.to_vec();
        let bound = Aad::from(place.as_bytes());
        let nonce = key.sealing.seal_in_place_append_tag(bound, &mut sealed);
        let nonce = nonce.map_err(|_| NotSealed)?;
        let data = STANDARD.encode([&nonce.as_ref()[..], &sealed].concat());
        Ok(format!("{PREFIX}{}:{data}", key.hash(place, value)))
    }

    /// Opens a value that was sealed for this place.
    ///
    /// # Errors
    /// It was sealed for another place, by another key, or was changed.
    pub fn open(&self, place: &str, sealed: &str) -> Result<Vec<u8>, NotOpened> {
        let data = sealed.strip_prefix(PREFIX).and_then(|sealed| sealed.split_once(':'));
        let (_, data) = data.ok_or(NotOpened)?;
        let octets = STANDARD.decode(data).map_err(|_| NotOpened)?;
        self.0.iter().find_map(|key| key.open(place, &octets)).ok_or(NotOpened)
    }

    /// The fingerprint of a request. It is keyed if there is a key, as the request may have secrets
    /// that are short enough to be guessed.
    #[must_use]
    pub fn fingerprint(&self, request: &[u8]) -> String {
        match self.0.first() {
            Some(key) => hex::encode(hmac::sign(&key.hashing, request)),
            None => hex::encode(digest(&SHA256, request)),
        }
    }
}

/// What people see of a sealed value; `None` if it is not one.
#[must_use]
pub fn shown(sealed: &str) -> Option<String> {
    let (hash, _) = sealed.strip_prefix(PREFIX)?.split_once(':')?;
    Some(format!("{PREFIX}{hash}"))
}

// === impl SealingKey ===

impl SealingKey {
    /// The keys that are derived from this one, if it has the right length.
    fn new(octets: &[u8]) -> Option<Self> {
        if octets.len() != KEY_LEN {
            return None;
        }
        let derive = |purpose: &[u8]| hmac::sign(&hmac::Key::new(HMAC_SHA256, octets), purpose);
        let sealing = derive(b"portcullis release sealing 1");
        Some(Self {
            sealing: RandomizedNonceKey::new(&AES_256_GCM_SIV, sealing.as_ref()).ok()?,
            hashing: hmac::Key::new(HMAC_SHA256, derive(b"portcullis release hash 1").as_ref()),
        })
    }

    /// With the place, so that a guess cannot be compared with a value of another service.
    fn hash(&self, place: &str, value: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.hashing);
        for part in [place.as_bytes(), b"\0", value] {
            context.update(part);
        }
        let mut digits = hex::encode(context.sign());
        digits.truncate(DIGITS);
        digits
    }

    fn open(&self, place: &str, octets: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = octets.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let place = Aad::from(place.as_bytes());
        let opened = self.sealing.open_in_place(nonce, place, &mut sealed).ok()?;
        Some(opened.to_vec())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Keys of these octets, the first one first.
    pub(crate) fn keys(octets: &[u8]) -> SealingKeys {
        SealingKeys(octets.iter().map(|octet| SealingKey::new(&[*octet; 32]).unwrap()).collect())
    }

    #[test]
    fn a_value_opens_at_its_place_alone_by_each_of_the_keys() {
        let sealed = keys(&[1]).seal("web/database/password", b"hunter2").unwrap();
        assert!(!sealed.contains("hunter2") && !sealed.contains(&STANDARD.encode("hunter2")));
        let open = |keys: &SealingKeys, place, sealed: &str| keys.open(place, sealed).ok();
        let place = "web/database/password";
        assert_eq!(open(&keys(&[2, 1]), place, &sealed).as_deref(), Some(&b"hunter2"[..]));
        assert_eq!(open(&keys(&[1]), "shop/database/password", &sealed), None);
        assert_eq!(keys(&[2]).open(place, &sealed), Err(NotOpened));
        assert_eq!(keys(&[]).open(place, &sealed), Err(NotOpened));
        for index in sealed.find(':').unwrap() + DIGITS + 2..sealed.len() - 1 {
            let mut changed = sealed.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(open(&keys(&[1]), place, &changed), None, "{index}");
        }
        for bad in ["", "sealed:", "sealed:00:", "sealed:00:AAAA", "plain"] {
            assert_eq!(open(&keys(&[1]), place, bad), None, "{bad}");
        }
        assert_eq!(keys(&[]).seal(place, b""), Err(NotSealed));
    }

    #[test]
    fn equal_values_have_equal_hashes_and_different_ciphertexts() {
        let seal = |key, value: &[u8]| keys(&[key]).seal("a", value).unwrap();
        let (one, other) = (seal(1, b"x"), seal(1, b"x"));
        assert_ne!(one, other);
        assert_eq!(shown(&one), shown(&other));
        assert_eq!(shown(&one).unwrap().len(), PREFIX.len() + DIGITS);
        assert_ne!(shown(&one), shown(&seal(1, b"y")));
        assert_ne!(shown(&one), shown(&keys(&[1]).seal("b", b"x").unwrap()));
        assert_ne!(shown(&one), shown(&seal(2, b"x")), "it cannot be guessed without the key");
        assert_eq!(shown("plain"), None);
    }

    #[test]
    fn a_key_is_a_file_of_32_octets_in_base64() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (text, is_valid) in [
            (format!("{}\n", STANDARD.encode([7; 32])), true),
            (STANDARD.encode([7; 31]), false),
            ("x".repeat(32), false),
            (String::new(), false),
        ] {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(SealingKeys::read(&[&path]).is_ok(), is_valid, "{text}");
        }
        assert!(SealingKeys::read(&[folder.path().join("none")]).is_err());
    }
}
