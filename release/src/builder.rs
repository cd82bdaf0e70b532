//! Everything combined: store, cluster, registries, runner, repositories and API.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_config::source::kubernetes::Kubernetes as Source;
use portcullis_config::source::{Secrets, SourceError};
use portcullis_identity::session::NoRandomness;
use portcullis_identity::tls_roots::AuthoritiesError;

use crate::access::{Callers, KeyUses};
use crate::api::{self, App, Listener, ServeError, Slots};
use crate::builds::followers::Followers;
use crate::builds::jobs::Jobs;
use crate::builds::queue::{Queue, SetupError};
use crate::cluster::Kubernetes;
use crate::gateway::{Gateway, GatewayError, Replicas};
use crate::query::{Prometheus, Queries};
use crate::registry::{Registries, RegistryError};
use crate::runner::{Runner, Sensors};
use crate::sealing::{InvalidKey, SealingKeys};
use crate::settings::Settings;
use crate::store::sql::SqlStore;
use crate::store::{BuildStore, Store, StoreError};
use crate::tags::Tags;

/// A builder that is ready to run.
pub struct Builder {
    listener: Listener,
    app: Arc<App>,
    tags: Tags,
}

/// Why a builder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key that seals Secrets cannot be used.
    #[error(transparent)]
    Sealing(#[from] InvalidKey),
    /// The API server cannot be found.
    #[error(transparent)]
    Cluster(#[from] SourceError),
    /// The system returned no random numbers.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The gateway cannot be used.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The authorities of Prometheus cannot be used.
    #[error("prometheus: {0}")]
    Prometheus(#[from] AuthoritiesError),
    /// A registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Nothing can be built.
    #[error(transparent)]
    Builds(#[from] SetupError),
    /// The API cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

// === impl Builder ===

impl Builder {
    /// Opens the store, once no other builder uses it, and the listener. Sends no request to the
    /// cluster or to a registry.
    ///
    /// # Errors
    /// A part cannot be set up.
    pub async fn start(settings: &Settings) -> Result<Self, StartError> {
        let builds: Arc<dyn BuildStore> = Arc::new(SqlStore::open(&settings.store).await?);
        let store: Arc<dyn Store> = Arc::<dyn BuildStore>::clone(&builds);
        let source = Source::new(&settings.kubernetes, Secrets::default(), false).await?;
        let cluster = Arc::new(Kubernetes::new(source.client().clone()));
        let keys = Arc::new(SealingKeys::read(&settings.sealing_keys)?);
        let gateway: Option<Arc<dyn Gateway>> = match settings.gateway.clone() {
            Some(gateway) => {
                let client = source.client().clone();
                Some(Arc::new(Replicas::new(client, &settings.kubernetes, gateway).await?))
            }
            None => None,
        };
        let queries: Option<Arc<dyn Queries>> = match settings.prometheus.clone() {
            Some(prometheus) => Some(Arc::new(Prometheus::new(prometheus)?)),
            None => None,
        };
        let sensors = Sensors { gateway, queries };
        let runner = Runner::new(Arc::clone(&store), cluster, sensors, Arc::clone(&keys));
        let registries = Arc::new(Registries::new(&settings.registries)?);
        let tags = Tags::new(Arc::clone(&store), Arc::clone(&registries), &settings.tags);
        let callers = Callers::new(&settings.callers, &settings.access(), &settings.users)?;
        let followers = Arc::new(Followers::new(settings.builds.as_ref()));
        let jobs = settings.builds.as_ref().and_then(|builds| builds.jobs.clone());
        let jobs = jobs.map(|jobs| Jobs::new(source.client().clone(), jobs));
        let queue = Queue::new(
            Arc::clone(&builds),
            Arc::clone(&registries),
            Arc::clone(&followers),
            settings.builds.as_ref(),
            jobs,
        )
        .await?;
        let listener = Listener::bind(settings.address, settings.tls.as_ref()).await?;
        let app = App {
            store,
            registries,
            callers,
            settings: settings.callers.clone(),
            uses: KeyUses::default(),
            keys,
            runner,
            followers,
            builds,
            queue,
            slots: Slots::default(),
        };
        Ok(Self { listener, app: Arc::new(app), tags })
    }

    /// The address of the API.
    ///
    /// # Errors
    /// The system does not report it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.address()
    }

    /// Serves the API, works on deployments, follows repositories and builds them until it is
    /// dropped. What is open then is resumed by the next builder.
    ///
    /// # Errors
    /// Another builder uses the store.
    pub async fn run(self) -> Result<(), StoreError> {
        let store = Arc::clone(&self.app.store);
        let runner = Arc::clone(&self.app.runner).run();
        let app = Arc::clone(&self.app);
        let work = async {
            tokio::join!(
                runner,
                self.tags.run(),
                app.followers.run(),
                Arc::clone(&app.queue).run(),
                app.callers.watch(),
                self.listener.serve(api::router(self.app))
            )
        };
        tokio::select! {
            _ = work => Ok(()),
            () = store.superseded() => Err(StoreError::Superseded),
        }
    }
}
