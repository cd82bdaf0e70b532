//! The parts of a gateway, created in the order in which they need each other.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::settings::access::LoginSettings;
use portcullis_config::store::{Store, StoreState, credentials};
use portcullis_config::unix_time::seconds;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::portal::{Portal, PortalClient};
use portcullis_identity::session::{RevocationQueue, Sessions, rotation};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::StartError;
use crate::access::assertion::Assertions;
use crate::access::identity_headers::IdentityHeadersCache;
use crate::certificates::Certificates;
use crate::certificates::acme::Acme;
use crate::decision::LocalPaths;
use crate::limit::RateLimits;
use crate::listen::admission::Admission;
use crate::listen::tickets::Tickets;
use crate::listen::tls;
use crate::telemetry::{CertificateStatus, ServedCertificate, Telemetry};
use crate::upstream::Authorities;
use crate::worker::{Phase, Shared};

/// A gateway that is being started, with its control tasks so far.
pub(super) struct Startup {
    pub(super) settings: Arc<Settings>,
    pub(super) live: Arc<Live>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) control: JoinSet<()>,
}

// === impl Startup ===

impl Startup {
    pub(super) fn new(settings: Arc<Settings>, live: Arc<Live>) -> Result<Self, StartError> {
        let certificates = Certificates::new().map_err(StartError::Placeholder)?;
        certificates.update(&live, &StoreState::default(), SystemTime::now());
        Ok(Self { settings, live, certificates, control: JoinSet::new() })
    }

    /// What orders certificates, if the settings ask for it and there is a store for them.
    pub(super) fn acme(
        &self,
        store: Option<Arc<dyn Store>>,
    ) -> Result<Option<Arc<Acme>>, StartError> {
        store
            .and_then(|store| {
                Acme::new(&self.settings, &self.live, store, &self.certificates).transpose()
            })
            .transpose()
            .map_err(|error| StartError::Acme(error.to_string()))
    }

    pub(super) fn telemetry(&self, acme: Option<Arc<Acme>>) -> Result<Arc<Telemetry>, StartError> {
        Telemetry::new(
            &self.settings,
            Arc::clone(&self.live),
            certificate_status(Arc::clone(&self.certificates), acme),
            SystemTime::now(),
        )
        .map_err(StartError::Telemetry)
    }

    /// What authenticates callers, and the portal if login is configured.
    pub(super) fn access(
        &mut self,
        store: Option<&Arc<dyn credentials::Store>>,
        telemetry: &Telemetry,
    ) -> Result<(Arc<Authenticator>, Option<PortalClient>), StartError> {
        let settings = Arc::clone(&self.settings);
        let login = settings.access.login.as_ref();
        let sessions = self.sessions(login, store, telemetry)?;
        let authenticator = Authenticator::new(&settings.access, sessions.clone())
            .map_err(|_| StartError::Tls(rustls::Error::FailedToGetRandomBytes))?;
        let authenticator = Arc::new(authenticator);
        authenticator.load(&self.live.snapshot.load().credentials);
        authenticator.queues().for_each(|queue| telemetry.expose_queue(queue));
        let portal = match (login, sessions) {
            (Some(login), Some(sessions)) => {
                Some(self.portal(login, &authenticator, sessions, telemetry)?)
            }
            _ => None,
        };
        let (watching, live) = (Arc::clone(&authenticator), Arc::clone(&self.live));
        self.control.spawn(async move { watching.watch(&live).await });
        Ok((authenticator, portal))
    }

    /// The login sessions, and the tasks that rotate their keys and publish revocations.
    fn sessions(
        &mut self,
        login: Option<&LoginSettings>,
        store: Option<&Arc<dyn credentials::Store>>,
        telemetry: &Telemetry,
    ) -> Result<Option<Arc<Sessions>>, StartError> {
        if let Some(store) = store {
            self.control.spawn(rotation::rotate(
                Arc::clone(store),
                Arc::clone(&self.live),
                Arc::clone(&self.settings),
            ));
        }
        let Some(login) = login else { return Ok(None) };
        let queue = store.map(|store| {
            let (queue, publisher) = RevocationQueue::new(
                Arc::clone(store),
                Arc::clone(&self.live),
                login.absolute,
                Arc::clone(telemetry.revocations()),
            );
            self.control.spawn(publisher.run());
            queue
        });
        let sessions = Sessions::new(login, queue).map_err(StartError::login)?;
        Ok(Some(Arc::new(sessions)))
    }

    /// The portal, served on the control runtime, and its client for the workers.
    fn portal(
        &mut self,
        login: &LoginSettings,
        authenticator: &Arc<Authenticator>,
        sessions: Arc<Sessions>,
        telemetry: &Telemetry,
    ) -> Result<PortalClient, StartError> {
        let portal = Portal::new(
            &self.settings,
            login,
            authenticator,
            Arc::clone(&sessions),
            Arc::clone(&self.live),
        )
        .map_err(StartError::login)?;
        let client = PortalClient::new();
        client.queues(&portal).into_iter().for_each(|queue| telemetry.expose_queue(queue));
        let serving = client.clone();
        self.control.spawn(async move { serving.serve(Arc::new(portal)).await });
        let live = Arc::clone(&self.live);
        self.control.spawn(async move { sessions.watch(&live).await });
        Ok(client)
    }

    /// What all workers share.
    pub(super) fn shared(
        &mut self,
        phase: watch::Receiver<Phase>,
        authenticator: Arc<Authenticator>,
        portal: Option<PortalClient>,
        telemetry: Arc<Telemetry>,
    ) -> Result<Shared, StartError> {
        let settings = Arc::clone(&self.settings);
        let authorities = settings
            .upstreams
            .certificate_authorities
            .as_deref()
            .map(Authorities::read)
            .transpose()
            .map_err(|error| StartError::Authorities(error.to_string()))?;
        let tickets = Tickets::new(SystemTime::now())
            .map_err(|_| StartError::Tls(rustls::Error::FailedToGetRandomBytes))?;
        let tickets = Arc::new(tickets);
        let tls = tls::acceptor(
            &settings,
            Arc::clone(&self.certificates),
            authenticator.client_verifier(),
            Arc::clone(&tickets),
        )
        .map_err(StartError::Tls)?;
        let live = Arc::clone(&self.live);
        self.control.spawn(async move { tickets.watch(&live).await });
        let challenges = Arc::clone(self.certificates.challenges());
        let rate_limits = RateLimits::new(&settings.limits, telemetry.rate_limit_memory());
        Ok(Shared {
            identity_headers: Arc::new(IdentityHeadersCache::new(self.assertions()?)),
            authenticator,
            portal,
            authorities,
            telemetry,
            tls,
            admission: Admission::new(&settings.limits),
            rate_limits,
            failing: Arc::default(),
            local_paths: Arc::new(LocalPaths::new(&settings, challenges)),
            settings,
            live: Arc::clone(&self.live),
            phase,
        })
    }

    /// What signs identity assertions for backends, if the settings ask for it.
    fn assertions(&mut self) -> Result<Option<Arc<Assertions>>, StartError> {
        if !self.settings.access.assertion.enabled {
            return Ok(None);
        }
        let assertions = Assertions::new(&self.settings.zone).map_err(StartError::login)?;
        let assertions = Arc::new(assertions);
        let (watching, live) = (Arc::clone(&assertions), Arc::clone(&self.live));
        self.control.spawn(async move { watching.watch(&live).await });
        Ok(Some(assertions))
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
