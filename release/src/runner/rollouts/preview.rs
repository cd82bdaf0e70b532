//! What is known of a rollout before it begins: whether its steps have people enough, and what would
//! select its canary's pods.

use portcullis_config::snapshot::split::percent;
use serde_json::{Map, Value};

use super::canary::Copies;
use crate::analysis::{MIN_BUCKETS, Population, Report, Standing};
use crate::cluster::ClusterError;
use crate::manifest::canary::selected_by;
use crate::manifest::{ObjectRef, service_label};
use crate::model::{DeploymentId, Placements};
use crate::rollout::Settings;
use crate::runner::{Runner, call, namespace};
use crate::store::{Deployment, StoreError, WantedRollouts};

/// The most warnings of a rollout.
const MAX_WARNINGS: usize = 20;

// === impl Runner ===

impl Runner {
    /// Checks that each step has people enough to compare, by what the last rollout of the service
    /// there has seen in at least as long a time.
    pub(super) async fn check_people(
        &self,
        deployment: &Deployment,
        settings: &Settings,
    ) -> Result<Result<(), ClusterError>, StoreError> {
        let placement = &deployment.id.placement;
        let everything = Placements { services: None, environments: None };
        let wanted = WantedRollouts {
            services: Some(vec![placement.service.clone()]),
            environment: Some(placement.environment.clone()),
            readable: vec![everything],
        };
        let last = self.store.rollouts(&wanted, None, 1).await?;
        let Some(last) = last.first() else { return Ok(Ok(())) };
        let looks = self.store.looks(&last.id, None, 1).await?;
        let Some(report) = looks.first().map(|look| &look.report) else { return Ok(Ok(())) };
        let refusal = too_few(report, &last.id, settings);
        Ok(refusal.map_or(Ok(()), |why| Err(ClusterError::Rejected(why))))
    }

    /// The objects beside the release that would select the canary's pods, in one sentence each.
    pub(super) async fn warnings(
        &self,
        deployment: &Deployment,
        copies: &Copies,
    ) -> Result<Vec<String>, StoreError> {
        let found = call(self.cluster.selecting(namespace(deployment)?)).await;
        let mut found = match found {
            Ok(found) => found,
            Err(error) => {
                let why = "what else selects the canary's pods is not known";
                return Ok(vec![format!("{why}: {error}")]);
            }
        };
        let service = deployment.id.placement.service.as_str();
        found.retain(|object| owner(object) != Some(service) && !is_for_all(object));
        let mut warnings: Vec<String> = copies
            .labels
            .iter()
            .flat_map(|labels| selected_by(labels, &found))
            .map(|object| warning(&object, &found))
            .collect();
        warnings.sort();
        warnings.dedup();
        warnings.truncate(MAX_WARNINGS);
        Ok(warnings)
    }
}

/// Why a step has too few people to compare them, if one has, by what the rollout `seen_by` has seen.
/// A step that takes longer than that rollout has taken may see more.
fn too_few(report: &Report, seen_by: &DeploymentId, settings: &Settings) -> Option<String> {
    let mut populations = report.metrics.iter().flat_map(|metric| &metric.populations);
    let is_by_people = populations.any(|one| {
        one.population == Population::Sticky
            && matches!(one.standing, Standing::Open | Standing::Few)
    });
    let people = report.people.canary.saturating_add(report.people.stable);
    let steps = settings.steps.iter().enumerate();
    let mut steps =
        steps.filter(|(_, step)| is_by_people && report.seconds.saturating_mul(1000) >= step.hold);
    steps.find_map(|(index, step)| {
        let least = step.check_people(people).err()??;
        Some(format!(
            "step {} of the rollout has too few people to compare them: {seen_by} has seen {people}, of \
             whom {} % are fewer than {MIN_BUCKETS}; write a weight of {} %",
            index.saturating_add(1),
            percent(step.weight.into()),
            percent(step.nearest(least).into()),
        ))
    })
}

/// The service whose release brought an object.
fn owner(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("labels")?.get(service_label())?.as_str()
}

/// Whether it is a NetworkPolicy of all pods of its Namespace, which is meant to select the canary's.
fn is_for_all(object: &Value) -> bool {
    let is_empty = |value: &Value| value.as_object().is_none_or(Map::is_empty);
    object.get("kind").and_then(Value::as_str) == Some("NetworkPolicy")
        && object.pointer("/spec/podSelector").is_none_or(is_empty)
}

fn warning(object: &ObjectRef, found: &[Value]) -> String {
    let is_it = |one: &&Value| ObjectRef::of(one).as_ref() == Some(object);
    let of_another = found.iter().find(is_it).is_some_and(|found| owner(found).is_some());
    // Its name, the caller need not be allowed to know.
    let what = if of_another {
        format!("a {} of another service", object.kind)
    } else {
        object.to_string()
    };
    format!("{what} selects the canary's pods, too")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Counts, Look, MetricLook, Sides, Tally, Trial};

    /// The report of a rollout that has seen these people in 10 minutes.
    fn report(people: u16) -> Report {
        let settings = Settings::default();
        let seen = Sides { canary: [0].into_iter().collect(), stable: (1..people).collect() };
        let tally = Tally { at_risk: u64::from(people), events: 0 };
        let sticky = Counts { canary: tally, stable: tally };
        let metric = MetricLook { sticky, ..MetricLook::default() };
        let look = Look { seconds: 600, seen, metrics: vec![metric], ..Look::default() };
        Trial::new(settings.plan(false)).look(&look)
    }

    #[test]
    fn a_step_with_too_few_people_is_refused_with_a_weight_that_has_enough() {
        let seen_by: DeploymentId = "web.production.6".parse().unwrap();
        let refused = |people| too_few(&report(people), &seen_by, &Settings::default());
        assert_eq!(
            refused(1_000).as_deref(),
            Some(
                "step 1 of the rollout has too few people to compare them: web.production.6 has seen \
                 1000, of whom 1 % are fewer than 30; write a weight of 3 %"
            )
        );
        assert_eq!(refused(3_000), None);
        assert_eq!(refused(59), None, "no weight would do: the objective decides, or a person");
        let mut longer = Settings::default();
        longer.steps[0].hold = 601_000;
        assert_eq!(too_few(&report(1_000), &seen_by, &longer), None, "it may see more in its time");
        let mut most = Settings::default();
        most.steps[0].weight = 9_900;
        let why = too_few(&report(1_000), &seen_by, &most).unwrap();
        assert!(why.ends_with("write a weight of 97 %"), "stable is the smaller side: {why}");
        let dealt = Report { metrics: Vec::new(), ..report(1_000) };
        assert_eq!(too_few(&dealt, &seen_by, &Settings::default()), None, "nobody sticks");
    }
}
