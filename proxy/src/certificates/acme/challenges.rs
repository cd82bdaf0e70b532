//! Responses to ACME challenges, served by every replica: a page for `http-01`, a certificate for
//! `tls-alpn-01`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::state::Challenge;

/// The ALPN protocol of `tls-alpn-01`, which only authorities offer (RFC 8737 §6.2).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";
/// The path of `http-01` pages (RFC 8555 §8.3).
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";
/// The most open challenges.
const MAX_CHALLENGES: usize = 1_000;

/// The open challenges. Read by workers, written by the control plane.
#[derive(Default)]
pub(crate) struct Challenges {
    open: ArcSwap<Open>,
}

#[derive(Default)]
struct Open {
    source: Vec<Challenge>,
    pages: HashMap<Box<str>, Bytes>,
    certificates: HashMap<Box<str>, Arc<CertifiedKey>>,
}

// === impl Challenges ===

impl Challenges {
    /// The page at `path`, for any host: only the authority knows the token in it.
    pub(crate) fn page(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(WELL_KNOWN)?;
        self.open.load().pages.get(token).cloned()
    }

    /// The certificate for an authority that requests `name`.
    pub(crate) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.open.load().certificates.get(name).cloned()
    }

    /// Opens one `http-01` challenge, for tests.
    #[cfg(test)]
    pub(crate) fn open_http(&self, token: &str, answer: &str) {
        self.set(&[Challenge::Http { token: token.to_owned(), answer: answer.to_owned() }]);
    }

    /// Replaces the open challenges.
    pub(crate) fn set(&self, challenges: &[Challenge]) {
        if self.open.load().source != challenges {
            self.open.store(Arc::new(Open::new(challenges)));
        }
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").field("open", &self.open.load().source.len()).finish()
    }
}

// === impl Open ===

impl Open {
    fn new(challenges: &[Challenge]) -> Self {
        let mut open = Self { source: challenges.to_vec(), ..Self::default() };
        for challenge in challenges.iter().take(MAX_CHALLENGES) {
            match challenge {
                Challenge::Http { token, answer } => {
                    drop(open.pages.insert(token.as_str().into(), Bytes::from(answer.clone())))
                }
                Challenge::TlsAlpn { name, digest } => match certificate(name, digest) {
                    Some(certificate) => {
                        drop(open.certificates.insert(name.as_str().into(), certificate))
                    }
                    None => tracing::error!(
                        name,
                        "failed to generate a certificate for a tls-alpn-01 challenge"
                    ),
                },
                Challenge::Dns { .. } => {}
            }
        }
        open
    }
}

/// Generates the certificate with the digest of the key authorization (RFC 8737 §3).
fn certificate(name: &str, digest: &str) -> Option<Arc<CertifiedKey>> {
    let mut octets = [0; 32];
    hex::decode_to_slice(digest, &mut octets).ok()?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).ok()?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&octets)];
    let key = KeyPair::generate().ok()?;
    let certificate = params.self_signed(&key).ok()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key =
        rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(key).ok()?;
    // Not `from_der`: its check rejects the extension, which must be critical.
    Some(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_served_for_its_token_while_the_challenge_is_open() {
        let challenges = Challenges::default();
        challenges
            .set(&[Challenge::Http { token: "token".to_owned(), answer: "token.key".to_owned() }]);
        assert_eq!(
            challenges.page("/.well-known/acme-challenge/token").as_deref(),
            Some(&b"token.key"[..])
        );
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/other",
            "/token",
            "token",
            "/",
        ] {
            assert_eq!(challenges.page(path), None, "{path}");
        }
        challenges.set(&[]);
        assert_eq!(challenges.page("/.well-known/acme-challenge/token"), None);
    }

    #[test]
    fn a_certificate_is_served_for_its_name_alone() {
        let challenges = Challenges::default();
        let challenge =
            |name: &str, digest: String| Challenge::TlsAlpn { name: name.to_owned(), digest };
        challenges.set(&[
            challenge("a.test", hex::encode([7; 32])),
            challenge("b.test", "malformed".to_owned()),
        ]);
        assert!(challenges.certificate("a.test").is_some());
        assert!(challenges.certificate("b.test").is_none());
        assert!(challenges.certificate("c.test").is_none());
    }
}
