//! The store for the Secrets of client keys, in a cluster or in a folder of manifests, as used by
//! `portcullis key`.

mod cluster;
mod folder;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use self::cluster::Cluster;
use self::folder::Folder;
use crate::problem::Problem;
use crate::settings::KubernetesSettings;
use crate::snapshot::access::ClientKey;
use crate::source::SourceError;

/// The timeout of a request to the API server.
const REQUEST: Duration = Duration::from_secs(30);

/// A store of client keys.
pub struct Store(Kind);

enum Kind {
    Cluster(Cluster),
    Folder(Folder),
}

/// The client keys of a store.
#[derive(Debug, Default)]
pub struct ClientKeys {
    /// The valid keys, by name, with the creation time of their Secrets, if known.
    pub keys: Vec<(ClientKey, Option<SystemTime>)>,
    /// The problems of invalid keys.
    pub problems: Vec<Problem>,
}

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no usable configuration for the API server.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The API server returned an error, or cannot be reached.
    #[error("the API server failed to {0}: {reason}", reason = reason(.1))]
    Cluster(&'static str, #[source] Box<kube::Error>),
    /// The API server did not respond in time.
    #[error("the API server failed to {0} within {seconds} s", seconds = REQUEST.as_secs())]
    Timeout(&'static str),
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// A file is not as `portcullis key` wrote it, and may contain more than the key.
    #[error("{0} was edited, or contains more than this key")]
    Changed(PathBuf),
}

/// The message of the API server, else that of the client.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

// === impl Store ===

impl Store {
    /// The store in a Namespace of the cluster of `settings`.
    ///
    /// # Errors
    /// There is no kubeconfig, or it is not usable.
    pub async fn cluster(
        settings: &KubernetesSettings,
        namespace: &str,
    ) -> Result<Self, StoreError> {
        Ok(Self(Kind::Cluster(Cluster::new(settings, namespace).await?)))
    }

    /// The store in a folder of manifests, for a Namespace.
    #[must_use]
    pub fn folder(path: PathBuf, namespace: &str) -> Self {
        Self(Kind::Folder(Folder::new(path, namespace)))
    }

    /// Lists all client keys.
    ///
    /// # Errors
    /// The API server does not list them, or the folder cannot be read.
    pub async fn list(&self) -> Result<ClientKeys, StoreError> {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.list().await,
            Kind::Folder(folder) => folder.list(),
        }
    }

    /// Stores a new key; its name must not exist yet.
    ///
    /// # Errors
    /// The name exists, or the key cannot be written. Nothing has changed then.
    pub async fn create(&self, key: &ClientKey) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.create(key).await,
            Kind::Folder(folder) => folder.create(key),
        }
    }

    /// Sets the expiry of a listed key.
    ///
    /// # Errors
    /// The key no longer exists, or cannot be written.
    pub async fn expire(&self, key: &ClientKey, expires: SystemTime) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.expire(key, expires).await,
            Kind::Folder(folder) => folder.expire(key, expires),
        }
    }

    /// Deletes a listed key.
    ///
    /// # Errors
    /// The key no longer exists, or cannot be deleted.
    pub async fn revoke(&self, key: &ClientKey) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.revoke(key).await,
            Kind::Folder(folder) => folder.revoke(key),
        }
    }
}

#[cfg(test)]
mod tests;
