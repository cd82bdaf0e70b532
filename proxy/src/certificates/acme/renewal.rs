//! Renewal advice of authorities (RFC 9773).

use std::time::SystemTime;

use instant_acme::CertificateIdentifier;
use portcullis_config::store::StoreState;
use portcullis_config::unix_time::seconds;

use super::attempt::random;
use super::leader::{Leader, facts};
use super::order::OrderError;
use super::schedule;
use super::state::{Record, Seconds};
use super::verify_issued;

// === impl Leader ===

impl Leader<'_> {
    /// Asks the issuing authority when to renew a certificate (RFC 9773).
    pub(super) async fn query_renewal(
        &self,
        certificate: &str,
        stored: &StoreState,
    ) -> Result<(), OrderError> {
        let now = SystemTime::now();
        let Some(facts) = facts(stored, certificate, now) else { return Ok(()) };
        let record = self.record(certificate).unwrap_or_default();
        let renewal = match self.advice(&record, certificate, stored).await {
            Some((window, retry)) => schedule::advised(
                &facts,
                record.renewal.as_ref(),
                window,
                retry,
                seconds(now),
                random(),
            ),
            None => schedule::unadvised(&facts, record.renewal.as_ref(), seconds(now)),
        };
        self.update(certificate, |record| record.renewal = Some(renewal));
        self.save().await
    }

    /// The renewal window that the authority suggests, and the time until the next query.
    async fn advice(
        &self,
        record: &Record,
        certificate: &str,
        stored: &StoreState,
    ) -> Option<((Seconds, Seconds), Seconds)> {
        let issuer = record.authority.as_deref()?;
        let authority =
            self.acme.authorities().iter().find(|authority| authority.directory == issuer)?;
        let leaf = verify_issued::leaf(&stored.certificates.get(certificate)?.certificate)?;
        let account = self.account(authority).await.ok()?;
        let id = CertificateIdentifier::try_from(&leaf).ok()?;
        match account.renewal_info(&id).await {
            Ok((info, retry)) => {
                let window = info.suggested_window;
                let unix = |time: i64| Seconds::try_from(time).unwrap_or(0);
                Some((
                    (unix(window.start.unix_timestamp()), unix(window.end.unix_timestamp())),
                    retry.as_secs(),
                ))
            }
            Err(error) => {
                tracing::debug!(certificate, %error, "failed to get renewal advice of the authority");
                None
            }
        }
    }
}
