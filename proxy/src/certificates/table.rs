//! Selection of the certificate for a client.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_config::model::HostPattern;
use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

use super::check::Checked;
use super::scope::Scopes;

/// Certificates by SNI: those of the exact name, else those of its wildcard, else the placeholder.
pub(super) struct Table {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    placeholder: Arc<CertifiedKey>,
}

// === impl Table ===

impl Table {
    /// Of several certificates for one name the first is used, but ECDSA before RSA: its signatures
    /// cost a tenth.
    pub(super) fn new(
        certificates: &[Arc<Checked>],
        scopes: &Scopes<'_>,
        placeholder: Arc<CertifiedKey>,
    ) -> Self {
        let mut table = Self { exact: HashMap::new(), wildcard: HashMap::new(), placeholder };
        let (ecdsa, others): (Vec<&Arc<Checked>>, Vec<_>) =
            certificates.iter().partition(|certificate| certificate.is_ecdsa());
        for certificate in ecdsa.into_iter().chain(others) {
            for name in &scopes.names(certificate) {
                let (map, name) = match name {
                    HostPattern::Exact(name) => (&mut table.exact, name),
                    HostPattern::Wildcard(name) => (&mut table.wildcard, name),
                };
                map.entry(name.as_str().to_owned()).or_default().push(Arc::clone(&certificate.key));
            }
        }
        table
    }

    /// The certificate for a client that sent `name` (in lower case; `None` without SNI) and can
    /// verify `schemes`.
    pub(super) fn find(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Arc<CertifiedKey> {
        let found = name.and_then(|name| {
            let exact = self.exact.get(name);
            // A wildcard matches exactly one label (RFC 9525 §6.3).
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            usable(exact, schemes).or_else(|| usable(wildcard(), schemes))
        });
        Arc::clone(found.unwrap_or(&self.placeholder))
    }
}

fn usable<'a>(
    keys: Option<&'a Vec<Arc<CertifiedKey>>>,
    schemes: &[SignatureScheme],
) -> Option<&'a Arc<CertifiedKey>> {
    keys?.iter().find(|certified| certified.key.choose_scheme(schemes).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::check::check;
    use crate::certificates::placeholder;
    use crate::certificates::testing::{certificate, now, rsa_certificate};

    const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

    fn checked(
        certificate: &portcullis_config::snapshot::certificate::Certificate,
    ) -> Arc<Checked> {
        Arc::new(check(certificate, now()).expect("a good certificate"))
    }

    fn table(certificates: &[Arc<Checked>]) -> Table {
        Table::new(
            certificates,
            &Scopes::default(),
            placeholder::generate().expect("a placeholder"),
        )
    }

    #[test]
    fn an_exact_name_precedes_its_wildcard_and_that_precedes_the_placeholder() {
        let wildcard = checked(&certificate("wildcard", &["*.example.com"]));
        let exact = checked(&certificate("exact", &["a.example.com"]));
        let table = table(&[Arc::clone(&wildcard), Arc::clone(&exact)]);
        let find = |name| table.find(name, &[ECDSA]);
        assert!(Arc::ptr_eq(&find(Some("a.example.com")), &exact.key));
        assert!(Arc::ptr_eq(&find(Some("b.example.com")), &wildcard.key));
        for other in [
            Some("b.c.example.com"),
            Some("example.com"),
            Some("com"),
            Some(""),
            Some("other.org"),
            None,
        ] {
            assert!(Arc::ptr_eq(&find(other), &table.placeholder), "{other:?}");
        }
    }

    #[test]
    fn of_two_certificates_for_one_name_the_first_is_used() {
        let first = checked(&certificate("first", &["a.example.com"]));
        let second = checked(&certificate("second", &["a.example.com"]));
        let table = table(&[Arc::clone(&first), second]);
        assert!(Arc::ptr_eq(&table.find(Some("a.example.com"), &[ECDSA]), &first.key));
    }

    #[test]
    fn a_client_gets_a_key_type_that_it_can_verify() {
        let rsa = checked(&rsa_certificate("rsa", &["a.example.com"]));
        let ecdsa = checked(&certificate("ecdsa", &["a.example.com"]));
        let table = table(&[Arc::clone(&rsa), Arc::clone(&ecdsa)]);
        let find = |schemes: &[SignatureScheme]| table.find(Some("a.example.com"), schemes);
        assert!(Arc::ptr_eq(&find(&[RSA, ECDSA]), &ecdsa.key));
        assert!(Arc::ptr_eq(&find(&[RSA]), &rsa.key));
    }
}
