//! One attempt to order a certificate, and what follows from a failure.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use portcullis_config::model::HostPattern;
use portcullis_config::unix_time::seconds;

use super::authority::Authority;
use super::leader::Leader;
use super::order::OrderError;
use super::plan::split;
use super::schedule;
use super::state::{Failure, MAX_ERROR, Seconds};

/// The most attempts for one order while nonces are rejected.
pub(super) const MAX_ATTEMPTS: usize = 20;

// === impl Leader ===

impl Leader<'_> {
    /// Orders at the first authority that accepts the order.
    pub(super) async fn try_order(&self, certificate: &str) -> Result<(), OrderError> {
        let mut errors = Vec::new();
        let mut until = None;
        // Whether an authority rejected the order, rather than being unavailable.
        let mut is_rejected = false;
        for authority in self.acme.authorities() {
            let directory = &authority.directory;
            if let Some(failure) = self.blocked(authority) {
                // Not its error, which may name hosts of other Namespaces.
                errors.push(format!("{directory}: it failed before, and is tried again later"));
                until = earlier(until, Some(failure.until));
                continue;
            }
            // Of its own, because orders run side by side.
            let authority = authority.for_order();
            let outcome = self.order_with_retries(certificate, &authority).await;
            self.acme.update_clock(&authority);
            match outcome {
                Ok(()) => return self.authority_works(directory).await,
                Err(OrderError::Retry) => {
                    errors.push(format!("{directory}: it rejected all of its own nonces"));
                }
                Err(OrderError::Authority(error)) => {
                    until = earlier(until, Some(self.authority_failed(directory, &error)));
                    errors.push(format!("{directory}: {error}"));
                }
                Err(OrderError::RateLimited(error, demanded)) => {
                    is_rejected = true;
                    errors.push(format!("{directory}: {error}"));
                    until = earlier(until, demanded);
                }
                Err(OrderError::Names(names, error)) => {
                    self.state().count_failure(certificate, seconds(SystemTime::now()));
                    return self.split_failed(certificate, &names, &error).await;
                }
                Err(OrderError::Order(error)) => {
                    is_rejected = true;
                    errors.push(format!("{directory}: {error}"));
                    break;
                }
                Err(OrderError::Store(error)) => return Err(OrderError::Store(error)),
            }
        }
        if is_rejected {
            self.state().count_failure(certificate, seconds(SystemTime::now()));
        }
        self.record_failure(certificate, errors.join("; "), until, is_rejected).await
    }

    /// The failure of an authority as a whole, while it delays further requests.
    fn blocked(&self, authority: &Authority) -> Option<Failure> {
        let state = self.state();
        let failure = state.authorities.get(&authority.directory);
        let now = seconds(SystemTime::now());
        failure.filter(|failure| schedule::is_blocked(failure, now)).cloned()
    }

    async fn authority_works(&self, directory: &str) -> Result<(), OrderError> {
        let is_new = self.state().authorities.remove(directory).is_some();
        if is_new { self.save().await } else { Ok(()) }
    }

    /// Records that an authority is unavailable; returns when it is tried again.
    fn authority_failed(&self, directory: &str, error: &str) -> Seconds {
        let mut state = self.state();
        let before = state.authorities.get(directory);
        let failure = self.after_failure(before, error.to_owned(), None);
        let until = failure.until;
        state.authorities.insert(directory.to_owned(), failure);
        until
    }

    /// Orders, with immediate retries while nonces are rejected.
    async fn order_with_retries(
        &self,
        certificate: &str,
        authority: &Authority,
    ) -> Result<(), OrderError> {
        for _ in 0..MAX_ATTEMPTS {
            match self.order(certificate, authority).await {
                Err(OrderError::Retry) => {
                    tracing::debug!(certificate, "a nonce was rejected: resuming the order")
                }
                outcome => return outcome,
            }
        }
        Err(OrderError::Retry)
    }

    /// Moves names that failed validation to certificates of their own, so that they no longer
    /// block the others.
    async fn split_failed(
        &self,
        certificate: &str,
        names: &BTreeSet<HostPattern>,
        error: &str,
    ) -> Result<(), OrderError> {
        let alone = {
            let mut state = self.state();
            let mut plan = state.plan();
            let together = plan.get(certificate).map_or(0, BTreeSet::len);
            if together < 2 || names.is_empty() {
                BTreeSet::from([certificate.to_owned()])
            } else {
                let namespace =
                    state.certificates.get(certificate).map(|one| one.namespace.clone());
                let alone = split(&mut plan, certificate, names);
                state.apply(&plan, seconds(SystemTime::now()));
                state.inherit(namespace.as_deref().unwrap_or_default());
                alone.into_iter().collect()
            }
        };
        for certificate in alone {
            self.record_failure(&certificate, error.to_owned(), None, true).await?;
        }
        Ok(())
    }

    /// Logs, reports and saves a failed order; `is_rejected` if its names are the reason.
    async fn record_failure(
        &self,
        certificate: &str,
        error: String,
        demanded: Option<Seconds>,
        is_rejected: bool,
    ) -> Result<(), OrderError> {
        let before = self.record(certificate).and_then(|record| record.failure);
        let failure = self.after_failure(before.as_ref(), error, demanded);
        tracing::warn!(
            certificate,
            error = failure.error,
            failures = failure.failures,
            until = failure.until,
            "failed to order a certificate"
        );
        self.report_failure(certificate, &failure);
        self.state().fail(certificate, &failure, is_rejected, seconds(SystemTime::now()));
        self.save().await
    }

    fn after_failure(
        &self,
        before: Option<&Failure>,
        error: String,
        demanded: Option<Seconds>,
    ) -> Failure {
        let mut error = error;
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        schedule::after_failure(
            before,
            error,
            self.acme.acme().retry_after,
            demanded,
            seconds(SystemTime::now()),
            random(),
        )
    }
}

fn earlier(one: Option<Seconds>, other: Option<Seconds>) -> Option<Seconds> {
    one.into_iter().chain(other).min()
}

/// A random number for jitter: well distributed, but not secret.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(())
}
