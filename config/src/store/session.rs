//! How Secrets of sessions are changed, in a cluster or in a folder of manifests. What they hold
//! comes by the source of resources.

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

/// How long a change may take.
pub const REQUEST: Duration = Duration::from_secs(5);

/// A place for the Secrets of sessions, which all replicas share. Changes are awaited by
/// [`change`].
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Adds entries to a Secret, and takes others away, both or nothing. What others change at the
    /// same time stays.
    ///
    /// # Errors
    /// Nothing has changed, as far as is known.
    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else was faster.
    #[error("the Secret was changed in the meantime")]
    Superseded,
    /// It is not there, and the gateway may make none.
    #[error("there is no Secret `{0}`: apply it from the gateway's manifests (sessions.yaml)")]
    Missing(&'static str),
    /// The API server said no, or nothing.
    #[error("the API server: {0}")]
    Cluster(#[source] Box<kube::Error>),
    /// It took longer than [`REQUEST`].
    #[error("no answer in time")]
    Late,
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// A file is not as it was written here.
    #[error("{0} is not as the gateway wrote it")]
    Changed(PathBuf),
}

/// Makes a change, within [`REQUEST`].
///
/// # Errors
/// Nothing has changed, as far as is known.
pub async fn change(store: &dyn Store, change: Change) -> Result<(), StoreError> {
    timeout(REQUEST, store.change(change)).await.unwrap_or(Err(StoreError::Late))
}

/// The store of the gateway that `settings` describe, beside its resources; `None` where no
/// Namespace is named for credentials. In a folder of manifests nothing is written unless people
/// log in: only then is it of use to a gateway that is alone.
///
/// # Errors
/// The way to the API server is not known.
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
