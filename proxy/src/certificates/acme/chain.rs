//! The choice between the chains that an authority offers for a certificate (RFC 8555 §7.4.2).

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, header};
use instant_acme::{Account, Error};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{Rejection, classify};

/// The media type of chains (RFC 8555 §9.1).
const CHAIN: &str = "application/pem-certificate-chain";
/// The most alternate chains that are considered.
const MAX_ALTERNATES: usize = 8;
/// The most attempts to fetch a chain if nonces are rejected.
const ATTEMPTS: usize = 3;

/// The chain that was received last.
#[derive(Debug, Default)]
pub(super) struct LastChain(Mutex<Option<Chain>>);

/// A chain, and the URLs of alternate ones for the same certificate.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    pem: Bytes,
    alternates: Vec<String>,
}

// === impl LastChain ===

impl LastChain {
    /// Stores the chain if a response of the authority contains one.
    pub(super) fn observe(&self, headers: &HeaderMap, body: &Bytes) {
        let kind = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        if kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(CHAIN)) {
            let chain = Chain { pem: body.clone(), alternates: alternates(headers) };
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain);
        }
    }

    fn take(&self) -> Option<Chain> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Of all chains for the issued certificate, the first that ends with a certificate issued by
    /// `root`, else the `default` one.
    ///
    /// # Errors
    /// An alternate chain could not be fetched because nonces were rejected.
    pub(super) async fn preferred(
        &self,
        root: &str,
        account: &Account,
        default: String,
    ) -> Result<String, Error> {
        let alternates = self.take().map(|chain| chain.alternates).unwrap_or_default();
        if is_issued_by(default.as_bytes(), root) {
            return Ok(default);
        }
        for url in alternates.into_iter().take(MAX_ALTERNATES) {
            let chain = self.fetch(account, &url).await?;
            if let Some(text) = chain
                .filter(|chain| is_issued_by(&chain.pem, root))
                .and_then(|chain| String::from_utf8(chain.pem.into()).ok())
            {
                return Ok(text);
            }
        }
        tracing::warn!(
            root,
            "the authority offers no chain to the preferred root: using its default chain"
        );
        Ok(default)
    }

    /// Fetches a chain. The client can only fetch orders: it fails on a chain, but `observe` has
    /// stored it before that.
    async fn fetch(&self, account: &Account, url: &str) -> Result<Option<Chain>, Error> {
        let mut further = 1..ATTEMPTS;
        loop {
            match account.order(url.to_owned()).await {
                Err(error) if classify(&error) == Rejection::Nonce => {
                    further.next().map(drop).ok_or(error)?
                }
                _ => return Ok(self.take()),
            }
        }
    }
}

/// The targets of links to alternates (RFC 8288 §3).
fn alternates(headers: &HeaderMap) -> Vec<String> {
    let links = headers
        .get_all(header::LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split('<').skip(1));
    let targets = links.filter_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let mut relations = parameters
            .split([';', ','])
            .filter_map(|parameter| parameter.trim().strip_prefix("rel="));
        relations
            .any(|relation| relation.trim_matches('"').eq_ignore_ascii_case("alternate"))
            .then(|| target.to_owned())
    });
    targets.collect()
}

/// Whether the last certificate of a chain names `root` as the common name of its issuer.
fn is_issued_by(pem: &[u8], root: &str) -> bool {
    let Some(Ok(last)) = CertificateDer::pem_slice_iter(pem).last() else { return false };
    let Ok((_, last)) = X509Certificate::from_der(&last) else { return false };
    last.issuer().iter_common_name().any(|name| name.as_str() == Ok(root))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};

    use super::*;

    fn headers(links: &[&str]) -> HeaderMap {
        let links = links.iter().map(|link| (header::LINK, HeaderValue::from_str(link).unwrap()));
        links.chain([(header::CONTENT_TYPE, HeaderValue::from_static(CHAIN))]).collect()
    }

    #[test]
    fn links_to_alternate_chains_are_found() {
        let links = [
            r#"<https://ca.test/dir>;rel="index""#,
            r#"<https://ca.test/1>;rel="alternate", <https://ca.test/up>; rel="up", <https://ca.test/2>; title="a"; rel=alternate"#,
            "https://ca.test/3;rel=alternate",
        ];
        assert_eq!(alternates(&headers(&links)), ["https://ca.test/1", "https://ca.test/2"]);
    }

    #[test]
    fn only_chains_are_stored() {
        let received = LastChain::default();
        received.observe(&headers(&[]), &Bytes::from_static(b"a"));
        received.observe(&HeaderMap::new(), &Bytes::from_static(b"b"));
        assert_eq!(
            received.take(),
            Some(Chain { pem: Bytes::from_static(b"a"), alternates: Vec::new() })
        );
        assert_eq!(received.take(), None);
    }

    #[test]
    fn the_root_of_a_chain_is_the_issuer_of_its_last_certificate() {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let root =
            CertifiedIssuer::self_signed(params("Root X1"), KeyPair::generate().unwrap()).unwrap();
        let intermediate =
            CertifiedIssuer::signed_by(params("R3"), KeyPair::generate().unwrap(), &root).unwrap();
        let leaf =
            params("a.test").signed_by(&KeyPair::generate().unwrap(), &intermediate).unwrap();
        let chain = leaf.pem() + &intermediate.pem();
        assert!(is_issued_by(chain.as_bytes(), "Root X1"));
        assert!(!is_issued_by(chain.as_bytes(), "R3"));
        assert!(!is_issued_by(chain.as_bytes(), "Root"));
        assert!(!is_issued_by(b"", "Root X1"));
    }
}
