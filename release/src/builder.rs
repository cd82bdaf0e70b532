//! Everything combined: store, cluster, registries, runner and API.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_config::source::kubernetes::Kubernetes as Source;
use portcullis_config::source::{Secrets, SourceError};

use crate::access::Callers;
use crate::api::{self, App, Listener, ServeError, Slots};
use crate::cluster::Kubernetes;
use crate::registry::{Registries, RegistryError};
use crate::runner::Runner;
use crate::settings::Settings;
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};

/// A builder that is ready to run.
pub struct Builder {
    listener: Listener,
    app: Arc<App>,
}

/// Why a builder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The API server cannot be found.
    #[error(transparent)]
    Cluster(#[from] SourceError),
    /// A registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The API cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

// === impl Builder ===

impl Builder {
    /// Opens the store and the listener. Sends no request to the cluster or to a registry.
    ///
    /// # Errors
    /// A part cannot be set up.
    pub async fn start(settings: &Settings) -> Result<Self, StartError> {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&settings.store).await?);
        let source = Source::new(&settings.kubernetes, Secrets::default(), false).await?;
        let cluster = Arc::new(Kubernetes::new(source.client().clone()));
        let runner = Runner::new(Arc::clone(&store), cluster);
        let registries = Registries::new(&settings.registries)?;
        let callers = Callers::new(&settings.callers);
        let listener = Listener::bind(settings.address, settings.tls.as_ref()).await?;
        let app = App { store, registries, callers, runner, slots: Slots::default() };
        Ok(Self { listener, app: Arc::new(app) })
    }

    /// The address of the API.
    ///
    /// # Errors
    /// The system does not report it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.address()
    }

    /// Serves the API and works on deployments until it is dropped. What is open then is resumed by
    /// the next builder.
    pub async fn run(self) {
        let runner = Arc::clone(&self.app.runner).run();
        tokio::join!(runner, self.listener.serve(api::router(self.app)));
    }
}
