//! One order, from its names to the certificate in the store (RFC 8555 §7.4). Each step is recorded
//! before it is acted on, so that whoever leads next goes on with the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use portcullis_config::hex;
use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::settings::acme::ChallengeKind;
use portcullis_config::snapshot::certificate::{Certificate, SecretBytes};
use portcullis_config::store::{NewCertificate, StoreError};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::sleep;

use super::authority::{Authority, Refusal, judge};
use super::leader::Leader;
use super::state::{Challenge, Pending, Seconds};
use super::verify_issued;

/// How an authority is asked whether it has looked, and whether it has issued.
const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(180));

/// Why an order came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// By chance: at once again.
    Again,
    /// The authority takes no order for now.
    Authority(String),
    /// The authority takes this order, but not before a time.
    Limited(String, Option<Seconds>),
    /// These names could not be proven.
    Names(BTreeSet<HostPattern>, String),
    /// Anything else about this order.
    Order(String),
    /// It could not be kept.
    Store(StoreError),
}

// === impl Leader ===

impl Leader<'_> {
    /// Orders a certificate of the state at an authority.
    pub(super) async fn order(
        &mut self,
        certificate: &str,
        authority: &Authority,
    ) -> Result<(), Failed> {
        let names = self
            .state
            .certificates
            .get(certificate)
            .map(|record| record.names.clone())
            .unwrap_or_default();
        let account = self.account(authority).await?;
        let (mut order, key) = self.begin(certificate, &names, authority, &account).await?;
        let proven = self.prove(&mut order, authority).await;
        self.close_challenges().await?;
        if let Err(failed) = proven {
            if !matches!(failed, Failed::Again) {
                self.give_up(certificate).await?;
            }
            return Err(failed);
        }
        let chain = issue(&mut order, &names, &key, authority).await?;
        let chain = authority
            .preferred_chain(&account, chain)
            .await
            .map_err(|error| failed(&error, authority))?;
        self.keep(certificate, &names, authority, chain, key).await
    }

    /// The account at an authority: the one that is kept, else a new one.
    pub(super) async fn account(&mut self, authority: &Authority) -> Result<Account, Failed> {
        self.settle_key(authority).await?;
        if let Some(kept) = self.state.accounts.get(&authority.directory) {
            return authority
                .account(kept.clone())
                .await
                .map_err(|error| failed(&error, authority));
        }
        let (account, credentials) =
            authority.new_account().await.map_err(|error| failed(&error, authority))?;
        tracing::info!(
            authority = authority.directory,
            account = account.id(),
            "a new account with the authority"
        );
        self.state.accounts.insert(authority.directory.clone(), credentials);
        self.save().await?;
        Ok(account)
    }

    /// The order that is under way, else a new one; and the key of its certificate.
    async fn begin(
        &mut self,
        certificate: &str,
        names: &BTreeSet<String>,
        authority: &Authority,
        account: &Account,
    ) -> Result<(Order, String), Failed> {
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
                            "going on with the order that is under way"
                        );
                        return Ok((order, pending.key));
                    }
                }
                Err(error) if judge(&error) == Refusal::Nonce => return Err(Failed::Again),
                Err(error) => {
                    tracing::info!(certificate, %error, "the order that was under way is lost")
                }
            }
        }
        let identifiers: Vec<Identifier> =
            names.iter().map(|name| Identifier::Dns(name.clone())).collect();
        let mut new = NewOrder::new(&identifiers);
        if let Some(profile) = authority.profile() {
            new = new.profile(profile);
        }
        let order = account.new_order(&new).await.map_err(|error| self.lost(&error, authority))?;
        let key =
            KeyPair::generate().map_err(|error| Failed::Order(error.to_string()))?.serialize_pem();
        tracing::info!(certificate, ?names, order = order.url(), "ordering");
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

    /// An account that the authority has forgotten is forgotten here too.
    fn lost(&mut self, error: &Error, authority: &Authority) -> Failed {
        if judge(error) == Refusal::NoAccount {
            self.state.accounts.remove(&authority.directory);
            return Failed::Again;
        }
        failed(error, authority)
    }

    /// Proves control over all names of an order.
    async fn prove(&mut self, order: &mut Order, authority: &Authority) -> Result<(), Failed> {
        let kind = self.acme.acme().challenge;
        let wrong = |error: Error| failed(&error, authority);
        let open = self.open(order, kind, authority).await?;
        if open.is_empty() {
            return Ok(());
        }
        self.state.challenges = open;
        self.save().await?;
        self.spread().await?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(wrong)?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(challenge_type(kind))
            {
                challenge.set_ready().await.map_err(wrong)?;
            }
        }
        match order.poll_ready(&POLL).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(refused(order, kind).await),
            Err(Error::Api(_)) => Err(refused(order, kind).await),
            Err(error) => Err(failed(&error, authority)),
        }
    }

    /// What is to be answered for an order.
    async fn open(
        &self,
        order: &mut Order,
        kind: ChallengeKind,
        authority: &Authority,
    ) -> Result<Vec<Challenge>, Failed> {
        let mut open = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| failed(&error, authority))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
                continue;
            };
            let Some(challenge) = authorization.challenge(challenge_type(kind)) else {
                return Err(Failed::Order(format!(
                    "the authority does not take {} for {name}",
                    challenge_name(kind)
                )));
            };
            let answer = challenge.key_authorization();
            open.push(match kind {
                ChallengeKind::Http01 => Challenge::Http {
                    token: challenge.token.clone(),
                    answer: answer.as_str().to_owned(),
                },
                ChallengeKind::TlsAlpn01 => {
                    Challenge::TlsAlpn { name, digest: hex::write(answer.digest().as_ref()) }
                }
                ChallengeKind::Dns01 => {
                    let record = self
                        .acme
                        .dns()?
                        .place(&name)
                        .await
                        .map_err(|error| Failed::Order(error.to_string()))?;
                    Challenge::Dns { record, value: answer.dns_value() }
                }
            });
        }
        Ok(open)
    }

    /// Waits until whoever the authority may meet can answer.
    async fn spread(&self) -> Result<(), Failed> {
        let wrong = |error: super::dns::DnsError| Failed::Order(error.to_string());
        for challenge in &self.state.challenges {
            if let Challenge::Dns { record, value } = challenge {
                self.acme.dns()?.present(record, value).await.map_err(wrong)?;
            }
        }
        for challenge in &self.state.challenges {
            if let Challenge::Dns { record, value } = challenge {
                self.acme.dns()?.seen(record, value).await.map_err(wrong)?;
            }
        }
        self.acme.seen_here(&self.state.challenges).await;
        sleep(self.acme.store().spread()).await;
        Ok(())
    }

    /// Takes back what was to be answered.
    pub(super) async fn close_challenges(&mut self) -> Result<(), Failed> {
        if self.state.challenges.is_empty() {
            return Ok(());
        }
        for challenge in std::mem::take(&mut self.state.challenges) {
            if let (Challenge::Dns { record, value }, Ok(dns)) = (challenge, self.acme.dns())
                && let Err(error) = dns.remove(&record, &value).await
            {
                tracing::warn!(record, %error, "a DNS record that is of no use any more could not be removed");
            }
        }
        self.save().await
    }

    async fn give_up(&mut self, certificate: &str) -> Result<(), Failed> {
        if let Some(record) = self.state.certificates.get_mut(certificate) {
            record.order = None;
        }
        self.save().await
    }

    /// Checks what was issued, and keeps it where it is good.
    async fn keep(
        &mut self,
        certificate: &str,
        names: &BTreeSet<String>,
        authority: &Authority,
        chain: String,
        key: String,
    ) -> Result<(), Failed> {
        let key = SecretBytes::from(key.into_bytes());
        let issued = Certificate {
            origin: Origin::default(),
            chain: chain.into_bytes().into(),
            key: key.clone(),
        };
        if let Err(wrong) = verify_issued::prove(&issued, names, SystemTime::now()) {
            self.give_up(certificate).await?;
            return Err(Failed::Order(wrong));
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
        self.acme.store().save_certificate(self.term, new).await.map_err(Failed::Store)?;
        if let Some(record) = self.state.certificates.get_mut(certificate) {
            let trouble = record.trouble.take();
            record.order = None;
            record.renewal = None;
            record.authority = Some(authority.directory.clone());
            if let Some(trouble) = trouble {
                self.tell_success(certificate, &trouble);
            }
        }
        tracing::info!(
            certificate,
            ?names,
            authority = authority.directory,
            "a certificate was issued"
        );
        self.save().await
    }
}

/// Has the certificate made.
async fn issue(
    order: &mut Order,
    names: &BTreeSet<String>,
    key: &str,
    authority: &Authority,
) -> Result<String, Failed> {
    let wrong = |error: Error| failed(&error, authority);
    if order.refresh().await.map_err(wrong)?.status == OrderStatus::Ready {
        let unusable = |error: rcgen::Error| {
            Failed::Order(format!("the request for the certificate could not be made: {error}"))
        };
        let key = KeyPair::from_pem(key).map_err(unusable)?;
        let mut params =
            CertificateParams::new(names.iter().cloned().collect::<Vec<_>>()).map_err(unusable)?;
        params.distinguished_name = DistinguishedName::new();
        order
            .finalize_csr(params.serialize_request(&key).map_err(unusable)?.der())
            .await
            .map_err(wrong)?;
    }
    order.poll_certificate(&POLL).await.map_err(wrong)
}

/// Which names of an order were refused, and why.
async fn refused(order: &mut Order, kind: ChallengeKind) -> Failed {
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
    Failed::Names(names, format!("the authority could not verify {}", reasons.join("; ")))
}

/// What an error of the client means for an order.
pub(super) fn failed(error: &Error, authority: &Authority) -> Failed {
    let heard = authority.take_heard();
    match (judge(error), heard.retry_after) {
        (Refusal::Nonce, _) => Failed::Again,
        (Refusal::NoAccount, _) => Failed::Authority(error.to_string()),
        (Refusal::Limited(error), until) => Failed::Limited(error, until),
        (Refusal::Authority(error) | Refusal::Order(error), Some(until)) => {
            Failed::Limited(error, Some(until))
        }
        (Refusal::Authority(error), None) => Failed::Authority(error),
        (Refusal::Order(error), None) => Failed::Order(error),
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

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
