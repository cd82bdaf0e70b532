//! The leader: the one replica that orders, one certificate at a time, and only what is due.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::CertificateIdentifier;
use portcullis_config::model::HostPattern;
use portcullis_config::store::{StoreError, StoreState, Term};
use portcullis_config::unix_time::seconds;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Acme;
use super::authority::Authority;
use super::order::OrderError;
use super::plan::{plan, split};
use super::schedule::{self, Facts, Step};
use super::state::{Failure, Record, Seconds, State};
use super::verify_issued;

/// How long to collect changes before acting on them.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The longest time between two checks of what is due.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The most attempts for one order while nonces are rejected.
pub(super) const MAX_ATTEMPTS: usize = 20;
/// The pause after an error of the store.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// The leader in one term.
pub(super) struct Leader<'a> {
    pub(super) acme: &'a Acme,
    pub(super) term: Term,
    pub(super) state: State,
}

/// Changes that others make: of the store, and of the snapshot.
struct Changes {
    contents: watch::Receiver<Option<Arc<StoreState>>>,
    published: watch::Receiver<()>,
}

// === impl Leader ===

impl<'a> Leader<'a> {
    /// Begins a term with the state of the previous leader.
    pub(super) fn new(acme: &'a Acme, term: Term, stored: &StoreState) -> Self {
        let state = stored.state.as_ref().map(State::read).transpose().unwrap_or_else(|error| {
            tracing::error!(%error, "failed to read the stored ACME state: starting with an empty one");
            None
        });
        Self { acme, term, state: state.unwrap_or_default() }
    }

    /// Orders certificates until another replica leads.
    pub(super) async fn run(mut self) {
        loop {
            match self.work().await {
                Ok(()) | Err(OrderError::Store(StoreError::Superseded)) => return,
                Err(error) => {
                    tracing::warn!(?error, "failed to save certificates or their state");
                    sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    async fn work(&mut self) -> Result<(), OrderError> {
        // Saved at once: from now on the store rejects writes of earlier leaders.
        self.save().await?;
        self.close_challenges().await?;
        let mut changes = Changes {
            contents: self.acme.store().contents(),
            published: self.acme.live().published(),
        };
        loop {
            self.acme.synced().await;
            changes.published.borrow_and_update();
            self.update_plan().await?;
            let Some(stored) = changes.contents.borrow_and_update().clone() else { return Ok(()) };
            self.clean_up(&stored).await?;
            self.roll_over(&stored).await?;
            match self.next(&stored, SystemTime::now()) {
                (certificate, Step::Order) => self.try_order(&certificate).await?,
                (certificate, Step::QueryRenewal) => {
                    self.query_renewal(&certificate, &stored).await?;
                }
                (_, Step::Wait(until)) => changes.wait(until.min(self.next_clean_up())).await,
            }
        }
    }

    /// Plans the certificates for the desired names.
    async fn update_plan(&mut self) -> Result<(), OrderError> {
        let desired = self.acme.desired();
        let next =
            plan(&desired.names, &self.state.plan(), self.acme.acme().names_per_certificate.get());
        if self.state.apply(&next, seconds(SystemTime::now())) { self.save().await } else { Ok(()) }
    }

    /// The certificate with the next step, and that step.
    fn next(&self, stored: &StoreState, now: SystemTime) -> (String, Step) {
        let authorities: Vec<&str> =
            self.acme.authorities().iter().map(|authority| &*authority.directory).collect();
        let mut first = (String::new(), Step::Wait(Seconds::MAX));
        for (certificate, record) in &self.state.certificates {
            let step = schedule::step(
                record,
                facts(stored, certificate, now).as_ref(),
                &authorities,
                seconds(now),
            );
            match (step, first.1) {
                (Step::Order | Step::QueryRenewal, _) => return (certificate.clone(), step),
                (Step::Wait(until), Step::Wait(other)) if until < other => {
                    first = (certificate.clone(), step)
                }
                _ => {}
            }
        }
        first
    }

    /// Orders at the first authority that accepts the order.
    async fn try_order(&mut self, certificate: &str) -> Result<(), OrderError> {
        let mut errors = Vec::new();
        let mut until = None;
        for authority in self.acme.authorities() {
            let blocked = self
                .state
                .authorities
                .get(&authority.directory)
                .filter(|failure| schedule::is_blocked(failure, seconds(SystemTime::now())));
            if let Some(failure) = blocked {
                errors.push(format!("{}: {}", authority.directory, failure.error));
                until =
                    Some(until.map_or(failure.until, |until: Seconds| until.min(failure.until)));
                continue;
            }
            let outcome = self.order_with_retries(certificate, authority).await;
            self.acme.update_clock(authority);
            match outcome {
                Ok(()) => {
                    if self.state.authorities.remove(&authority.directory).is_some() {
                        self.save().await?;
                    }
                    return Ok(());
                }
                Err(OrderError::Retry) => errors
                    .push(format!("{}: it rejected all of its own nonces", authority.directory)),
                Err(OrderError::Authority(error)) => {
                    let before = self.state.authorities.get(&authority.directory);
                    let failure = self.after_failure(before, error.clone(), None);
                    until = Some(until.map_or(failure.until, |until| until.min(failure.until)));
                    self.state.authorities.insert(authority.directory.clone(), failure);
                    errors.push(format!("{}: {error}", authority.directory));
                }
                Err(OrderError::RateLimited(error, demanded)) => {
                    errors.push(format!("{}: {error}", authority.directory));
                    until = until
                        .or(demanded)
                        .map(|until| demanded.map_or(until, |demanded| until.min(demanded)));
                }
                Err(OrderError::Names(names, error)) => {
                    return self.split_failed(certificate, &names, &error).await;
                }
                Err(OrderError::Order(error)) => {
                    errors.push(format!("{}: {error}", authority.directory));
                    break;
                }
                Err(OrderError::Store(error)) => return Err(OrderError::Store(error)),
            }
        }
        self.record_failure(certificate, errors.join("; "), until).await
    }

    /// Orders, with immediate retries while nonces are rejected.
    async fn order_with_retries(
        &mut self,
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
        &mut self,
        certificate: &str,
        names: &BTreeSet<HostPattern>,
        error: &str,
    ) -> Result<(), OrderError> {
        let mut plan = self.state.plan();
        let together = plan.get(certificate).map_or(0, BTreeSet::len);
        if together < 2 || names.is_empty() {
            return self.record_failure(certificate, error.to_owned(), None).await;
        }
        let alone = split(&mut plan, certificate, names);
        self.state.apply(&plan, seconds(SystemTime::now()));
        for certificate in alone {
            self.record_failure(&certificate, error.to_owned(), None).await?;
        }
        Ok(())
    }

    /// Logs, reports and saves a failed order.
    async fn record_failure(
        &mut self,
        certificate: &str,
        error: String,
        demanded: Option<Seconds>,
    ) -> Result<(), OrderError> {
        let before =
            self.state.certificates.get(certificate).and_then(|record| record.failure.clone());
        let failure = self.after_failure(before.as_ref(), error, demanded);
        tracing::warn!(
            certificate,
            error = failure.error,
            failures = failure.failures,
            until = failure.until,
            "failed to order a certificate"
        );
        self.report_failure(certificate, &failure);
        if let Some(record) = self.state.certificates.get_mut(certificate) {
            record.failure = Some(failure);
        }
        self.save().await
    }

    fn after_failure(
        &self,
        before: Option<&Failure>,
        error: String,
        demanded: Option<Seconds>,
    ) -> Failure {
        const MAX_ERROR: usize = 1000;
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

    /// Asks the issuing authority when to renew a certificate (RFC 9773).
    async fn query_renewal(
        &mut self,
        certificate: &str,
        stored: &StoreState,
    ) -> Result<(), OrderError> {
        let now = SystemTime::now();
        let Some(facts) = facts(stored, certificate, now) else { return Ok(()) };
        let record = self.state.certificates.get(certificate).cloned().unwrap_or_default();
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
        if let Some(record) = self.state.certificates.get_mut(certificate) {
            record.renewal = Some(renewal);
        }
        self.save().await
    }

    /// The renewal window that the authority suggests, and the time until the next query.
    async fn advice(
        &mut self,
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

    pub(super) async fn save(&self) -> Result<(), OrderError> {
        Ok(self.acme.store().save_state(self.term, self.state.write()).await?)
    }
}

// === impl Changes ===

impl Changes {
    /// Waits until a time, or for a change since the last one that was read.
    async fn wait(&mut self, until: Seconds) {
        let pause =
            Duration::from_secs(until.saturating_sub(seconds(SystemTime::now()))).min(MAX_WAIT);
        let changed = async {
            tokio::select! {
                _ = self.contents.changed() => {}
                _ = self.published.changed() => {}
            }
            sleep(DEBOUNCE).await;
        };
        // A timeout is no error.
        let _ = timeout(pause.max(DEBOUNCE), changed).await;
    }
}

/// The facts about a stored certificate; `None` if there is none that is usable.
pub(super) fn facts(stored: &StoreState, certificate: &str, now: SystemTime) -> Option<Facts> {
    let stored = stored.certificates.get(certificate)?;
    verify_issued::facts(&stored.certificate, stored.renewal_requested, now)
}

/// A random number for jitter: well distributed, but not secret.
fn random() -> u64 {
    RandomState::new().hash_one(())
}
