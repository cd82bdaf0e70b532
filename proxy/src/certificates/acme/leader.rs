//! The replica that leads: it alone orders, one certificate after the other, and asks for nothing
//! that is not due.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::CertificateIdentifier;
use portcullis_config::model::HostPattern;
use portcullis_config::store::{Held, StoreError, Term};
use portcullis_config::unix_time::seconds;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Acme;
use super::authority::Authority;
use super::order::Failed;
use super::plan::{plan, split};
use super::schedule::{self, Facts, Step};
use super::state::{Record, Seconds, State, Trouble};
use super::verify_issued;

/// How long changes are gathered before they are acted on.
const GATHER: Duration = Duration::from_millis(500);
/// The longest time without a look at what is due.
const LOOK: Duration = Duration::from_secs(60);
/// How often an order is tried again at once where a nonce was not taken.
pub(super) const AGAIN: usize = 20;
/// After trouble with the store.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// A time of leading.
pub(super) struct Leader<'a> {
    pub(super) acme: &'a Acme,
    pub(super) term: Term,
    pub(super) state: State,
}

/// What changes without the leader: what there is, and what is wanted.
struct News {
    held: watch::Receiver<Option<Arc<Held>>>,
    published: watch::Receiver<()>,
}

// === impl Leader ===

impl<'a> Leader<'a> {
    /// Takes over what the leader before has left.
    pub(super) fn new(acme: &'a Acme, term: Term, held: &Held) -> Self {
        let state = held.state.as_ref().map(State::read).transpose().unwrap_or_else(|error| {
            tracing::error!(%error, "what was kept of orders and accounts cannot be read: beginning anew");
            None
        });
        Self { acme, term, state: state.unwrap_or_default() }
    }

    /// Leads until another one does.
    pub(super) async fn run(mut self) {
        loop {
            match self.work().await {
                Ok(()) | Err(Failed::Store(StoreError::Superseded)) => return,
                Err(error) => {
                    tracing::warn!(?error, "certificates cannot be kept for now");
                    sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    async fn work(&mut self) -> Result<(), Failed> {
        // Written at once: from now on whatever an earlier leader still writes is refused.
        self.save().await?;
        self.close_challenges().await?;
        let mut news =
            News { held: self.acme.store().held(), published: self.acme.live().published() };
        loop {
            self.acme.synced().await;
            news.published.borrow_and_update();
            self.follow_wanted().await?;
            let Some(held) = news.held.borrow_and_update().clone() else { return Ok(()) };
            self.clean_up(&held).await?;
            self.roll_over(&held).await?;
            match self.next(&held, SystemTime::now()) {
                (certificate, Step::Order) => self.try_order(&certificate).await?,
                (certificate, Step::AskRenewal) => self.ask_renewal(&certificate, &held).await?,
                (_, Step::Wait(until)) => news.wait(until.min(self.next_clean_up())).await,
            }
        }
    }

    async fn follow_wanted(&mut self) -> Result<(), Failed> {
        let wanted = self.acme.wanted();
        let next =
            plan(&wanted.names, &self.state.plan(), self.acme.acme().names_per_certificate.get());
        if self.state.follow(&next, seconds(SystemTime::now())) {
            self.save().await
        } else {
            Ok(())
        }
    }

    /// What is due first.
    fn next(&self, held: &Held, now: SystemTime) -> (String, Step) {
        let authorities: Vec<&str> =
            self.acme.authorities().iter().map(|authority| &*authority.directory).collect();
        let mut first = (String::new(), Step::Wait(Seconds::MAX));
        for (certificate, record) in &self.state.certificates {
            let step = schedule::step(
                record,
                facts(held, certificate, now).as_ref(),
                &authorities,
                seconds(now),
            );
            match (step, first.1) {
                (Step::Order | Step::AskRenewal, _) => return (certificate.clone(), step),
                (Step::Wait(until), Step::Wait(other)) if until < other => {
                    first = (certificate.clone(), step)
                }
                _ => {}
            }
        }
        first
    }

    /// Orders at the first authority that takes the order.
    async fn try_order(&mut self, certificate: &str) -> Result<(), Failed> {
        let mut errors = Vec::new();
        let mut until = None;
        for authority in self.acme.authorities() {
            let blocked = self
                .state
                .authorities
                .get(&authority.directory)
                .filter(|trouble| schedule::is_blocked(trouble, seconds(SystemTime::now())));
            if let Some(trouble) = blocked {
                errors.push(format!("{}: {}", authority.directory, trouble.error));
                until =
                    Some(until.map_or(trouble.until, |until: Seconds| until.min(trouble.until)));
                continue;
            }
            let outcome = self.persist(certificate, authority).await;
            self.acme.hear_clock(authority);
            match outcome {
                Ok(()) => {
                    if self.state.authorities.remove(&authority.directory).is_some() {
                        self.save().await?;
                    }
                    return Ok(());
                }
                Err(Failed::Again) => {
                    errors.push(format!("{}: it takes none of its own nonces", authority.directory))
                }
                Err(Failed::Authority(error)) => {
                    let before = self.state.authorities.get(&authority.directory);
                    let trouble = self.trouble(before, error.clone(), None);
                    until = Some(until.map_or(trouble.until, |until| until.min(trouble.until)));
                    self.state.authorities.insert(authority.directory.clone(), trouble);
                    errors.push(format!("{}: {error}", authority.directory));
                }
                Err(Failed::Limited(error, demanded)) => {
                    errors.push(format!("{}: {error}", authority.directory));
                    until = until
                        .or(demanded)
                        .map(|until| demanded.map_or(until, |demanded| until.min(demanded)));
                }
                Err(Failed::Names(names, error)) => {
                    return self.set_apart(certificate, &names, &error).await;
                }
                Err(Failed::Order(error)) => {
                    errors.push(format!("{}: {error}", authority.directory));
                    break;
                }
                Err(Failed::Store(error)) => return Err(Failed::Store(error)),
            }
        }
        self.blame(certificate, errors.join("; "), until).await
    }

    /// Orders; at once again where that failed by chance.
    async fn persist(&mut self, certificate: &str, authority: &Authority) -> Result<(), Failed> {
        for _ in 0..AGAIN {
            match self.order(certificate, authority).await {
                Err(Failed::Again) => {
                    tracing::debug!(certificate, "a nonce was not taken: going on with the order")
                }
                outcome => return outcome,
            }
        }
        Err(Failed::Again)
    }

    /// Names that could not be proven no longer hold up those that are ordered with them.
    async fn set_apart(
        &mut self,
        certificate: &str,
        names: &BTreeSet<HostPattern>,
        error: &str,
    ) -> Result<(), Failed> {
        let mut plan = self.state.plan();
        let together = plan.get(certificate).map_or(0, BTreeSet::len);
        if together < 2 || names.is_empty() {
            return self.blame(certificate, error.to_owned(), None).await;
        }
        let alone = split(&mut plan, certificate, names);
        self.state.follow(&plan, seconds(SystemTime::now()));
        for certificate in alone {
            self.blame(&certificate, error.to_owned(), None).await?;
        }
        Ok(())
    }

    /// Records that an order failed.
    async fn blame(
        &mut self,
        certificate: &str,
        error: String,
        demanded: Option<Seconds>,
    ) -> Result<(), Failed> {
        let before =
            self.state.certificates.get(certificate).and_then(|record| record.trouble.clone());
        let trouble = self.trouble(before.as_ref(), error, demanded);
        tracing::warn!(
            certificate,
            error = trouble.error,
            failures = trouble.failures,
            until = trouble.until,
            "no certificate was issued"
        );
        self.tell_failure(certificate, &trouble);
        if let Some(record) = self.state.certificates.get_mut(certificate) {
            record.trouble = Some(trouble);
        }
        self.save().await
    }

    fn trouble(
        &self,
        before: Option<&Trouble>,
        error: String,
        demanded: Option<Seconds>,
    ) -> Trouble {
        const LONGEST: usize = 1000;
        let mut error = error;
        error.truncate(error.floor_char_boundary(LONGEST));
        schedule::failed(
            before,
            error,
            self.acme.acme().retry_after,
            demanded,
            seconds(SystemTime::now()),
            random(),
        )
    }

    /// Asks the authority that issued a certificate when it would have it renewed (RFC 9773).
    async fn ask_renewal(&mut self, certificate: &str, held: &Held) -> Result<(), Failed> {
        let now = SystemTime::now();
        let Some(facts) = facts(held, certificate, now) else { return Ok(()) };
        let record = self.state.certificates.get(certificate).cloned().unwrap_or_default();
        let renewal = match self.advice(&record, certificate, held).await {
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

    async fn advice(
        &mut self,
        record: &Record,
        certificate: &str,
        held: &Held,
    ) -> Option<((Seconds, Seconds), Seconds)> {
        let issuer = record.authority.as_deref()?;
        let authority =
            self.acme.authorities().iter().find(|authority| authority.directory == issuer)?;
        let leaf = verify_issued::leaf(&held.certificates.get(certificate)?.certificate)?;
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
                tracing::debug!(certificate, %error, "the authority says nothing about renewal");
                None
            }
        }
    }

    pub(super) async fn save(&self) -> Result<(), Failed> {
        Ok(self.acme.store().save_state(self.term, self.state.write()).await?)
    }
}

// === impl News ===

impl News {
    /// Waits for a time, or for a change since the last look.
    async fn wait(&mut self, until: Seconds) {
        let pause = Duration::from_secs(until.saturating_sub(seconds(SystemTime::now()))).min(LOOK);
        let changed = async {
            tokio::select! {
                _ = self.held.changed() => {}
                _ = self.published.changed() => {}
            }
            sleep(GATHER).await;
        };
        // Either way the same follows.
        let _ = timeout(pause.max(GATHER), changed).await;
    }
}

pub(super) fn facts(held: &Held, certificate: &str, now: SystemTime) -> Option<Facts> {
    let kept = held.certificates.get(certificate)?;
    verify_issued::facts(&kept.certificate, kept.renewal_asked, now)
}

/// For jitter: well spread, but not secret.
fn random() -> u64 {
    RandomState::new().hash_one(())
}
