//! A store in Secrets of one Namespace: all replicas watch them, the holder of a Lease writes them.
//!
//! - [`lease`] implements leader election, without network access;
//! - [`secret_cache`] holds the last seen version of each Secret, from the watch or from a write;
//! - [`object`] defines the format of the Secrets.
//!
//! A replica that has lost its Lease without noticing is fenced twice: it stops by its own clock
//! before another can take the Lease, and each write carries the version that was read and is
//! rejected if a later term has written.

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
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::lease::{Candidate, LeaderState};
use self::secret_cache::SecretCache;
use super::{MAX_BYTES, MAX_CERTIFICATES, NewCertificate, Store, StoreError, StoreState, Term};
use crate::installation::own_namespace;
use crate::model::Origin;
use crate::rbac;
use crate::settings::KubernetesSettings;
use crate::snapshot::certificate::SecretBytes;
use crate::source::SourceError;
use crate::source::kubernetes::client;
use crate::status::notice_queue::NoticeQueue;
use crate::status::{Notice, events};

/// The timeout of a request.
const REQUEST: Duration = Duration::from_secs(5);
/// The longest time until other replicas see a change: their watches receive it immediately.
const PROPAGATION_DELAY: Duration = Duration::from_secs(1);
/// The maximum number of retries after write conflicts.
const MAX_CONFLICTS: usize = 5;

/// A store in Secrets, with a Lease for leader election.
pub struct Secrets {
    client: Client,
    namespace: Arc<str>,
    secrets: Api<Secret>,
    leases: Api<Lease>,
    identity: String,
    cache: std::sync::Mutex<SecretCache>,
    contents: watch::Sender<Option<Arc<StoreState>>>,
    term: watch::Sender<Option<Term>>,
    /// The notices to write as Events, if any are written.
    notices: Option<NoticeQueue>,
}

// === impl Secrets ===

impl Secrets {
    /// Finds the API server and its credentials, without sending a request.
    ///
    /// # Errors
    /// There is no kubeconfig, or it is not usable.
    pub async fn new(
        settings: &KubernetesSettings,
        namespace: Option<String>,
    ) -> Result<Self, SourceError> {
        let namespace = namespace.unwrap_or_else(own_namespace);
        Ok(Self::with(client(settings).await?, &namespace, settings.events))
    }

    fn with(client: Client, namespace: &str, events: bool) -> Self {
        // A pod's name is unique at a time; the suffix distinguishes processes on one machine.
        let machine = std::env::var("HOSTNAME").unwrap_or_else(|_| "gateway".to_owned());
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            leases: Api::namespaced(client.clone(), namespace),
            client,
            namespace: namespace.into(),
            notices: events.then(NoticeQueue::default),
            identity: format!("{machine}_{:016x}", RandomState::new().hash_one(std::process::id())),
            cache: std::sync::Mutex::default(),
            contents: watch::Sender::new(None),
            term: watch::Sender::new(None),
        }
    }

    /// Writes Events; never returns.
    async fn write_events(&self) {
        if let Some(notices) = &self.notices {
            events::write(self.client.clone(), notices).await;
        }
    }

    /// Watches the Secrets; never returns.
    async fn watch(&self) {
        let only = watcher::Config::default().labels(object::LABEL);
        let mut events = watch_objects(self.secrets.clone(), only).default_backoff().boxed();
        let mut listed = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(secret)) => drop(listed.insert(secret.name_any(), secret)),
                Ok(Event::InitDone) => {
                    self.update_cache(|cache| cache.replace(std::mem::take(&mut listed)))
                }
                Ok(Event::Apply(secret)) => self.update_cache(|cache| cache.put(secret)),
                Ok(Event::Delete(secret)) => self.update_cache(|cache| cache.remove(&secret)),
                Err(error) => {
                    let error = watch_error(&error);
                    tracing::warn!(%error, "failed to watch the Secrets of ordered certificates; the last contents stay")
                }
            }
        }
    }

    /// Changes the cache, and publishes its contents once everything was listed.
    fn update_cache(&self, change: impl FnOnce(&mut SecretCache)) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut cache);
        if let Some(secrets) = cache.secrets() {
            let contents = object::contents(secrets.take(MAX_CERTIFICATES));
            self.contents.send_if_modified(|before| {
                let changed = before.as_deref() != Some(&contents);
                *before = Some(Arc::new(contents));
                changed
            });
        }
    }

    /// Runs leader election; never returns.
    async fn campaign(&self) {
        let mut candidate = Candidate::new(self.identity.clone());
        let mut was_refused = false;
        loop {
            let state = match timeout(REQUEST, self.try_acquire_or_renew(&mut candidate)).await {
                Ok(Ok(())) => candidate.state(Instant::now()),
                Ok(Err(error)) => {
                    report_refusal(&mut was_refused, &error);
                    tracing::debug!(%error, "failed to acquire or renew the lease");
                    candidate.state(Instant::now())
                }
                Err(_) => candidate.state(Instant::now()),
            };
            let term = match state {
                LeaderState::Leader(term) => Some(term),
                LeaderState::Follower => None,
            };
            self.term.send_if_modified(|before| {
                let changed = *before != term;
                if changed {
                    tracing::info!(
                        leader = term.is_some(),
                        lease = lease::NAME,
                        "leadership for certificate orders changed"
                    );
                }
                *before = term;
                changed
            });
            sleep(lease::RETRY).await;
        }
    }

    async fn try_acquire_or_renew(&self, candidate: &mut Candidate) -> Result<(), kube::Error> {
        // Not before the Secrets are listed.
        let Some(stored) = self.stored_term() else { return Ok(()) };
        let found = self.leases.get_opt(lease::NAME).await?;
        let requested_at = Instant::now();
        let Some(desired) = candidate.desired_lease(
            found.as_ref(),
            stored,
            requested_at,
            k8s_openapi::jiff::Timestamp::now(),
        ) else {
            return Ok(());
        };
        let written = match found {
            Some(_) => self.leases.replace(lease::NAME, &PostParams::default(), &desired).await?,
            None => self.leases.create(&PostParams::default(), &desired).await?,
        };
        candidate.acquired(&written, requested_at);
        Ok(())
    }

    /// The latest term that has written a Secret; `None` before they were listed.
    fn stored_term(&self) -> Option<Term> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        Some(cache.secrets()?.map(object::term).max().unwrap_or(Term(0)))
    }

    /// Writes the Secret that `build` returns for the current one; rejected if a later term has
    /// written it.
    async fn write(
        &self,
        term: Term,
        name: &str,
        build: impl Fn(Option<&Secret>) -> Secret + Send + Sync,
    ) -> Result<(), StoreError> {
        let mut conflicts = 0..MAX_CONFLICTS;
        loop {
            let found = self.find(term, name).await?;
            let mut secret = build(found.as_ref());
            // With the version that was read, so that a concurrent write is not overwritten.
            secret.metadata.resource_version =
                found.as_ref().and_then(ResourceExt::resource_version);
            let written = match found {
                Some(_) => self.secrets.replace(name, &PostParams::default(), &secret).await,
                None => self.secrets.create(&PostParams::default(), &secret).await,
            };
            match written {
                // Its renewal was requested at the same time, or there is another leader: retry.
                Err(error) if is_conflict(&error) && conflicts.next().is_some() => {}
                Err(error) => return Err(wrong(error)),
                // The watch may deliver it much later, if the API server was unreachable, and until
                // then the certificate would be ordered again.
                Ok(written) => {
                    self.update_cache(|cache| cache.put(written));
                    return Ok(());
                }
            }
        }
    }

    /// Removes a Secret that a gateway created; rejected if a later term has written it.
    async fn remove(&self, term: Term, name: &str) -> Result<(), StoreError> {
        let mut conflicts = 0..MAX_CONFLICTS;
        loop {
            let found = self.find(term, name).await?;
            let Some(secret) = found.filter(object::is_own_certificate) else { return Ok(()) };
            match self.secrets.delete(name, &unchanged(&secret)).await {
                Err(error) if is_conflict(&error) && conflicts.next().is_some() => {}
                done => return done.map(drop).map_err(wrong),
            }
        }
    }

    /// Returns the current Secret, or an error if this term may not change it.
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

    /// Adds a request to a Secret by a patch of its annotations.
    async fn patch(&self, name: &str, patch: serde_json::Value) -> Result<(), StoreError> {
        match self.secrets.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(StoreError::Unknown),
            Err(error) => Err(wrong(error)),
        }
    }

    /// Returns an error if a later term has written the state: an earlier one must not write then.
    async fn fence(&self, term: Term) -> Result<(), StoreError> {
        self.find(term, object::STATE).await.map(drop)
    }
}

impl Store for Secrets {
    fn run(&self) -> BoxFuture<'_, ()> {
        futures::future::join3(self.watch(), self.campaign(), self.write_events())
            .map(|_| ())
            .boxed()
    }

    fn contents(&self) -> watch::Receiver<Option<Arc<StoreState>>> {
        self.contents.subscribe()
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

    fn request_renewal(&self, name: String) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(
            async move { in_time(self.patch(&object::name(&name), object::renewal_patch())).await },
        )
    }

    fn request_rollover(&self, request: String) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            in_time(self.patch(object::STATE, object::rollover_patch(&request))).await
        })
    }

    fn report(&self, mut notice: Notice) {
        if notice.origin == Origin::default() {
            let (namespace, name) = (Arc::clone(&self.namespace), object::STATE.into());
            notice.origin = Origin { kind: "Secret", namespace, name, place: None };
        }
        // Events are best effort: a notice that is dropped here is in the log too.
        if let Some(notices) = &self.notices {
            notices.push(notice);
        }
    }

    fn propagation_delay(&self) -> Duration {
        PROPAGATION_DELAY
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("identity", &self.identity).finish_non_exhaustive()
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let timed_out = |_| wrong(kube::Error::Service("no response in time".into()));
    timeout(REQUEST, work).await.map_err(timed_out)?
}

/// Preconditions that the Secret has not changed since it was read.
fn unchanged(secret: &Secret) -> DeleteParams {
    let preconditions =
        Preconditions { resource_version: secret.resource_version(), uid: secret.uid() };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// The message of a watch's error, with the rule that it lacks.
fn watch_error(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => rbac::reason(error),
        error => error.to_string(),
    }
}

/// Logs that this replica can never be the leader, once for each time that its permissions are
/// withdrawn.
fn report_refusal(was_refused: &mut bool, error: &kube::Error) {
    let rule = rbac::missing_rule(error);
    let is_new = rule.is_some() && !*was_refused;
    *was_refused = rule.is_some();
    if let (true, Some(rule)) = (is_new, rule) {
        tracing::error!(lease = lease::NAME, help = %rule, "no certificate is ordered: the API server refuses the lease");
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn wrong(error: kube::Error) -> StoreError {
    StoreError::Kubernetes(Box::new(error))
}
