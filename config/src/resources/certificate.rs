//! Certificates from Secrets.

use k8s_openapi::api::core::v1;

use super::{Metadata, unreadable};
use crate::model::SourceLocation;
use crate::problem::Problem;
use crate::snapshot::certificate::Certificate;

// === impl Certificate ===

impl Certificate {
    /// Reads chain and key from a Secret of type `kubernetes.io/tls`, without validating them;
    /// `place` is its location, for one from a file.
    ///
    /// # Errors
    /// It has no name, is of another type, or lacks `tls.crt` or `tls.key`.
    pub fn from_secret(
        object: &v1::Secret,
        place: Option<SourceLocation>,
    ) -> Result<Self, Problem> {
        let Metadata { origin, .. } = Metadata::read("Secret", true, &object.metadata, place)?;
        if object.type_.as_deref() != Some("kubernetes.io/tls") {
            let message =
                format!("it is of type `{}`", object.type_.as_deref().unwrap_or("Opaque"));
            return Err(unreadable(
                origin,
                message,
                "a certificate must be in a Secret of type `kubernetes.io/tls`".to_owned(),
            ));
        }
        match (entry(object, "tls.crt"), entry(object, "tls.key")) {
            (Some(chain), Some(key)) => Ok(Self { origin, chain: chain.into(), key: key.into() }),
            (None, _) => Err(unreadable(
                origin,
                "it has no `tls.crt`".to_owned(),
                "put the certificate chain there, in PEM".to_owned(),
            )),
            (_, None) => Err(unreadable(
                origin,
                "it has no `tls.key`".to_owned(),
                "put the private key there, in PEM".to_owned(),
            )),
        }
    }
}

/// An entry of a Secret.
pub(super) fn entry(object: &v1::Secret, name: &str) -> Option<Vec<u8>> {
    // `stringData` is write-only: an API server never returns it, but in a manifest it takes
    // precedence.
    match object.string_data.as_ref().and_then(|data| data.get(name)) {
        Some(text) => Some(text.clone().into_bytes()),
        None => object.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.clone()),
    }
}
