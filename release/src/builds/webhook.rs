//! GitHub's push webhooks: their signatures, and which of them are replayed.
//!
//! GitHub signs the body alone, and not the identifier of the delivery. So a delivery is recognized
//! by its signature: whoever replays a body has to replay its signature, too.

use std::collections::{HashSet, VecDeque};

use aws_lc_rs::hmac::{HMAC_SHA256, Key, verify};
use serde::Deserialize;

use crate::model::Branch;

/// The shortest secret, in bytes.
pub const MIN_SECRET: usize = 16;
/// The most deliveries of a repository that are remembered.
const MAX_DELIVERIES: usize = 1000;

/// A signature that was verified: HMAC-SHA256 of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 32]);

/// The newest deliveries of a repository.
#[derive(Debug, Default)]
pub struct Deliveries {
    known: HashSet<Signature>,
    /// In the order of their arrival.
    order: VecDeque<Signature>,
}

/// The body of a push
/// (<https://docs.github.com/en/webhooks/webhook-events-and-payloads#push>).
#[derive(Debug, Deserialize)]
pub struct Push {
    /// What was pushed to, such as `refs/heads/master`.
    #[serde(rename = "ref")]
    reference: String,
}

// === impl Signature ===

impl Signature {
    /// Verifies the value of `X-Hub-Signature-256`, in constant time
    /// (<https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>).
    #[must_use]
    pub fn verify(secret: &[u8], body: &[u8], header: &str) -> Option<Self> {
        let mut signature = [0; 32];
        let digits = header.strip_prefix("sha256=").unwrap_or_default();
        let is_signature = hex::decode_to_slice(digits, &mut signature).is_ok();
        // Also for what is no signature, so that it takes as long.
        let is_valid = verify(&Key::new(HMAC_SHA256, secret), body, &signature).is_ok();
        (is_signature && is_valid && secret.len() >= MIN_SECRET).then_some(Self(signature))
    }
}

// === impl Deliveries ===

impl Deliveries {
    /// Remembers a delivery; `false` if it is remembered already. Forgets the oldest one beyond the
    /// last thousand.
    pub fn accept(&mut self, signature: Signature) -> bool {
        if !self.known.insert(signature) {
            return false;
        }
        self.order.push_back(signature);
        if self.order.len() > MAX_DELIVERIES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

// === impl Push ===

impl Push {
    /// Whether a body is that of a push to a branch.
    #[must_use]
    pub fn is_to(body: &[u8], branch: &Branch) -> bool {
        serde_json::from_slice(body).is_ok_and(|push: Self| push.reference == branch.reference())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of GitHub's documentation.
    const SECRET: &[u8] = b"It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const HEADER: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn a_signature_is_that_of_the_body_by_the_secret() {
        assert!(Signature::verify(SECRET, BODY, HEADER).is_some());
        let (start, last) = HEADER.split_at(HEADER.len() - 1);
        assert_eq!(last, "7");
        for header in [
            "",
            "sha256=",
            start,
            &format!("{start}8"),
            &format!("{HEADER}00"),
            &HEADER.replace("sha256=", "sha1="),
            &HEADER.replace("sha256=", ""),
            &format!(" {HEADER}"),
        ] {
            assert_eq!(Signature::verify(SECRET, BODY, header), None, "{header}");
        }
        assert_eq!(Signature::verify(SECRET, b"Hello, World", HEADER), None);
        assert_eq!(Signature::verify(b"It's a Secret to Nobody...", BODY, HEADER), None);
    }

    #[test]
    fn a_short_secret_admits_nothing() {
        // HMAC-SHA256 of an empty text with an empty key.
        let empty = "sha256=b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad";
        assert_eq!(Signature::verify(b"", b"", empty), None);
    }

    #[test]
    fn replays_are_recognized_within_bounded_memory() {
        let signature = |number: usize| {
            let mut octets = [0; 32];
            octets[..8].copy_from_slice(&number.to_be_bytes());
            Signature(octets)
        };
        let mut deliveries = Deliveries::default();
        for number in 0..3 * MAX_DELIVERIES {
            assert!(deliveries.accept(signature(number)));
            assert!(!deliveries.accept(signature(number)));
        }
        assert!(
            !deliveries.accept(signature(2 * MAX_DELIVERIES)),
            "it is one of the last thousand"
        );
        assert_eq!(
            (deliveries.known.len(), deliveries.order.len()),
            (MAX_DELIVERIES, MAX_DELIVERIES)
        );
    }

    #[test]
    fn a_push_to_another_branch_or_a_tag_is_none() {
        let master: Branch = "master".parse().unwrap();
        assert!(Push::is_to(br#"{"ref": "refs/heads/master", "after": "x"}"#, &master));
        for body in [
            r#"{"ref": "refs/tags/master"}"#,
            r#"{"ref": "refs/heads/master2"}"#,
            r#"{"ref": 1}"#,
            r#"{"zen": "x"}"#,
            "",
            "[]",
        ] {
            assert!(!Push::is_to(body.as_bytes(), &master), "{body}");
        }
    }
}
