//! The listeners for operators and the cluster. They run on the control plane's runtime, never on a
//! worker.
//!
//! | listener | serves | to |
//! | --- | --- | --- |
//! | [`probes`] | `/livez`, `/readyz` | everyone |
//! | telemetry ([`scrape`]) | `/metrics`, `/v1/traffic` | authorized [`bearers`] |
//! | admin ([`admin_api`]) | live table, explanations, the traffic feed, commands | this machine, but no web page |
//!
//! They share a [`server`]; no client can use up all of its
//! [`connections`](portcullis_identity::connections).

mod admin_api;
mod bearers;
mod browser;
pub mod certificates;
mod probes;
mod readiness;
mod reply;
mod scrape;
mod server;
pub mod sessions;
mod traffic;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use portcullis_config::bearer_review::BearerReview;
use portcullis_config::live::Live;
use portcullis_config::problem::Problem;
use portcullis_config::settings::Settings;
use portcullis_config::store::credentials;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::session::NoRandomness;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::admin_api::AdminApi;
use self::bearers::{Bearers, Denied};
use self::probes::Probes;
use self::scrape::Scrape;
use self::server::Listener;
use crate::certificates::Certificates;
use crate::certificates::acme::Acme;
use crate::decision::LocalPaths;
use crate::explain::{self, ExplainRequest, Explanation, InvalidExplainRequest};
use crate::listen::bind::ControlSockets;
use crate::live_table::{self, Table};
use crate::telemetry::{ListenerCounts, Telemetry};
use crate::worker::Shared;

/// How often [`Admin::ready`] checks readiness.
const POLL: Duration = Duration::from_millis(20);

/// The counters of the three listeners.
#[derive(Debug)]
struct Listeners {
    probes: Arc<Listener>,
    telemetry: Arc<Listener>,
    admin: Arc<Listener>,
    denied: DeniedCounts,
}

/// Requests for telemetry that were denied, by reason.
#[derive(Debug, Default)]
struct DeniedCounts([AtomicU64; 4]);

/// The state behind the three listeners.
pub(crate) struct Admin {
    settings: Arc<Settings>,
    live: Arc<Live>,
    certificates: Arc<Certificates>,
    telemetry: Arc<Telemetry>,
    authenticator: Arc<Authenticator>,
    local_paths: Arc<LocalPaths>,
    acme: Option<Arc<Acme>>,
    /// The store of session keys; `None` where the gateway issues none.
    sessions: Option<Arc<dyn credentials::Store>>,
    draining: AtomicBool,
    bearers: Bearers,
    listeners: Arc<Listeners>,
}

// === impl Listeners ===

impl Listeners {
    fn new() -> Self {
        Self {
            probes: Listener::new("probes", probes::CAPACITY, probes::LIFETIME),
            telemetry: Listener::new("telemetry", scrape::CAPACITY, scrape::LIFETIME),
            admin: Listener::new("admin", admin_api::CAPACITY, admin_api::LIFETIME),
            denied: DeniedCounts::default(),
        }
    }

    fn counts(&self) -> ListenerCounts {
        let evicted = [&self.probes, &self.telemetry, &self.admin];
        ListenerCounts {
            evicted: evicted
                .map(|listener| (listener.name, listener.evicted.load(Ordering::Relaxed))),
            denied: self.denied.all(),
        }
    }
}

// === impl DeniedCounts ===

impl DeniedCounts {
    const REASONS: [(Denied, &str); 4] = [
        (Denied::Unauthenticated, "unauthenticated"),
        (Denied::Forbidden, "forbidden"),
        (Denied::TooMany, "too_many"),
        (Denied::Unavailable, "unavailable"),
    ];

    fn count(&self, denied: Denied) {
        for ((reason, _), count) in Self::REASONS.iter().zip(&self.0) {
            count.fetch_add(u64::from(*reason == denied), Ordering::Relaxed);
        }
    }

    fn all(&self) -> [(&'static str, u64); 4] {
        let mut counts = Self::REASONS.map(|(_, reason)| (reason, 0));
        for ((_, sum), count) in counts.iter_mut().zip(&self.0) {
            *sum = count.load(Ordering::Relaxed);
        }
        counts
    }
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(
        shared: &Shared,
        certificates: Arc<Certificates>,
        acme: Option<Arc<Acme>>,
        sessions: Option<Arc<dyn credentials::Store>>,
        reviewer: Option<Arc<dyn BearerReview>>,
    ) -> Result<Self, NoRandomness> {
        Ok(Self {
            settings: Arc::clone(&shared.settings),
            live: Arc::clone(&shared.live),
            certificates,
            telemetry: Arc::clone(&shared.telemetry),
            authenticator: Arc::clone(&shared.authenticator),
            local_paths: Arc::clone(&shared.local_paths),
            acme,
            sessions,
            draining: AtomicBool::new(false),
            bearers: Bearers::new(&shared.settings, reviewer)?,
            listeners: Arc::new(Listeners::new()),
        })
    }

    /// Returns a function that reads the counters of the three listeners.
    pub(crate) fn listener_counts(&self) -> impl Fn() -> ListenerCounts + use<> {
        let listeners = Arc::clone(&self.listeners);
        move || listeners.counts()
    }

    /// Serves the configured listeners, as tasks of `tasks`.
    ///
    /// # Errors
    /// A socket cannot be registered with the runtime.
    pub(crate) fn serve(
        self: &Arc<Self>,
        sockets: ControlSockets,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<()> {
        let Listeners { probes, telemetry, admin, .. } = &*self.listeners;
        let this = || Arc::clone(self);
        if let Some(socket) = sockets.probes.map(TcpListener::from_std).transpose()? {
            tasks.spawn(server::serve(socket, Arc::clone(probes), Arc::new(Probes(this()))));
        }
        if let Some(socket) = sockets.telemetry.map(TcpListener::from_std).transpose()? {
            let pages = Arc::new(Scrape::new(this()));
            tasks.spawn(server::serve(socket, Arc::clone(telemetry), pages));
        }
        if let Some(socket) = sockets.admin.map(TcpListener::from_std).transpose()? {
            let pages = Arc::new(AdminApi::new(this()));
            tasks.spawn(server::serve(socket, Arc::clone(admin), pages));
        }
        Ok(())
    }

    /// Marks the gateway as draining: it is no longer ready, but still serves.
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Waits until the gateway is ready.
    pub(crate) async fn ready(&self) {
        while !self.not_ready().is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Why the gateway is not ready; empty where it is.
    fn not_ready(&self) -> Vec<&'static str> {
        let draining = self.draining.load(Ordering::Acquire);
        let certificate =
            !self.settings.listeners.https.address.is_some_and(|_| self.lacks_certificate());
        readiness::reasons(readiness::State {
            synced: self.live.is_synced(),
            draining,
            certificate,
        })
    }

    fn lacks_certificate(&self) -> bool {
        !self.settings.certificates.is_empty() && self.certificates.in_use().is_empty()
    }

    fn certificate_problems(&self) -> Vec<Problem> {
        let mut problems = self.certificates.problems();
        problems.extend(self.acme.iter().flat_map(|acme| acme.problems()));
        problems
    }

    /// Explains how a request would be routed by the current snapshot.
    fn explain(&self, request: &ExplainRequest) -> Result<Explanation, InvalidExplainRequest> {
        let gateway = explain::Gateway {
            settings: &self.settings,
            live: &self.live,
            authenticator: &self.authenticator,
            local_paths: &self.local_paths,
        };
        gateway.explain(request)
    }

    /// The live table as JSON has it.
    fn table(&self) -> Table {
        let mut problems = self.live.problems.load().to_vec();
        problems.extend(self.certificate_problems());
        let now = SystemTime::now();
        Table {
            ready: self.not_ready().is_empty(),
            age_seconds: self.live.age(now).map(|age| age.as_secs()),
            certificates: self
                .certificates
                .in_use()
                .iter()
                .map(|certificate| live_table::Certificate::new(certificate, now))
                .collect(),
            ..Table::new(&self.live.snapshot.load(), &problems)
        }
    }
}
