//! What became of a rollout, as Events on its stable Deployment: `kubectl describe` shows them.
//!
//! They are best effort: bounded in number, and never tried again.

use std::time::Duration;

use tokio::time::timeout;

use super::Course;
use crate::cluster::ObjectEvent;
use crate::model::Time;
use crate::rollout::Stage;
use crate::runner::Runner;
use crate::store::Rollout;

/// The most Events that one rollout writes at once: more than one has that nobody interferes with.
const BURST: u32 = 40;
/// How long it waits for each further one, in milliseconds.
const INTERVAL: u64 = 5 * 60_000;
/// How long an Event may keep a rollout from its next turn.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// The Events that a rollout may write: whoever changes its weight again and again makes a step of
/// each change.
pub(super) struct EventBudget {
    left: u32,
    since: Option<Time>,
}

// === impl EventBudget ===

impl Default for EventBudget {
    fn default() -> Self {
        Self { left: BURST, since: None }
    }
}

impl EventBudget {
    fn permit(&mut self, now: Time) -> bool {
        let since = self.since.get_or_insert(now);
        let earned = now.0.saturating_sub(since.0) / INTERVAL;
        since.0 = since.0.saturating_add(earned.saturating_mul(INTERVAL));
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(earned).min(BURST);
        self.left = left.saturating_sub(1);
        left > 0
    }
}

// === impl Runner ===

impl Runner {
    /// Writes the last step as an Event.
    pub(super) async fn report_step(&self, course: &mut Course<'_>, rollout: &Rollout) {
        course.reported = rollout.state.clone();
        let Some(deployment) = course.copies.stable.first() else { return };
        if !course.events.permit(rollout.updated_at) {
            return;
        }
        let event = event(rollout);
        let written = self.cluster.report(&course.service.namespace, deployment, &event);
        match timeout(MAX_WAIT, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(rollout = %rollout.id, %error, "failed to write an Event");
            }
            Err(_) => tracing::debug!(rollout = %rollout.id, "timed out while writing an Event"),
        }
    }
}

/// The Event of a rollout's last step. Its name follows from the version of the record, so that a
/// builder that continues writes no second one.
fn event(rollout: &Rollout) -> ObjectEvent {
    let state = &rollout.state;
    let is_back = matches!(
        state.stage,
        Stage::Withdrawing { .. }
            | Stage::Removing { .. }
            | Stage::Restoring { .. }
            | Stage::RolledBack { .. }
    );
    let mut reason = "Rollout".to_owned();
    let name = state.stage.name();
    let mut letters = name.chars();
    reason.extend(letters.next().map(|first| first.to_ascii_uppercase()));
    reason.push_str(letters.as_str());
    let sentence = state.question.as_ref().unwrap_or(&state.sentence);
    ObjectEvent {
        identity: format!("{} {}", rollout.id, rollout.version),
        reason,
        action: "Rollout".to_owned(),
        note: format!("{} ({}): {sentence}", rollout.id, rollout.release),
        warns: is_back || state.question.is_some() || state.by_hand.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_bounded_however_often_a_weight_changes() {
        let mut budget = EventBudget::default();
        let hour = (0..3600).filter(|second| budget.permit(Time(second * 1000))).count();
        assert_eq!(hour, BURST as usize + 11);
    }
}
