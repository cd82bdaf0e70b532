//! One order, from its names to the stored certificate (RFC 8555 §7.4). Each step is saved before
//! it takes effect, so that the next leader can resume the order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::settings::acme::ChallengeKind;
use portcullis_config::snapshot::certificate::{Certificate, SecretBytes};
use portcullis_config::store::{NewCertificate, StoreError};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::sleep;

use super::authority::{Authority, Rejection, classify};
use super::leader::Leader;
use super::state::{Challenge, Pending, Seconds};
use super::verify_issued;

/// How to poll an authority for validation and for issuance.
const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(180));

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
        &mut self,
        certificate: &str,
        authority: &Authority,
    ) -> Result<(), OrderError> {
        let names = self
            .state
            .certificates
            .get(certificate)
            .map(|record| record.names.clone())
            .unwrap_or_default();
        let account = self.account(authority).await?;
        let (mut order, key) = self.begin(certificate, &names, authority, &account).await?;
        let validated = self.validate(&mut order, authority).await;
        self.close_challenges().await?;
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
    pub(super) async fn account(&mut self, authority: &Authority) -> Result<Account, OrderError> {
        self.resolve_rollover(authority).await?;
        if let Some(stored) = self.state.accounts.get(&authority.directory) {
            return authority
                .account(stored.clone())
                .await
                .map_err(|error| order_error(&error, authority));
        }
        let (account, credentials) =
            authority.new_account().await.map_err(|error| order_error(&error, authority))?;
        tracing::info!(
            authority = authority.directory,
            account = account.id(),
            "created an account with the authority"
        );
        self.state.accounts.insert(authority.directory.clone(), credentials);
        self.save().await?;
        Ok(account)
    }

    /// The pending order, else a new one; and the key of its certificate.
    async fn begin(
        &mut self,
        certificate: &str,
        names: &BTreeSet<String>,
        authority: &Authority,
        account: &Account,
    ) -> Result<(Order, String), OrderError> {
        if let Some(pending) =
            self.state.certificates.get(certificate).and_then(|record| record.order.clone())
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
            .map_err(|error| self.new_order_error(&error, authority))?;
        let key = KeyPair::generate()
            .map_err(|error| OrderError::Order(error.to_string()))?
            .serialize_pem();
        tracing::info!(certificate, ?names, order = order.url(), "created an order");
        let pending = Pending {
            authority: authority.directory.clone(),
            url: order.url().to_owned(),
            key: key.clone(),
        };
        if let Some(record) = self.state.certificates.get_mut(certificate) {
            record.order = Some(pending);
        }
        self.save().await?;
        Ok((order, key))
    }

    /// The error of a new order. Removes the account if the authority no longer has it.
    fn new_order_error(&mut self, error: &Error, authority: &Authority) -> OrderError {
        if classify(error) == Rejection::NoAccount {
            self.state.accounts.remove(&authority.directory);
            return OrderError::Retry;
        }
        order_error(error, authority)
    }

    /// Completes the challenges for all names of an order.
    async fn validate(
        &mut self,
        order: &mut Order,
        authority: &Authority,
    ) -> Result<(), OrderError> {
        let kind = self.acme.acme().challenge;
        let convert = |error: Error| order_error(&error, authority);
        let challenges = self.challenges(order, kind, authority).await?;
        if challenges.is_empty() {
            return Ok(());
        }
        self.state.challenges = challenges;
        self.save().await?;
        self.deploy_challenges().await?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(convert)?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(challenge_type(kind))
            {
                challenge.set_ready().await.map_err(convert)?;
            }
        }
        match order.poll_ready(&POLL).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) | Err(Error::Api(_)) => Err(validation_error(order, kind).await),
            Err(error) => Err(order_error(&error, authority)),
        }
    }

    /// The challenges of an order that are not validated yet.
    async fn challenges(
        &self,
        order: &mut Order,
        kind: ChallengeKind,
        authority: &Authority,
    ) -> Result<Vec<Challenge>, OrderError> {
        let mut challenges = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization =
                authorization.map_err(|error| order_error(&error, authority))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
                continue;
            };
            let Some(challenge) = authorization.challenge(challenge_type(kind)) else {
                return Err(OrderError::Order(format!(
                    "the authority does not offer {} for {name}",
                    challenge_name(kind)
                )));
            };
            let key_authorization = challenge.key_authorization();
            challenges.push(match kind {
                ChallengeKind::Http01 => Challenge::Http {
                    token: challenge.token.clone(),
                    answer: key_authorization.as_str().to_owned(),
                },
                ChallengeKind::TlsAlpn01 => Challenge::TlsAlpn {
                    name,
                    digest: hex::encode(key_authorization.digest().as_ref()),
                },
                ChallengeKind::Dns01 => {
                    let record = self
                        .acme
                        .dns()?
                        .record_name(&name)
                        .await
                        .map_err(|error| OrderError::Order(error.to_string()))?;
                    Challenge::Dns { record, value: key_authorization.dns_value() }
                }
            });
        }
        Ok(challenges)
    }

    /// Creates DNS records, and waits until every replica and name server can respond.
    async fn deploy_challenges(&self) -> Result<(), OrderError> {
        let convert = |error: super::dns::DnsError| OrderError::Order(error.to_string());
        for challenge in &self.state.challenges {
            if let Challenge::Dns { record, value } = challenge {
                self.acme.dns()?.present(record, value).await.map_err(convert)?;
            }
        }
        for challenge in &self.state.challenges {
            if let Challenge::Dns { record, value } = challenge {
                self.acme.dns()?.wait_until_propagated(record, value).await.map_err(convert)?;
            }
        }
        self.acme.wait_until_served(&self.state.challenges).await;
        sleep(self.acme.store().propagation_delay()).await;
        Ok(())
    }

    /// Closes the open challenges, and removes their DNS records.
    pub(super) async fn close_challenges(&mut self) -> Result<(), OrderError> {
        if self.state.challenges.is_empty() {
            return Ok(());
        }
        for challenge in std::mem::take(&mut self.state.challenges) {
            if let (Challenge::Dns { record, value }, Ok(dns)) = (challenge, self.acme.dns())
                && let Err(error) = dns.remove(&record, &value).await
            {
                tracing::warn!(record, %error, "failed to remove a DNS record of a closed challenge");
            }
        }
        self.save().await
    }

    async fn discard_order(&mut self, certificate: &str) -> Result<(), OrderError> {
        if let Some(record) = self.state.certificates.get_mut(certificate) {
            record.order = None;
        }
        self.save().await
    }

    /// Verifies and saves the issued certificate.
    async fn save_issued(
        &mut self,
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
        if let Some(record) = self.state.certificates.get_mut(certificate) {
            let failure = record.failure.take();
            record.order = None;
            record.renewal = None;
            record.authority = Some(authority.directory.clone());
            if let Some(failure) = failure {
                self.report_success(certificate, &failure);
            }
        }
        tracing::info!(
            certificate,
            ?names,
            authority = authority.directory,
            "issued a certificate"
        );
        self.save().await
    }
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
    order.poll_certificate(&POLL).await.map_err(convert)
}

/// The names of an order that failed validation, and why.
async fn validation_error(order: &mut Order, kind: ChallengeKind) -> OrderError {
    let mut names = BTreeSet::new();
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if state.status != AuthorizationStatus::Invalid {
            continue;
        }
        let name = state.identifier().to_string();
        let error =
            state.challenges.iter().find(|challenge| challenge.r#type == challenge_type(kind));
        let error = error
            .and_then(|challenge| challenge.error.as_ref())
            .map_or_else(String::new, ToString::to_string);
        reasons.push(format!("{name}: {error}"));
        names.extend(name.parse::<HostPattern>());
    }
    OrderError::Names(names, format!("the authority failed to validate {}", reasons.join("; ")))
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

fn challenge_type(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Dns01 => ChallengeType::Dns01,
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn challenge_name(kind: ChallengeKind) -> &'static str {
    match kind {
        ChallengeKind::Dns01 => "dns-01",
        ChallengeKind::Http01 => "http-01",
        ChallengeKind::TlsAlpn01 => "tls-alpn-01",
    }
}

impl From<StoreError> for OrderError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
