//! A gateway as a whole: what is started, in which order, and how it stops.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use portcullis_config::bearer_review::BearerReview;
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::store::session;
use portcullis_config::store::{Held, Store};
use portcullis_config::unix_time::seconds;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::portal::{Portal, Reception};
use portcullis_identity::session::{Outbox, Sessions, rotation};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::access::assertion::Assertions;
use crate::access::identity_headers::Introductions;
use crate::admin::Admin;
use crate::certificates::acme::Acme;
use crate::certificates::{Certificates, PlaceholderError};
use crate::listen::admission::Admission;
use crate::listen::bind::{self, Addresses, BindError, Bound};
use crate::listen::tickets::Tickets;
use crate::listen::tls;
use crate::telemetry::{CertificateStatus, ServedCertificate, Telemetry, TelemetryError};
use crate::upstream::Authorities;
use crate::worker::{self, Phase, Shared};

/// A gateway that serves.
pub struct Gateway {
    settings: Arc<Settings>,
    addresses: Addresses,
    admin: Arc<Admin>,
    phase: watch::Sender<Phase>,
    /// Closed when the last worker has ended.
    alive: mpsc::Receiver<()>,
    control: JoinSet<()>,
    telemetry: Arc<Telemetry>,
}

/// What outlives the process, and is shared by all replicas.
#[derive(Debug, Default)]
pub struct Stores {
    /// Of certificates that are ordered; without it, none is.
    pub certificates: Option<Arc<dyn Store>>,
    /// Of session keys and ended sessions; without it, each replica has its own.
    pub sessions: Option<Arc<dyn session::Store>>,
    /// Who decides which bearers may read telemetry; without it nobody may, where the settings want
    /// such a decision.
    pub reviewer: Option<Arc<dyn BearerReview>>,
}

/// Why a gateway did not start. Nothing of it runs then.
#[derive(Debug)]
pub enum StartError {
    /// Addresses that could not be bound: all of them.
    Bind(Vec<BindError>),
    /// The certificate for names without one could not be made.
    Placeholder(PlaceholderError),
    /// TLS could not be set up.
    Tls(rustls::Error),
    /// A root file of an authority for certificates cannot be used.
    Acme(String),
    /// The authorities for pods' certificates cannot be used.
    Authorities(String),
    /// The access log cannot be opened, or metrics not be registered.
    Telemetry(TelemetryError),
    /// Nobody could log in.
    Login(String),
    /// The system gave no thread, or nothing to wait for events with.
    Thread(io::Error),
}

// === impl Gateway ===

impl Gateway {
    /// Binds all addresses, and starts the workers, each on a thread of its own; the listeners
    /// that are not for clients and what follows certificates run as tasks of the runtime that this is called in, which
    /// must not be a worker's.
    ///
    /// It serves what `live` holds; keeping that up to date is the caller's business.
    ///
    /// # Errors
    /// All addresses that cannot be bound, or what else is missing.
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
        certificates.update(&live, &Held::default(), std::time::SystemTime::now());
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
        let outbox = login.zip(stores.sessions.clone()).map(|(login, store)| {
            let (outbox, courier) = Outbox::new(
                store,
                Arc::clone(&live),
                login.absolute,
                Arc::clone(telemetry.revocations()),
            );
            control.spawn(courier.run());
            outbox
        });
        let sessions = login
            .map(|login| Sessions::new(login, outbox))
            .transpose()
            .map_err(StartError::login)?
            .map(Arc::new);
        let authenticator = Authenticator::new(&settings.access, sessions.clone());
        let authenticator = Arc::new(
            authenticator.map_err(|_| StartError::Tls(rustls::Error::FailedToGetRandomBytes))?,
        );
        authenticator.learn(&live.snapshot.load().credentials);
        authenticator.queues().for_each(|queue| telemetry.show_queue(queue));
        let reception = match (&settings.access.login, sessions) {
            (Some(login), Some(sessions)) => {
                let portal = Portal::new(
                    &settings,
                    login,
                    &authenticator,
                    Arc::clone(&sessions),
                    Arc::clone(&live),
                )
                .map_err(StartError::login)?;
                let reception = Reception::new(&portal);
                telemetry.show_queue(reception.counts());
                let serving = reception.clone();
                control.spawn(async move { serving.serve(Arc::new(portal)).await });
                let followed = Arc::clone(&live);
                control.spawn(async move { sessions.follow(&followed).await });
                Some(reception)
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
            control.spawn(async move { assertions.follow(&followed).await });
        }
        let shared = Shared {
            introductions: Arc::new(Introductions::new(assertions)),
            authenticator: Arc::clone(&authenticator),
            reception,
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
            challenges: Arc::clone(certificates.challenges()),
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
        telemetry.show_listeners(admin.listener_counts()).map_err(StartError::Telemetry)?;
        let followed = Arc::clone(&live);
        control.spawn(async move { tickets.follow(&followed).await });
        let followed = Arc::clone(&live);
        control.spawn(async move { authenticator.follow(&followed).await });
        let ordered =
            acme.as_ref().map_or_else(|| watch::channel(None).1, |acme| acme.store().held());
        control.spawn(async move { certificates.follow(&live, ordered).await });
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

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Waits until it is ready, as `/readyz` says.
    pub async fn ready(&self) {
        self.admin.ready().await;
    }

    /// Waits until all workers have ended, which before [`drain`](Self::drain) none does unless
    /// something is broken.
    pub async fn ended(&mut self) {
        // Nothing is ever sent.
        while self.alive.recv().await.is_some() {}
    }

    /// Stops: `/readyz` says no at once, and HTTP/1.1 clients are told to close; connections are
    /// accepted for `drain.delay` more; then those that are open get `drain.deadline` to end,
    /// and what is left is cut. Returns when the last worker has ended.
    pub async fn drain(mut self) {
        let times = self.settings.drain.clone();
        self.admin.set_draining();
        self.phase.send_replace(Phase::Leaving);
        tracing::info!(delay = ?times.delay, deadline = ?times.deadline, "draining");
        tokio::time::sleep(times.delay).await;
        self.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(times.deadline, self.ended()).await.is_err() {
            self.phase.send_replace(Phase::Over);
            self.ended().await;
        }
        self.control.shutdown().await;
        self.telemetry.close();
        tracing::info!("drained");
    }
}

/// What metrics say of certificates: those that are served, and what is wrong with any.
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
                let told: Vec<String> =
                    errors.iter().map(|error| format!("{error}; {}", error.help())).collect();
                f.write_str(&told.join("\n"))
            }
            Self::Placeholder(error) => error.fmt(f),
            Self::Tls(error) => write!(f, "TLS cannot be set up: {error}"),
            Self::Acme(error) => write!(f, "acme.authorities: rootFile {error}"),
            Self::Authorities(error) => write!(f, "upstreams.certificateAuthorities {error}"),
            Self::Login(error) => write!(f, "access.login cannot be used: {error}"),
            Self::Telemetry(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "a worker cannot be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
