//! What is kept of certificates that the gateway orders by itself: seen by every replica, written
//! by the one that leads.
//!
//! | kind | for |
//! | --- | --- |
//! | [`folder`] | one machine: files, and a lock for the one that leads |
//! | [`kubernetes`] | a cluster: Secrets, and a Lease for the one that leads |
//!
//! What the state means is the business of whoever orders; here it is octets that must not be lost,
//! told or torn.

pub mod client_key;
pub mod folder;
pub mod kubernetes;
pub mod session;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::settings::acme::StoreSettings;
use crate::settings::{Settings, SourceSettings};
use crate::snapshot::certificate::{Certificate, SecretBytes};
use crate::source::SourceError;
use crate::status::Notice;

/// The most certificates that are kept.
pub const MAX_CERTIFICATES: usize = 10_000;
/// The largest state, and the largest certificate with its key, in bytes. A Secret holds no more.
pub const MAX_BYTES: usize = 1 << 20;

/// A place that outlives the process. All replicas of a gateway share one.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Keeps [`held`](Self::held) and [`term`](Self::term) up to date for as long as it is polled.
    /// Trouble is told in the log, and what was known stays.
    fn run(&self) -> BoxFuture<'_, ()>;

    /// What is kept now; `None` before it was read in whole.
    fn held(&self) -> watch::Receiver<Option<Arc<Held>>>;

    /// Whether this replica leads now. One does at a time.
    fn term(&self) -> watch::Receiver<Option<Term>>;

    /// Replaces the state, whole or not at all.
    fn save_state(&self, term: Term, state: SecretBytes) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Adds or replaces a certificate, chain and key at once. Whatever asked for its renewal is
    /// answered by that.
    fn save_certificate(
        &self,
        term: Term,
        certificate: NewCertificate,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes a certificate that nobody needs any more. One that is not there, or that somebody
    /// else has made, is left alone.
    fn remove_certificate(&self, term: Term, name: String)
    -> BoxFuture<'_, Result<(), StoreError>>;

    /// Asks whichever replica leads to renew a certificate now. Any replica may.
    fn ask_renewal(&self, name: String) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Tells the owner of a resource something, where there is a way to; at most 256 notices wait.
    /// One about nothing else is about the store.
    fn tell(&self, _notice: Notice) {}

    /// Asks whichever replica leads to replace the keys of accounts now. `request` tells this from
    /// other times. Any replica may.
    fn ask_rollover(&self, request: String) -> BoxFuture<'_, Result<(), StoreError>>;

    /// How long other replicas may take until they have seen what was saved.
    fn spread(&self) -> Duration;
}

/// All that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The state; `None` before any was saved.
    pub state: Option<SecretBytes>,
    /// The last time that somebody asked to have the keys of accounts replaced, as they told it
    /// from others.
    pub rollover: Option<String>,
    /// The certificates by their names, each with its key; not yet checked.
    pub certificates: BTreeMap<String, Kept>,
}

/// A certificate that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Chain and key.
    pub certificate: Certificate,
    /// Whether somebody asked to have it renewed now.
    pub renewal_asked: bool,
}

/// A certificate to be kept.
#[derive(Debug, Clone)]
pub struct NewCertificate {
    /// Its name: a label (RFC 1123).
    pub name: String,
    /// The chain, leaf first, in PEM.
    pub chain: Vec<u8>,
    /// The private key in PEM.
    pub key: SecretBytes,
    /// What people may want to know of it, each with a short name.
    pub about: BTreeMap<&'static str, String>,
}

/// A time of leading: a later one has a higher number, and what is written in an earlier one is
/// refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub u64);

/// Why something was not kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another replica leads by now.
    #[error("another replica leads by now")]
    Superseded,
    /// There is no such certificate.
    #[error("there is no such certificate")]
    Unknown,
    /// More than [`MAX_BYTES`].
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// The file system said no.
    #[error("{path}: {error}")]
    Folder {
        /// The file or folder.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The API server said no, or nothing.
    #[error("the API server: {0}")]
    Kubernetes(#[source] Box<kube::Error>),
}

/// Opens what `settings` name; `None` where no certificates are to be ordered.
///
/// # Errors
/// The folder cannot be made or used, or the way to the API server is not known.
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
        // The check of settings refuses both: without an API server there is nothing but a folder.
        (_, SourceSettings::Directory(_)) => return Ok(None),
    };
    let SourceSettings::Kubernetes(kubernetes) = &settings.source else { return Ok(None) };
    Ok(Some(Arc::new(kubernetes::Secrets::new(kubernetes, namespace).await?)))
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be used.
    #[error("`acme.store.folder` cannot be used: {0}")]
    Folder(#[from] StoreError),
    /// The way to the API server is not known.
    #[error(transparent)]
    Kubernetes(#[from] SourceError),
}
