//! Writes the Secrets of sessions, in a cluster or in a folder of manifests. They are read through
//! the source of resources.

mod cluster;
mod folder;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::timeout;

use self::cluster::Cluster;
use self::folder::Folder;
use crate::session::Change;
use crate::settings::{Settings, SourceSettings};
use crate::source::SourceError;

/// The timeout of a change.
pub const REQUEST: Duration = Duration::from_secs(5);

/// The store for the Secrets of sessions, which all replicas share. Call [`change`] for a change
/// with a timeout.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Adds entries to a Secret and removes others, atomically. Concurrent changes of other entries
    /// are kept.
    ///
    /// # Errors
    /// The change was not applied, as far as is known.
    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Why a change failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There was a concurrent change.
    #[error("the Secret was changed concurrently")]
    Superseded,
    /// The Secret does not exist, and the gateway may not create it.
    #[error("there is no Secret `{0}`: apply it from the gateway's manifests (sessions.yaml)")]
    Missing(&'static str),
    /// The API server returned an error or did not respond.
    #[error("the API server: {0}")]
    Cluster(#[source] Box<kube::Error>),
    /// It took longer than [`REQUEST`].
    #[error("no response in time")]
    Timeout,
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// A file is not as the gateway wrote it.
    #[error("{0} is not as the gateway wrote it")]
    Changed(PathBuf),
}

/// Applies a change within [`REQUEST`].
///
/// # Errors
/// The change was not applied, as far as is known.
pub async fn change(store: &dyn Store, change: Change) -> Result<(), StoreError> {
    timeout(REQUEST, store.change(change)).await.unwrap_or(Err(StoreError::Timeout))
}

/// Opens the store of the gateway with these `settings`; returns `None` if no Namespace is
/// configured for credentials. A folder of manifests is written only if login is configured: a
/// single gateway needs it for nothing else.
///
/// # Errors
/// There is no usable configuration for the API server.
pub async fn open(settings: &Settings) -> Result<Option<Arc<dyn Store>>, SourceError> {
    let Some(namespace) = &settings.access.credentials_namespace else { return Ok(None) };
    Ok(match &settings.source {
        SourceSettings::Kubernetes(kubernetes) => {
            Some(Arc::new(Cluster::new(kubernetes, namespace).await?))
        }
        SourceSettings::Directory(path) => settings
            .access
            .login
            .as_ref()
            .map(|_| -> Arc<dyn Store> { Arc::new(Folder::new(path.clone(), namespace)) }),
    })
}
