//! One order, from its names to the stored certificate (RFC 8555 §7.4). Each step is saved before
//! it takes effect, so that the next leader can resume the order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use instant_acme::{Account, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy};
use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::snapshot::certificate::{Certificate, SecretBytes};
use portcullis_config::store::{NewCertificate, StoreError};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::authority::{Authority, Rejection, classify};
use super::leader::Leader;
use super::state::{Pending, Seconds};
use super::verify_issued;

/// How to poll an authority for validation and for issuance.
pub(super) const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(180));

/// Why an order failed.
#[derive(Debug)]
pub(super) enum OrderError {
    /// A nonce was rejected: retry at once.
    Retry,
    /// The authority accepts no orders now.
    Authority(String),
    /// The rate limit is exceeded; with the earliest time to retry, if it is known.
    RateLimited(String, Option<Seconds>),
    /// The authority could not validate these names.
    Names(BTreeSet<HostPattern>, String),
    /// The order failed for another reason.
    Order(String),
    /// The store failed.
    Store(StoreError),
}

// === impl Leader ===

impl Leader<'_> {
    /// Orders a certificate of the state at an authority.
    pub(super) async fn order(
        &self,
        certificate: &str,
        authority: &Authority,
    ) -> Result<(), OrderError> {
        let names = self.record(certificate).map(|record| record.names).unwrap_or_default();
        let account = self.account(authority).await?;
        let (mut order, key) = self.begin(certificate, &names, authority, &account).await?;
        let mut challenges = Vec::new();
        let validated = self.validate(&mut order, &mut challenges, authority).await;
        self.close_challenges(&challenges).await?;
        if let Err(error) = validated {
            if !matches!(error, OrderError::Retry) {
                self.discard_order(certificate).await?;
            }
            return Err(error);
        }
        let chain = issue(&mut order, &names, &key, authority).await?;
        let chain = authority
            .preferred_chain(&account, chain)
            .await
            .map_err(|error| order_error(&error, authority))?;
        self.save_issued(certificate, &names, authority, chain, key).await
    }

    /// The account with an authority: the stored one, else a new one.
    pub(super) async fn account(&self, authority: &Authority) -> Result<Account, OrderError> {
        if let Some(account) = self.stored_account(authority).await? {
            return Ok(account);
        }
        let _creating = self.accounts.lock().await;
        self.resolve_rollover(authority).await?;
        // Another order may have created it.
        if let Some(account) = self.stored_account(authority).await? {
            return Ok(account);
        }
        let (account, credentials) =
            authority.new_account().await.map_err(|error| order_error(&error, authority))?;
        tracing::info!(
            authority = authority.directory,
            account = account.id(),
            "created an account with the authority"
        );
        self.state().accounts.insert(authority.directory.clone(), credentials);
        self.save().await?;
        Ok(account)
    }

    /// The stored account, unless its key is being replaced.
    async fn stored_account(&self, authority: &Authority) -> Result<Option<Account>, OrderError> {
        let stored = {
            let state = self.state();
            let is_valid = !state.rolling.contains(&authority.directory);
            state.accounts.get(&authority.directory).filter(|_| is_valid).cloned()
        };
        let Some(stored) = stored else { return Ok(None) };
        let account = authority.account(stored).await;
        account.map(Some).map_err(|error| order_error(&error, authority))
    }

    /// The pending order, else a new one; and the key of its certificate.
    async fn begin(
        &self,
        certificate: &str,
        names: &BTreeSet<String>,
        authority: &Authority,
        account: &Account,
    ) -> Result<(Order, String), OrderError> {
        let pending = self.record(certificate).and_then(|record| record.order);
        if let Some(pending) = pending
            && pending.authority == authority.directory
        {
            match account.order(pending.url.clone()).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        tracing::info!(
                            certificate,
                            order = pending.url,
                            "resuming the pending order"
                        );
                        return Ok((order, pending.key));
                    }
                }
                Err(error) if classify(&error) == Rejection::Nonce => {
                    return Err(OrderError::Retry);
                }
                Err(error) => {
                    tracing::info!(certificate, %error, "failed to resume the pending order")
                }
            }
        }
        let identifiers: Vec<Identifier> =
            names.iter().map(|name| Identifier::Dns(name.clone())).collect();
        let mut new = NewOrder::new(&identifiers);
        if let Some(profile) = authority.profile() {
            new = new.profile(profile);
        }
        let order = account
            .new_order(&new)
            .await
            .map_err(|error| self.new_order_error(&error, authority, account))?;
        let key = KeyPair::generate()
            .map_err(|error| OrderError::Order(error.to_string()))?
            .serialize_pem();
        tracing::info!(certificate, names = joined(names), order = order.url(), "created an order");
        let pending = Pending {
            authority: authority.directory.clone(),
            url: order.url().to_owned(),
            key: key.clone(),
        };
        self.update(certificate, |record| record.order = Some(pending));
        self.save().await?;
        Ok((order, key))
    }

    /// The error of a new order. Removes the account if the authority no longer has it.
    fn new_order_error(
        &self,
        error: &Error,
        authority: &Authority,
        account: &Account,
    ) -> OrderError {
        if classify(error) != Rejection::NoAccount {
            return order_error(error, authority);
        }
        let mut state = self.state();
        let stored = state.accounts.get(&authority.directory);
        // Another order may have replaced it.
        if stored.is_some_and(|stored| stored["id"] == account.id()) {
            state.accounts.remove(&authority.directory);
        }
        OrderError::Retry
    }

    async fn discard_order(&self, certificate: &str) -> Result<(), OrderError> {
        self.update(certificate, |record| record.order = None);
        self.save().await
    }

    /// Verifies and saves the issued certificate.
    async fn save_issued(
        &self,
        certificate: &str,
        names: &BTreeSet<String>,
        authority: &Authority,
        chain: String,
        key: String,
    ) -> Result<(), OrderError> {
        let key = SecretBytes::from(key.into_bytes());
        let issued = Certificate {
            origin: Origin::default(),
            chain: chain.into_bytes().into(),
            key: key.clone(),
        };
        if let Err(reason) = verify_issued::verify(&issued, names, SystemTime::now()) {
            self.discard_order(certificate).await?;
            return Err(OrderError::Order(reason));
        }
        let about = BTreeMap::from([
            ("alt-names", names.iter().cloned().collect::<Vec<_>>().join(",")),
            ("issuer-name", authority.directory.clone()),
        ]);
        let new = NewCertificate {
            name: certificate.to_owned(),
            chain: issued.chain.to_vec(),
            key,
            about,
        };
        self.acme.store().save_certificate(self.term, new).await.map_err(OrderError::Store)?;
        let mut failure = None;
        self.update(certificate, |record| {
            failure = record.failure.take();
            record.order = None;
            record.renewal = None;
            record.authority = Some(authority.directory.clone());
        });
        self.state().failed_names.validated(names);
        if let Some(failure) = failure {
            self.report_success(certificate, &failure);
        }
        tracing::info!(
            certificate,
            names = joined(names),
            authority = authority.directory,
            "issued a certificate"
        );
        self.save().await
    }
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Finalizes an order, and downloads its chain.
async fn issue(
    order: &mut Order,
    names: &BTreeSet<String>,
    key: &str,
    authority: &Authority,
) -> Result<String, OrderError> {
    let convert = |error: Error| order_error(&error, authority);
    if order.refresh().await.map_err(convert)?.status == OrderStatus::Ready {
        let unusable = |error: rcgen::Error| {
            OrderError::Order(format!("failed to create the certificate request: {error}"))
        };
        let key = KeyPair::from_pem(key).map_err(unusable)?;
        let mut params =
            CertificateParams::new(names.iter().cloned().collect::<Vec<_>>()).map_err(unusable)?;
        params.distinguished_name = DistinguishedName::new();
        order
            .finalize_csr(params.serialize_request(&key).map_err(unusable)?.der())
            .await
            .map_err(convert)?;
    }
    match order.poll_certificate(&POLL).await {
        Err(Error::Timeout(_)) => {
            Err(OrderError::Order("the authority did not issue it in time".to_owned()))
        }
        chain => chain.map_err(convert),
    }
}

/// Converts an error of the client.
pub(super) fn order_error(error: &Error, authority: &Authority) -> OrderError {
    let hints = authority.take_hints();
    match (classify(error), hints.retry_after) {
        (Rejection::Nonce, _) => OrderError::Retry,
        (Rejection::NoAccount, _) => OrderError::Authority(error.to_string()),
        (Rejection::RateLimited(error), until) => OrderError::RateLimited(error, until),
        (Rejection::Authority(error) | Rejection::Order(error), Some(until)) => {
            OrderError::RateLimited(error, Some(until))
        }
        (Rejection::Authority(error), None) => OrderError::Authority(error),
        (Rejection::Order(error), None) => OrderError::Order(error),
    }
}

impl From<StoreError> for OrderError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
