//! Certificates for tests.

use std::time::{Duration, SystemTime};

use portcullis_config::model::Origin;
use portcullis_config::snapshot::certificate::{Certificate, SecretBytes};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};

/// A time at which all of them are valid.
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// A self-signed certificate with an ECDSA key, valid from yesterday for 30 days.
pub(crate) fn certificate(secret: &str, names: &[&str]) -> Certificate {
    self_signed(secret, &params(names), &KeyPair::generate().expect("a key"))
}

/// As [`certificate`], but expired an hour ago.
pub(crate) fn expired_certificate(secret: &str, names: &[&str]) -> Certificate {
    let mut params = params(names);
    params.not_after = (now() - Duration::from_secs(3600)).into();
    self_signed(secret, &params, &KeyPair::generate().expect("a key"))
}

/// As [`certificate`], with an RSA key.
pub(crate) fn rsa_certificate(secret: &str, names: &[&str]) -> Certificate {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    self_signed(secret, &params(names), &key)
}

/// As [`certificate`], for clients.
pub(crate) fn client_certificate(secret: &str, names: &[&str]) -> Certificate {
    let mut params = params(names);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    self_signed(secret, &params, &KeyPair::generate().expect("a key"))
}

/// The chain of one certificate with the key of another.
pub(crate) fn with_key_of(chain: &Certificate, key: &Certificate) -> Certificate {
    Certificate { key: key.key.clone(), ..chain.clone() }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    let day = Duration::from_secs(24 * 3600);
    params.not_before = (now() - day).into();
    params.not_after = (now() + 30 * day).into();
    params
}

fn self_signed(secret: &str, params: &CertificateParams, key: &KeyPair) -> Certificate {
    let origin =
        Origin { kind: "Secret", namespace: "gateway".into(), name: secret.into(), place: None };
    let certificate = params.self_signed(key).expect("a certificate");
    Certificate {
        origin,
        chain: certificate.pem().into_bytes().into(),
        key: SecretBytes::from(key.serialize_pem().into_bytes()),
    }
}
