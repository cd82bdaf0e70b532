//! The certificate authorities for TLS connections to other servers.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Why authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The file cannot be read, or is not PEM.
    #[error("cannot be read as PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// The file has no authority.
    #[error("has no certificate of an authority")]
    Empty,
    /// TLS cannot be set up with them.
    #[error("cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// Returns a TLS client configuration that trusts `roots` and offers `protocols` by ALPN (RFC
/// 7301).
///
/// # Errors
/// TLS cannot be set up.
pub fn client_config(
    roots: RootCertStore,
    protocols: &[&[u8]],
) -> Result<ClientConfig, AuthoritiesError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// Reads the authorities of a PEM file: at least one.
///
/// # Errors
/// The file cannot be read, or has no authority.
pub fn read(file: &Path) -> Result<RootCertStore, AuthoritiesError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        let _refused = roots.add(certificate?);
    }
    if roots.is_empty() { Err(AuthoritiesError::Empty) } else { Ok(roots) }
}

/// Returns the authorities of this system.
pub fn system() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "failed to read certificate authorities of this system");
    }
    or_mozilla(found.certs)
}

/// Returns these authorities if any can be parsed, otherwise Mozilla's at build time: an image with
/// nothing but the gateway has none.
fn or_mozilla(found: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::NamedTempFile;

    use super::*;

    #[test]
    fn a_file_without_authorities_is_rejected() {
        assert!(matches!(read(NamedTempFile::new().unwrap().path()), Err(AuthoritiesError::Empty)));
        assert!(matches!(read(Path::new("/does/not/exist")), Err(AuthoritiesError::Pem(_))));
    }

    #[test]
    fn mozilla_authorities_are_used_only_without_system_authorities() {
        let web = or_mozilla(Vec::new()).len();
        assert!(web > 50, "{web}");
        let own = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(or_mozilla(vec![own.der().clone()]).len(), 1);
    }
}
