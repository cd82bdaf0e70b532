//! Where resources come from: a Kubernetes API server or a folder of manifests, and beside either
//! the files of certificates.

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

/// The most updates that wait for the control plane; a source that is faster waits.
pub const MAX_UPDATES: usize = 1024;

/// Something that knows resources, and hears of their changes.
pub trait Source: Send + 'static {
    /// Tells what is there, then what changes, for as long as anyone listens.
    ///
    /// # Errors
    /// It cannot even be tried: a wrong kubeconfig, no inotify. What comes and goes, such as an API
    /// server, is no error: what is known stays, and the source goes on trying.
    fn run(self, updates: Updates) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// Which Secrets are read; no other one ever is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Those that hold certificates.
    pub certificates: BTreeSet<NamespacedName>,
    /// The Namespace of those that hold credentials: all there with the label
    /// [`CREDENTIAL`](crate::model::credential::CREDENTIAL).
    pub credentials: Option<Arc<str>>,
}

/// One thing that a source tells. What is at its default says nothing.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// What has changed, in this order.
    pub changes: Vec<Change>,
    /// All that is wrong now with what the source reads, in place of what it told before.
    pub problems: Option<Vec<Problem>>,
    /// Whether by now every kind of resource has been told in whole.
    pub synced: bool,
    /// The time as of which everything that was told is known to be so.
    pub heard: Option<SystemTime>,
}

/// Where a source tells its updates.
#[derive(Debug, Clone)]
pub struct Updates {
    source: usize,
    sender: mpsc::Sender<(usize, Update)>,
}

/// Why a source cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Files cannot be watched for changes.
    #[error("{path} cannot be watched for changes: {error}")]
    Watch {
        /// The file or folder.
        path: String,
        /// What the system said.
        error: notify::Error,
    },
    /// The way to the Kubernetes API server is not known.
    #[error("the way to the Kubernetes API server is not known: {0}")]
    Kubernetes(String),
    /// A source ended by itself, which is a defect.
    #[error("a source of resources ended: {0}")]
    Ended(String),
}

/// Nobody listens to a source any more.
#[derive(Debug)]
pub struct Stopped;

// === impl Secrets ===

impl Secrets {
    /// Those that the configuration refers to.
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
    /// A channel for `sources` sources: the ends for them to tell on, and the end that hears all of
    /// them, each by its number.
    pub(crate) fn channel(sources: usize) -> (Vec<Self>, mpsc::Receiver<(usize, Update)>) {
        let (sender, receiver) = mpsc::channel(MAX_UPDATES);
        ((0..sources).map(|source| Self { source, sender: sender.clone() }).collect(), receiver)
    }

    /// Tells an update; waits while [`MAX_UPDATES`] are unheard.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub async fn tell(&self, update: Update) -> Result<(), Stopped> {
        self.sender.send((self.source, update)).await.map_err(|_| Stopped)
    }

    /// Ends once nobody listens any more.
    pub async fn stopped(&self) {
        self.sender.closed().await;
    }
}
