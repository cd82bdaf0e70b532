//! Proof of control over the names of an order (RFC 8555 §7.5, §8).

use std::collections::BTreeSet;

use instant_acme::{AuthorizationStatus, ChallengeType, Error, Identifier, Order, OrderStatus};
use portcullis_config::model::HostPattern;
use portcullis_config::settings::acme::ChallengeKind;
use tokio::time::sleep;

use super::authority::Authority;
use super::leader::Leader;
use super::order::{OrderError, POLL, order_error};
use super::state::Challenge;

// === impl Leader ===

impl Leader<'_> {
    /// Completes the challenges for all names of an order; adds those that are open to
    /// `challenges`.
    pub(super) async fn validate(
        &self,
        order: &mut Order,
        challenges: &mut Vec<Challenge>,
        authority: &Authority,
    ) -> Result<(), OrderError> {
        let kind = self.acme.acme().challenge;
        let convert = |error: Error| order_error(&error, authority);
        *challenges = self.challenges(order, kind, authority).await?;
        if challenges.is_empty() {
            return Ok(());
        }
        self.state().challenges.extend(challenges.iter().cloned());
        self.save().await?;
        self.deploy_challenges(challenges).await?;
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
            // The authority works, but not on these names.
            Err(Error::Timeout(_)) => Err(stalled(order).await),
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
    async fn deploy_challenges(&self, challenges: &[Challenge]) -> Result<(), OrderError> {
        let convert = |error: super::dns::DnsError| OrderError::Order(error.to_string());
        for challenge in challenges {
            if let Challenge::Dns { record, value } = challenge {
                self.acme.dns()?.present(record, value).await.map_err(convert)?;
            }
        }
        for challenge in challenges {
            if let Challenge::Dns { record, value } = challenge {
                self.acme.dns()?.wait_until_propagated(record, value).await.map_err(convert)?;
            }
        }
        self.acme.wait_until_served(challenges).await;
        sleep(self.acme.store().propagation_delay()).await;
        Ok(())
    }

    /// Closes open challenges, and removes their DNS records.
    pub(super) async fn close_challenges(
        &self,
        challenges: &[Challenge],
    ) -> Result<(), OrderError> {
        if challenges.is_empty() {
            return Ok(());
        }
        self.state().challenges.retain(|open| !challenges.contains(open));
        for challenge in challenges {
            if let (Challenge::Dns { record, value }, Ok(dns)) = (challenge, self.acme.dns())
                && let Err(error) = dns.remove(record, value).await
            {
                tracing::warn!(record, %error, "failed to remove a DNS record of a closed challenge");
            }
        }
        self.save().await
    }
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

/// The error for names that an authority has neither validated nor rejected in time.
async fn stalled(order: &mut Order) -> OrderError {
    let mut names = BTreeSet::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if state.status != AuthorizationStatus::Valid {
            names.extend(state.identifier().to_string().parse::<HostPattern>());
        }
    }
    let list: Vec<String> = names.iter().map(ToString::to_string).collect();
    let error = format!("the authority did not validate {} in time", list.join(", "));
    OrderError::Names(names, error)
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
