//! Performs the actions of open deployments.
//!
//! There is one task for each service in an environment that has an open deployment. All decisions
//! are those of [`state::step`](crate::state::step): a task records the state, performs the action,
//! and feeds back what happened. A deployment that is superseded stops before its next call to the
//! cluster, and its successor starts when it has stopped.

mod late_calls;
mod rollouts;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use self::late_calls::{LOOKED_FOR_EVERY, WATCHED_FOR};
use self::tasks::Tasks;
use crate::cluster::{Answer, Cluster, ClusterError, Mode, Owner};
use crate::gateway::Gateway;
use crate::manifest::{ObjectRef, Setting, Template};
use crate::metrics::Metrics;
use crate::model::{DeploymentId, EnvironmentName, Time};
use crate::query::Queries;
use crate::sealing::SealingKeys;
use crate::state::{Action, Event, Readiness, Reasons, State, step};
use crate::store::{Deployment, Release, ReleaseSummary, Store, StoreError};

/// The deployments that became ready whose ConfigMaps and Secrets are kept: as many as a Deployment
/// keeps ReplicaSets.
const KEPT_COPIES: u32 = 10;
/// The most deployments that are worked on at the same time; more wait.
const MAX_TASKS: usize = 64;
/// The most rollouts that are worked on at the same time.
const MAX_ROLLOUTS: usize = 1000;
/// How often readiness is observed.
const OBSERVED_EVERY: Duration = Duration::from_millis(500);
/// How long an unreachable cluster or a failing store is left alone.
const RETRIED_AFTER: Duration = Duration::from_secs(2);
/// The longest that one call to the cluster may take.
const MAX_CALL: Duration = Duration::from_secs(30);
/// The longest that a dry run may take. Clients of the API wait for it.
const MAX_DRY_RUN: Duration = Duration::from_secs(8);

/// What rollouts are judged by.
#[derive(Default)]
pub struct Sensors {
    /// The gateway that splits the traffic. Without it, releases with a rollout are refused.
    pub gateway: Option<Arc<dyn Gateway>>,
    /// Evaluates the services' own queries. Without it, rollouts with one are refused.
    pub queries: Option<Arc<dyn Queries>>,
}

/// Performs the actions of open deployments.
pub struct Runner {
    store: Arc<dyn Store>,
    cluster: Arc<dyn Cluster>,
    gateway: Option<Arc<dyn Gateway>>,
    queries: Option<Arc<dyn Queries>>,
    keys: Arc<SealingKeys>,
    metrics: Metrics,
    wake: Notify,
}

// === impl Runner ===

impl Runner {
    /// Creates a runner. [`run`](Self::run) makes it work.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        cluster: Arc<dyn Cluster>,
        sensors: Sensors,
        keys: Arc<SealingKeys>,
    ) -> Arc<Self> {
        let Sensors { gateway, queries } = sensors;
        let (metrics, wake) = (Metrics::default(), Notify::new());
        Arc::new(Self { store, cluster, gateway, queries, keys, metrics, wake })
    }

    /// The metrics of the rollouts that it works on.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Makes it look for new deployments now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Works until it is dropped: at first on what an earlier process has left open.
    pub async fn run(self: Arc<Self>) {
        let (mut tasks, mut rollouts) = (Tasks::new(MAX_TASKS), Tasks::new(MAX_ROLLOUTS));
        let mut swept = None;
        loop {
            match self.store.open_rollouts().await {
                Ok(open) => {
                    for id in open.into_iter().filter(|id| !tasks.is_busy(&id.placement)) {
                        let placement = id.placement.clone();
                        rollouts.start(&placement, Arc::clone(&self).work_on_rollout(id));
                    }
                }
                Err(error) => tracing::error!(%error, "failed to read the open rollouts"),
            }
            match self.store.open_deployments().await {
                Ok(open) => {
                    for id in open.into_iter().filter(|id| !rollouts.is_busy(&id.placement)) {
                        let placement = id.placement.clone();
                        tasks.start(&placement, Arc::clone(&self).work(id));
                    }
                }
                Err(error) => tracing::error!(%error, "failed to read the open deployments"),
            }
            if swept.is_none_or(|at: Instant| at.elapsed() >= LOOKED_FOR_EVERY) {
                swept = Some(Instant::now());
                match self.store.watched_placements().await {
                    Ok(placements) => {
                        for placement in placements.into_iter().filter(|one| !rollouts.is_busy(one))
                        {
                            tasks.start(&placement, Arc::clone(&self).sweep(placement.clone()));
                        }
                    }
                    Err(error) => tracing::error!(%error, "failed to read the pruned objects"),
                }
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(RETRIED_AFTER) => {}
                Some(()) = tasks.ended() => {}
                Some(()) = rollouts.ended() => {}
            }
        }
    }

    /// Lets the server check what a release with these settings would apply to an environment, and
    /// changes nothing.
    ///
    /// # Errors
    /// The cluster rejects it, or does not answer within 8 seconds.
    pub async fn dry_run(
        &self,
        release: &Release,
        settings: &[Setting],
        environment: &EnvironmentName,
    ) -> Result<(), ClusterError> {
        let ReleaseSummary { id, image, .. } = &release.summary;
        let template = &release.template;
        let owner = Owner { service: id.service.clone(), epoch: self.store.epoch(), fence: None };
        let checked = async {
            let namespace = self.cluster.namespace(environment).await?;
            let mut manifests = template.render(id, image, settings, &namespace);
            let unsealed = template.unseal(&mut manifests, &self.keys, &id.service);
            unsealed.map_err(|error| ClusterError::Rejected(error.to_string()))?;
            for manifest in manifests {
                self.cluster.apply(&manifest, &owner, Mode::DryRun).await?;
            }
            Ok(())
        };
        timeout(MAX_DRY_RUN, checked).await.unwrap_or_else(|_| {
            Err(ClusterError::Unreachable(format!("no response in {} s", MAX_DRY_RUN.as_secs())))
        })
    }

    async fn work(self: Arc<Self>, id: DeploymentId) {
        if let Err(error) = self.drive(&id).await {
            tracing::error!(deployment = %id, %error, "failed to record a deployment's progress");
            sleep(RETRIED_AFTER).await;
        }
    }

    /// Works on a deployment until it is closed.
    ///
    /// # Errors
    /// The store failed. What is recorded is resumed by a later call.
    pub async fn drive(&self, id: &DeploymentId) -> Result<(), StoreError> {
        let Some(mut deployment) = self.store.deployment(id).await? else { return Ok(()) };
        let mut event = Event::Resumed;
        let mut reasons = Reasons::default();
        loop {
            let now = Time::now();
            let (state, action) = step(deployment.state.clone(), event, now);
            if reasons.is_recorded(&deployment.state, &state, now) {
                let name = state.name();
                match self.store.advance(&deployment, state, now).await? {
                    Some(next) => deployment = next,
                    None => return Ok(()),
                }
                // The further lines are those of a container's log.
                let reason = deployment.state.reason().and_then(|reason| reason.lines().next());
                tracing::info!(deployment = %id, release = %deployment.release, state = name,
                    reason, "deployment advanced");
            }
            let Some(action) = action else { return Ok(()) };
            event = match self.perform(&mut deployment, action).await? {
                Some(event) => event,
                None => return Ok(()),
            };
            match &event {
                Event::Unreachable(reason) => {
                    tracing::warn!(deployment = %id, reason, "failed to reach the cluster");
                    sleep(RETRIED_AFTER).await;
                }
                Event::Observed(Readiness::Progressing(_)) => sleep(OBSERVED_EVERY).await,
                _ => {}
            }
        }
    }

    /// Performs an action, and returns what happened; `None` if the deployment was superseded.
    async fn perform(
        &self,
        deployment: &mut Deployment,
        action: Action,
    ) -> Result<Option<Event>, StoreError> {
        if !self.is_current(deployment).await? {
            return Ok(None);
        }
        let outcome = match action {
            Action::Check => match self.check(deployment).await? {
                Some(Ok(_)) if self.begin_rollout(deployment).await? => None,
                checked => checked,
            },
            // It has a task of its own.
            Action::RollOut => None,
            Action::Apply => self.apply(deployment, Mode::Apply).await?,
            Action::Observe => Some(self.observe(deployment).await?),
            Action::Prune => self.prune(deployment).await?,
        };
        Ok(outcome.map(|outcome| match (action, outcome) {
            (_, Err(ClusterError::Unreachable(reason))) => Event::Unreachable(reason),
            (Action::Observe, Ok(readiness)) => Event::Observed(readiness),
            (Action::Observe, Err(ClusterError::Rejected(reason))) => {
                Event::Observed(Readiness::Failed(reason))
            }
            (Action::Check, outcome) => {
                Event::Checked(outcome.map(drop).map_err(|error| error.to_string()))
            }
            (Action::Apply | Action::RollOut, outcome) => {
                Event::Applied(outcome.map(drop).map_err(|error| error.to_string()))
            }
            (Action::Prune, outcome) => {
                Event::Pruned(outcome.map(drop).map_err(|error| error.to_string()))
            }
        }))
    }

    /// Lets the server check all manifests, and records what will be applied.
    ///
    /// Of a release that is rolled out, the canary's as well.
    async fn check(&self, deployment: &mut Deployment) -> Result<Option<Outcome>, StoreError> {
        let environment = deployment.id.placement.environment.clone();
        let namespace = match call(self.cluster.namespace(&environment)).await {
            Ok(namespace) => namespace,
            Err(error) => return Ok(Some(Err(error))),
        };
        deployment.namespace = Some(namespace.clone());
        match self.apply(deployment, Mode::DryRun).await? {
            Some(Ok(_)) => {}
            other => return Ok(other),
        }
        let mut objects = self.objects(deployment).await?;
        match self.check_canary(deployment).await? {
            Ok(copies) => objects.extend(copies),
            Err(error) => return Ok(Some(Err(error))),
        }
        let planned = self.store.plan(deployment, &namespace, &objects).await?;
        Ok(planned.then_some(Ok(Readiness::Ready)))
    }

    async fn apply(
        &self,
        deployment: &Deployment,
        mode: Mode,
    ) -> Result<Option<Outcome>, StoreError> {
        let owner = self.owner(deployment).await?;
        let (template, mut manifests) = self.rendered(deployment).await?;
        if let Err(error) = template.unseal(&mut manifests, &self.keys, &owner.service) {
            return Ok(Some(Err(ClusterError::Rejected(error.to_string()))));
        }
        for manifest in manifests {
            if !self.is_current(deployment).await? {
                return Ok(None);
            }
            if let Err(error) = call(self.cluster.apply(&manifest, &owner, mode)).await {
                return Ok(Some(Err(error)));
            }
        }
        Ok(Some(Ok(Readiness::Ready)))
    }

    async fn observe(&self, deployment: &Deployment) -> Result<Outcome, StoreError> {
        let objects = self.objects(deployment).await?;
        Ok(call(self.cluster.observe(namespace(deployment)?, &objects)).await)
    }

    /// Deletes what earlier releases applied and this one has not, except copies that may be needed.
    async fn prune(&self, deployment: &Deployment) -> Result<Option<Outcome>, StoreError> {
        let placement = &deployment.id.placement;
        let mut kept = self.objects(deployment).await?;
        kept.extend(self.copies(deployment).await?);
        let owner = self.owner(deployment).await?;
        let mut inventory = self.store.inventory(placement).await?;
        inventory.retain(|object| !kept.iter().any(|kept| kept.is_same(object)));
        for object in inventory {
            if !self.is_current(deployment).await? {
                return Ok(None);
            }
            let namespace = namespace(deployment)?;
            if let Err(error) = call(self.cluster.prune(namespace, &object, &owner)).await {
                return Ok(Some(Err(error)));
            }
            let watched_until = Time(Time::now().0.saturating_add(WATCHED_FOR));
            self.store.pruned(placement, namespace, &[object], watched_until).await?;
        }
        Ok(Some(Ok(Readiness::Ready)))
    }

    async fn is_current(&self, deployment: &Deployment) -> Result<bool, StoreError> {
        let recorded = self.store.deployment(&deployment.id).await?;
        Ok(recorded.is_some_and(|recorded| recorded.version == deployment.version))
    }

    /// The template of a deployment's release, and its rendered manifests, with sealed Secrets.
    async fn rendered(
        &self,
        deployment: &Deployment,
    ) -> Result<(Template, Vec<Value>), StoreError> {
        let release = self.store.release(&deployment.release).await?;
        let Release { template, summary } = release.ok_or(StoreError::NotFound("release"))?;
        let namespace = namespace(deployment)?;
        let ReleaseSummary { id, image, .. } = &summary;
        let manifests = template.render(id, image, &deployment.settings, namespace);
        Ok((template, manifests))
    }

    async fn objects(&self, deployment: &Deployment) -> Result<Vec<ObjectRef>, StoreError> {
        let (_, manifests) = self.rendered(deployment).await?;
        Ok(manifests.iter().filter_map(ObjectRef::of).collect())
    }

    /// The ConfigMaps and Secrets of the last releases that ran, which their ReplicaSets and
    /// rollbacks refer to.
    async fn copies(&self, deployment: &Deployment) -> Result<Vec<ObjectRef>, StoreError> {
        let DeploymentId { placement, number } = &deployment.id;
        let ready = self.store.ready_deployments(placement, *number, KEPT_COPIES).await?;
        let mut copies = Vec::new();
        for earlier in &ready {
            let (template, manifests) = self.rendered(earlier).await?;
            copies.extend(template.copies(&manifests));
        }
        Ok(copies)
    }

    async fn owner(&self, deployment: &Deployment) -> Result<Owner, StoreError> {
        let DeploymentId { placement, number } = &deployment.id;
        let earlier = self.store.deployments(placement, Some(*number), 1).await?;
        // One that did not become ready may have been stopped during a call.
        let is_settled = earlier.iter().all(|earlier| earlier.state == State::Ready);
        // A late sweep may delete what this one brings back, and finds as it should be.
        let watched = self.store.watched(placement, Time::now()).await?;
        let brings = if watched.is_empty() { Vec::new() } else { self.objects(deployment).await? };
        let is_swept = |object: &ObjectRef| watched.iter().any(|one| one.object.is_same(object));
        let brings_back = brings.iter().any(is_swept);
        Ok(Owner {
            service: placement.service.clone(),
            epoch: self.store.epoch(),
            fence: (!is_settled || brings_back).then(|| deployment.id.clone()),
        })
    }
}

/// What an action led to; a readiness only where it was observed.
type Outcome = Result<Readiness, ClusterError>;

/// The namespace, which is recorded before anything is applied.
fn namespace(deployment: &Deployment) -> Result<&str, StoreError> {
    deployment
        .namespace
        .as_deref()
        .ok_or_else(|| StoreError::Invalid(format!("{} has no namespace", deployment.id)))
}

async fn call<T>(call: Answer<'_, T>) -> Result<T, ClusterError> {
    timeout(MAX_CALL, call).await.unwrap_or_else(|_| {
        Err(ClusterError::Unreachable(format!("no response in {} s", MAX_CALL.as_secs())))
    })
}

#[cfg(test)]
pub(crate) mod tests;
