//! Performs the actions of open rollouts.
//!
//! There is one task for each open rollout. All decisions are those of
//! [`rollout::step`](crate::rollout::step()): in each turn a task observes, records the state that
//! follows, and then performs its actions. What cannot be read or done is recorded, too, so that a
//! person sees why a rollout holds.

mod canary;
mod events;
mod evidence;
mod gate;
mod observe;
mod perform;
mod preview;
mod sampler;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use self::canary::Copies;
use self::events::EventBudget;
use self::evidence::Evidence;
use self::observe::Seen;
use self::sampler::Sampler;
use super::{RETRIED_AFTER, Runner};
use crate::cluster::ClusterError;
use crate::feed::Service;
use crate::gateway::Gateway;
use crate::manifest::ObjectRef;
use crate::model::{DeploymentId, Time};
use crate::rollout::{self, Action, Observation, Settings, step};
use crate::state::Intent;
use crate::store::{Deployment, Rollout, RolloutChange, StoreError};

/// How often a rollout is looked at.
const TURN: Duration = Duration::from_secs(1);
/// The same while the gateway applies a weight.
const SHORT_TURN: Duration = Duration::from_millis(200);
/// How often another sentence or problem is recorded that changes nothing else, in milliseconds.
const SENTENCE_EVERY: u64 = 10_000;

/// A rollout that is worked on.
pub(super) struct Course<'r> {
    gateway: &'r dyn Gateway,
    deployment: Deployment,
    /// The stable Service and its canary.
    service: Service,
    copies: Copies,
    evidence: Evidence,
    sampler: Sampler,
    /// The deployment whose manifests this builder has applied to the stable variant, all of them.
    stable_applied: Option<DeploymentId>,
    /// What kept it from acting in the turn before.
    failure: Option<String>,
    /// The state of the last Event, and how many more there may be.
    reported: rollout::Rollout,
    events: EventBudget,
}

// === impl Runner ===

impl Runner {
    pub(super) async fn work_on_rollout(self: Arc<Self>, id: DeploymentId) {
        if let Err(error) = self.roll_out(&id).await {
            tracing::error!(rollout = %id, %error, "failed to work on a rollout");
            sleep(RETRIED_AFTER).await;
        }
    }

    /// Works on a rollout until it is closed, or cannot be worked on at all.
    async fn roll_out(&self, id: &DeploymentId) -> Result<(), StoreError> {
        let mut course = match self.course(id).await? {
            Ok(course) => course,
            Err(why) => {
                self.note_problem(id, why.to_string()).await?;
                sleep(RETRIED_AFTER).await;
                return Ok(());
            }
        };
        while let Some(pause) = self.turn(&mut course, Time::now()).await? {
            sleep(pause).await;
        }
        Ok(())
    }

    /// Reads what does not change during a rollout.
    ///
    /// # Errors
    /// Why it cannot be worked on.
    pub(super) async fn course(
        &self,
        id: &DeploymentId,
    ) -> Result<Result<Course<'_>, ClusterError>, StoreError> {
        let missing = || StoreError::NotFound("rollout");
        let deployment = self.store.deployment(id).await?.ok_or_else(missing)?;
        let rollout = self.store.rollout(id).await?.ok_or_else(missing)?;
        let Some(gateway) = self.gateway.as_deref() else {
            let why = "the builder has no `gateway` in its configuration any more";
            return Ok(Err(ClusterError::Rejected(why.to_owned())));
        };
        let copies = match self.copies_of(&deployment, 1).await? {
            Ok(copies) => copies,
            Err(error) => return Ok(Err(error)),
        };
        let namespace = super::namespace(&deployment)?.to_owned();
        let evidence: Option<Evidence> = serde_json::from_value(rollout.evidence)
            .map_err(|error| StoreError::Invalid(format!("evidence: {error}")))?;
        Ok(Ok(Course {
            gateway,
            service: canary::service(&id.placement.service, namespace),
            copies,
            evidence: evidence.unwrap_or_default(),
            sampler: Sampler::default(),
            deployment,
            stable_applied: None,
            failure: None,
            reported: rollout.state,
            events: EventBudget::default(),
        }))
    }

    /// Records why a rollout cannot be worked on.
    async fn note_problem(&self, id: &DeploymentId, problem: String) -> Result<(), StoreError> {
        let Some(rollout) = self.store.rollout(id).await? else { return Ok(()) };
        self.metrics.observe(&id.placement, &rollout.state, true);
        if rollout.problem.as_ref() == Some(&problem) {
            return Ok(());
        }
        tracing::error!(rollout = %id, problem, "failed to work on a rollout");
        let change = RolloutChange {
            state: rollout.state.clone(),
            evidence: rollout.evidence.clone(),
            problem: Some(problem),
            looks: Vec::new(),
            gate: None,
        };
        self.store.advance_rollout(&rollout, change, Time::now()).await.map(drop)
    }

    /// Observes, decides, records and acts once; returns how long it may wait for the next turn, and
    /// `None` if the rollout is closed.
    pub(super) async fn turn(
        &self,
        course: &mut Course<'_>,
        now: Time,
    ) -> Result<Option<Duration>, StoreError> {
        let id = course.deployment.id.clone();
        let Some(rollout) = self.store.rollout(&id).await? else { return Ok(None) };
        if !rollout.state.is_open() {
            return Ok(None);
        }
        let before = course.evidence.clone();
        let Seen { observation, looks, problem, gate } = self.see(course, &rollout, now).await?;
        let (state, actions) = step(rollout.state.clone(), &observation, now);
        let problem = problem.or_else(|| course.failure.take());
        let evidence = serde_json::Value::Null;
        let change = RolloutChange { state, evidence, problem, looks, gate };
        let is_other = course.evidence.is_other(&before);
        let Some(current) = self.record(course, rollout, change, is_other, now).await? else {
            // A person has ordered something meanwhile. What was seen is seen again.
            course.evidence = before;
            return Ok(Some(SHORT_TURN));
        };
        self.metrics.observe(&id.placement, &current.state, current.problem.is_some());
        if !current.state.is_open() {
            self.metrics.count_closed(&current.state.stage);
            self.wake();
        }
        let acted = self.act_all(course, &current, actions, &observation).await?;
        // Nothing waits for Events, least of all a weight.
        if current.state.is_further(&course.reported) {
            self.report_step(course, &current).await;
        }
        let is_awaited = acted && current.state.is_weight_awaited();
        let pause = if is_awaited { SHORT_TURN } else { TURN };
        Ok(current.state.is_open().then_some(pause))
    }

    /// Performs actions until one fails; `false` if one did.
    async fn act_all(
        &self,
        course: &mut Course<'_>,
        rollout: &Rollout,
        actions: Vec<Action>,
        seen: &Observation,
    ) -> Result<bool, StoreError> {
        for action in actions {
            if let Err(error) = self.act(course, rollout, action, seen).await? {
                tracing::warn!(rollout = %rollout.id, ?action, %error, "failed to act on a rollout");
                course.failure = Some(error.to_string());
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Records a change, with the evidence if it is another one. A change of words alone is not
    /// recorded each time. Returns the record as it is now; `None` if it has changed meanwhile.
    async fn record(
        &self,
        course: &Course<'_>,
        rollout: Rollout,
        mut change: RolloutChange,
        is_other_evidence: bool,
        now: Time,
    ) -> Result<Option<Rollout>, StoreError> {
        let before = &rollout.state;
        let has_news = !change.looks.is_empty() || change.gate.is_some();
        let is_changed = change.state.differs(before) || has_news;
        let is_reworded =
            change.state.sentence != before.sentence || change.problem != rollout.problem;
        let is_due = rollout.updated_at.0.saturating_add(SENTENCE_EVERY) <= now.0;
        if !(is_changed || is_other_evidence || (is_reworded && is_due)) {
            return Ok(Some(rollout));
        }
        report(&rollout, &change.state, change.problem.as_deref());
        change.evidence = serde_json::to_value(&course.evidence)
            .map_err(|error| StoreError::Invalid(format!("evidence: {error}")))?;
        let verdicts: Vec<_> = change.looks.iter().map(|look| look.report.verdict).collect();
        let recorded = self.store.advance_rollout(&rollout, change, now).await?;
        if recorded.is_some() {
            verdicts.into_iter().for_each(|verdict| self.metrics.count_look(verdict));
        }
        Ok(recorded)
    }

    /// How a checked deployment is rolled out; `None` if it is applied at once: a rollback, the first
    /// release of a service, and the one that runs.
    async fn rollout_of(
        &self,
        deployment: &Deployment,
    ) -> Result<Result<Option<Settings>, ClusterError>, StoreError> {
        let Some(replaced) = &deployment.replaces else { return Ok(Ok(None)) };
        let running = self.store.deployment(replaced).await?;
        let is_same = running.is_none_or(|running| running.release == deployment.release);
        if is_same || deployment.intent == Intent::Rollback {
            return Ok(Ok(None));
        }
        let release = self.store.release(&deployment.release).await?;
        let template = release.ok_or(StoreError::NotFound("release"))?.template;
        let rejected = |why: String| Ok(Err(ClusterError::Rejected(why)));
        match Settings::of(&template, &deployment.id.placement.environment) {
            Ok(Some(_)) if self.gateway.is_none() => rejected(
                "the release is to be rolled out, and the builder has no `gateway` in its \
                 configuration, whose traffic feed would be read"
                    .to_owned(),
            ),
            Ok(Some(Settings { query: Some(_), .. })) if self.queries.is_none() => rejected(
                "the rollout of the release has a `query`, and the builder has no `prometheus` in its \
                 configuration"
                    .to_owned(),
            ),
            Ok(settings) => Ok(Ok(settings)),
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                rejected(problems.join("; "))
            }
        }
    }

    /// Lets the server check the canary of a release that is rolled out, and returns its objects.
    pub(super) async fn check_canary(
        &self,
        deployment: &Deployment,
    ) -> Result<Result<Vec<ObjectRef>, ClusterError>, StoreError> {
        let settings = match self.rollout_of(deployment).await? {
            Err(error) => return Ok(Err(error)),
            Ok(None) => return Ok(Ok(Vec::new())),
            Ok(Some(settings)) => settings,
        };
        if let Err(error) = self.check_people(deployment, &settings).await? {
            return Ok(Err(error));
        }
        let copies = match self.copies_of(deployment, 1).await? {
            Ok(copies) => copies,
            Err(error) => return Ok(Err(error)),
        };
        let owner = self.owner(deployment).await?;
        for manifest in copies.manifests.iter().chain(&copies.gate) {
            let mode = crate::cluster::Mode::DryRun;
            if let Err(error) = super::call(self.cluster.apply(manifest, &owner, mode)).await {
                return Ok(Err(error));
            }
        }
        Ok(Ok(copies.objects))
    }

    /// Records the rollout of a checked deployment, if it is rolled out; `false` if it is applied at
    /// once.
    pub(super) async fn begin_rollout(&self, deployment: &Deployment) -> Result<bool, StoreError> {
        let Ok(Some(settings)) = self.rollout_of(deployment).await? else { return Ok(false) };
        let warnings = match self.copies_of(deployment, 1).await? {
            Ok(copies) => self.warnings(deployment, &copies).await?,
            Err(_) => Vec::new(),
        };
        let now = Time::now();
        let state = rollout::Rollout { warnings, ..rollout::Rollout::new(settings, now) };
        if self.store.begin_rollout(deployment, state, now).await?.is_some() {
            tracing::info!(rollout = %deployment.id, release = %deployment.release, "rollout began");
            self.wake();
        }
        Ok(true)
    }
}

/// Logs what is new.
fn report(rollout: &Rollout, next: &rollout::Rollout, problem: Option<&str>) {
    if next.is_further(&rollout.state) {
        tracing::info!(rollout = %rollout.id, release = %rollout.release,
            stage = next.stage.name(), weight = next.weight(), sentence = next.sentence, "rollout advanced");
    }
    if let Some(problem) = problem.filter(|problem| rollout.problem.as_deref() != Some(*problem)) {
        tracing::warn!(rollout = %rollout.id, problem, "a rollout cannot read or act");
    }
}
