//! Verification that an issued certificate is the one that was ordered.

use std::collections::BTreeSet;
use std::time::SystemTime;

use portcullis_config::snapshot::certificate::Certificate;
use portcullis_config::unix_time::seconds;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::schedule::Facts;
use crate::certificates::check::{Checked, check};

/// The facts about a certificate; `None` if it is not usable.
pub(super) fn facts(
    certificate: &Certificate,
    renewal_requested: bool,
    now: SystemTime,
) -> Option<Facts> {
    check(certificate, now).ok().map(|checked| Facts {
        names: names(&checked),
        not_before: seconds(checked.not_before),
        not_after: seconds(checked.not_after),
        renewal_requested,
    })
}

/// Verifies an issued certificate: it is usable, covers all `expected` names, and its chain is
/// valid.
pub(super) fn verify(
    certificate: &Certificate,
    expected: &BTreeSet<String>,
    now: SystemTime,
) -> Result<(), String> {
    let checked = check(certificate, now)
        .map_err(|unusable| format!("the issued certificate is not usable: {unusable}"))?;
    let names = names(&checked);
    if let Some(lacking) = expected.iter().find(|name| !names.contains(*name)) {
        return Err(format!("the issued certificate lacks the name {lacking}"));
    }
    let chain = CertificateDer::pem_slice_iter(&certificate.chain).collect::<Result<Vec<_>, _>>();
    verify_chain(&chain.map_err(|error| error.to_string())?, now)
}

/// The first certificate, as DER.
pub(super) fn leaf(certificate: &Certificate) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(&certificate.chain).next()?.ok()
}

fn names(checked: &Checked) -> BTreeSet<String> {
    checked.names.iter().map(ToString::to_string).collect()
}

/// Verifies that each certificate of a chain is signed by the next. Whether the last one is trusted
/// is up to clients.
fn verify_chain(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
    let [leaf, between @ .., last] = chain else { return Ok(()) };
    let invalid = |error: webpki::Error| format!("the issued chain is not valid: {error}");
    let anchor = anchor_from_trusted_cert(last).map_err(invalid)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(invalid)?;
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds(now)));
    leaf.verify_for_usage(algorithms, &[anchor], between, now, KeyUsage::server_auth(), None, None)
        .map_err(invalid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::certificates::testing::{certificate, now, with_key_of};

    fn expected(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_what_was_ordered_is_accepted() {
        let issued = certificate("one", &["a.test", "b.test"]);
        assert_eq!(verify(&issued, &expected(&["a.test"]), now()), Ok(()));
        assert!(verify(&issued, &expected(&["c.test"]), now()).unwrap_err().contains("c.test"));
        let mixed = with_key_of(&issued, &certificate("two", &["a.test"]));
        assert!(verify(&mixed, &expected(&["a.test"]), now()).unwrap_err().contains("private key"));
        let later = now() + std::time::Duration::from_secs(40 * 24 * 3600);
        assert!(verify(&issued, &expected(&["a.test"]), later).unwrap_err().contains("expired"));
    }

    #[test]
    fn a_chain_of_another_authority_is_rejected() {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap(), Issuer::new(params, key))
        };
        let (good, issuer) = authority("authority.test");
        let (other, _) = authority("authority.test");
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["a.test".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        assert_eq!(verify_chain(&[leaf.der().clone(), good.der().clone()], now()), Ok(()));
        assert!(verify_chain(&[leaf.der().clone(), other.der().clone()], now()).is_err());
        assert_eq!(
            verify_chain(&[leaf.der().clone()], now()),
            Ok(()),
            "a chain may consist of the leaf alone"
        );
    }
}
