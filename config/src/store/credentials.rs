//! The store for Secrets with credentials: client keys, session keys, and revoked sessions. Other
//! parts read them through the source of resources.
//!
//! | backend | a Secret is |
//! | --- | --- |
//! | [`cluster`] | an object of the API server |
//! | [`folder`] | a manifest file, which contains nothing else |

mod cluster;
mod folder;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use tokio::time::timeout;

use self::cluster::Cluster;
use self::folder::Folder;
use crate::client_key::secret;
use crate::model::credential::{CLIENT_KEY, CREDENTIAL, EXPIRES};
use crate::model::vocabulary::PREFIX;
use crate::problem::Problem;
use crate::rbac;
use crate::session::Change;
use crate::settings::{KubernetesSettings, Settings, SourceSettings};
use crate::snapshot::access::ClientKey;
use crate::source::SourceError;

/// The timeout of a change.
pub const REQUEST: Duration = Duration::from_secs(5);
/// The timeout of an operation for a person, who can wait for a slow API server.
const COMMAND: Duration = Duration::from_secs(30);

/// Changes Secrets that all replicas share. Call [`change`] for a change with a timeout.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Adds entries to a Secret and removes others, atomically. Concurrent changes of other entries
    /// are kept.
    ///
    /// # Errors
    /// The change was not applied, as far as is known.
    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// The Secrets with credentials of one Namespace.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// In a cluster.
    Cluster(Cluster),
    /// In a folder of manifests.
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
    /// There was a concurrent change.
    #[error("the Secret was changed concurrently")]
    Superseded,
    /// The Secret does not exist, and the gateway may not create it.
    #[error("there is no Secret `{0}`: apply it from the gateway's manifests (sessions.yaml)")]
    Missing(String),
    /// The client key was deleted since it was listed.
    #[error("there is no client key `{0}` any more")]
    KeyGone(String),
    /// The API server returned an error, or cannot be reached.
    #[error("the API server failed to {0}: {reason}", reason = rbac::reason(.1))]
    Cluster(&'static str, #[source] Box<kube::Error>),
    /// The operation took too long.
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// A file is not as Portcullis wrote it, and may contain more than the Secret.
    #[error("{0} was edited, or contains more than this Secret")]
    Changed(PathBuf),
}

/// Applies a change within [`REQUEST`].
///
/// # Errors
/// The change was not applied, as far as is known.
pub async fn change(store: &dyn Store, change: Change) -> Result<(), StoreError> {
    within(REQUEST, store.change(change)).await
}

/// Opens the store of the gateway with these `settings`; returns `None` if no Namespace is
/// configured for credentials. A folder of manifests is written only if login is configured: a
/// single gateway needs it for nothing else.
///
/// # Errors
/// There is no usable configuration for the API server.
pub async fn open(settings: &Settings) -> Result<Option<Arc<dyn Store>>, StoreError> {
    let Some(namespace) = &settings.access.credentials_namespace else { return Ok(None) };
    Ok(match &settings.source {
        SourceSettings::Kubernetes(kubernetes) => {
            Some(Arc::new(Credentials::cluster(kubernetes, namespace).await?))
        }
        SourceSettings::Directory(path) => {
            settings.access.login.as_ref().map(|_| -> Arc<dyn Store> {
                Arc::new(Credentials::folder(path.clone(), namespace))
            })
        }
    })
}

// === impl Credentials ===

impl Credentials {
    /// The store in a Namespace of the cluster of `settings`.
    ///
    /// # Errors
    /// There is no kubeconfig, or it is not usable.
    pub async fn cluster(
        settings: &KubernetesSettings,
        namespace: &str,
    ) -> Result<Self, StoreError> {
        Ok(Self::Cluster(Cluster::new(settings, namespace).await?))
    }

    /// The store in a folder of manifests, for a Namespace.
    #[must_use]
    pub fn folder(path: PathBuf, namespace: &str) -> Self {
        Self::Folder(Folder::new(path, namespace))
    }

    /// Lists all client keys.
    ///
    /// # Errors
    /// The API server does not list them, or the folder cannot be read.
    pub async fn client_keys(&self) -> Result<ClientKeys, StoreError> {
        let mut found = match self {
            Self::Cluster(cluster) => within(COMMAND, cluster.client_keys()).await?,
            Self::Folder(folder) => folder.client_keys()?,
        };
        found.keys.sort_by(|(one, _), (other, _)| one.origin.name.cmp(&other.origin.name));
        Ok(found)
    }

    /// Stores a new key; its name must not exist yet.
    ///
    /// # Errors
    /// The name exists, or the key cannot be written. Nothing has changed then.
    pub async fn create(&self, key: &ClientKey) -> Result<(), StoreError> {
        match self {
            Self::Cluster(cluster) => within(COMMAND, cluster.create(&secret::object(key))).await,
            Self::Folder(folder) => folder.create(&secret::object(key)),
        }
    }

    /// Sets the expiry of a key.
    ///
    /// # Errors
    /// The key no longer exists, or cannot be written.
    pub async fn expire(&self, key: &ClientKey, expires: SystemTime) -> Result<(), StoreError> {
        let annotate = [(format!("{PREFIX}{EXPIRES}"), secret::write_time(expires))].into();
        let name = key.origin.name.to_string().into();
        let change = Change { annotate, ..Change::of(name, CLIENT_KEY) };
        within(COMMAND, self.change(change)).await.map_err(key_gone)
    }

    /// Deletes the Secret of a key.
    ///
    /// # Errors
    /// The key no longer exists, or cannot be deleted.
    pub async fn revoke(&self, key: &ClientKey) -> Result<(), StoreError> {
        match self {
            Self::Cluster(cluster) => within(COMMAND, cluster.delete(&key.origin.name)).await,
            Self::Folder(folder) => folder.delete(&key.origin.name).map_err(key_gone),
        }
    }
}

impl Store for Credentials {
    fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            match self {
                Self::Cluster(cluster) => cluster.change(&change).await,
                Self::Folder(folder) => folder.change(change).await,
            }
        })
    }
}

/// A client key is not applied from the gateway's manifests.
fn key_gone(error: StoreError) -> StoreError {
    match error {
        StoreError::Missing(name) => StoreError::KeyGone(name),
        error => error,
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, work).await.unwrap_or(Err(StoreError::Timeout(limit)))
}

/// Whether the Secret is in the state in which the change applies, by the names of its entries.
fn applies(change: &Change, secret: &Secret) -> bool {
    let entries = secret.data.iter().flat_map(|data| data.keys());
    change.only_if.as_ref().is_none_or(|seen| seen.entries.iter().eq(entries))
}

/// Applies a change to a Secret, as the API server applies a merge patch.
fn apply(change: &Change, secret: &mut Secret) {
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert(CREDENTIAL.to_owned(), change.kind.to_owned());
    if !change.annotate.is_empty() {
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.extend(change.annotate.clone());
    }
    let data = secret.data.get_or_insert_default();
    data.retain(|name, _| !change.remove.contains(name));
    let added = change.add.iter();
    data.extend(added.map(|(name, value)| (name.clone(), ByteString(value.expose().to_vec()))));
}

#[cfg(test)]
mod tests;
