//! The recorded state of a rollout, and the actions that follow from it.

use portcullis_config::snapshot::split::percent;
use serde::{Deserialize, Serialize};

use super::observation::{Observation, Pods, Split};
use super::settings::{Settings, Step};
use crate::model::{ReleaseId, Time};

/// The state of a rollout, as it is recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// What it is to do.
    pub settings: Settings,
    /// How far it is.
    pub stage: Stage,
    /// The split that is known to be in effect; `None` before it was read.
    pub split: Option<Split>,
    /// The weight that is being written.
    pub wanted: Option<u16>,
    /// A split that someone else has set.
    pub by_hand: Option<Split>,
    /// Who has set it, if that is known.
    #[serde(default)]
    pub by_whom: Option<String>,
    /// Whether the split that is found next is taken as the rollout's own.
    pub adopts: bool,
    /// Why it does not go forward, if a person has paused it.
    pub paused: Option<String>,
    /// Whether a person has approved the manual step.
    pub approved: bool,
    /// Why evidence is not waited for any more, if a person has promoted it.
    pub promoted: Option<String>,
    /// Since when the canary's pods are not ready.
    pub unready_since: Option<Time>,
    /// What a person is asked to decide, because it takes too long.
    pub question: Option<String>,
    /// What it waits for, or how it ended: one sentence.
    pub sentence: String,
    /// What was noticed when it began, and does not keep it from going on.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "camelCase")]
pub enum Stage {
    /// The canary gets enough pods for a step, before it gets the weight.
    Scaling {
        /// The index of the step.
        step: usize,
        /// Since when.
        since: Time,
    },
    /// The user's check runs.
    Gate {
        /// Since when.
        since: Time,
    },
    /// The weight of a step is set, until all replicas of the gateway have applied it.
    Shifting {
        /// The index of the step.
        step: usize,
        /// Since when.
        since: Time,
    },
    /// The canary has the weight of a step, and is judged.
    Watching {
        /// The index of the step.
        step: usize,
        /// Since when.
        since: Time,
    },
    /// The canary has all of the traffic. The stable Deployment gets the new release.
    Replacing {
        /// Since when.
        since: Time,
    },
    /// The stable Deployment has the new release, and gets the traffic back.
    Returning {
        /// Since when.
        since: Time,
    },
    /// The canary has no traffic, and is removed: the last stage of a promotion.
    Cleaning,
    /// A person has taken back a promotion: the stable Deployment gets the earlier release.
    Restoring {
        /// Why.
        cause: Cause,
    },
    /// The weight is set to 0, until all replicas of the gateway have applied it.
    Withdrawing {
        /// Why.
        cause: Cause,
        /// Since when.
        since: Time,
    },
    /// The canary has no traffic, and is removed.
    Removing {
        /// Why.
        cause: Cause,
    },
    /// The release runs.
    Promoted,
    /// The earlier release runs.
    RolledBack {
        /// Why.
        cause: Cause,
    },
}

/// Why a rollout goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", content = "reason", rename_all = "camelCase")]
pub enum Cause {
    /// The evidence: its sentence.
    Alarm(String),
    /// The user's check: why it failed.
    Gate(String),
    /// The canary's pods do not become ready.
    NotReady(String),
    /// A person: their reason.
    Person(String),
    /// A rollback has pinned the release out.
    PinnedOut,
    /// A newer release takes its place: its number.
    Superseded(u32),
}

/// What is to be done. Each action can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Apply the canary's manifests, with enough replicas for a weight.
    Scale(u16),
    /// Start the user's check.
    StartGate,
    /// Set the canary's weight, if the split still has this generation.
    SetWeight {
        /// The weight.
        weight: u16,
        /// The generation.
        if_generation: u64,
    },
    /// Apply the new release to the stable Deployment.
    ApplyStable,
    /// Apply the earlier release to the stable Deployment.
    RestoreStable,
    /// Delete the canary's objects.
    RemoveCanary,
    /// Pin the release out, so that it is not deployed again by itself.
    Pin,
}

// === impl Rollout ===

impl Rollout {
    /// A rollout that has not begun.
    #[must_use]
    pub fn new(settings: Settings, now: Time) -> Self {
        Self {
            settings,
            stage: Stage::Scaling { step: 0, since: now },
            split: None,
            wanted: None,
            by_hand: None,
            by_whom: None,
            adopts: false,
            paused: None,
            approved: false,
            promoted: None,
            unready_since: None,
            question: None,
            sentence: "the rollout has just begun".to_owned(),
            warnings: Vec::new(),
        }
    }

    /// Whether another state differs in more than its sentence.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        Self { sentence: String::new(), ..self.clone() }
            != Self { sentence: String::new(), ..other.clone() }
    }

    /// Whether a person sees another state as a further step: another stage, weight, pause,
    /// question or interference, and not another sentence alone.
    #[must_use]
    pub fn is_further(&self, before: &Self) -> bool {
        let seen = |state: &Self| {
            let Self { stage, by_hand, paused, promoted, question, .. } = state.clone();
            (stage, state.weight(), by_hand, paused, promoted, question)
        };
        seen(self) != seen(before)
    }

    /// Whether there is something left to do.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stage.is_open()
    }

    /// What an order to abort would do now, in one sentence.
    #[must_use]
    pub fn if_aborted(&self, release: &ReleaseId, stable: Option<&ReleaseId>) -> String {
        let stable = stable.map_or_else(|| "stable".to_owned(), ToString::to_string);
        match &self.stage {
            _ if self.is_forward() && self.weight() == 0 => format!(
                "the canary is removed and {release} is pinned out; nobody has been sent to it"
            ),
            _ if self.is_forward() => format!(
                "the {} % of the traffic go back to {stable} at once; then the canary is removed and \
                 {release} is pinned out",
                percent(self.weight().into())
            ),
            Stage::Replacing { .. } => format!(
                "the stable Deployment gets {stable} back, then the traffic; then the canary is \
                 removed and {release} is pinned out"
            ),
            Stage::Returning { .. } | Stage::Cleaning | Stage::Promoted => {
                format!(
                    "nothing: {release} has been promoted; `portcullis rollback` returns to {stable}"
                )
            }
            _ => "nothing: it goes back already".to_owned(),
        }
    }

    /// The weight that the canary has, in hundredths of a percent, as far as is known.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.by_hand.or(self.split).map_or(0, |split| split.weight)
    }

    /// Whether it still is on its way to the last step.
    #[must_use]
    pub fn is_forward(&self) -> bool {
        use Stage::{Gate, Scaling, Shifting, Watching};
        matches!(self.stage, Scaling { .. } | Gate { .. } | Shifting { .. } | Watching { .. })
    }

    /// Whether it waits for the gateway to apply a weight.
    #[must_use]
    pub fn is_weight_awaited(&self) -> bool {
        use Stage::{Returning, Shifting, Withdrawing};
        matches!(self.stage, Shifting { .. } | Returning { .. } | Withdrawing { .. })
    }

    /// Whether it goes back: then the split is set whoever has changed it.
    pub(super) fn is_back(&self) -> bool {
        use Stage::{Removing, RolledBack, Withdrawing};
        matches!(self.stage, Withdrawing { .. } | Removing { .. } | RolledBack { .. })
    }

    pub(super) fn step_at(&self, index: usize) -> Step {
        self.settings.steps.get(index).or(self.settings.steps.last()).copied().unwrap_or(Step::ALL)
    }

    pub(super) fn last_step(&self) -> usize {
        self.settings.steps.len().saturating_sub(1)
    }

    /// The weight that the stage asks for; `None` where it stays as it is.
    fn target(&self) -> Option<u16> {
        match self.stage {
            Stage::Shifting { step, .. } | Stage::Watching { step, .. } => {
                Some(self.step_at(step).weight)
            }
            Stage::Returning { .. } | Stage::Cleaning => Some(0),
            Stage::Withdrawing { .. } | Stage::Removing { .. } => Some(0),
            _ => None,
        }
    }

    /// What is to be done in this state. A weight that is to be written is recorded as `wanted`.
    pub(super) fn actions(&mut self, seen: &Observation) -> Vec<Action> {
        let mut actions = Vec::new();
        actions.extend(self.set_weight(seen));
        let pods = seen.canary.unwrap_or(Pods { exists: true, ..Pods::default() });
        let is_removable = pods.exists && seen.is_without_traffic();
        match &self.stage {
            Stage::Scaling { step, .. } => {
                let weight = self.step_at(*step).weight;
                let is_scaled = pods.exists && pods.scaled_for >= weight;
                actions
                    .extend((seen.canary.is_some() && !is_scaled).then_some(Action::Scale(weight)));
            }
            Stage::Gate { .. } if seen.gate == super::Gate::Absent => {
                actions.push(Action::StartGate);
            }
            Stage::Replacing { .. } => actions.push(Action::ApplyStable),
            Stage::Restoring { .. } => actions.push(Action::RestoreStable),
            Stage::Cleaning => actions.extend(is_removable.then_some(Action::RemoveCanary)),
            Stage::Removing { cause } => {
                actions.extend(is_removable.then_some(Action::RemoveCanary));
                actions.extend((cause.pins() && !seen.is_pinned).then_some(Action::Pin));
            }
            _ => {}
        }
        actions
    }

    fn set_weight(&mut self, seen: &Observation) -> Option<Action> {
        let (target, split) = (self.target()?, self.split?);
        if split.weight == target || (self.by_hand.is_some() && !self.is_back()) {
            return None;
        }
        // A builder may have been killed before it wrote, and a pause or a freeze come since.
        if target > split.weight && (self.paused.is_some() || seen.is_frozen) {
            return None;
        }
        self.wanted = Some(target);
        Some(Action::SetWeight { weight: target, if_generation: split.generation })
    }
}

// === impl Stage ===

impl Stage {
    /// Whether there is something left to do.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self, Self::Promoted | Self::RolledBack { .. })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scaling { .. } => "scaling",
            Self::Gate { .. } => "gate",
            Self::Shifting { .. } => "shifting",
            Self::Watching { .. } => "watching",
            Self::Replacing { .. } => "replacing",
            Self::Returning { .. } => "returning",
            Self::Cleaning => "cleaning",
            Self::Restoring { .. } => "restoring",
            Self::Withdrawing { .. } => "withdrawing",
            Self::Removing { .. } => "removing",
            Self::Promoted => "promoted",
            Self::RolledBack { .. } => "rolledBack",
        }
    }

    /// The index of the step that it is about.
    #[must_use]
    pub fn step(&self) -> Option<usize> {
        match self {
            Self::Scaling { step, .. }
            | Self::Shifting { step, .. }
            | Self::Watching { step, .. } => Some(*step),
            Self::Gate { .. } => Some(0),
            _ => None,
        }
    }

    /// Since when it lasts; `None` where nothing depends on it.
    #[must_use]
    pub fn since(&self) -> Option<Time> {
        let mut stage = self.clone();
        stage.since_mut().copied()
    }

    /// Lets it begin again.
    pub(super) fn restart(&mut self, now: Time) {
        if let Some(since) = self.since_mut() {
            *since = now;
        }
    }

    fn since_mut(&mut self) -> Option<&mut Time> {
        match self {
            Self::Scaling { since, .. }
            | Self::Gate { since }
            | Self::Shifting { since, .. }
            | Self::Watching { since, .. }
            | Self::Replacing { since }
            | Self::Returning { since } => Some(since),
            _ => None,
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Whether the release must not be deployed again by itself.
    pub(super) fn pins(&self) -> bool {
        !matches!(self, Self::PinnedOut | Self::Superseded(_))
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alarm(why) | Self::Gate(why) | Self::NotReady(why) | Self::Person(why) => {
                f.write_str(why)
            }
            Self::PinnedOut => f.write_str("the release is pinned out"),
            Self::Superseded(number) => write!(f, "release number {number} takes its place"),
        }
    }
}
