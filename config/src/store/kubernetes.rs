//! Secrets of one Namespace that all replicas watch, written by the one that holds a Lease.
//!
//! - [`lease`] decides, without a network, who leads;
//! - [`known`] keeps what was last seen of the Secrets, by the watch or by a write;
//! - [`object`] is what the Secrets look like.
//!
//! A replica that has lost its Lease without noticing is fenced off twice: it stops by its own
//! clock before another may take the Lease, and each write carries the version that was read and is
//! refused where a later term has written.

mod lease;
mod object;
mod secret_cache;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use self::lease::{Candidate, Standing};
use self::secret_cache::Known;
use super::{Held, MAX_BYTES, MAX_CERTIFICATES, NewCertificate, Store, StoreError, Term};
use crate::installation::own_namespace;
use crate::model::Origin;
use crate::settings::KubernetesSettings;
use crate::snapshot::certificate::SecretBytes;
use crate::source::SourceError;
use crate::source::kubernetes::client;
use crate::status::{Notice, events};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long other replicas may take until they have seen a change: their watches are told at once.
const SPREAD: Duration = Duration::from_secs(1);
/// How often a Secret is read anew where others write it at the same time.
const CONFLICTS: usize = 5;

/// Secrets and a Lease.
pub struct Secrets {
    client: Client,
    namespace: Arc<str>,
    secrets: Api<Secret>,
    leases: Api<Lease>,
    identity: String,
    known: std::sync::Mutex<Known>,
    held: watch::Sender<Option<Arc<Held>>>,
    term: watch::Sender<Option<Term>>,
    /// Where no Events are written nobody takes them.
    notices: mpsc::Sender<Notice>,
    events: Option<Mutex<mpsc::Receiver<Notice>>>,
}

// === impl Secrets ===

impl Secrets {
    /// Finds the API server and the credentials for it, without asking it anything.
    ///
    /// # Errors
    /// There is no kubeconfig, or nothing that can be used in it.
    pub async fn new(
        settings: &KubernetesSettings,
        namespace: Option<String>,
    ) -> Result<Self, SourceError> {
        let namespace = namespace.unwrap_or_else(own_namespace);
        Ok(Self::with(client(settings).await?, &namespace, settings.events))
    }

    fn with(client: Client, namespace: &str, events: bool) -> Self {
        let (notices, receiver) = mpsc::channel(events::MAX_WAITING);
        // A pod's name is unique at a time; what was started twice on one machine is told apart by
        // the rest.
        let machine = std::env::var("HOSTNAME").unwrap_or_else(|_| "gateway".to_owned());
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            leases: Api::namespaced(client.clone(), namespace),
            client,
            namespace: namespace.into(),
            notices,
            events: events.then(|| Mutex::new(receiver)),
            identity: format!("{machine}_{:016x}", RandomState::new().hash_one(std::process::id())),
            known: std::sync::Mutex::default(),
            held: watch::Sender::new(None),
            term: watch::Sender::new(None),
        }
    }

    /// Writes Events, forever.
    async fn write_events(&self) {
        if let Some(notices) = &self.events {
            events::write(self.client.clone(), &mut *notices.lock().await).await;
        }
    }

    /// Follows the Secrets, forever.
    async fn follow(&self) {
        let only = watcher::Config::default().labels(object::LABEL);
        let mut events = watch_objects(self.secrets.clone(), only).default_backoff().boxed();
        let mut listed = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(secret)) => drop(listed.insert(secret.name_any(), secret)),
                Ok(Event::InitDone) => self.know(|known| known.all(std::mem::take(&mut listed))),
                Ok(Event::Apply(secret)) => self.know(|known| known.put(secret)),
                Ok(Event::Delete(secret)) => self.know(|known| known.take(&secret)),
                Err(error) => {
                    tracing::warn!(%error, "the Secrets of ordered certificates cannot be watched; what is known stays")
                }
            }
        }
    }

    /// Changes what is known, and tells of it once all is.
    fn know(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        if let Some(secrets) = known.secrets() {
            let held = object::held(secrets.take(MAX_CERTIFICATES));
            self.held.send_if_modified(|before| {
                let changed = before.as_deref() != Some(&held);
                *before = Some(Arc::new(held));
                changed
            });
        }
    }

    /// Takes the Lease where nobody holds it, and keeps it, forever.
    async fn campaign(&self) {
        let mut candidate = Candidate::new(self.identity.clone());
        loop {
            let standing = match timeout(REQUEST, self.stand(&mut candidate)).await {
                Ok(Ok(())) => candidate.standing(Instant::now()),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the Lease was not had");
                    candidate.standing(Instant::now())
                }
                Err(_) => candidate.standing(Instant::now()),
            };
            let term = match standing {
                Standing::Leads(term) => Some(term),
                Standing::Follows => None,
            };
            self.term.send_if_modified(|before| {
                let changed = *before != term;
                if changed {
                    tracing::info!(
                        leads = term.is_some(),
                        lease = lease::NAME,
                        "certificates are ordered by whichever replica leads"
                    );
                }
                *before = term;
                changed
            });
            sleep(lease::RETRY).await;
        }
    }

    async fn stand(&self, candidate: &mut Candidate) -> Result<(), kube::Error> {
        let found = self.leases.get_opt(lease::NAME).await?;
        let asked = Instant::now();
        let Some(wanted) =
            candidate.look(found.as_ref(), asked, k8s_openapi::jiff::Timestamp::now())
        else {
            return Ok(());
        };
        let written = match found {
            Some(_) => self.leases.replace(lease::NAME, &PostParams::default(), &wanted).await?,
            None => self.leases.create(&PostParams::default(), &wanted).await?,
        };
        candidate.won(&written, asked);
        Ok(())
    }

    /// Writes a Secret by what `make` makes of the one that is there; refused where a later term
    /// has written it.
    async fn write(
        &self,
        term: Term,
        name: &str,
        make: impl Fn(Option<&Secret>) -> Secret + Send + Sync,
    ) -> Result<(), StoreError> {
        let mut conflicts = 0..CONFLICTS;
        loop {
            let found = self.find(term, name).await?;
            let mut secret = make(found.as_ref());
            // With the version that was read: whoever wrote since is not overwritten.
            secret.metadata.resource_version =
                found.as_ref().and_then(ResourceExt::resource_version);
            let written = match found {
                Some(_) => self.secrets.replace(name, &PostParams::default(), &secret).await,
                None => self.secrets.create(&PostParams::default(), &secret).await,
            };
            match written {
                // Somebody asked for its renewal at the same time, or there is another leader: it
                // is read anew.
                Err(error) if is_conflict(&error) && conflicts.next().is_some() => {}
                Err(error) => return Err(wrong(error)),
                // The watch tells of it too, later: after an absence of the API server much later,
                // and until then it would be ordered again.
                Ok(written) => {
                    self.know(|known| known.put(written));
                    return Ok(());
                }
            }
        }
    }

    /// Removes a Secret that was made here; refused where a later term has written it.
    async fn remove(&self, term: Term, name: &str) -> Result<(), StoreError> {
        let mut conflicts = 0..CONFLICTS;
        loop {
            let found = self.find(term, name).await?;
            let Some(secret) = found.filter(object::is_certificate_of_ours) else { return Ok(()) };
            match self.secrets.delete(name, &only_as(&secret)).await {
                Err(error) if is_conflict(&error) && conflicts.next().is_some() => {}
                done => return done.map(drop).map_err(wrong),
            }
        }
    }

    /// The Secret that is there, as far as this term may change it.
    async fn find(&self, term: Term, name: &str) -> Result<Option<Secret>, StoreError> {
        if *self.term.borrow() != Some(term) {
            return Err(StoreError::Superseded);
        }
        let found = self.secrets.get_opt(name).await.map_err(wrong)?;
        if found.as_ref().is_some_and(|secret| object::term(secret) > term) {
            Err(StoreError::Superseded)
        } else {
            Ok(found)
        }
    }

    /// Leaves a wish on a Secret.
    async fn ask(&self, name: &str, patch: serde_json::Value) -> Result<(), StoreError> {
        match self.secrets.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(StoreError::Unknown),
            Err(error) => Err(wrong(error)),
        }
    }

    /// Whether a later term has written the state: then nothing of an earlier one may follow.
    async fn fence(&self, term: Term) -> Result<(), StoreError> {
        self.find(term, object::STATE).await.map(drop)
    }
}

impl Store for Secrets {
    fn run(&self) -> BoxFuture<'_, ()> {
        futures::future::join3(self.follow(), self.campaign(), self.write_events())
            .map(|_| ())
            .boxed()
    }

    fn held(&self) -> watch::Receiver<Option<Arc<Held>>> {
        self.held.subscribe()
    }

    fn term(&self) -> watch::Receiver<Option<Term>> {
        self.term.subscribe()
    }

    fn save_state(&self, term: Term, state: SecretBytes) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if state.expose().len() > MAX_BYTES {
                return Err(StoreError::TooLarge);
            }
            in_time(self.write(term, object::STATE, |before| object::state(term, &state, before)))
                .await
        })
    }

    fn save_certificate(
        &self,
        term: Term,
        certificate: NewCertificate,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if certificate.chain.len() + certificate.key.expose().len() > MAX_BYTES {
                return Err(StoreError::TooLarge);
            }
            in_time(async {
                self.fence(term).await?;
                self.write(term, &object::name(&certificate.name), |before| {
                    object::certificate(term, &certificate, before)
                })
                .await
            })
            .await
        })
    }

    fn remove_certificate(
        &self,
        term: Term,
        name: String,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let name = object::name(&name);
            in_time(async {
                self.fence(term).await?;
                self.remove(term, &name).await
            })
            .await
        })
    }

    fn ask_renewal(&self, name: String) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(
            async move { in_time(self.ask(&object::name(&name), object::renewal_patch())).await },
        )
    }

    fn ask_rollover(&self, request: String) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(
            async move { in_time(self.ask(object::STATE, object::rollover_patch(&request))).await },
        )
    }

    fn tell(&self, mut notice: Notice) {
        if notice.origin == Origin::default() {
            let (namespace, name) = (Arc::clone(&self.namespace), object::STATE.into());
            notice.origin = Origin { kind: "Secret", namespace, name, place: None };
        }
        // Events are a courtesy: what finds no room is in the log too.
        let _ = self.notices.try_send(notice);
    }

    fn spread(&self) -> Duration {
        SPREAD
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("identity", &self.identity).finish_non_exhaustive()
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| wrong(kube::Error::Service("it did not answer in time".into()));
    timeout(REQUEST, work).await.map_err(late)?
}

/// Deletes what was read, and nothing that was written since.
fn only_as(secret: &Secret) -> DeleteParams {
    let preconditions =
        Preconditions { resource_version: secret.resource_version(), uid: secret.uid() };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn wrong(error: kube::Error) -> StoreError {
    StoreError::Kubernetes(Box::new(error))
}
