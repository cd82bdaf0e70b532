//! Certificates ordered by ACME (RFC 8555), on any number of replicas.
//!
//! Desired names → plan of certificates → schedule → order, challenges, verification → store →
//! every replica serves it.
//!
//! | task | module |
//! | --- | --- |
//! | the names that need a certificate | [`mod@desired`] |
//! | the names of each certificate | [`plan`] |
//! | the time to order, renew and retry | [`schedule`] |
//! | which of the due ones are ordered now | [`queue`], by [`failed_orders`] |
//! | the stored state | [`state`] |
//! | the one replica that orders | [`leader`] |
//! | renewal advice | [`renewal`] |
//! | removal of unneeded certificates | [`cleanup`] |
//! | new keys for accounts | [`rollover`] |
//! | events for owners of Services | [`events`] |
//! | an attempt and its failure, one order | [`attempt`], [`order`], [`validation`], with [`authority`], [`dns`], [`chain`] and [`verify_issued`] |
//! | responses to challenges, on every replica | [`challenges`] |
//!
//! All of it runs on the control plane's runtime. Nothing that a client sends causes an order.

mod attempt;
mod authority;
mod chain;
pub(crate) mod challenges;
mod cleanup;
pub(crate) mod desired;
mod dns;
mod events;
mod failed_orders;
mod leader;
mod order;
pub(crate) mod plan;
mod queue;
mod renewal;
mod rollover;
mod schedule;
pub(crate) mod state;
mod validation;
mod verify_issued;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_config::live::Live;
use portcullis_config::model::Origin;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::settings::{AcmeSettings, Settings};
use portcullis_config::store::{Store, StoreState};
use tokio::sync::watch;
use tokio::time::timeout;

use self::authority::Authority;
use self::desired::{DesiredNames, desired};
use self::dns::{Dns, DnsError};
use self::leader::Leader;
use self::order::OrderError;
use self::state::{Challenge, State};
use super::Certificates;

/// The tolerated difference between this machine's clock and an authority's.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// How long this replica may take to serve saved challenges.
const LOCAL_PROPAGATION: Duration = Duration::from_secs(5);
/// How often to check whether the routes are loaded, and whether saved challenges are served.
const POLL: Duration = Duration::from_millis(20);

/// The ACME client of one process.
pub(crate) struct Acme {
    settings: Arc<Settings>,
    acme: AcmeSettings,
    live: Arc<Live>,
    store: Arc<dyn Store>,
    certificates: Arc<Certificates>,
    authorities: Vec<Authority>,
    dns: Option<Result<Dns, DnsError>>,
    /// The state that the leader saved last.
    state: ArcSwap<State>,
    /// How far the authority's clock is ahead, in seconds.
    ahead: AtomicI64,
    /// Whether an authority's own certificate is not valid by this machine's clock.
    invalid_dates: AtomicBool,
    /// How many certificates of each Namespace the leader does not order for lack of room.
    left_out: ArcSwap<BTreeMap<Arc<str>, usize>>,
}

// === impl Acme ===

impl Acme {
    /// Creates the client; `None` if ACME is not configured.
    ///
    /// # Errors
    /// The root file of an authority cannot be used.
    pub(crate) fn new(
        settings: &Arc<Settings>,
        live: &Arc<Live>,
        store: Arc<dyn Store>,
        certificates: &Arc<Certificates>,
    ) -> Result<Option<Arc<Self>>, portcullis_identity::tls_roots::AuthoritiesError> {
        let Some(acme) = settings.acme.clone() else { return Ok(None) };
        let authorities =
            acme.directories().map(|(authority, directory)| Authority::new(authority, directory));
        Ok(Some(Arc::new(Self {
            authorities: authorities.collect::<Result<_, _>>()?,
            dns: acme.dns.provider.as_ref().map(|_| Dns::new(&acme.dns)),
            settings: Arc::clone(settings),
            acme,
            live: Arc::clone(live),
            store,
            certificates: Arc::clone(certificates),
            state: ArcSwap::default(),
            ahead: AtomicI64::new(0),
            invalid_dates: AtomicBool::new(false),
            left_out: ArcSwap::default(),
        })))
    }

    /// Applies changes of the store, and orders while this replica leads, forever: a task of the
    /// control plane.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.store.run(), self.watch(), self.lead());
    }

    /// The state that the leader saved last.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The current problems.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let state = self.state();
        let mut problems: Vec<Problem> = state
            .certificates
            .values()
            .filter_map(|record| Some((record, record.failure.as_ref()?)))
            .map(|(record, failure)| {
                let names: Vec<&str> = record.names.iter().map(String::as_str).collect();
                problem(
                    "CertificateOrderFailed",
                    format!(
                        "no certificate was issued for {}, {}: {}",
                        names.join(", "),
                        failure.times(),
                        failure.error
                    ),
                    "fix what the authority reports; the order is retried automatically, and the \
                     existing certificate stays in use until then",
                )
            })
            .collect();
        problems.extend(self.left_out.load().iter().map(|(namespace, certificates)| {
            problem(
                "CertificateNotOrdered",
                format!(
                    "{certificates} certificates for names of the Namespace `{namespace}` are not \
                     ordered: it claims more than there is room for"
                ),
                "use hostnames that the wildcard of the zone covers, or raise \
                 `acme.namesPerCertificate`",
            )
        }));
        if let Some(error) = &state.rollover.error {
            let help = "fix the cause and run `portcullis certs rollover` again; the existing keys \
                        stay in use until then";
            problems.push(problem(
                "AccountKeyNotReplaced",
                format!("failed to replace account keys: {error}"),
                help,
            ));
        }
        if self.live.is_synced() {
            problems.extend(self.desired().problems(self.acme.challenge));
        }
        if let Some(Err(error)) = &self.dns {
            problems.push(problem(
                "CertificateOrderFailed",
                error.to_string(),
                "correct `acme.dns.provider` and restart the gateway",
            ));
        }
        let ahead = self.ahead.load(Ordering::Relaxed);
        if ahead.unsigned_abs() > CLOCK_SKEW.as_secs() {
            problems.push(problem(
                "ClockWrong",
                format!("this machine's clock differs from the authority's by {ahead} seconds"),
                "set the clock: certificates are checked against it",
            ));
        } else if self.invalid_dates.load(Ordering::Relaxed) {
            problems.push(problem(
                "ClockWrong",
                "by this machine's clock the authority's own certificate has expired or is not valid \
                 yet"
                    .to_owned(),
                "set the clock if it is wrong: certificates are checked against it",
            ));
        }
        problems
    }

    fn acme(&self) -> &AcmeSettings {
        &self.acme
    }

    fn live(&self) -> &Live {
        &self.live
    }

    fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    fn dns(&self) -> Result<&Dns, OrderError> {
        match &self.dns {
            Some(Ok(dns)) => Ok(dns),
            Some(Err(error)) => Err(OrderError::Order(error.to_string())),
            None => Err(OrderError::Order(
                "no provider of DNS records is configured: set `acme.dns.provider`".to_owned(),
            )),
        }
    }

    fn desired(&self) -> DesiredNames {
        desired(
            &self.live.snapshot.load(),
            &self.settings.zone,
            &self.acme,
            &self.certificates.provided_names(),
        )
    }

    fn set_left_out(&self, left_out: BTreeMap<Arc<str>, usize>) {
        self.left_out.store(Arc::new(left_out));
    }

    fn update_clock(&self, authority: &Authority) {
        let hints = authority.take_hints();
        self.ahead.store(hints.ahead, Ordering::Relaxed);
        self.invalid_dates.store(hints.invalid_dates, Ordering::Relaxed);
    }

    /// Waits until all routes are loaded: before that no certificate counts as unneeded.
    async fn synced(&self) {
        while !self.live.is_synced() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until this replica serves `challenges`.
    async fn wait_until_served(&self, challenges: &[Challenge]) {
        let wait = async {
            let is_open =
                |state: &State| challenges.iter().all(|one| state.challenges.contains(one));
            while !is_open(&self.state()) {
                tokio::time::sleep(POLL).await;
            }
        };
        let _ = timeout(LOCAL_PROPAGATION, wait).await;
    }

    /// Applies the state that the leader saves.
    async fn watch(&self) {
        let mut contents = self.store.contents();
        loop {
            let state =
                contents.borrow_and_update().as_ref().and_then(|stored| stored.state.clone());
            match state.as_ref().map(State::read) {
                Some(Ok(state)) => {
                    self.certificates.challenges().set(&state.challenges);
                    self.state.store(Arc::new(state));
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "failed to read the stored ACME state")
                }
                None => {}
            }
            if contents.changed().await.is_err() {
                return;
            }
        }
    }

    /// Orders in each term of this replica.
    async fn lead(&self) {
        let mut terms = self.store.term();
        loop {
            let term = match terms.wait_for(Option::is_some).await {
                Ok(term) => *term,
                Err(_) => return,
            };
            let Some(term) = term else { continue };
            let Ok(stored) =
                self.store.contents().wait_for(Option::is_some).await.map(|stored| stored.clone())
            else {
                return;
            };
            let Some(stored) = stored else { continue };
            tokio::select! {
                () = Leader::new(self, term, &stored).run() => {
                    tracing::info!(term = term.0, "another replica has become the leader");
                }
                () = term_ended(&mut terms, term) => {}
            }
            term_ended(&mut self.store.term(), term).await;
        }
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("store", &self.store).finish_non_exhaustive()
    }
}

/// The names of the stored certificates that are needed; `None` if the state cannot be read, or
/// there is none.
pub(super) fn needed(stored: &StoreState) -> Option<BTreeSet<String>> {
    let state = stored.state.as_ref().and_then(|state| State::read(state).ok())?;
    Some(state.certificates.into_keys().collect())
}

/// Waits until `term` has ended.
async fn term_ended(
    terms: &mut watch::Receiver<Option<portcullis_config::store::Term>>,
    term: portcullis_config::store::Term,
) {
    // A closed channel ends every term.
    let _ = terms.wait_for(|now| *now != Some(term)).await;
}

fn problem(reason: &'static str, message: String, help: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        reason,
        origin: Origin::default(),
        message,
        help: help.to_owned(),
    }
}
