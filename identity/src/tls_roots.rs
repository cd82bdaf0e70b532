//! The certificate authorities that other servers' certificates are checked against.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Why authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// The file cannot be read, or is no PEM.
    #[error("cannot be read as PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// There is no authority in it.
    #[error("holds no certificate that can be an authority")]
    Empty,
    /// TLS cannot be set up with it.
    #[error("cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// The side of a TLS client that trusts `roots` and offers `protocols` by ALPN (RFC 7301).
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

/// The certificates of a PEM file that can be authorities: at least one.
///
/// # Errors
/// It cannot be read, or holds no authority.
pub fn read(file: &Path) -> Result<RootCertStore, AuthoritiesError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        let _refused = roots.add(certificate?);
    }
    if roots.is_empty() { Err(AuthoritiesError::Empty) } else { Ok(roots) }
}

/// The authorities that this system trusts.
pub fn system() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificate authorities of this system cannot be read");
    }
    or_mozilla(found.certs)
}

/// These as far as they can be read. Where there are none, as in an image with nothing but the
/// gateway, those that Mozilla trusted when it was built.
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
    fn a_file_without_authorities_is_refused() {
        assert!(matches!(read(NamedTempFile::new().unwrap().path()), Err(AuthoritiesError::Empty)));
        assert!(matches!(read(Path::new("/does/not/exist")), Err(AuthoritiesError::Pem(_))));
    }

    #[test]
    fn authorities_of_the_web_are_trusted_where_the_system_has_none_and_only_there() {
        let web = or_mozilla(Vec::new()).len();
        assert!(web > 50, "{web}");
        let own = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(or_mozilla(vec![own.der().clone()]).len(), 1);
    }
}
