//! Certificates that are ordered by ACME (RFC 8555), on any number of replicas.
//!
//! Wanted names → which of them share a certificate → what is due → order, challenge, check → store
//! → every replica serves it.
//!
//! | step | module |
//! | --- | --- |
//! | which names? | [`mod@wanted`] |
//! | in which certificates? | [`plan`] |
//! | when? | [`schedule`] |
//! | what must not be forgotten | [`state`] |
//! | the one replica that orders | [`lead`] |
//! | what nobody needs any more | [`cleanup`] |
//! | new keys for accounts | [`rollover`] |
//! | what owners of Services are told | [`tell`] |
//! | one order | [`order`], with [`authority`], [`dns`], [`chain`] and [`proof`] |
//! | what every replica answers to authorities | [`challenges`] |
//!
//! All of it runs on the control plane's runtime. Nothing that a client sends causes an order.

mod authority;
mod chain;
pub(crate) mod challenges;
mod cleanup;
pub(crate) mod desired;
mod dns;
mod events;
mod leader;
mod order;
pub(crate) mod plan;
mod rollover;
mod schedule;
pub(crate) mod state;
mod verify_issued;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_config::live::Live;
use portcullis_config::model::Origin;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::settings::{AcmeSettings, Settings};
use portcullis_config::snapshot::certificate::Certificate;
use portcullis_config::store::{Held, Kept, Store};
use tokio::sync::watch;
use tokio::time::timeout;

use self::authority::Authority;
use self::desired::{Wanted, wanted};
use self::dns::{Dns, DnsError};
use self::leader::Leader;
use self::order::Failed;
use self::state::{Challenge, State};
use super::Certificates;

/// By how much this machine's clock may differ from an authority's.
const CLOCK: Duration = Duration::from_secs(300);
/// How long this replica may take until it answers what was saved.
const HERE: Duration = Duration::from_secs(5);
/// How often it is looked whether the routes are known, and whether what was saved is in effect.
const LOOK: Duration = Duration::from_millis(20);

/// All about ordered certificates in one process.
pub(crate) struct Acme {
    settings: Arc<Settings>,
    acme: AcmeSettings,
    live: Arc<Live>,
    store: Arc<dyn Store>,
    certificates: Arc<Certificates>,
    authorities: Vec<Authority>,
    dns: Option<Result<Dns, DnsError>>,
    /// What the leader has recorded.
    known: ArcSwap<State>,
    /// By how much authorities' clocks are ahead, in seconds.
    ahead: AtomicI64,
    /// Whether an authority's own certificate is not valid by this machine's clock.
    undated: AtomicBool,
}

// === impl Acme ===

impl Acme {
    /// `None` where the settings order nothing.
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
            known: ArcSwap::default(),
            ahead: AtomicI64::new(0),
            undated: AtomicBool::new(false),
        })))
    }

    /// Keeps the store's news in effect, and orders while this replica leads, forever: a task of
    /// the control plane.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.store.run(), self.follow(), self.lead());
    }

    /// What the leader has recorded.
    pub(crate) fn known(&self) -> Arc<State> {
        self.known.load_full()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What is wrong.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let known = self.known();
        let mut problems: Vec<Problem> = known
            .certificates
            .values()
            .filter_map(|record| Some((record, record.trouble.as_ref()?)))
            .map(|(record, trouble)| {
                let names: Vec<&str> = record.names.iter().map(String::as_str).collect();
                problem(
                    "CertificateOrderFailed",
                    format!(
                        "no certificate was issued for {}, {} times in a row: {}",
                        names.join(", "),
                        trouble.failures,
                        trouble.error
                    ),
                    "mend what the authority tells; until then what there is stays in use, and it \
                     is tried again by itself",
                )
            })
            .collect();
        if let Some(error) = &known.rollover.error {
            let help = "run `portcullis certs rollover` again once that is mended; until then the \
                        keys that there are stay in use";
            problems.push(problem(
                "AccountKeyNotReplaced",
                format!("keys of accounts were not replaced: {error}"),
                help,
            ));
        }
        if self.live.is_synced() {
            problems.extend(self.wanted().problems(self.acme.challenge));
        }
        if let Some(Err(error)) = &self.dns {
            problems.push(problem(
                "CertificateOrderFailed",
                error.to_string(),
                "correct `acme.dns.provider` and restart the gateway",
            ));
        }
        let ahead = self.ahead.load(Ordering::Relaxed);
        if ahead.unsigned_abs() > CLOCK.as_secs() {
            problems.push(problem(
                "ClockWrong",
                format!("this machine's clock differs from the authority's by {ahead} seconds"),
                "set the clock: certificates are judged by it",
            ));
        } else if self.undated.load(Ordering::Relaxed) {
            problems.push(problem(
                "ClockWrong",
                "by this machine's clock the authority's own certificate has ended or not begun"
                    .to_owned(),
                "set the clock if it is wrong: certificates are judged by it",
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

    fn dns(&self) -> Result<&Dns, Failed> {
        match &self.dns {
            Some(Ok(dns)) => Ok(dns),
            Some(Err(error)) => Err(Failed::Order(error.to_string())),
            None => Err(Failed::Order("nobody makes the DNS records".to_owned())),
        }
    }

    fn wanted(&self) -> Wanted {
        wanted(
            &self.live.snapshot.load(),
            &self.settings.zone,
            &self.acme,
            &self.certificates.brought(),
        )
    }

    fn hear_clock(&self, authority: &Authority) {
        let heard = authority.take_heard();
        self.ahead.store(heard.ahead, Ordering::Relaxed);
        self.undated.store(heard.undated, Ordering::Relaxed);
    }

    /// Waits until all routes are known: before that nothing is known to be unwanted.
    async fn synced(&self) {
        while !self.live.is_synced() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until this replica answers what was saved.
    async fn seen_here(&self, challenges: &[Challenge]) {
        let wait = async {
            while self.known().challenges != challenges {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = timeout(HERE, wait).await;
    }

    /// Puts into effect what the leader saves.
    async fn follow(&self) {
        let mut held = self.store.held();
        loop {
            let state = held.borrow_and_update().as_ref().and_then(|held| held.state.clone());
            match state.as_ref().map(State::read) {
                Some(Ok(state)) => {
                    self.certificates.challenges().open(&state.challenges);
                    self.known.store(Arc::new(state));
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "what was kept of orders and accounts cannot be read")
                }
                None => {}
            }
            if held.changed().await.is_err() {
                return;
            }
        }
    }

    async fn lead(&self) {
        let mut terms = self.store.term();
        loop {
            let term = match terms.wait_for(Option::is_some).await {
                Ok(term) => *term,
                Err(_) => return,
            };
            let Some(term) = term else { continue };
            let Ok(held) =
                self.store.held().wait_for(Option::is_some).await.map(|held| held.clone())
            else {
                return;
            };
            let Some(held) = held else { continue };
            tokio::select! {
                () = Leader::new(self, term, &held).run() => tracing::info!(term = term.0, "another replica orders certificates now"),
                () = over(&mut terms, term) => {}
            }
            over(&mut self.store.term(), term).await;
        }
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("store", &self.store).finish_non_exhaustive()
    }
}

/// The certificates that the store holds: those that there should be, and those that were left
/// behind.
pub(super) fn expected(held: &Held) -> (Vec<Certificate>, Vec<Certificate>) {
    // What cannot be read leaves all as it is.
    let state = held.state.as_ref().and_then(|state| State::read(state).ok());
    let is_left =
        |name: &String| state.as_ref().is_some_and(|state| !state.certificates.contains_key(name));
    let (left, expected): (Vec<_>, Vec<_>) =
        held.certificates.iter().partition(|(name, _)| is_left(name));
    let of = |kept: Vec<(&String, &Kept)>| {
        kept.into_iter().map(|(_, kept)| kept.certificate.clone()).collect()
    };
    (of(expected), of(left))
}

/// Waits until a term is over.
async fn over(
    terms: &mut watch::Receiver<Option<portcullis_config::store::Term>>,
    term: portcullis_config::store::Term,
) {
    // A store that is gone ends every term.
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
