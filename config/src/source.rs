//! Sources of resources: a Kubernetes API server or a folder of manifests, and for both also
//! certificate files.

pub mod certificates;
pub mod directory;
mod file_identity;
pub mod file_kind;
pub mod kubernetes;
pub mod manifest;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::model::NamespacedName;
use crate::problem::Problem;
use crate::resources::Change;
use crate::settings::{CertificateSettings, Settings};

/// The capacity of the update queue of the control plane; a source waits while it is full.
pub const MAX_UPDATES: usize = 1024;

/// Lists resources and watches them for changes.
pub trait Source: Send + 'static {
    /// Sends all resources, then their changes, until the receiver of `updates` is dropped.
    ///
    /// # Errors
    /// The source cannot start: an invalid kubeconfig, no inotify. A temporary failure, such as
    /// an unreachable API server, is not an error: the last state stays and the source retries.
    fn run(self, updates: Updates) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// The Secrets that may be read; no others are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Secrets that hold certificates.
    pub certificates: BTreeSet<NamespacedName>,
    /// The Namespace of Secrets that hold credentials: all in it with the label
    /// [`CREDENTIAL`](crate::model::credential::CREDENTIAL).
    pub credentials: Option<Arc<str>>,
}

/// One message of a source. A field at its default leaves that part unchanged.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Changes, in order.
    pub changes: Vec<Change>,
    /// All current problems of the source; they replace those it reported before.
    pub problems: Option<Vec<Problem>>,
    /// Whether every kind of resource has been listed completely.
    pub synced: bool,
    /// The time at which everything that was sent is known to be current.
    pub as_of: Option<SystemTime>,
}

/// The sending end of a source's updates.
#[derive(Debug, Clone)]
pub struct Updates {
    source: usize,
    sender: mpsc::Sender<(usize, Update)>,
}

/// Why a source cannot start or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Files cannot be watched for changes.
    #[error("{path} cannot be watched for changes: {error}")]
    Watch {
        /// The file or folder.
        path: String,
        /// The error of the operating system.
        error: notify::Error,
    },
    /// There is no usable configuration for the Kubernetes API server.
    #[error("no usable configuration for the Kubernetes API server: {0}")]
    Kubernetes(String),
    /// A source stopped by itself, which is a bug.
    #[error("a source of resources stopped unexpectedly: {0}")]
    Terminated(String),
}

/// The receiver of a source's updates was dropped.
#[derive(Debug)]
pub struct Closed;

// === impl Secrets ===

impl Secrets {
    /// The Secrets that the configuration refers to.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let certificates =
            settings.certificates.iter().filter_map(|certificate| match certificate {
                CertificateSettings::Secret { namespace, name } => {
                    Some(NamespacedName::new(namespace.as_str(), name.as_str()))
                }
                CertificateSettings::Files { .. } => None,
            });
        Self {
            certificates: certificates.collect(),
            credentials: settings.access.credentials_namespace.as_deref().map(Into::into),
        }
    }
}

// === impl Updates ===

impl Updates {
    /// Creates a channel for `sources` sources: a sender for each, and one receiver that gets every
    /// update with the number of its source.
    pub(crate) fn channel(sources: usize) -> (Vec<Self>, mpsc::Receiver<(usize, Update)>) {
        let (sender, receiver) = mpsc::channel(MAX_UPDATES);
        ((0..sources).map(|source| Self { source, sender: sender.clone() }).collect(), receiver)
    }

    /// Sends an update; waits while [`MAX_UPDATES`] are queued.
    ///
    /// # Errors
    /// The receiver was dropped.
    pub async fn send(&self, update: Update) -> Result<(), Closed> {
        self.sender.send((self.source, update)).await.map_err(|_| Closed)
    }

    /// Completes when the receiver is dropped.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}
