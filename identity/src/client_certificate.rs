//! Client certificates: the identity of the program at the other end of a TLS connection.
//!
//! Every host requests a certificate, and no handshake fails because of it, so that hosts that
//! require one cannot be told apart. The certificate is verified for each request, with the current
//! authorities: a resumed session is verified like a new one, and removing an authority takes
//! effect at once.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::caller::{Application, Caller};
use super::rejected::Rejected;

/// Poll interval of the authorities file.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum length of a certificate chain.
const MAX_CHAIN: usize = 8;

/// The authorities of client certificates, from a file that is reloaded when it changes.
pub struct ClientAuthorities {
    path: PathBuf,
    loaded: ArcSwap<LoadedAuthorities>,
    generation: AtomicU64,
}

#[derive(Default)]
struct LoadedAuthorities {
    pem: Vec<u8>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why the authorities cannot be used. Until they can, all client certificates are rejected.
#[derive(Debug, thiserror::Error)]
pub enum UnusableAuthorities {
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// The file is not PEM.
    #[error("the file is not PEM")]
    Pem,
    /// The file has no authority.
    #[error("the file has no certificate of an authority")]
    Empty,
}

/// A client's certificate chain, with the last verdict about it.
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    verdict: RefCell<Option<Verdict>>,
}

struct Verdict {
    /// Generation of the authorities.
    generation: u64,
    /// When another verdict is due, since a certificate of the chain expires or becomes valid.
    until: Option<SystemTime>,
    result: Result<Caller, Rejected>,
}

/// Accepts every certificate with proof of possession of its key; it is verified later.
#[derive(Debug)]
pub struct AnyClientCertificate {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
}

// === impl ClientAuthorities ===

impl ClientAuthorities {
    /// Reads the file. If that fails, all client certificates are rejected until it succeeds.
    pub fn new(path: &Path) -> Self {
        let authorities = Self {
            path: path.to_owned(),
            loaded: ArcSwap::default(),
            generation: AtomicU64::new(0),
        };
        authorities.tick();
        authorities
    }

    /// Returns the verifier that requests certificates in handshakes. It sends the names of the
    /// authorities, as they were at startup, to every client.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let hints = self
            .loaded
            .load()
            .anchors
            .iter()
            .map(|anchor| DistinguishedName::in_sequence(anchor.subject.as_ref()))
            .collect();
        Arc::new(AnyClientCertificate { hints, algorithms: algorithms() })
    }

    /// Watches the file forever: a task of the control plane.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            self.tick();
        }
    }

    /// Grows when the authorities change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn tick(&self) {
        let before = self.loaded.load();
        let read = std::fs::read(&self.path).map_err(UnusableAuthorities::from);
        if read.as_ref().is_ok_and(|pem| *pem == before.pem)
            || read.is_err() && before.pem.is_empty() && self.generation() > 0
        {
            return;
        }
        let pem = read.as_ref().map(Clone::clone).unwrap_or_default();
        let anchors = read.and_then(|pem| anchors(&pem)).unwrap_or_else(|error| {
            tracing::error!(path = %self.path.display(), %error, "failed to load the client certificate authorities: all client certificates are rejected");
            Vec::new()
        });
        self.loaded.store(Arc::new(LoadedAuthorities { pem, anchors }));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Returns the caller of a client certificate, verified with the current authorities.
    pub fn verify(
        &self,
        certificate: &ClientCertificate,
        now: SystemTime,
    ) -> Result<Caller, Rejected> {
        let generation = self.generation();
        let mut verdict = certificate.verdict.borrow_mut();
        let is_current = |cached: &&Verdict| {
            cached.generation == generation && cached.until.is_none_or(|until| now < until)
        };
        if let Some(cached) = verdict.as_ref().filter(is_current) {
            return cached.result.clone();
        }
        let until = next_change(&certificate.chain, now);
        let result = self.verify_chain(&certificate.chain, now).map(|application| Caller {
            application: Some(application),
            user: None,
            until,
        });
        verdict.insert(Verdict { generation, until, result }).result.clone()
    }

    fn verify_chain(
        &self,
        chain: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<Application, Rejected> {
        let (leaf, intermediates) = chain.split_first().ok_or(Rejected::Malformed)?;
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| Rejected::Malformed)?;
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let loaded = self.loaded.load();
        certificate
            .verify_for_usage(
                algorithms().all,
                &loaded.anchors,
                intermediates,
                time,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| match error {
                webpki::Error::CertExpired { .. } => Rejected::Expired,
                webpki::Error::CertNotValidYet { .. } => Rejected::NotYetValid,
                _ => Rejected::Signature,
            })?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| Rejected::Malformed)?;
        name(&parsed).map(|name| name.as_str().into()).ok_or(Rejected::Claims)
    }
}

/// Returns when a certificate of the chain expires or becomes valid next (RFC 5280 §4.1.2.5: both
/// ends are included). A chain may have certificates that are not needed, so such a change only
/// causes another verification.
fn next_change(chain: &[CertificateDer<'static>], now: SystemTime) -> Option<SystemTime> {
    let parsed = chain.iter().filter_map(|der| X509Certificate::from_der(der).ok());
    parsed
        .flat_map(|(_, certificate)| {
            let validity = certificate.validity();
            let after = validity.not_after.timestamp().saturating_add(1);
            [validity.not_before.timestamp(), after]
        })
        .filter_map(|time| u64::try_from(time).ok())
        .map(|time| UNIX_EPOCH + Duration::from_secs(time))
        .filter(|time| now < *time)
        .min()
}

fn anchors(pem: &[u8]) -> Result<Vec<TrustAnchor<'static>>, UnusableAuthorities> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| UnusableAuthorities::Pem)?;
    let anchors: Vec<_> = certificates
        .iter()
        .filter_map(|certificate| anchor_from_trusted_cert(certificate).ok())
        .map(|anchor| anchor.to_owned())
        .collect();
    if anchors.is_empty() { Err(UnusableAuthorities::Empty) } else { Ok(anchors) }
}

/// Returns the application's name: the SPIFFE ID, else the first DNS name as `dns:NAME`, else the
/// common name as `cn:NAME`. More than one SPIFFE ID is invalid (X.509-SVID §2).
fn name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate
        .subject_alternative_name()
        .ok()?
        .map(|extension| &extension.value.general_names);
    let names = || names.into_iter().flatten();
    let mut spiffe = names().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some(*uri),
        _ => None,
    });
    if let Some(first) = spiffe.next() {
        return spiffe.next().is_none().then(|| first.to_owned());
    }
    let dns = names().find_map(|name| match name {
        GeneralName::DNSName(name) => Some(format!("dns:{}", name.to_ascii_lowercase())),
        _ => None,
    });
    let common = || {
        certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(|name| format!("cn:{name}"))
    };
    dns.or_else(common)
}

// === impl ClientCertificate ===

impl ClientCertificate {
    /// Wraps the chain of the handshake; `None` if the client sent none.
    pub fn new(chain: Option<&[CertificateDer<'static>]>) -> Option<Rc<Self>> {
        let chain = chain.filter(|chain| (1..=MAX_CHAIN).contains(&chain.len()))?;
        Some(Rc::new(Self { chain: chain.to_vec(), verdict: RefCell::default() }))
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

// === impl AnyClientCertificate ===

impl ClientCertVerifier for AnyClientCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "client_certificate_tests.rs"]
mod tests;
