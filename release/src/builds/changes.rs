//! What becomes of the builds of a repository when its schedule changes: pure.

use super::schedule::{Action, Event, MAX_RESUMED, Schedule};
use crate::model::CommitId;
use crate::store::{Build, BuildChange, BuildState};

/// How a build ended, or that it waits once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// Its state.
    pub(super) state: BuildState,
    /// Why.
    pub(super) reason: Option<String>,
}

// === impl End ===

impl End {
    /// It waits for another attempt.
    pub(super) fn interrupted(reason: &str) -> Self {
        Self { state: BuildState::Waiting, reason: Some(reason.to_owned()) }
    }
}

/// The changes of builds that follow from an event. `open` are the builds that wait or run, and `end`
/// is how the one that runs has ended, if it has.
pub(super) fn changes(
    event: &Event,
    before: &Schedule,
    after: &Schedule,
    actions: &[Action],
    open: Vec<Build>,
    end: Option<End>,
) -> Vec<BuildChange> {
    let mut changes = Vec::new();
    let mut running = None;
    let mut waiting = Vec::new();
    for build in open {
        if build.state == BuildState::Running {
            running = Some(build);
        } else {
            waiting.push(build);
        }
    }
    match (running, end) {
        (Some(build), Some(end)) => changes.push(ended(build, before, actions, end)),
        // The order is recorded now, with who gave it; it stops later.
        (Some(build), None) if actions.iter().any(|action| matches!(action, Action::Stop(_))) => {
            let reason = Some("it was cancelled".to_owned());
            changes.push(BuildChange::Advance { build, state: BuildState::Running, reason });
        }
        _ => {}
    }
    // A commit that is requested again while it is built, and is then interrupted, waits twice.
    let mut is_started = false;
    for build in waiting {
        let next = actions.iter().find_map(|action| next(&build, action, after));
        let next = next.filter(|state| *state != BuildState::Running || !is_started);
        is_started |= next == Some(BuildState::Running);
        changes.extend(next.map(|state| BuildChange::Advance { build, state, reason: None }));
    }
    match event {
        Event::Pushed(commit) if after.head() == Some(commit) && before.head() != Some(commit) => {
            changes.push(BuildChange::Create { commit: commit.clone(), is_requested: false });
        }
        Event::Requested(commit) if after.requested() > before.requested() => {
            changes.push(BuildChange::Create { commit: commit.clone(), is_requested: true });
        }
        _ => {}
    }
    changes
}

fn ended(build: Build, before: &Schedule, actions: &[Action], end: End) -> BuildChange {
    if before.is_cancelled() {
        let reason = build.reason.clone();
        return BuildChange::Advance { build, state: BuildState::Cancelled, reason };
    }
    if actions.iter().any(|action| matches!(action, Action::GiveUp(_))) {
        let reason = format!(
            "the builder was stopped {MAX_RESUMED} times during this build, which may need more \
             memory than the builder has"
        );
        return BuildChange::Advance { build, state: BuildState::Failed, reason: Some(reason) };
    }
    let newer = actions.iter().find_map(|action| superseded(&build.commit, action));
    let End { state, reason } = end;
    match newer {
        Some(superseded_by) if state.is_open() => {
            let state = BuildState::Superseded { superseded_by };
            BuildChange::Advance { build, state, reason }
        }
        _ => BuildChange::Advance { build, state, reason },
    }
}

/// What an action makes of a build that waits.
fn next(build: &Build, action: &Action, after: &Schedule) -> Option<BuildState> {
    match action {
        Action::Start(commit) => (*commit == build.commit
            && build.is_requested == after.is_requested())
        .then_some(BuildState::Running),
        Action::Cancel(commit) => (*commit == build.commit).then_some(BuildState::Cancelled),
        Action::Supersede(..) if !build.is_requested => {
            let superseded_by = superseded(&build.commit, action)?;
            Some(BuildState::Superseded { superseded_by })
        }
        Action::Supersede(..) | Action::Stop(_) | Action::GiveUp(_) | Action::Refuse(_) => None,
    }
}

/// The commit that supersedes this one by an action.
fn superseded(commit: &CommitId, action: &Action) -> Option<CommitId> {
    match action {
        Action::Supersede(old, newer) => (old == commit).then(|| newer.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::builds::schedule::{Due, Limits, Outcome, step};
    use crate::model::{BuildId, Time};

    const LIMITS: Limits = Limits { per_hour: 1000, per_day: 1000 };

    fn commit(number: u8) -> CommitId {
        format!("{number:040x}").parse().unwrap()
    }

    /// The records of a repository, changed as the store changes them.
    #[derive(Default)]
    struct Records {
        schedule: Schedule,
        builds: Vec<Build>,
        now: u64,
    }

    impl Records {
        fn see(&mut self, event: &Event, end: Option<End>) {
            self.now += 3_600_000;
            let before = std::mem::take(&mut self.schedule);
            let (after, actions) = step(before.clone(), event.clone(), LIMITS, Time(self.now));
            let open = self.builds.iter().filter(|build| build.state.is_open()).cloned().collect();
            for change in changes(event, &before, &after, &actions, open, end) {
                match change {
                    BuildChange::Create { commit, is_requested } => {
                        let number = u32::try_from(self.builds.len()).unwrap() + 1;
                        let id = BuildId { repository: "shop".parse().unwrap(), number };
                        self.builds.push(Build {
                            id,
                            commit,
                            is_requested,
                            state: BuildState::Waiting,
                            reason: None,
                            attempts: 0,
                            version: 1,
                            created_by: "ci".to_owned(),
                            created_at: Time(0),
                            started_at: None,
                            updated_at: Time(0),
                        });
                    }
                    BuildChange::Advance { build, state, reason } => {
                        let place = build.id.number as usize - 1;
                        assert_eq!(self.builds[place], build);
                        self.builds[place] =
                            Build { version: build.version + 1, state, reason, ..build };
                    }
                }
            }
            self.schedule = after;
            self.agree();
        }

        /// The builds that wait and run are those of the schedule.
        fn agree(&self) {
            let of = |state: &BuildState| {
                let builds = self.builds.iter().filter(|build| build.state == *state);
                let mut commits: Vec<_> = builds.map(|build| build.commit.clone()).collect();
                commits.sort();
                commits
            };
            let mut waiting: Vec<_> = self.schedule.waiting().cloned().collect();
            waiting.sort();
            assert_eq!(of(&BuildState::Waiting), waiting);
            let running: Vec<_> = self.schedule.running().cloned().into_iter().collect();
            assert_eq!(of(&BuildState::Running), running);
        }
    }

    #[test]
    fn a_push_supersedes_the_one_that_waits_and_not_the_one_that_runs() {
        let mut records = Records::default();
        for number in 1..=3 {
            records.see(&Event::Pushed(commit(number)), None);
            if number == 1 {
                records.see(&Event::Admitted, None);
            }
        }
        let states: Vec<_> = records.builds.iter().map(|build| build.state.clone()).collect();
        let superseded = BuildState::Superseded { superseded_by: commit(3) };
        assert_eq!(states, [BuildState::Running, superseded, BuildState::Waiting]);
        records.see(&Event::Ended(Outcome::Interrupted), Some(End::interrupted("away")));
        let superseded = BuildState::Superseded { superseded_by: commit(3) };
        assert_eq!(records.builds[0].state, superseded);
        assert_eq!(records.builds[0].reason.as_deref(), Some("away"));
    }

    #[test]
    fn a_build_that_is_cancelled_while_it_runs_is_cancelled_however_it_ends() {
        for outcome in [Outcome::Interrupted, Outcome::Finished] {
            let mut records = Records::default();
            records.see(&Event::Pushed(commit(1)), None);
            records.see(&Event::Admitted, None);
            records.see(&Event::Cancelled(commit(1)), None);
            assert_eq!(records.builds[0].state, BuildState::Running);
            let end = End { state: BuildState::Succeeded, reason: None };
            records.see(&Event::Ended(outcome), Some(end));
            assert_eq!(records.builds[0].state, BuildState::Cancelled);
        }
    }

    #[test]
    fn a_build_that_is_given_up_has_failed() {
        let mut records = Records::default();
        records.see(&Event::Pushed(commit(1)), None);
        for _ in 0..MAX_RESUMED {
            records.see(&Event::Admitted, None);
            records.see(&Event::Resumed, Some(End::interrupted("the builder was restarted")));
        }
        assert_eq!(records.builds[0].state, BuildState::Failed);
        let reason = records.builds[0].reason.as_deref().unwrap();
        assert!(reason.starts_with("the builder was stopped 3 times"), "{reason}");
    }

    proptest! {
        /// Whatever happens, each commit that waits or runs has exactly one record, and no other has.
        #[test]
        fn the_records_agree_with_the_schedule(events in proptest::collection::vec((0..6_u8, 0..4_u8), 1..60)) {
            let mut records = Records::default();
            for (kind, number) in events {
                let commit = commit(number);
                let end = |state| Some(End { state, reason: None });
                match kind {
                    0 => records.see(&Event::Pushed(commit), None),
                    1 => records.see(&Event::Requested(commit), None),
                    2 => records.see(&Event::Cancelled(commit), None),
                    3 if records.schedule.running().is_some() => {
                        records.see(&Event::Ended(Outcome::Finished), end(BuildState::Failed));
                    }
                    4 if records.schedule.running().is_some() => {
                        records.see(&Event::Resumed, end(BuildState::Waiting));
                    }
                    _ => {
                        if records.schedule.due(LIMITS, Time(records.now + 3_600_000)) == Due::Now {
                            records.see(&Event::Admitted, None);
                        }
                    }
                }
            }
        }
    }
}
