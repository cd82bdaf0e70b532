//! The state machine of a deployment: what is recorded, and what is done next.
//!
//! [`step`] is a pure function. A builder records the state that it returns and then performs the
//! action. Performing an action twice is the same as performing it once, so a builder that starts
//! with [`Event::Resumed`] continues where the last one was killed.
//!
//! ```text
//! recorded → applying ───→ waiting → pruning → ready
//!     ├──→ rolling out ────┘  │         │
//!     └──────────┴────────────┴─────────┴────→ failed, superseded
//! ```

mod admission;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::Time;

pub use self::admission::{Intent, Pin, Refusal, Standing, admit, rollback_target};

/// The state of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum State {
    /// Accepted. Nothing in the cluster was changed.
    Recorded,
    /// The server accepted all manifests in a dry run. They are being applied.
    Applying,
    /// The server accepted all manifests in a dry run. The release gets traffic step by step: its
    /// rollout has its own record.
    RollingOut,
    /// All manifests are applied. Their pods are not ready yet.
    Waiting {
        /// When it fails.
        deadline: Time,
        /// What is not ready yet, and why.
        reason: String,
    },
    /// The pods are ready. What left the release is being deleted.
    Pruning,
    /// The release runs.
    Ready,
    /// It ended without the release running.
    Failed {
        /// Why.
        reason: String,
    },
    /// A later deployment of the same service to the same environment replaced it.
    Superseded,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A builder starts to work on the deployment, or tries again.
    Resumed,
    /// The dry run ended: with success, or the reason for the rejection.
    Checked(Result<(), String>),
    /// The dry run ended with success, and a rollout was recorded.
    RolloutBegan,
    /// The rollout ended.
    RolledOut(RolloutEnd),
    /// Applying ended.
    Applied(Result<(), String>),
    /// The readiness of what was applied.
    Observed(Readiness),
    /// Pruning ended.
    Pruned(Result<(), String>),
    /// The cluster cannot be reached: the reason.
    Unreachable(String),
    /// A later deployment was recorded.
    Superseded,
}

/// How a rollout ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutEnd {
    /// The stable Deployment has the release, and all of the traffic.
    Promoted,
    /// The earlier release runs: why.
    RolledBack(String),
    /// The earlier release runs, and a later deployment takes its turn.
    Superseded,
}

/// Whether what was applied works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Everything is ready.
    Ready,
    /// Not yet: what, and why.
    Progressing(String),
    /// It will not become ready by waiting: why.
    Failed(String),
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let the server check all manifests in a dry run.
    Check,
    /// Work on the rollout.
    RollOut,
    /// Apply all manifests.
    Apply,
    /// Observe whether they are ready.
    Observe,
    /// Delete what left the release.
    Prune,
}

/// How long a deployment may take to become ready, in milliseconds: longer than the 10 minutes after
/// which Kubernetes reports that a Deployment makes no progress.
pub const READY_WITHIN: u64 = 15 * 60 * 1000;

/// The next state, and the action to perform once it is recorded. A closed deployment has none.
#[must_use]
pub fn step(state: State, event: Event, now: Time) -> (State, Option<Action>) {
    let next = match (state, event) {
        (state, _) if !state.is_open() => state,
        // A rollout goes back first, or is waited for.
        (State::RollingOut, Event::Superseded) => State::RollingOut,
        (_, Event::Superseded) => State::Superseded,
        (State::Recorded, Event::Checked(Ok(()))) => State::Applying,
        (State::Recorded, Event::RolloutBegan) => State::RollingOut,
        (State::RollingOut, Event::RolledOut(RolloutEnd::RolledBack(reason))) => {
            State::Failed { reason }
        }
        (State::RollingOut, Event::RolledOut(RolloutEnd::Superseded)) => State::Superseded,
        (State::RollingOut, Event::RolledOut(RolloutEnd::Promoted))
        | (State::Applying, Event::Applied(Ok(()))) => State::Waiting {
            deadline: Time(now.0.saturating_add(READY_WITHIN)),
            reason: "the manifests have just been applied".to_owned(),
        },
        (State::Pruning, Event::Pruned(Ok(()))) => State::Ready,
        (State::Recorded, Event::Checked(Err(reason)))
        | (State::Applying, Event::Applied(Err(reason)))
        | (State::Pruning, Event::Pruned(Err(reason)))
        | (State::Waiting { .. }, Event::Observed(Readiness::Failed(reason))) => {
            State::Failed { reason }
        }
        (State::Waiting { .. }, Event::Observed(Readiness::Ready)) => State::Pruning,
        (State::Waiting { deadline, .. }, Event::Observed(Readiness::Progressing(reason)))
        | (State::Waiting { deadline, .. }, Event::Unreachable(reason)) => {
            waiting(deadline, reason, now)
        }
        // An event of another state is late: it changes nothing.
        (state, _) => state,
    };
    let action = next.action();
    (next, action)
}

/// How often another reason of a state is recorded, in milliseconds: pods may have a new one each
/// time that they are looked at.
const REASON_EVERY: u64 = 10_000;

/// When a reason was recorded that changed nothing else.
#[derive(Debug, Default)]
pub struct Reasons(Option<Time>);

// === impl Reasons ===

impl Reasons {
    /// Whether a state is recorded in place of another one: if it is not the same, but one that
    /// differs in its reason alone not more often than every 10 seconds.
    pub fn is_recorded(&mut self, before: &State, after: &State, now: Time) -> bool {
        let is_waiting = |state: &State| matches!(state, State::Waiting { .. });
        if before == after || !is_waiting(before) || !is_waiting(after) {
            return before != after;
        }
        let is_due = self.0.is_none_or(|last| last.0.saturating_add(REASON_EVERY) <= now.0);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

fn waiting(deadline: Time, reason: String, now: Time) -> State {
    if now < deadline {
        State::Waiting { deadline, reason }
    } else {
        State::Failed { reason: format!("it was not ready in time: {reason}") }
    }
}

// === impl State ===

impl State {
    /// Whether there is something left to do.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.action().is_some()
    }

    /// The name of the state.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Applying => "applying",
            Self::RollingOut => "rollingOut",
            Self::Waiting { .. } => "waiting",
            Self::Pruning => "pruning",
            Self::Ready => "ready",
            Self::Failed { .. } => "failed",
            Self::Superseded => "superseded",
        }
    }

    /// The reason for it, where it has one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Waiting { reason, .. } | Self::Failed { reason } => Some(reason),
            _ => None,
        }
    }

    fn action(&self) -> Option<Action> {
        match self {
            Self::Recorded => Some(Action::Check),
            Self::Applying => Some(Action::Apply),
            Self::RollingOut => Some(Action::RollOut),
            Self::Waiting { .. } => Some(Action::Observe),
            Self::Pruning => Some(Action::Prune),
            Self::Ready | Self::Failed { .. } | Self::Superseded => None,
        }
    }
}

#[cfg(test)]
mod tests;
