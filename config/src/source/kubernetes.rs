//! A Kubernetes API server: Namespaces, Services and EndpointSlices are watched in the whole
//! cluster, Secrets of certificates one by one, those of credentials by their label in one
//! Namespace.
//!
//! - [`connect`] finds the API server and the credentials for it;
//! - [`watch`] keeps one watch alive: streaming or paged lists, bookmarks, back-off, connections
//!   that died without a word;
//! - [`session`] is what the events of a watch mean, without a network.
//!
//! Without the API server everything stays as it was last known, and [`Update::heard`] falls
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
use super::{Secrets, Source, SourceError, Stopped, Update, Updates};
use crate::model::credential::CREDENTIAL;
use crate::problem::Problem;
use crate::settings::KubernetesSettings;

/// An API server.
pub struct Kubernetes {
    client: Client,
    address: Option<SocketAddr>,
    secrets: Secrets,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// Finds the API server and the credentials for it, without asking it anything. Of all Secrets
    /// only `secrets` are read.
    ///
    /// # Errors
    /// There is no kubeconfig, or nothing that can be used in it.
    pub async fn new(settings: &KubernetesSettings, secrets: Secrets) -> Result<Self, SourceError> {
        let (client, address) = connect::connect(settings).await?;
        Ok(Self { client, address, secrets })
    }

    /// Where the API server answers; `None` where its client goes by a name.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Talks to the API server.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Source for Kubernetes {
    async fn run(self, updates: Updates) -> Result<(), SourceError> {
        let Secrets { certificates, credentials } = &self.secrets;
        let mut watches = Watches::new(3 + certificates.len() + usize::from(credentials.is_some()));
        watches.spawn::<core::Namespace>(Api::all(self.client.clone()), Selection::All);
        watches.spawn::<core::Service>(Api::all(self.client.clone()), Selection::All);
        watches.spawn::<discovery::EndpointSlice>(Api::all(self.client.clone()), Selection::All);
        for secret in certificates {
            // By name alone: a Role can then grant this one Secret, and no other is ever in this
            // process.
            watches.spawn::<core::Secret>(
                Api::namespaced(self.client.clone(), &secret.namespace),
                Selection::Name(secret.name.to_string()),
            );
        }
        if let Some(namespace) = credentials {
            let api = Api::namespaced(self.client.clone(), namespace);
            watches.spawn::<CredentialSecret>(api, Selection::Label(CREDENTIAL));
        }
        watches.join(&updates).await
    }
}

/// All watches, told as one source.
struct Watches {
    ends: Vec<Updates>,
    updates: mpsc::Receiver<(usize, Update)>,
    tasks: JoinSet<()>,
    joined: Joined,
}

/// What all watches have told together.
struct Joined {
    unsynced: BTreeSet<usize>,
    problems: BTreeMap<usize, Vec<Problem>>,
    heard: BTreeMap<usize, SystemTime>,
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
                    if let Err(Stopped) = updates.tell(self.joined.take(watch, update)).await {
                        return Ok(());
                    }
                }
                () = updates.stopped() => return Ok(()),
                Some(ended) = self.tasks.join_next() => {
                    return Err(SourceError::Ended(ended.err().map_or_else(|| "a watch ended".to_owned(), |error| error.to_string())));
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
            heard: BTreeMap::new(),
            watches,
        }
    }

    /// What an update of one watch says of all of them: synced once all are, known as of the time
    /// of the one that is most behind.
    fn take(&mut self, watch: usize, update: Update) -> Update {
        if update.synced {
            self.unsynced.remove(&watch);
        }
        let problems = update.problems.map(|problems| {
            self.problems.insert(watch, problems);
            self.problems.values().flatten().cloned().collect()
        });
        self.heard.extend(update.heard.map(|time| (watch, time)));
        let all_heard = self.heard.len() == self.watches;
        let heard = self.heard.values().min().copied().filter(|_| all_heard);
        Update { changes: update.changes, problems, synced: self.unsynced.is_empty(), heard }
    }
}

#[cfg(test)]
mod tests;
