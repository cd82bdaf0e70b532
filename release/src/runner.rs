//! Performs the actions of open deployments.
//!
//! There is one task for each service in an environment that has an open deployment. All decisions
//! are those of [`state::step`](crate::state::step): a task records the state, performs the action,
//! and feeds back what happened. A deployment that is superseded stops before its next call to the
//! cluster, and its successor starts when it has stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};

use crate::cluster::{Answer, Cluster, ClusterError, Mode, Owner};
use crate::manifest::ObjectRef;
use crate::model::{DeploymentId, EnvironmentName, Placement, Time};
use crate::state::{Action, Event, Readiness, State, step};
use crate::store::{Deployment, Release, ReleaseSummary, Store, StoreError};

/// How often readiness is observed.
const OBSERVED_EVERY: Duration = Duration::from_millis(500);
/// How long an unreachable cluster or a failing store is left alone.
const RETRIED_AFTER: Duration = Duration::from_secs(2);
/// The longest that one call to the cluster may take.
const MAX_CALL: Duration = Duration::from_secs(30);
/// The longest that a dry run may take. Clients of the API wait for it.
const MAX_DRY_RUN: Duration = Duration::from_secs(8);
/// The most deployments that are worked on at the same time; more wait.
const MAX_TASKS: usize = 64;

/// Performs the actions of open deployments.
pub struct Runner {
    store: Arc<dyn Store>,
    cluster: Arc<dyn Cluster>,
    wake: Notify,
}

// === impl Runner ===

impl Runner {
    /// Creates a runner. [`run`](Self::run) makes it work.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cluster: Arc<dyn Cluster>) -> Arc<Self> {
        Arc::new(Self { store, cluster, wake: Notify::new() })
    }

    /// Makes it look for new deployments now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Works until it is dropped: at first on what an earlier process has left open.
    pub async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        let mut busy: HashMap<Id, Placement> = HashMap::new();
        loop {
            match self.store.open_deployments().await {
                Ok(open) => {
                    for deployment in open {
                        let placement = deployment.id.placement.clone();
                        if tasks.len() >= MAX_TASKS || busy.values().any(|p| *p == placement) {
                            continue;
                        }
                        let task = tasks.spawn(Arc::clone(&self).work(deployment.id));
                        busy.insert(task.id(), placement);
                    }
                }
                Err(error) => tracing::error!(%error, "failed to read the open deployments"),
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(RETRIED_AFTER) => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let id = match &ended {
                        Ok((id, ())) => *id,
                        Err(error) => error.id(),
                    };
                    busy.remove(&id);
                }
            }
        }
    }

    /// Lets the server check what a release would apply to an environment, and changes nothing.
    ///
    /// # Errors
    /// The cluster rejects it, or does not answer within 8 seconds.
    pub async fn dry_run(
        &self,
        release: &Release,
        environment: &EnvironmentName,
    ) -> Result<(), ClusterError> {
        let ReleaseSummary { id, image, .. } = &release.summary;
        let owner = Owner { service: id.service.clone(), epoch: self.store.epoch(), fence: None };
        let checked = async {
            let namespace = self.cluster.namespace(environment).await?;
            for manifest in release.template.render(id, image, &namespace) {
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
        loop {
            let now = Time::now();
            let (state, action) = step(deployment.state.clone(), event, now);
            if state != deployment.state {
                let name = state.name();
                match self.store.advance(&deployment, state, now).await? {
                    Some(next) => deployment = next,
                    None => return Ok(()),
                }
                tracing::info!(deployment = %id, release = %deployment.release, state = name,
                    reason = deployment.state.reason(), "deployment advanced");
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
            Action::Check => self.check(deployment).await?,
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
            (Action::Apply, outcome) => {
                Event::Applied(outcome.map(drop).map_err(|error| error.to_string()))
            }
            (Action::Prune, outcome) => {
                Event::Pruned(outcome.map(drop).map_err(|error| error.to_string()))
            }
        }))
    }

    /// Lets the server check all manifests, and records what will be applied.
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
        let objects = self.objects(deployment).await?;
        let planned = self.store.plan(deployment, &namespace, &objects).await?;
        Ok(planned.then_some(Ok(Readiness::Ready)))
    }

    async fn apply(
        &self,
        deployment: &Deployment,
        mode: Mode,
    ) -> Result<Option<Outcome>, StoreError> {
        let owner = self.owner(deployment).await?;
        for manifest in self.manifests(deployment).await? {
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

    /// Deletes what earlier releases applied and this one has not.
    async fn prune(&self, deployment: &Deployment) -> Result<Option<Outcome>, StoreError> {
        let placement = &deployment.id.placement;
        let kept = self.objects(deployment).await?;
        let owner = self.owner(deployment).await?;
        let mut inventory = self.store.inventory(placement).await?;
        inventory.retain(|object| !kept.iter().any(|kept| kept.is_same(object)));
        for object in inventory {
            if !self.is_current(deployment).await? {
                return Ok(None);
            }
            let pruned = self.cluster.prune(namespace(deployment)?, &object, &owner);
            if let Err(error) = call(pruned).await {
                return Ok(Some(Err(error)));
            }
            self.store.pruned(placement, &[object]).await?;
        }
        Ok(Some(Ok(Readiness::Ready)))
    }

    async fn is_current(&self, deployment: &Deployment) -> Result<bool, StoreError> {
        let recorded = self.store.deployment(&deployment.id).await?;
        Ok(recorded.is_some_and(|recorded| recorded.version == deployment.version))
    }

    async fn manifests(&self, deployment: &Deployment) -> Result<Vec<Value>, StoreError> {
        let release = self.store.release(&deployment.release).await?;
        let release = release.ok_or(StoreError::NotFound("release"))?;
        let namespace = namespace(deployment)?;
        Ok(release.template.render(&deployment.release, &release.summary.image, namespace))
    }

    async fn objects(&self, deployment: &Deployment) -> Result<Vec<ObjectRef>, StoreError> {
        Ok(self.manifests(deployment).await?.iter().filter_map(ObjectRef::of).collect())
    }

    async fn owner(&self, deployment: &Deployment) -> Result<Owner, StoreError> {
        let DeploymentId { placement, number } = &deployment.id;
        let earlier = self.store.deployments(placement, Some(*number), 1).await?;
        // One that did not become ready may have been stopped during a call.
        let is_settled = earlier.iter().all(|earlier| earlier.state == State::Ready);
        Ok(Owner {
            service: placement.service.clone(),
            epoch: self.store.epoch(),
            fence: (!is_settled).then(|| deployment.id.clone()),
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
mod tests;
