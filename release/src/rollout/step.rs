//! The next state of a rollout, from what is observed.

use portcullis_config::snapshot::split::percent;

use super::observation::{Gate, Gateway, Observation, Query, Split, Stable};
use super::settings::Step;
use super::state::{Action, Cause, Rollout, Stage};
use crate::analysis::Verdict;
use crate::model::Time;
use crate::state::READY_WITHIN;

/// How long the replicas of the gateway are waited for before a canary without weight is removed,
/// in milliseconds. A replica that has not applied it sends the canary's requests to stable, once
/// there are no pods.
const WITHDRAWN_WITHIN: u64 = 60_000;

/// The next state, and what to do once it is recorded. A closed rollout has nothing to do.
#[must_use]
pub fn step(state: Rollout, seen: &Observation, now: Time) -> (Rollout, Vec<Action>) {
    if !state.is_open() {
        return (state, Vec::new());
    }
    let mut next = state;
    next.reconcile(seen);
    next.observe_pods(seen, now);
    let before = next.stage.clone();
    match next.cause_to_go_back(seen, now) {
        Some(cause) => next.enter(Stage::Withdrawing { cause, since: now }),
        None => next.advance(seen, now),
    }
    if next.stage != before {
        (next.question, next.approved) = (None, false);
    }
    let actions = next.actions(seen);
    (next, actions)
}

// === impl Rollout ===

impl Rollout {
    /// Compares the split with the one that the rollout has set: the next generation with the
    /// weight that was wanted is its own, any other one is not.
    fn reconcile(&mut self, seen: &Observation) {
        let Some(found) = seen.split else { return };
        let is_own = match self.split {
            None => found.weight == 0,
            Some(split) if split == found => true,
            Some(split) => {
                let is_next = found.generation == split.generation.saturating_add(1);
                is_next && self.wanted == Some(found.weight)
            }
        };
        if is_own || self.adopts || self.is_back() {
            if self.split != Some(found) {
                (self.split, self.wanted) = (Some(found), None);
            }
            (self.by_hand, self.by_whom, self.adopts) = (None, None, false);
        } else {
            (self.by_hand, self.by_whom) = (Some(found), seen.split_by.clone());
        }
    }

    fn observe_pods(&mut self, seen: &Observation, now: Time) {
        let Some(pods) = seen.canary else { return };
        self.unready_since = match pods.ready_since {
            // What could not be created yet is waited for.
            _ if !pods.exists => None,
            Some(_) => None,
            None => self.unready_since.or(Some(now)),
        };
    }

    /// Why the rollout goes back, if it does. A pause or a freeze does not keep it from that.
    fn cause_to_go_back(&self, seen: &Observation, now: Time) -> Option<Cause> {
        if !self.is_forward() {
            return None;
        }
        if seen.is_pinned {
            return Some(Cause::PinnedOut);
        }
        let alarm = seen.judged.as_ref().filter(|judged| judged.verdict == Verdict::Alarm);
        let is_stable_well = seen.outage.is_none() && seen.stable != Stable::Missing;
        if let Some(alarm) = alarm.filter(|_| is_stable_well && self.promoted.is_none()) {
            return Some(Cause::Alarm(alarm.sentence.clone()));
        }
        if let Query::Alarm(why) = &seen.query
            && is_stable_well
            && self.promoted.is_none()
        {
            return Some(Cause::Alarm(why.clone()));
        }
        if let (Stage::Gate { .. }, Gate::Failed(why)) = (&self.stage, &seen.gate) {
            return Some(Cause::Gate(format!("the check before the first request failed: {why}")));
        }
        if self.unready_since.is_some_and(|since| elapsed(since, now) >= READY_WITHIN) {
            let minutes = READY_WITHIN / 60_000;
            let why = format!("the canary's pods have not been ready for {minutes} minutes");
            return Some(Cause::NotReady(why));
        }
        let newer = seen.newer.filter(|_| self.weight() < self.settings.replace_below);
        newer.filter(|_| self.promoted.is_none()).map(Cause::Superseded)
    }

    fn advance(&mut self, seen: &Observation, now: Time) {
        let outcome = self.check_holds(seen).and_then(|()| self.next_stage(seen, now));
        match outcome {
            Ok(stage) => self.enter(stage),
            Err(why) => {
                self.sentence = why;
                self.ask_if_late(now);
            }
        }
    }

    fn percent_of(&self, step: usize) -> String {
        percent(self.step_at(step).weight.into())
    }

    fn enter(&mut self, stage: Stage) {
        self.sentence = match &stage {
            Stage::Promoted => "promoted: the release has all of the traffic".to_owned(),
            Stage::RolledBack { cause } => format!("rolled back: {cause}"),
            Stage::Withdrawing { cause, .. } | Stage::Removing { cause } => {
                format!("rolling back: {cause}")
            }
            Stage::Watching { .. } => "all replicas of the gateway have the weight".to_owned(),
            Stage::Scaling { step, .. } => {
                format!("preparing the canary for {} % of the traffic", self.percent_of(*step))
            }
            Stage::Gate { .. } => "checking the canary before its first request".to_owned(),
            Stage::Shifting { step, .. } => {
                format!("setting the weight to {} %", self.percent_of(*step))
            }
            Stage::Replacing { .. } => {
                "the canary has all of the traffic: the stable Deployment gets the release"
                    .to_owned()
            }
            Stage::Returning { .. } => {
                "the stable Deployment has the release: it gets the traffic back".to_owned()
            }
            Stage::Cleaning => {
                "the stable Deployment has the traffic: the canary is removed".to_owned()
            }
            Stage::Restoring { cause } => format!("rolling back: {cause}"),
        };
        self.stage = stage;
    }

    /// Whether something keeps the rollout from going forward, whatever its stage.
    fn check_holds(&self, seen: &Observation) -> Result<(), String> {
        if self.is_forward() || matches!(self.stage, Stage::Returning { .. } | Stage::Cleaning) {
            self.check_split()?;
        }
        if !self.is_forward() {
            return Ok(());
        }
        if let Some(reason) = &self.paused {
            return Err(format!("paused: {reason}"));
        }
        if seen.is_frozen {
            return Err("holding: the environment is frozen".to_owned());
        }
        if seen.stable == Stable::Missing {
            return Err("holding: the stable Deployment does not exist".to_owned());
        }
        seen.outage.as_ref().map_or(Ok(()), |outage| {
            Err(format!("holding: {outage}: that is an outage, and no fault of the canary"))
        })
    }

    /// Whether the split is the rollout's own.
    fn check_split(&self) -> Result<(), String> {
        let Some(Split { weight, generation }) = self.by_hand else { return Ok(()) };
        Err(format!(
            "holding: {} has set the weight to {} % (generation {generation}): resume to take it over, \
             or abort",
            self.by_whom.as_deref().unwrap_or("someone else"),
            percent(weight.into())
        ))
    }

    /// The next stage, or what is waited for.
    fn next_stage(&self, seen: &Observation, now: Time) -> Result<Stage, String> {
        match self.stage.clone() {
            Stage::Scaling { step, .. } => self.after_scaling(step, seen, now),
            Stage::Gate { .. } => match &seen.gate {
                Gate::Passed | Gate::None => Ok(Stage::Shifting { step: 0, since: now }),
                _ => Err("waiting for the check before the first request".to_owned()),
            },
            Stage::Shifting { step, .. } => {
                self.applied(self.step_at(step).weight, seen)?;
                Ok(Stage::Watching { step, since: now })
            }
            Stage::Watching { step, since } => self.after_watching(step, since, seen, now),
            Stage::Replacing { .. } => self.after_replacing(seen, now),
            Stage::Returning { .. } => self.applied(0, seen).map(|()| Stage::Cleaning),
            Stage::Cleaning => self.removed(seen).map(|()| Stage::Promoted),
            Stage::Restoring { cause } => match seen.stable {
                Stable::Present { is_new: false, ready_since: Some(_) } => {
                    Ok(Stage::Withdrawing { cause, since: now })
                }
                _ => Err("waiting for the earlier release in the stable Deployment".to_owned()),
            },
            Stage::Withdrawing { cause, since } => {
                let applied = self.applied(0, seen);
                let is_late = elapsed(since, now) >= WITHDRAWN_WITHIN;
                if applied.is_ok() || (is_late && seen.is_without_traffic()) {
                    Ok(Stage::Removing { cause })
                } else {
                    Err(format!("rolling back: {cause}"))
                }
            }
            Stage::Removing { cause } => {
                self.removed(seen)?;
                if cause.pins() && !seen.is_pinned {
                    return Err(format!("rolling back: {cause}"));
                }
                Ok(Stage::RolledBack { cause })
            }
            closed @ (Stage::Promoted | Stage::RolledBack { .. }) => Ok(closed),
        }
    }

    fn after_scaling(&self, step: usize, seen: &Observation, now: Time) -> Result<Stage, String> {
        if self.split.is_none() {
            return Err("waiting for the API server: the split is not known".to_owned());
        }
        self.warm(self.step_at(step).weight, seen, now)?;
        // Whoever cannot see what becomes of it does not raise a weight.
        if let Gateway::Blind(why) = &seen.gateway {
            return Err(format!("holding: blind: {why}"));
        }
        // The check comes before the first request, whatever the step.
        let is_first = self.weight() == 0;
        if is_first && !matches!(seen.gate, Gate::None | Gate::Passed) && self.promoted.is_none() {
            return Ok(Stage::Gate { since: now });
        }
        Ok(Stage::Shifting { step, since: now })
    }

    fn after_watching(
        &self,
        step: usize,
        since: Time,
        seen: &Observation,
        now: Time,
    ) -> Result<Stage, String> {
        let Step { weight, hold, manual } = self.step_at(step);
        self.applied(weight, seen)?;
        self.warm(weight, seen, now)?;
        if self.promoted.is_none() {
            let judged = seen.judged.as_ref().filter(|judged| judged.at > since);
            match judged {
                None => {
                    return Err("holding: no look has ended since the weight was set".to_owned());
                }
                Some(judged) if judged.verdict != Verdict::Clear => {
                    return Err(judged.sentence.clone());
                }
                Some(judged) if elapsed(since, now) < hold => {
                    let left = (hold - elapsed(since, now)).div_ceil(1000);
                    return Err(format!("{}; at least {left} s more", judged.sentence));
                }
                Some(_) => {}
            }
            check_query(&seen.query)?;
            if manual && !self.approved {
                return Err("clear: waiting for a person to resume the manual step".to_owned());
            }
        }
        Ok(self.after_step(step, now))
    }

    /// The stage after a step that is over.
    pub(super) fn after_step(&self, step: usize, now: Time) -> Stage {
        if step >= self.last_step() {
            Stage::Replacing { since: now }
        } else {
            Stage::Scaling { step: step + 1, since: now }
        }
    }

    fn after_replacing(&self, seen: &Observation, now: Time) -> Result<Stage, String> {
        let is_warm = |since: Time| elapsed(since, now) >= self.settings.warm_up;
        match seen.stable {
            Stable::Present { is_new: true, ready_since: Some(since) } if is_warm(since) => {
                Ok(Stage::Returning { since: now })
            }
            _ => Err("waiting for the new release in the stable Deployment".to_owned()),
        }
    }

    /// Whether all replicas of the gateway have applied this weight, by the rollout's own split.
    fn applied(&self, weight: u16, seen: &Observation) -> Result<(), String> {
        let split = self.split.filter(|split| split.weight == weight && self.by_hand.is_none());
        // What was written while the split could not be read is not known.
        if seen.split.is_none() {
            return Err("holding: the split cannot be read".to_owned());
        }
        let Some(split) = split else {
            return Err("waiting for the weight to be written".to_owned());
        };
        match &seen.gateway {
            Gateway::Agrees(generation) if *generation == split.generation => Ok(()),
            Gateway::Agrees(generation) => Err(format!(
                "waiting for the gateway: it has generation {generation}, not {}",
                split.generation
            )),
            Gateway::Differs(which) => Err(format!("waiting for the gateway: {which}")),
            Gateway::Blind(why) => Err(format!("holding: blind: {why}")),
        }
    }

    /// Whether the canary has enough pods for a weight, all ready and past their warm-up.
    fn warm(&self, weight: u16, seen: &Observation, now: Time) -> Result<(), String> {
        let Some(pods) = seen.canary else {
            return Err("holding: the canary's pods cannot be read".to_owned());
        };
        if !pods.exists || pods.scaled_for < weight {
            return Err("waiting for the canary's pods".to_owned());
        }
        match pods.ready_since {
            None => Err("waiting for the canary's pods: not all are ready".to_owned()),
            Some(since) if elapsed(since, now) < self.settings.warm_up => {
                Err("waiting for the canary's pods to warm up".to_owned())
            }
            Some(_) => Ok(()),
        }
    }

    fn removed(&self, seen: &Observation) -> Result<(), String> {
        match seen.canary {
            Some(pods) if !pods.exists => Ok(()),
            _ => Err("waiting until the canary is removed".to_owned()),
        }
    }

    /// Asks a person once a stage takes longer than its maximum.
    fn ask_if_late(&mut self, now: Time) {
        let Some(since) = self.stage.since() else { return };
        if self.question.is_none() && elapsed(since, now) >= self.settings.max_hold {
            self.question = Some("it takes too long: resume, skip, abort or promote it".to_owned());
        }
    }
}

/// Whether the service's own query keeps it from going forward.
fn check_query(query: &Query) -> Result<(), String> {
    match query {
        Query::None | Query::Within => Ok(()),
        Query::Awaited => {
            Err("holding: the query was not evaluated since the weight was set".to_owned())
        }
        Query::Blind(why) => Err(format!("holding: blind: {why}")),
        Query::Above(why) | Query::Alarm(why) => Err(format!("holding: {why}")),
    }
}

fn elapsed(since: Time, now: Time) -> u64 {
    now.0.saturating_sub(since.0)
}
