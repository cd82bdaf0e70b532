//! A certificate and its key, as bytes: the proxy validates them before it serves them.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::model::Origin;

/// A certificate chain with its private key, as found in files or in a `kubernetes.io/tls` Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Where it came from.
    pub origin: Origin,
    /// The chain, leaf first, in PEM (RFC 7468).
    #[serde(skip)]
    pub chain: Arc<[u8]>,
    /// The private key in PEM (PKCS#8, PKCS#1 or SEC1).
    #[serde(skip)]
    pub key: SecretBytes,
}

/// Secret bytes, which [`Debug`](fmt::Debug) does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Arc<[u8]>);

// === impl SecretBytes ===

impl SecretBytes {
    /// The secret itself. Name this call in review: what it returns must go to no log, metric, page
    /// or error.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
