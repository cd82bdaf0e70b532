//! A whole gateway: what it starts, in which order, and how it stops.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use portcullis_config::bearer_review::BearerReview;
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::store::session;
use portcullis_config::store::{Store, StoreState};
use portcullis_config::unix_time::seconds;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::portal::{Portal, PortalClient};
use portcullis_identity::session::{RevocationQueue, Sessions, rotation};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::access::assertion::Assertions;
use crate::access::identity_headers::IdentityHeadersCache;
use crate::admin::Admin;
use crate::certificates::acme::Acme;
use crate::certificates::{Certificates, PlaceholderError};
use crate::decision::LocalPaths;
use crate::listen::admission::Admission;
use crate::listen::bind::{self, Addresses, BindError, Bound};
use crate::listen::tickets::Tickets;
use crate::listen::tls;
use crate::telemetry::{CertificateStatus, ServedCertificate, Telemetry, TelemetryError};
use crate::upstream::Authorities;
use crate::worker::{self, Phase, Shared};

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
    pub sessions: Option<Arc<dyn session::Store>>,
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
        let workers = settings
            .workers
            .map_or_else(|| thread::available_parallelism().map_or(1, Into::into), Into::into);
        let Bound { addresses, workers: sockets, admin: admin_sockets } =
            bind::bind(&settings, workers).map_err(StartError::Bind)?;
        let certificates = Certificates::new().map_err(StartError::Placeholder)?;
        certificates.update(&live, &StoreState::default(), std::time::SystemTime::now());
        let acme = stores
            .certificates
            .and_then(|store| Acme::new(&settings, &live, store, &certificates).transpose())
            .transpose();
        let acme = acme.map_err(|error| StartError::Acme(error.to_string()))?;
        let (phase, phases) = watch::channel(Phase::Serving);
        let authorities = settings
            .upstreams
            .certificate_authorities
            .as_deref()
            .map(Authorities::read)
            .transpose();
        let telemetry = Telemetry::new(
            &settings,
            Arc::clone(&live),
            certificate_status(Arc::clone(&certificates), acme.clone()),
            std::time::SystemTime::now(),
        )
        .map_err(StartError::Telemetry)?;
        let mut control = JoinSet::new();
        let login = settings.access.login.as_ref();
        if let Some(store) = &stores.sessions {
            control.spawn(rotation::rotate(
                Arc::clone(store),
                Arc::clone(&live),
                Arc::clone(&settings),
            ));
        }
        let revocation_queue = login.zip(stores.sessions.clone()).map(|(login, store)| {
            let (queue, publisher) = RevocationQueue::new(
                store,
                Arc::clone(&live),
                login.absolute,
                Arc::clone(telemetry.revocations()),
            );
            control.spawn(publisher.run());
            queue
        });
        let sessions = login
            .map(|login| Sessions::new(login, revocation_queue))
            .transpose()
            .map_err(StartError::login)?
            .map(Arc::new);
        let authenticator = Authenticator::new(&settings.access, sessions.clone());
        let authenticator = Arc::new(
            authenticator.map_err(|_| StartError::Tls(rustls::Error::FailedToGetRandomBytes))?,
        );
        authenticator.load(&live.snapshot.load().credentials);
        authenticator.queues().for_each(|queue| telemetry.expose_queue(queue));
        let portal_client = match (&settings.access.login, sessions) {
            (Some(login), Some(sessions)) => {
                let portal = Portal::new(
                    &settings,
                    login,
                    &authenticator,
                    Arc::clone(&sessions),
                    Arc::clone(&live),
                )
                .map_err(StartError::login)?;
                let portal_client = PortalClient::new();
                telemetry.expose_queue(portal_client.counts());
                let serving = portal_client.clone();
                control.spawn(async move { serving.serve(Arc::new(portal)).await });
                let followed = Arc::clone(&live);
                control.spawn(async move { sessions.watch(&followed).await });
                Some(portal_client)
            }
            _ => None,
        };
        let tickets = Tickets::new(std::time::SystemTime::now())
            .map_err(|_| StartError::Tls(rustls::Error::FailedToGetRandomBytes))?;
        let tickets = Arc::new(tickets);
        let assertions = match settings.access.assertion.enabled {
            true => Some(Arc::new(Assertions::new(&settings.zone).map_err(StartError::login)?)),
            false => None,
        };
        if let Some(assertions) = assertions.clone() {
            let followed = Arc::clone(&live);
            control.spawn(async move { assertions.watch(&followed).await });
        }
        let shared = Shared {
            identity_headers: Arc::new(IdentityHeadersCache::new(assertions)),
            authenticator: Arc::clone(&authenticator),
            portal: portal_client,
            authorities: authorities.map_err(|error| StartError::Authorities(error.to_string()))?,
            telemetry: Arc::clone(&telemetry),
            tls: tls::acceptor(
                &settings,
                Arc::clone(&certificates),
                authenticator.client_verifier(),
                Arc::clone(&tickets),
            )
            .map_err(StartError::Tls)?,
            admission: Admission::new(&settings.limits),
            settings: Arc::clone(&settings),
            live: Arc::clone(&live),
            local_paths: Arc::new(LocalPaths::new(
                &settings,
                Arc::clone(certificates.challenges()),
            )),
            phase: phases,
        };
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
        let followed = Arc::clone(&live);
        control.spawn(async move { tickets.watch(&followed).await });
        let followed = Arc::clone(&live);
        control.spawn(async move { authenticator.watch(&followed).await });
        let ordered =
            acme.as_ref().map_or_else(|| watch::channel(None).1, |acme| acme.store().contents());
        control.spawn(async move { certificates.watch(&live, ordered).await });
        if let Some(acme) = acme {
            control.spawn(acme.run());
        }
        admin.serve(admin_sockets, &mut control).map_err(StartError::Thread)?;
        let (sender, alive) = mpsc::channel(1);
        for (index, sockets) in sockets.into_iter().enumerate() {
            worker::start(index, shared.clone(), sockets, sender.clone())
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
        tracing::info!("drained");
    }
}

/// Returns the certificates and the number of problems to expose as metrics.
fn certificate_status(
    certificates: Arc<Certificates>,
    acme: Option<Arc<Acme>>,
) -> impl Fn() -> CertificateStatus {
    move || CertificateStatus {
        served: certificates
            .in_use()
            .iter()
            .map(|certificate| ServedCertificate {
                origin: certificate.origin.to_string(),
                not_after: seconds(certificate.not_after),
            })
            .collect(),
        problems: certificates.problems().len()
            + acme.iter().map(|acme| acme.problems().len()).sum::<usize>(),
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
