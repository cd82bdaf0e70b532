//! The actions of a rollout. Each can be repeated.

use serde_json::Value;

use super::Course;
use crate::cluster::{ClusterError, Mode};
use crate::manifest::autoscaler;
use crate::model::Time;
use crate::rollout::{Action, Observation, Stable, Stage};
use crate::runner::late_calls::WATCHED_FOR;
use crate::runner::{Runner, call};
use crate::store::{By, Deployment, Rollout, StoreError};

/// 100 %, in hundredths of a percent.
const ALL: u32 = 10_000;

/// What an action led to.
type Outcome = Result<Result<(), ClusterError>, StoreError>;

// === impl Runner ===

impl Runner {
    /// Performs an action of the recorded state.
    pub(super) async fn act(
        &self,
        course: &mut Course<'_>,
        rollout: &Rollout,
        action: Action,
        seen: &Observation,
    ) -> Outcome {
        match action {
            Action::Scale(weight) => self.scale(course, rollout, weight).await,
            Action::StartGate => {
                let job = course.copies.gate.clone();
                Ok(self.apply_all(course, rollout, job.as_slice()).await?.map(drop))
            }
            Action::SetWeight { weight, if_generation } => {
                let set = course.gateway.set_weight(&course.service, weight, if_generation);
                Ok(call(set).await)
            }
            Action::ApplyStable => {
                let is_new = matches!(seen.stable, Stable::Present { is_new: true, .. });
                let deployment = course.deployment.clone();
                self.replace_stable(course, rollout, &deployment, is_new).await
            }
            Action::RestoreStable => {
                let is_old = matches!(seen.stable, Stable::Present { is_new: false, .. });
                let earlier = self.replaced(&course.deployment).await?;
                self.replace_stable(course, rollout, &earlier, is_old).await
            }
            Action::RemoveCanary => self.remove_canary(course, rollout).await,
            Action::Pin => {
                let by = By::rollout(&rollout.state.sentence, Time::now());
                self.store.pin_out(rollout, by).await?;
                Ok(Ok(()))
            }
        }
    }

    /// Applies the canary, with enough replicas for a weight.
    async fn scale(&self, course: &Course<'_>, rollout: &Rollout, weight: u16) -> Outcome {
        let Some(stable) = course.evidence.replicas else {
            let why = "the stable replicas are not known yet";
            return Ok(Err(ClusterError::Unreachable(why.to_owned())));
        };
        let copies = match self.copies_of(&course.deployment, replicas(stable, weight)).await? {
            Ok(copies) => copies,
            Err(error) => return Ok(Err(error)),
        };
        let earlier = self.replaced(&course.deployment).await?;
        let mut manifests = self.autoscalers(&earlier).await?;
        // An abort must find enough stable pods.
        autoscaler::hold(&mut manifests, stable);
        manifests.extend(copies.scaled_for(weight));
        Ok(self.apply_all(course, rollout, &manifests).await?.map(drop))
    }

    /// The autoscalers of a deployment.
    async fn autoscalers(&self, deployment: &Deployment) -> Result<Vec<Value>, StoreError> {
        let (_, mut manifests) = self.rendered(deployment).await?;
        manifests.retain(autoscaler::is_autoscaler);
        Ok(manifests)
    }

    /// Applies the manifests of a deployment to the stable variant, once more after a restart.
    async fn replace_stable(
        &self,
        course: &mut Course<'_>,
        rollout: &Rollout,
        deployment: &Deployment,
        is_applied: bool,
    ) -> Outcome {
        if is_applied && course.stable_applied.as_ref() == Some(&deployment.id) {
            return Ok(Ok(()));
        }
        let (template, mut manifests) = self.rendered(deployment).await?;
        let service = &deployment.id.placement.service;
        if let Err(error) = template.unseal(&mut manifests, &self.keys, service) {
            return Ok(Err(ClusterError::Rejected(error.to_string())));
        }
        autoscaler::hold(&mut manifests, course.evidence.replicas.unwrap_or_default());
        let applied = self.apply_all(course, rollout, &manifests).await?;
        Ok(applied.map(|is_whole| {
            course.stable_applied = is_whole.then(|| deployment.id.clone());
        }))
    }

    /// Applies manifests; `false` if a person has ordered something else meanwhile.
    async fn apply_all(
        &self,
        course: &Course<'_>,
        rollout: &Rollout,
        manifests: &[Value],
    ) -> Result<Result<bool, ClusterError>, StoreError> {
        let owner = self.owner(&course.deployment).await?;
        for manifest in manifests {
            let recorded = self.store.rollout(&rollout.id).await?;
            if recorded.is_none_or(|recorded| recorded.version != rollout.version) {
                return Ok(Ok(false));
            }
            if let Err(error) = call(self.cluster.apply(manifest, &owner, Mode::Apply)).await {
                return Ok(Err(error));
            }
        }
        Ok(Ok(true))
    }

    /// Deletes the canary's objects, which a late call may create again: they are looked for.
    ///
    /// The autoscalers are as the release that runs declares them, again.
    async fn remove_canary(&self, course: &Course<'_>, rollout: &Rollout) -> Outcome {
        let owner = self.owner(&course.deployment).await?;
        let running = match rollout.state.stage {
            Stage::Cleaning => course.deployment.clone(),
            _ => self.replaced(&course.deployment).await?,
        };
        let autoscalers = self.autoscalers(&running).await?;
        match self.apply_all(course, rollout, &autoscalers).await? {
            Ok(true) => {}
            other => return Ok(other.map(drop)),
        }
        let namespace = &course.service.namespace;
        for object in &course.copies.own {
            if let Err(error) = call(self.cluster.prune(namespace, object, &owner)).await {
                return Ok(Err(error));
            }
            let watched_until = Time(Time::now().0.saturating_add(WATCHED_FOR));
            let placement = &course.deployment.id.placement;
            let objects = std::slice::from_ref(object);
            self.store.pruned(placement, namespace, objects, watched_until).await?;
        }
        Ok(Ok(()))
    }

    /// The deployment that ran before.
    async fn replaced(&self, deployment: &Deployment) -> Result<Deployment, StoreError> {
        let missing = || StoreError::NotFound("earlier deployment");
        let id = deployment.replaces.as_ref().ok_or_else(missing)?;
        self.store.deployment(id).await?.ok_or_else(missing)
    }
}

/// The replicas that a canary needs for a weight, if the stable variant has `stable` of them for all
/// of the traffic.
fn replicas(stable: u32, weight: u16) -> u32 {
    let needed = (u64::from(stable) * u64::from(weight)).div_ceil(u64::from(ALL));
    u32::try_from(needed).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_has_its_part_of_the_replicas_and_at_least_one() {
        for (stable, weight, expected) in [
            (10, 100, 1),
            (10, 1_000, 1),
            (10, 1_001, 2),
            (3, 5_000, 2),
            (3, 10_000, 3),
            (0, 100, 1),
        ] {
            assert_eq!(replicas(stable, weight), expected, "{stable} at {weight}");
        }
    }
}
