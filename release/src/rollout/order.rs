//! What people order a rollout to do.

use serde::{Deserialize, Serialize};

use super::state::{Cause, Rollout, Stage};
use crate::model::Time;

/// What a person orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Do not go forward. It still goes back on an alarm.
    Pause,
    /// Go on: after a pause, at a manual step, or with a weight that someone else has set.
    Resume,
    /// Go to the next step, without evidence for this one.
    Skip,
    /// Go back.
    Abort,
    /// Go to the end, without further evidence. An alarm does not take it back any more.
    Promote,
}

/// Why an order is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefusal {
    /// There is no reason.
    #[error("an order needs a reason")]
    NoReason,
    /// The rollout is over.
    #[error("the rollout is over: {0}")]
    Closed(String),
    /// It goes back already.
    #[error("the rollout goes back already: {0}")]
    Back(String),
    /// There is nothing to resume.
    #[error("the rollout waits for nothing that can be resumed")]
    NothingToResume,
    /// No step is watched.
    #[error("no step is watched now, so that none can be skipped")]
    NoStep,
    /// Someone else has set the weight.
    #[error("someone else has set the weight: resume the rollout first, to take it over")]
    ByHand,
    /// The stable Deployment has the new release.
    #[error("the release has been promoted: roll back to the earlier one")]
    Promoted,
}

/// The state after an order, with its reason.
///
/// # Errors
/// The order makes no sense in this state.
pub fn order(
    state: Rollout,
    order: Order,
    reason: &str,
    now: Time,
) -> Result<Rollout, OrderRefusal> {
    if reason.trim().is_empty() {
        return Err(OrderRefusal::NoReason);
    }
    if !state.is_open() {
        return Err(OrderRefusal::Closed(state.sentence));
    }
    if state.is_back() || matches!(state.stage, Stage::Restoring { .. }) {
        return Err(OrderRefusal::Back(state.sentence));
    }
    let mut next = state;
    match order {
        Order::Pause => next.pause(reason)?,
        Order::Resume => next.resume(now)?,
        Order::Skip => next.skip(now)?,
        Order::Abort => next.abort(reason, now)?,
        Order::Promote => next.promote(reason, now)?,
    }
    next.question = None;
    Ok(next)
}

// === impl Order ===

impl Order {
    /// Its name, as in commands and in the audit log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Skip => "skip",
            Self::Abort => "abort",
            Self::Promote => "promote",
        }
    }
}

// === impl Rollout ===

impl Rollout {
    fn pause(&mut self, reason: &str) -> Result<(), OrderRefusal> {
        self.check_forward()?;
        self.paused = Some(reason.to_owned());
        Ok(())
    }

    fn resume(&mut self, now: Time) -> Result<(), OrderRefusal> {
        let is_manual = match self.stage {
            Stage::Watching { step, .. } => self.step_at(step).manual && !self.approved,
            _ => false,
        };
        if self.paused.is_none() && self.by_hand.is_none() && self.question.is_none() && !is_manual
        {
            return Err(OrderRefusal::NothingToResume);
        }
        // One order resumes one thing: a pause at a manual step is no approval.
        if self.paused.take().is_none() && self.by_hand.is_none() {
            self.approved = is_manual;
        }
        self.adopts = self.by_hand.is_some();
        if self.question.is_some() {
            self.stage.restart(now);
        }
        Ok(())
    }

    fn skip(&mut self, now: Time) -> Result<(), OrderRefusal> {
        let Stage::Watching { step, .. } = self.stage else { return Err(OrderRefusal::NoStep) };
        if self.by_hand.is_some() {
            return Err(OrderRefusal::ByHand);
        }
        self.stage = self.after_step(step, now);
        self.paused = None;
        Ok(())
    }

    fn abort(&mut self, reason: &str, now: Time) -> Result<(), OrderRefusal> {
        let cause = Cause::Person(reason.to_owned());
        self.stage = match self.stage {
            Stage::Replacing { .. } => Stage::Restoring { cause },
            _ => {
                self.check_forward()?;
                Stage::Withdrawing { cause, since: now }
            }
        };
        Ok(())
    }

    fn promote(&mut self, reason: &str, now: Time) -> Result<(), OrderRefusal> {
        self.check_forward()?;
        if self.by_hand.is_some() {
            return Err(OrderRefusal::ByHand);
        }
        let is_last =
            matches!(self.stage, Stage::Watching { step, .. } if step == self.last_step());
        if !is_last {
            self.stage = Stage::Scaling { step: self.last_step(), since: now };
        }
        self.promoted = Some(reason.to_owned());
        self.paused = None;
        Ok(())
    }

    fn check_forward(&self) -> Result<(), OrderRefusal> {
        if self.is_forward() { Ok(()) } else { Err(OrderRefusal::Promoted) }
    }
}
