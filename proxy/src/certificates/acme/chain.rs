//! Which chain is served of those that an authority offers for one certificate (RFC 8555 §7.4.2).

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, header};
use instant_acme::{Account, Error};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{Refusal, judge};

/// What chains are sent as (RFC 8555 §9.1).
const CHAIN: &str = "application/pem-certificate-chain";
/// More chains than this are not looked at.
const LOOKED_AT: usize = 8;
/// How often one is asked for whose nonce was not taken.
const ATTEMPTS: usize = 3;

/// The chain that was received last.
#[derive(Debug, Default)]
pub(super) struct Received(Mutex<Option<Chain>>);

/// A chain, and where others for the same certificate are.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    pem: Bytes,
    others: Vec<String>,
}

// === impl Received ===

impl Received {
    /// Looks at an answer of the authority.
    pub(super) fn look(&self, headers: &HeaderMap, body: &Bytes) {
        let kind = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        if kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(CHAIN)) {
            let chain = Chain { pem: body.clone(), others: others(headers) };
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain);
        }
    }

    fn take(&self) -> Option<Chain> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Of all chains for the certificate that was just `given`, the first that ends with a
    /// certificate issued by `root`, else the given one.
    ///
    /// # Errors
    /// What else the authority offers could not be asked for by chance.
    pub(super) async fn preferred(
        &self,
        root: &str,
        account: &Account,
        given: String,
    ) -> Result<String, Error> {
        let others = self.take().map(|chain| chain.others).unwrap_or_default();
        if is_issued_by(given.as_bytes(), root) {
            return Ok(given);
        }
        for url in others.into_iter().take(LOOKED_AT) {
            let chain = self.ask(account, &url).await?;
            if let Some(text) = chain
                .filter(|chain| is_issued_by(&chain.pem, root))
                .and_then(|chain| String::from_utf8(chain.pem.into()).ok())
            {
                return Ok(text);
            }
        }
        tracing::warn!(
            root,
            "the authority offers no chain that ends there; the one that it prefers is taken"
        );
        Ok(given)
    }

    /// The client asks for orders alone: what it cannot read as one has gone by here.
    async fn ask(&self, account: &Account, url: &str) -> Result<Option<Chain>, Error> {
        let mut further = 1..ATTEMPTS;
        loop {
            match account.order(url.to_owned()).await {
                Err(error) if judge(&error) == Refusal::Nonce => {
                    further.next().map(drop).ok_or(error)?
                }
                _ => return Ok(self.take()),
            }
        }
    }
}

/// The targets of links to alternates (RFC 8288 §3).
fn others(headers: &HeaderMap) -> Vec<String> {
    let links = headers
        .get_all(header::LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split('<').skip(1));
    let alternates = links.filter_map(|link| {
        let (target, parameters) = link.split_once('>')?;
        let mut relations = parameters
            .split([';', ','])
            .filter_map(|parameter| parameter.trim().strip_prefix("rel="));
        relations
            .any(|relation| relation.trim_matches('"').eq_ignore_ascii_case("alternate"))
            .then(|| target.to_owned())
    });
    alternates.collect()
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
    fn links_to_other_chains_are_found_among_others() {
        let links = [
            r#"<https://ca.test/dir>;rel="index""#,
            r#"<https://ca.test/1>;rel="alternate", <https://ca.test/up>; rel="up", <https://ca.test/2>; title="a"; rel=alternate"#,
            "https://ca.test/3;rel=alternate",
        ];
        assert_eq!(others(&headers(&links)), ["https://ca.test/1", "https://ca.test/2"]);
    }

    #[test]
    fn what_is_no_chain_is_not_taken_for_one() {
        let received = Received::default();
        received.look(&headers(&[]), &Bytes::from_static(b"a"));
        received.look(&HeaderMap::new(), &Bytes::from_static(b"b"));
        assert_eq!(
            received.take(),
            Some(Chain { pem: Bytes::from_static(b"a"), others: Vec::new() })
        );
        assert_eq!(received.take(), None);
    }

    #[test]
    fn the_end_of_a_chain_is_told_by_its_issuer() {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let root =
            CertifiedIssuer::self_signed(params("Root X1"), KeyPair::generate().unwrap()).unwrap();
        let between =
            CertifiedIssuer::signed_by(params("R3"), KeyPair::generate().unwrap(), &root).unwrap();
        let leaf = params("a.test").signed_by(&KeyPair::generate().unwrap(), &between).unwrap();
        let chain = leaf.pem() + &between.pem();
        assert!(is_issued_by(chain.as_bytes(), "Root X1"));
        assert!(!is_issued_by(chain.as_bytes(), "R3"));
        assert!(!is_issued_by(chain.as_bytes(), "Root"));
        assert!(!is_issued_by(b"", "Root X1"));
    }
}
