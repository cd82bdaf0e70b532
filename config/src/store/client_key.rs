//! Where the Secrets of client keys are: in a cluster, or in a folder of manifests. What
//! `portcullis key` works on.

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

/// How long an API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the Secrets of client keys are.
pub struct Store(Kind);

enum Kind {
    Cluster(Cluster),
    Folder(Folder),
}

/// The client keys of a store.
#[derive(Debug, Default)]
pub struct ClientKeys {
    /// Those that can be understood, by name, with the time at which their Secrets were made,
    /// where that is known.
    pub keys: Vec<(ClientKey, Option<SystemTime>)>,
    /// What is wrong with others.
    pub problems: Vec<Problem>,
}

/// Why a store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no way to the API server.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The API server refuses, or cannot be reached.
    #[error("the API server did not {0}: {reason}", reason = reason(.1))]
    Cluster(&'static str, #[source] Box<kube::Error>),
    /// The API server does not answer.
    #[error("the API server did not {0} in {seconds} s", seconds = PATIENCE.as_secs())]
    Late(&'static str),
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// A file is not as it was written here, and may hold more than the key.
    #[error("{0} was changed by hand, or holds more than this key")]
    Changed(PathBuf),
}

/// What the API server says, where it says anything.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

// === impl Store ===

impl Store {
    /// A Namespace of the cluster that `settings` lead to.
    ///
    /// # Errors
    /// There is no kubeconfig, or nothing that can be used in it.
    pub async fn cluster(
        settings: &KubernetesSettings,
        namespace: &str,
    ) -> Result<Self, StoreError> {
        Ok(Self(Kind::Cluster(Cluster::new(settings, namespace).await?)))
    }

    /// What a folder of manifests has of a Namespace.
    #[must_use]
    pub fn folder(path: PathBuf, namespace: &str) -> Self {
        Self(Kind::Folder(Folder::new(path, namespace)))
    }

    /// All client keys.
    ///
    /// # Errors
    /// The API server does not tell them, or the folder cannot be read.
    pub async fn list(&self) -> Result<ClientKeys, StoreError> {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.list().await,
            Kind::Folder(folder) => folder.list(),
        }
    }

    /// Keeps a new key; one of the same name must not be there.
    ///
    /// # Errors
    /// It is there, or cannot be written: then nothing has changed.
    pub async fn create(&self, key: &ClientKey) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.create(key).await,
            Kind::Folder(folder) => folder.create(key),
        }
    }

    /// Gives a key, as it was listed, another end.
    ///
    /// # Errors
    /// It is gone, or cannot be written.
    pub async fn end(&self, key: &ClientKey, expires: SystemTime) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.end(key, expires).await,
            Kind::Folder(folder) => folder.end(key, expires),
        }
    }

    /// Takes away a key, as it was listed.
    ///
    /// # Errors
    /// It is gone, or cannot be taken away.
    pub async fn revoke(&self, key: &ClientKey) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Cluster(cluster) => cluster.revoke(key).await,
            Kind::Folder(folder) => folder.revoke(key),
        }
    }
}

#[cfg(test)]
mod tests;
