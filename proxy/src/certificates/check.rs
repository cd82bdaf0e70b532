//! Checks of a certificate before it is served: it is well-formed, its key matches, it has names,
//! and it is valid now.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::snapshot::certificate::Certificate;
use rustls::SignatureAlgorithm;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::EXPIRES_SOON;

/// The longest chain and the longest key, in bytes of PEM.
const MAX_PEM: usize = 1 << 20;
/// The most certificates in a chain: each handshake sends them all.
const MAX_CHAIN: usize = 10;

/// A certificate that may be served.
pub(crate) struct Checked {
    pub(crate) origin: Origin,
    /// The DNS names that it is valid for.
    pub(crate) names: Vec<HostPattern>,
    /// The start of its validity.
    pub(crate) not_before: SystemTime,
    /// The end of its validity.
    pub(crate) not_after: SystemTime,
    pub(super) key: Arc<CertifiedKey>,
    /// The certificate as it was read, to detect changes.
    pub(super) source: Certificate,
}

/// Why a certificate is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("its certificate or its key has more than {MAX_PEM} bytes")]
    TooLarge,
    #[error("its chain cannot be read: {0}")]
    Chain(String),
    #[error("its chain has more than {MAX_CHAIN} certificates")]
    LongChain,
    #[error("its private key cannot be read")]
    Key,
    #[error("its private key cannot be used: {0}")]
    KeyKind(String),
    #[error("its private key does not match its certificate")]
    KeyMismatch,
    #[error("it has no DNS name")]
    NoName,
    #[error("it is not a server certificate: its extended key usage lacks `serverAuth`")]
    NotForServers,
    #[error("it has expired")]
    Expired,
    #[error("it is not yet valid")]
    NotYetValid,
}

/// Checks `certificate` for use at `now`.
pub(crate) fn check(certificate: &Certificate, now: SystemTime) -> Result<Checked, Unusable> {
    let checked = check_undated(certificate)?;
    if now < checked.not_before {
        return Err(Unusable::NotYetValid);
    }
    if now > checked.not_after {
        return Err(Unusable::Expired);
    }
    Ok(checked)
}

/// Checks everything except the dates.
pub(super) fn check_undated(certificate: &Certificate) -> Result<Checked, Unusable> {
    let chain = read_chain(&certificate.chain)?;
    let key = read_key(certificate.key.expose())?;
    let leaf =
        chain.first().ok_or_else(|| Unusable::Chain("it contains no certificate".to_owned()))?;
    let leaf = Leaf::read(leaf)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Unusable::KeyMismatch,
        error => Unusable::KeyKind(error.to_string()),
    })?;
    Ok(Checked {
        origin: certificate.origin.clone(),
        names: leaf.names,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        key: Arc::new(key),
        source: certificate.clone(),
    })
}

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    if pem.len() > MAX_PEM {
        return Err(Unusable::TooLarge);
    }
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| Unusable::Chain(error.to_string()))?;
        X509Certificate::from_der(&certificate).map_err(|_| {
            Unusable::Chain(format!("certificate {} in it is malformed", chain.len() + 1))
        })?;
        if chain.len() == MAX_CHAIN {
            return Err(Unusable::LongChain);
        }
        chain.push(certificate);
    }
    Ok(chain)
}

/// Reads a private key. Errors have no details: these could contain a part of the key.
fn read_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Unusable> {
    if pem.len() > MAX_PEM {
        return Err(Unusable::TooLarge);
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| Unusable::Key)
}

/// The checked properties of a chain's first certificate.
struct Leaf {
    names: Vec<HostPattern>,
    not_before: SystemTime,
    not_after: SystemTime,
}

// === impl Leaf ===

impl Leaf {
    fn read(der: &CertificateDer<'_>) -> Result<Self, Unusable> {
        let malformed = |_| Unusable::Chain("its first certificate is malformed".to_owned());
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|_| Unusable::Chain("its first certificate is malformed".to_owned()))?;
        let usage = certificate.extended_key_usage().map_err(malformed)?;
        if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
            return Err(Unusable::NotForServers);
        }
        // RFC 9525 §2: only the subject alternative name counts, never the common name.
        let alternative = certificate.subject_alternative_name().map_err(malformed)?;
        let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let names: Vec<HostPattern> = names.filter_map(dns_name).collect();
        if names.is_empty() {
            return Err(Unusable::NoName);
        }
        let validity = certificate.validity();
        Ok(Self {
            names,
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }
}

fn dns_name(name: &GeneralName<'_>) -> Option<HostPattern> {
    match name {
        GeneralName::DNSName(name) => name.to_ascii_lowercase().parse().ok(),
        _ => None,
    }
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

// === impl Checked ===

impl Checked {
    /// The remaining time of its validity.
    pub(crate) fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// Whether it expires so soon that it should have been renewed.
    pub(super) fn expires_soon(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.remaining(now) < EXPIRES_SOON.min(life / 4)
    }

    pub(super) fn is_ecdsa(&self) -> bool {
        matches!(self.key.key.algorithm(), SignatureAlgorithm::ECDSA | SignatureAlgorithm::ED25519)
    }
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked")
            .field("origin", &self.origin)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

// === impl Unusable ===

impl Unusable {
    /// The problem to report to the owner, with what is done `instead` of using the certificate.
    pub(super) fn problem(&self, origin: Origin, instead: &str) -> Problem {
        Problem {
            severity: Severity::Error,
            reason: self.reason(),
            origin,
            message: format!("the certificate is not usable: {self}; {instead}"),
            help: self.help().to_owned(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge
            | Self::Chain(_)
            | Self::LongChain
            | Self::NoName
            | Self::NotForServers => "CertificateInvalid",
            Self::Key | Self::KeyKind(_) => "CertificateKeyInvalid",
            Self::KeyMismatch => "CertificateKeyMismatch",
            Self::Expired => "CertificateExpired",
            Self::NotYetValid => "CertificateNotYetValid",
        }
    }

    fn help(&self) -> &'static str {
        match self {
            Self::TooLarge | Self::Chain(_) | Self::LongChain => {
                "provide the chain in PEM: the server certificate first, then those that signed it"
            }
            Self::Key => "provide the private key in PEM, without a passphrase",
            Self::KeyKind(_) => {
                "use an ECDSA key on P-256 or P-384, an Ed25519 key, or an RSA key of 2048 to 8192 \
                 bits"
            }
            Self::KeyMismatch => "provide the key that the certificate was issued for",
            Self::NoName => {
                "request a certificate with the hostnames in its subject alternative name"
            }
            Self::NotForServers => "request a certificate for server authentication",
            Self::Expired => "renew the certificate",
            Self::NotYetValid => {
                "check this machine's clock, or wait until the certificate is valid"
            }
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
