//! The leader: the one replica that orders, a few certificates at a time, and only what is due.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use portcullis_config::store::{StoreError, StoreState, Term};
use portcullis_config::unix_time::seconds;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Acme;
use super::order::OrderError;
use super::plan::{bound, plan};
use super::queue::{Due, OrderQueue, QueueLimits, blocked_until};
use super::schedule::{self, Facts, Step};
use super::state::{MAX_PLANNED, Record, Seconds, State};
use super::verify_issued;

/// How long to collect changes before acting on them.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The longest time between two checks of what is due.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The pause after an error of the store.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// The leader in one term.
pub(super) struct Leader<'a> {
    pub(super) acme: &'a Acme,
    pub(super) term: Term,
    state: Mutex<State>,
    /// Held while the state is saved, so that an older one never replaces a newer one.
    saving: tokio::sync::Mutex<()>,
    /// Held while an account is loaded or created, so that there is one for each authority.
    pub(super) accounts: tokio::sync::Mutex<()>,
}

/// What is done beside other work, for a certificate.
#[derive(Debug)]
enum Job {
    Order(String),
    /// A query for renewal advice.
    Query(String),
}

/// The steps of all certificates.
struct Schedule {
    /// The certificates to order.
    due: Vec<Due>,
    /// A certificate whose authority is to be asked for renewal advice.
    query: Option<String>,
    /// When the next step of the others is due.
    wait: Seconds,
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
        let state = Mutex::new(state.unwrap_or_default());
        Self {
            acme,
            term,
            state,
            saving: tokio::sync::Mutex::default(),
            accounts: tokio::sync::Mutex::default(),
        }
    }

    /// The state, for one step that does not wait.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The planned certificate of that name.
    pub(super) fn record(&self, certificate: &str) -> Option<Record> {
        self.state().certificates.get(certificate).cloned()
    }

    /// Changes a planned certificate, if it is still planned.
    pub(super) fn update(&self, certificate: &str, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.state().certificates.get_mut(certificate) {
            change(record);
        }
    }

    /// Orders certificates until another replica leads.
    pub(super) async fn run(self) {
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

    async fn work(&self) -> Result<(), OrderError> {
        // Saved at once: from now on the store rejects writes of earlier leaders.
        self.save().await?;
        let leftover = self.state().challenges.clone();
        self.close_challenges(&leftover).await?;
        let mut changes = Changes {
            contents: self.acme.store().contents(),
            published: self.acme.live().published(),
        };
        let mut queue = OrderQueue::default();
        let mut jobs = FuturesUnordered::new();
        let mut is_querying = false;
        loop {
            self.acme.synced().await;
            changes.published.borrow_and_update();
            self.update_plan().await?;
            let Some(stored) = changes.contents.borrow_and_update().clone() else { return Ok(()) };
            self.clean_up(&stored).await?;
            // What is under way uses the account keys.
            if jobs.is_empty() {
                self.roll_over(&stored).await?;
            }
            let schedule = self.schedule(&stored, SystemTime::now());
            if !self.is_rollover_requested(&stored) {
                let query = schedule.query.clone().filter(|_| !is_querying).map(Job::Query);
                is_querying |= query.is_some();
                let started = query.into_iter().chain(self.start(&mut queue, &schedule.due));
                jobs.extend(started.map(|job| self.perform(job, Arc::clone(&stored))));
            }
            let until = self.next_start(&queue, &schedule).min(self.next_clean_up());
            tokio::select! {
                Some((job, outcome)) = jobs.next() => {
                    match job {
                        Job::Order(certificate) => queue.finish(&certificate),
                        Job::Query(_) => is_querying = false,
                    }
                    outcome?;
                }
                () = changes.wait(until) => {}
            }
        }
    }

    /// The orders whose turn it is.
    fn start(&self, queue: &mut OrderQueue, due: &[Due]) -> Vec<Job> {
        let (now, limits) = (seconds(SystemTime::now()), self.limits());
        let state = self.state();
        let start = || queue.start(due, &state.failed_orders, limits, now);
        std::iter::from_fn(start).map(|due| Job::Order(due.certificate)).collect()
    }

    async fn perform(&self, job: Job, stored: Arc<StoreState>) -> (Job, Result<(), OrderError>) {
        let outcome = match &job {
            Job::Order(certificate) => self.try_order(certificate).await,
            Job::Query(certificate) => self.query_renewal(certificate, &stored).await,
        };
        (job, outcome)
    }

    fn limits(&self) -> QueueLimits {
        let acme = self.acme.acme();
        QueueLimits {
            orders: acme.concurrent_orders.get(),
            failed_orders: acme.failed_orders_per_hour.get(),
        }
    }

    /// When the next order may start, if nothing changes before: one that waits for a slot starts
    /// when another ends.
    fn next_start(&self, queue: &OrderQueue, schedule: &Schedule) -> Seconds {
        let (now, limits) = (seconds(SystemTime::now()), self.limits());
        let state = self.state();
        let waiting = schedule.due.iter().filter(|due| !queue.is_running(&due.certificate));
        let blocked = waiting
            .map(|due| blocked_until(due, &state.failed_orders, limits, now))
            .filter(|until| *until > now);
        blocked.min().unwrap_or(Seconds::MAX).min(schedule.wait)
    }

    /// Plans the certificates for the desired names.
    async fn update_plan(&self) -> Result<(), OrderError> {
        let desired = self.acme.desired();
        let changed = {
            let mut state = self.state();
            let most = self.acme.acme().names_per_certificate.get();
            let mut next = plan(&desired.names, &state.plan(), &state.failed_names.names(), most);
            let left_out = bound(&mut next, &desired.names, &state.issued(), MAX_PLANNED);
            self.acme.set_left_out(left_out);
            let is_planned = state.apply(&next, seconds(SystemTime::now()));
            state.assign(&desired.names) || is_planned
        };
        if changed { self.save().await } else { Ok(()) }
    }

    /// The steps of all certificates.
    fn schedule(&self, stored: &StoreState, now: SystemTime) -> Schedule {
        let authorities: Vec<&str> =
            self.acme.authorities().iter().map(|authority| &*authority.directory).collect();
        let mut schedule = Schedule::default();
        let state = self.state();
        let has_failed = |name: &String| state.failed_names.get(name).is_some();
        for (certificate, record) in &state.certificates {
            let facts = facts(stored, certificate, now);
            match schedule::step(record, facts.as_ref(), &authorities, seconds(now)) {
                Step::Order => schedule.due.push(Due {
                    certificate: certificate.clone(),
                    namespace: record.namespace.clone(),
                    end: facts.map(|facts| facts.not_after),
                    is_retry: record.names.iter().any(has_failed),
                }),
                Step::QueryRenewal => schedule.query = Some(certificate.clone()),
                Step::Wait(until) => schedule.wait = schedule.wait.min(until),
            }
        }
        schedule
    }

    pub(super) async fn save(&self) -> Result<(), OrderError> {
        let _saving = self.saving.lock().await;
        let state = self.state().write();
        Ok(self.acme.store().save_state(self.term, state).await?)
    }
}

// === impl Schedule ===

impl Default for Schedule {
    fn default() -> Self {
        Self { due: Vec::new(), query: None, wait: Seconds::MAX }
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
