//! A Kubernetes API server: Namespaces, Services and EndpointSlices are watched in the whole
//! cluster, Secrets of certificates one by one, those of credentials by their label in one
//! Namespace, and Pods where they verify endpoints.
//!
//! - [`connect`] finds the API server and the credentials for it;
//! - [`watch`] keeps one watch alive: streaming or paged lists, bookmarks, back-off, silently
//!   dropped connections;
//! - [`watch_session`] interprets the events of a watch, without network access.
//!
//! While the API server is unreachable the last state stays in effect, and [`Update::as_of`] falls
//! behind.

mod backoff;
mod connect;
mod watch;
mod watch_session;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::SystemTime;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub(crate) use self::connect::client;
use self::watch::{Selection, Watch};
use self::watch_session::{CredentialSecret, Watched};
use super::{Closed, Secrets, Source, SourceError, Update, Updates};
use crate::model::credential::CREDENTIAL;
use crate::problem::Problem;
use crate::resources::PodObject;
use crate::settings::KubernetesSettings;

/// An API server.
pub struct Kubernetes {
    client: Client,
    address: Option<SocketAddr>,
    secrets: Secrets,
    /// Whether Pods are watched.
    pods: bool,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// Finds the API server and its credentials, without sending a request. Of all Secrets
    /// only `secrets` are read, and Pods only if `pods`.
    ///
    /// # Errors
    /// There is no kubeconfig, or it is not usable.
    pub async fn new(
        settings: &KubernetesSettings,
        secrets: Secrets,
        pods: bool,
    ) -> Result<Self, SourceError> {
        let (client, address) = connect::connect(settings).await?;
        Ok(Self { client, address, secrets, pods })
    }

    /// The address of the API server; `None` if its URL has a hostname.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The client of the API server.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Source for Kubernetes {
    async fn run(self, updates: Updates) -> Result<(), SourceError> {
        let Secrets { certificates, credentials } = &self.secrets;
        let optional = usize::from(credentials.is_some()) + usize::from(self.pods);
        let mut watches = Watches::new(3 + certificates.len() + optional);
        watches.spawn::<core::Namespace>(Api::all(self.client.clone()), Selection::All);
        watches.spawn::<core::Service>(Api::all(self.client.clone()), Selection::All);
        watches.spawn::<discovery::EndpointSlice>(Api::all(self.client.clone()), Selection::All);
        for secret in certificates {
            // By name: a Role can then grant only this Secret, and this process reads no other.
            watches.spawn::<core::Secret>(
                Api::namespaced(self.client.clone(), &secret.namespace),
                Selection::Name(secret.name.to_string()),
            );
        }
        if let Some(namespace) = credentials {
            let api = Api::namespaced(self.client.clone(), namespace);
            watches.spawn::<CredentialSecret>(api, Selection::Label(CREDENTIAL));
        }
        if self.pods {
            watches.spawn::<PodObject>(Api::all(self.client.clone()), Selection::All);
        }
        watches.join(&updates).await
    }
}

/// All watches, combined into one source.
struct Watches {
    ends: Vec<Updates>,
    updates: mpsc::Receiver<(usize, Update)>,
    tasks: JoinSet<()>,
    joined: Joined,
}

/// The combined state of all watches.
struct Joined {
    unsynced: BTreeSet<usize>,
    problems: BTreeMap<usize, Vec<Problem>>,
    as_of: BTreeMap<usize, SystemTime>,
    watches: usize,
}

// === impl Watches ===

impl Watches {
    fn new(watches: usize) -> Self {
        let (ends, updates) = Updates::channel(watches);
        Self { ends, updates, tasks: JoinSet::new(), joined: Joined::new(watches) }
    }

    fn spawn<K: Watched>(&mut self, api: Api<K>, selection: Selection) {
        if let Some(end) = self.ends.pop() {
            self.tasks.spawn(Watch::new(api, selection, end).run());
        }
    }

    async fn join(mut self, updates: &Updates) -> Result<(), SourceError> {
        drop(self.ends);
        loop {
            tokio::select! {
                Some((watch, update)) = self.updates.recv() => {
                    if let Err(Closed) = updates.send(self.joined.take(watch, update)).await {
                        return Ok(());
                    }
                }
                () = updates.closed() => return Ok(()),
                Some(stopped) = self.tasks.join_next() => {
                    return Err(SourceError::Terminated(stopped.err().map_or_else(|| "a watch stopped".to_owned(), |error| error.to_string())));
                }
            }
        }
    }
}

// === impl Joined ===

impl Joined {
    fn new(watches: usize) -> Self {
        Self {
            unsynced: (0..watches).collect(),
            problems: BTreeMap::new(),
            as_of: BTreeMap::new(),
            watches,
        }
    }

    /// Combines an update of one watch with the state of the others: synced once all are, current
    /// as of the oldest of their times.
    fn take(&mut self, watch: usize, update: Update) -> Update {
        if update.synced {
            self.unsynced.remove(&watch);
        }
        let problems = update.problems.map(|problems| {
            self.problems.insert(watch, problems);
            self.problems.values().flatten().cloned().collect()
        });
        self.as_of.extend(update.as_of.map(|time| (watch, time)));
        let all_reported = self.as_of.len() == self.watches;
        let as_of = self.as_of.values().min().copied().filter(|_| all_reported);
        Update { changes: update.changes, problems, synced: self.unsynced.is_empty(), as_of }
    }
}

#[cfg(test)]
mod tests;
