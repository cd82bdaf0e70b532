//! The certificate for names that no other certificate covers.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::PlaceholderError;

/// Generates a self-signed certificate without a name, its key only in memory: clients that verify
/// it reject it, others learn nothing from it, because it is the same for every name. See
/// docs/decisions/007-placeholder-certificate.md.
pub(super) fn generate() -> Result<Arc<CertifiedKey>, PlaceholderError> {
    let key = KeyPair::generate().map_err(|error| PlaceholderError(error.into()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "default");
    let certificate = params.self_signed(&key).map_err(|error| PlaceholderError(error.into()))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider);
    certified.map(Arc::new).map_err(|error| PlaceholderError(error.into()))
}
