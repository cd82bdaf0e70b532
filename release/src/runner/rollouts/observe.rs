//! What is seen of a rollout in one turn.

use super::evidence::{Sensor, ready_since};
use super::{Course, canary};
use crate::cluster::{ClusterError, Inspected};
use crate::gateway::WrittenSplit;
use crate::manifest::{ObjectRef, release_annotation};
use crate::model::{ReleaseId, Time};
use crate::query::Scope;
use crate::rollout::{Gateway, Observation, Pods, Query, Stable, Stage};
use crate::runner::{Runner, call};
use crate::state::Readiness;
use crate::store::{GateResult, Look, Rollout, StoreError};

/// What was seen.
pub(super) struct Seen {
    pub(super) observation: Observation,
    /// The looks that have ended since the turn before.
    pub(super) looks: Vec<Look>,
    /// What could not be read, or why pods are not ready.
    pub(super) problem: Option<String>,
    /// What the check before the first request has just resulted in.
    pub(super) gate: Option<GateResult>,
}

/// The first of several problems.
#[derive(Default)]
pub(super) struct Problems(Option<String>);

// === impl Problems ===

impl Problems {
    /// The value, or its problem is noted.
    pub(super) fn note<T>(&mut self, result: Result<T, ClusterError>) -> Option<T> {
        result.map_err(|error| self.0.get_or_insert(error.to_string())).ok()
    }
}

// === impl Runner ===

impl Runner {
    /// Reads the record, the cluster and the gateway. What cannot be read is unknown.
    pub(super) async fn see(
        &self,
        course: &mut Course<'_>,
        rollout: &Rollout,
        now: Time,
    ) -> Result<Seen, StoreError> {
        let mut problems = Problems::default();
        let written = problems.note(call(course.gateway.split(&course.service)).await);
        let found = self.inspect(course, &course.copies.workload).await;
        let canary = problems.note(found).map(|found| {
            problems.0 = problems.0.take().or_else(|| unready("the canary", &found));
            course.canary(&found, now)
        });
        let found = self.inspect(course, &course.copies.stable).await;
        let stable = problems.note(found).map_or(Stable::Unknown, |found| {
            problems.0 = problems.0.take().or_else(|| unready("the stable variant", &found));
            course.stable(&found, &rollout.release, now)
        });
        let (gateway, looks) = course.read(rollout, written.as_ref(), now).await;
        let query = self.query(course, rollout, now);
        let (state, gate) = self.gate(course, rollout, &mut problems, now).await;
        let sensor = course.evidence.sensor.as_ref();
        let observation = Observation {
            split: written.as_ref().map(|written| written.split),
            split_by: written.and_then(|written| written.by),
            canary,
            stable,
            gateway,
            judged: sensor.and_then(|sensor| sensor.judged.clone()),
            outage: sensor.and_then(|sensor| sensor.outage(&rollout.state.settings)),
            query,
            gate: state,
            ..self.surroundings(course, rollout).await?
        };
        Ok(Seen { observation, looks, problem: problems.0, gate })
    }

    /// What the service's own query says, which is evaluated while the canary is watched.
    fn query(&self, course: &mut Course<'_>, rollout: &Rollout, now: Time) -> Query {
        let Some(settings) = &rollout.state.settings.query else { return Query::None };
        let Some(queries) = &self.queries else {
            return Query::Blind("the builder has no `prometheus` in its configuration".to_owned());
        };
        if !matches!(rollout.state.stage, Stage::Watching { .. }) {
            course.evidence.samples.forget();
            course.sampler.forget();
            return Query::Awaited;
        }
        let scope = Scope {
            service: course.service.clone(),
            environment: course.deployment.id.placement.environment.clone(),
        };
        let samples = &mut course.evidence.samples;
        course.sampler.poll(samples, settings, queries, &scope, now);
        samples.query(settings, &rollout.state, now)
    }

    async fn inspect(
        &self,
        course: &Course<'_>,
        objects: &[ObjectRef],
    ) -> Result<Vec<Option<Inspected>>, ClusterError> {
        call(self.cluster.inspect(&course.service.namespace, objects)).await
    }

    /// What the record says of other deployments, pins and freezes.
    async fn surroundings(
        &self,
        course: &Course<'_>,
        rollout: &Rollout,
    ) -> Result<Observation, StoreError> {
        let placement = &course.deployment.id.placement;
        let last = self.store.deployments(placement, None, 1).await?;
        let newer = last
            .into_iter()
            .find(|last| last.id.number > course.deployment.id.number && last.state.is_open());
        let service = std::slice::from_ref(&placement.service);
        let placements = self.store.placements(Some(service)).await?;
        let status = placements.into_iter().find(|status| status.placement == *placement);
        let pinned = status.and_then(|status| status.pinned);
        let frozen = self.store.frozen().await?;
        Ok(Observation {
            newer: newer.map(|newer| newer.release.number),
            is_frozen: frozen.iter().any(|freeze| freeze.environment == placement.environment),
            is_pinned: pinned.is_some_and(|pinned| pinned.number >= rollout.release.number),
            ..Observation::unknown()
        })
    }
}

/// Why pods that exist are not ready.
fn unready(what: &str, found: &[Option<Inspected>]) -> Option<String> {
    found.iter().flatten().find_map(|found| match &found.readiness {
        Readiness::Ready => None,
        Readiness::Progressing(why) | Readiness::Failed(why) => {
            Some(format!("{what} is not ready: {why}"))
        }
    })
}

/// The version of all objects together, if all are there and ready.
fn ready_version(found: &[Option<Inspected>]) -> Option<String> {
    let version = |one: &Option<Inspected>| {
        let one = one.as_ref()?;
        (one.readiness == Readiness::Ready).then(|| one.version.clone())
    };
    Some(found.iter().map(version).collect::<Option<Vec<String>>>()?.join(" "))
}

/// Whether all objects are there and were applied by a release.
fn are_of(found: &[Option<Inspected>], release: &ReleaseId) -> bool {
    let (key, release) = (release_annotation(), release.to_string());
    let is_of = |one: &Inspected| one.annotations.get(&key) == Some(&release);
    found.iter().all(|one| one.as_ref().is_some_and(is_of))
}

// === impl Course ===

impl Course<'_> {
    /// The canary's pods, by its Deployments and its Service.
    fn canary(&mut self, found: &[Option<Inspected>], now: Time) -> Pods {
        let key = canary::scaled_for_annotation();
        let scaled_for = |one: &Inspected| one.annotations.get(&key)?.parse().ok();
        let deployments = found.split_last().map_or(&[][..], |(_, deployments)| deployments);
        let least = deployments.iter().flatten().filter_map(scaled_for).min();
        // Those of an earlier rollout are none of this release.
        let is_whole = are_of(found, &self.deployment.release);
        Pods {
            exists: found.iter().any(Option::is_some),
            scaled_for: least.filter(|_| is_whole).unwrap_or_default(),
            ready_since: ready_since(
                &mut self.evidence.canary,
                ready_version(found).filter(|_| is_whole),
                now,
            ),
        }
    }

    fn stable(&mut self, found: &[Option<Inspected>], release: &ReleaseId, now: Time) -> Stable {
        if found.iter().any(Option::is_none) {
            return Stable::Missing;
        }
        let is_new = are_of(found, release);
        let replicas = found.iter().flatten().map(|one| one.replicas).max().unwrap_or(1);
        self.evidence.replicas.get_or_insert(replicas);
        let ready_since = ready_since(&mut self.evidence.stable, ready_version(found), now);
        Stable::Present { is_new, ready_since }
    }

    /// Reads the feed, and judges the looks that have ended.
    async fn read(
        &mut self,
        rollout: &Rollout,
        written: Option<&WrittenSplit>,
        now: Time,
    ) -> (Gateway, Vec<Look>) {
        let from = self.evidence.sensor.as_ref().map_or(0, Sensor::from);
        let readings = match call(self.gateway.read(&self.service, from)).await {
            Ok(readings) => readings,
            Err(error) => return (agreed(Gateway::Blind(error.to_string()), written), Vec::new()),
        };
        let settings = &rollout.state.settings;
        let known = self.evidence.sensor.take();
        let is_known = known.is_some();
        let mut sensor = known.unwrap_or_else(|| Sensor::new(&readings, &self.service, settings));
        let warm_up =
            |since: &super::evidence::ReadySince| since.at.0.saturating_add(settings.warm_up);
        let sides = [&self.evidence.canary, &self.evidence.stable];
        let warm = sides.map(|since| since.as_ref().map_or(now.0, warm_up));
        let warm = Time(warm.into_iter().max().unwrap_or(now.0));
        let weight = rollout.state.weight();
        let (gateway, looks) = sensor.read(&readings, weight, warm, now);
        if is_known || !matches!(gateway, Gateway::Blind(_)) {
            self.evidence.sensor = Some(sensor);
        }
        match self.set_threshold().await {
            Ok(()) => (agreed(gateway, written), looks),
            Err(error) => (Gateway::Blind(error.to_string()), looks),
        }
    }

    /// Lets the gateway report who met slow responses.
    async fn set_threshold(&mut self) -> Result<(), ClusterError> {
        let Some(sensor) = self.evidence.sensor.as_mut() else { return Ok(()) };
        let Some(slow) = sensor.slow.filter(|_| !sensor.is_slow_set) else { return Ok(()) };
        call(self.gateway.set_latency_threshold(&self.service, slow)).await?;
        sensor.is_slow_set = true;
        Ok(())
    }
}

/// What replicas report, by the counter of the split: before its first change, they report a hash.
fn agreed(gateway: Gateway, written: Option<&WrittenSplit>) -> Gateway {
    let Some(WrittenSplit { split, reported, .. }) = written else { return gateway };
    match (gateway, *reported) {
        // There is nothing to apply.
        (_, None) => Gateway::Agrees(split.generation),
        (Gateway::Agrees(found), Some(reported)) if found == reported => {
            Gateway::Agrees(split.generation)
        }
        (gateway, _) => gateway,
    }
}
