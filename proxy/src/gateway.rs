//! A whole gateway: what it starts, in which order, and how it stops.

#[cfg(any(test, feature = "counted"))]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a request that is counted and fails stops the bench by a panic"
)]
pub mod counted;
mod startup;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use portcullis_config::bearer_review::BearerReview;
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::store::Store;
use portcullis_config::store::credentials;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::startup::Startup;
use crate::admin::Admin;
use crate::certificates::PlaceholderError;
use crate::listen::bind::{self, Addresses, BindError, Bound};
use crate::listen::placement::Placement;
use crate::telemetry::{Telemetry, TelemetryError};
use crate::worker::{self, Phase};

/// A running gateway.
pub struct Gateway {
    settings: Arc<Settings>,
    addresses: Addresses,
    admin: Arc<Admin>,
    phase: watch::Sender<Phase>,
    /// Closed when the last worker has stopped.
    alive: mpsc::Receiver<()>,
    control: JoinSet<()>,
    telemetry: Arc<Telemetry>,
}

/// Storage that outlives the process and is shared by all replicas.
#[derive(Debug, Default)]
pub struct Stores {
    /// For issued certificates. Without it, none are ordered.
    pub certificates: Option<Arc<dyn Store>>,
    /// For session keys and revoked sessions. Without it, each replica has its own.
    pub sessions: Option<Arc<dyn credentials::Store>>,
    /// Authorizes bearers to read telemetry. Without it, none may if the settings require
    /// authorization.
    pub reviewer: Option<Arc<dyn BearerReview>>,
}

/// Why a gateway failed to start. No part of it is left running.
#[derive(Debug)]
pub enum StartError {
    /// All addresses that failed to bind.
    Bind(Vec<BindError>),
    /// The placeholder certificate could not be created.
    Placeholder(PlaceholderError),
    /// TLS could not be configured.
    Tls(rustls::Error),
    /// The root file of an ACME authority is unusable.
    Acme(String),
    /// The authorities for upstream certificates are unusable.
    Authorities(String),
    /// The access log could not be opened, or metrics could not be registered.
    Telemetry(TelemetryError),
    /// Login could not be configured.
    Login(String),
    /// A thread or its event queue could not be created.
    Thread(io::Error),
}

// === impl Gateway ===

impl Gateway {
    /// Binds all addresses and starts the workers, each on its own thread. Control tasks, such as
    /// the admin listeners, run on the caller's runtime, which must not be a worker's.
    ///
    /// It serves the snapshot in `live`, which the caller keeps up to date.
    ///
    /// # Errors
    /// Returns all addresses that failed to bind, or the first other failure.
    pub async fn start(
        settings: Arc<Settings>,
        live: Arc<Live>,
        stores: Stores,
    ) -> Result<Self, StartError> {
        let count = settings
            .workers
            .map_or_else(|| thread::available_parallelism().map_or(1, Into::into), Into::into);
        let Bound { addresses, workers: sockets, admin: admin_sockets } =
            bind::bind(&settings, count).map_err(StartError::Bind)?;
        let mut startup = Startup::new(settings, live)?;
        let acme = startup.acme(stores.certificates)?;
        let telemetry = startup.telemetry(acme.clone())?;
        let (authenticator, portal) = startup.access(stores.sessions.as_ref(), &telemetry)?;
        let (phase, phases) = watch::channel(Phase::Serving);
        let shared = startup.shared(phases, authenticator, portal, Arc::clone(&telemetry))?;
        let Startup { settings, live, certificates, mut control } = startup;
        let admin = Admin::new(
            &shared,
            Arc::clone(&certificates),
            acme.clone(),
            stores.sessions,
            stores.reviewer,
        );
        let admin =
            Arc::new(admin.map_err(|_| StartError::Tls(rustls::Error::FailedToGetRandomBytes))?);
        telemetry.expose_listeners(admin.listener_counts()).map_err(StartError::Telemetry)?;
        let ordered =
            acme.as_ref().map_or_else(|| watch::channel(None).1, |acme| acme.store().contents());
        control.spawn(async move { certificates.watch(&live, ordered).await });
        if let Some(acme) = acme {
            control.spawn(acme.run());
        }
        admin.serve(admin_sockets, &mut control).map_err(StartError::Thread)?;
        let (sender, alive) = mpsc::channel(1);
        let workers = sockets.into_iter().zip(Placement::of_workers(count));
        for (index, (sockets, placement)) in workers.enumerate() {
            worker::start(index, shared.clone(), sockets, placement, sender.clone())
                .map_err(StartError::Thread)?;
        }
        Ok(Self { settings, addresses, admin, phase, alive, control, telemetry })
    }

    /// The addresses that it listens on.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Waits until `/readyz` reports ready.
    pub async fn ready(&self) {
        self.admin.ready().await;
    }

    /// Waits until all workers have stopped. Before [`drain`](Self::drain), that happens only on
    /// failures.
    pub async fn stopped(&mut self) {
        // Nothing is ever sent.
        while self.alive.recv().await.is_some() {}
    }

    /// Stops gracefully, and returns when the last worker has stopped.
    ///
    /// `/readyz` fails at once, and HTTP/1.1 responses close their connections. New connections are
    /// accepted for `drain.delay`; then open ones have `drain.deadline` to complete before they are
    /// closed.
    pub async fn drain(mut self) {
        let times = self.settings.drain.clone();
        self.admin.set_draining();
        self.phase.send_replace(Phase::Announcing);
        tracing::info!(delay = ?times.delay, deadline = ?times.deadline, "draining");
        tokio::time::sleep(times.delay).await;
        self.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(times.deadline, self.stopped()).await.is_err() {
            self.phase.send_replace(Phase::Terminating);
            self.stopped().await;
        }
        self.control.shutdown().await;
        self.telemetry.close();
    }
}

// === impl StartError ===

impl StartError {
    fn login(error: impl fmt::Display) -> Self {
        Self::Login(error.to_string())
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(errors) => {
                let messages: Vec<String> =
                    errors.iter().map(|error| format!("{error}; {}", error.help())).collect();
                f.write_str(&messages.join("\n"))
            }
            Self::Placeholder(error) => error.fmt(f),
            Self::Tls(error) => write!(f, "failed to configure TLS: {error}"),
            Self::Acme(error) => write!(f, "acme.authorities: rootFile {error}"),
            Self::Authorities(error) => write!(f, "upstreams.certificateAuthorities {error}"),
            Self::Login(error) => write!(f, "failed to configure access.login: {error}"),
            Self::Telemetry(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "failed to start a worker: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
