//! Persistent storage for certificates that the gateway orders by ACME: read by every replica,
//! written by the leader.
//!
//! | kind | storage |
//! | --- | --- |
//! | [`folder`] | one machine: files, and a file lock for the leader |
//! | [`kubernetes`] | a cluster: Secrets, and a Lease for the leader |
//!
//! The state is opaque here: bytes that must not be lost, disclosed or partly written.

pub mod credentials;
pub mod folder;
pub mod kubernetes;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::rbac;
use crate::settings::acme::StoreSettings;
use crate::settings::{Settings, SourceSettings};
use crate::snapshot::certificate::{Certificate, SecretBytes};
use crate::source::SourceError;
use crate::status::Notice;

/// The maximum number of stored certificates.
pub const MAX_CERTIFICATES: usize = 10_000;
/// The maximum size of the state, and of a certificate with its key, in bytes: a Secret's limit.
pub const MAX_BYTES: usize = 1 << 20;

/// Persistent storage that all replicas of a gateway share.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Keeps [`contents`](Self::contents) and [`term`](Self::term) up to date while it is polled.
    /// Errors are logged, and the last contents stay.
    fn run(&self) -> BoxFuture<'_, ()>;

    /// The current contents; `None` before they were read completely.
    fn contents(&self) -> watch::Receiver<Option<Arc<StoreState>>>;

    /// The term of this replica while it is the leader. There is at most one leader at a time.
    fn term(&self) -> watch::Receiver<Option<Term>>;

    /// Replaces the state atomically.
    fn save_state(&self, term: Term, state: SecretBytes) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Adds or replaces a certificate, chain and key at once, and clears a request for its renewal.
    fn save_certificate(
        &self,
        term: Term,
        certificate: NewCertificate,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes a certificate. Does nothing if there is none, or if it was not created by a gateway.
    fn remove_certificate(&self, term: Term, name: String)
    -> BoxFuture<'_, Result<(), StoreError>>;

    /// Requests that the leader renews a certificate now. Any replica may call this.
    fn request_renewal(&self, name: String) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Reports a notice to the owner of a resource, if the store supports it; at most 256 are
    /// queued. A notice without an origin is about the store.
    fn report(&self, _notice: Notice) {}

    /// Requests that the leader replaces the account keys now. `request` identifies the request.
    /// Any replica may call this.
    fn request_rollover(&self, request: String) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The longest time until other replicas see what was saved.
    fn propagation_delay(&self) -> Duration;
}

/// The contents of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreState {
    /// The state; `None` before any was saved.
    pub state: Option<SecretBytes>,
    /// The identifier of the last request to replace the account keys.
    pub rollover: Option<String>,
    /// The certificates by name, each with its key; not yet validated.
    pub certificates: BTreeMap<String, StoredCertificate>,
}

/// A stored certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCertificate {
    /// Chain and key.
    pub certificate: Certificate,
    /// Whether its renewal was requested.
    pub renewal_requested: bool,
}

/// A certificate to store.
#[derive(Debug, Clone)]
pub struct NewCertificate {
    /// Its name: a label (RFC 1123).
    pub name: String,
    /// The chain, leaf first, in PEM.
    pub chain: Vec<u8>,
    /// The private key in PEM.
    pub key: SecretBytes,
    /// Descriptions for users, by a short name.
    pub about: BTreeMap<&'static str, String>,
}

/// A term of leadership. A later one has a higher number, and writes of an earlier one are
/// rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub u64);

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// This replica is no longer the leader.
    #[error("this replica is no longer the leader")]
    Superseded,
    /// There is no such certificate.
    #[error("there is no such certificate")]
    Unknown,
    /// More than [`MAX_BYTES`].
    #[error("larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// A file operation failed.
    #[error("{path}: {error}")]
    Folder {
        /// The file or folder.
        path: String,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// The API server returned an error or did not respond.
    #[error("the API server: {}", rbac::reason(.0))]
    Kubernetes(#[source] Box<kube::Error>),
}

/// Opens the store of `settings`; returns `None` if no certificates are ordered.
///
/// # Errors
/// The folder cannot be created or used, or there is no usable configuration for the API server.
pub async fn open(settings: &Settings) -> Result<Option<Arc<dyn Store>>, OpenError> {
    let Some(acme) = &settings.acme else { return Ok(None) };
    let namespace = match (&acme.store, &settings.source) {
        (Some(StoreSettings::Folder(folder)), _) => {
            return Ok(Some(Arc::new(folder::Folder::open(folder)?)));
        }
        (Some(StoreSettings::Kubernetes(kubernetes)), SourceSettings::Kubernetes(_)) => {
            kubernetes.namespace.clone()
        }
        (None, SourceSettings::Kubernetes(_)) => None,
        // Settings validation rejects both: without an API server only a folder is possible.
        (_, SourceSettings::Directory(_)) => return Ok(None),
    };
    let SourceSettings::Kubernetes(kubernetes) = &settings.source else { return Ok(None) };
    Ok(Some(Arc::new(kubernetes::Secrets::new(kubernetes, namespace).await?)))
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be used.
    #[error("`acme.store.folder` cannot be used: {0}")]
    Folder(#[from] StoreError),
    /// There is no usable configuration for the API server.
    #[error(transparent)]
    Kubernetes(#[from] SourceError),
}
