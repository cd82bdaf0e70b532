//! Which commit of a repository is built next.
//!
//! [`step`] is a pure function of a repository's schedule, of what happened, and of the time. A
//! builder records the schedule that it returns and then performs the actions.
//!
//! One build of a repository runs at a time, and no push cuts it off. Of what is pushed meanwhile
//! the newest commit alone is built: the others are superseded. A build of any commit can be
//! requested; requests and pushes take turns. A build that was interrupted, by a registry that is
//! away or a builder that was killed, is tried again after a while that doubles; a newer commit
//! replaces it at once. A commit during whose build builders end is given up: it may be why.
//!
//! [`choose`] shares the builds that may run at the same time among repositories: the one whose last
//! build started longest ago comes first.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::model::{CommitId, Time};

/// The most requested builds that wait in a repository.
pub const MAX_REQUESTED: usize = 20;
/// How often a builder may end during the build of a commit.
pub const MAX_RESUMED: u32 = 3;
/// How long the first retry waits, in milliseconds. Each further one waits twice as long.
const FIRST_RETRY: u64 = 5_000;
/// The longest wait for a retry, in milliseconds.
const MAX_RETRY: u64 = 10 * 60 * 1000;
/// An hour, in milliseconds.
const HOUR: u64 = 3600 * 1000;
/// A day, in milliseconds.
const DAY: u64 = 24 * HOUR;

/// How many builds of a repository may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Within an hour.
    pub per_hour: u32,
    /// Within a day.
    pub per_day: u32,
}

/// The builds of a repository that wait and run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// The newest commit of the branch, if it is to be built.
    head: Option<Candidate>,
    /// Requested commits, in the order of the requests.
    requested: VecDeque<Candidate>,
    /// The build that runs.
    running: Option<Running>,
    /// The commit of the branch whose build ended last. Seeing it again builds nothing.
    ended: Option<CommitId>,
    /// The newest commit of the branch, if it was cancelled. Seeing it again builds nothing.
    dismissed: Option<CommitId>,
    /// When builds started within the last day, in their order.
    starts: VecDeque<Time>,
    /// Those of requested builds among them.
    #[serde(default)]
    requested_starts: VecDeque<Time>,
    /// Whether the last build that started was a requested one.
    last_was_requested: bool,
}

/// A commit that waits to be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    commit: CommitId,
    /// How often its build was interrupted.
    interruptions: u32,
    /// How often a builder ended during its build.
    #[serde(default)]
    resumptions: u32,
    /// It does not start earlier.
    not_before: Time,
}

/// A build that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    candidate: Candidate,
    /// Whether it was requested, rather than pushed.
    requested: bool,
    /// Whether it was cancelled, and has not stopped yet.
    cancelled: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This is the newest commit of the branch.
    Pushed(CommitId),
    /// A build of a commit was requested.
    Requested(CommitId),
    /// A build may start now, as far as other repositories are concerned.
    Admitted,
    /// The build that ran has ended.
    Ended(Outcome),
    /// The builds of a commit are not wanted any more.
    Cancelled(CommitId),
    /// A builder has started. The build that ran under an earlier one was killed with it.
    Resumed,
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done: with success, or with a failure of what was built. It is not tried again.
    Finished,
    /// Something other than what was built failed, such as the registry. It is tried again.
    Interrupted,
}

/// What to do once the schedule is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the build of a commit.
    Start(CommitId),
    /// Record that a commit is not built, since this newer one is.
    Supersede(CommitId, CommitId),
    /// Record that a commit is not built, since it was cancelled.
    Cancel(CommitId),
    /// Stop the build that runs.
    Stop(CommitId),
    /// Record that a commit failed, since builders end during its build.
    GiveUp(CommitId),
    /// Report that a request was refused: too many wait.
    Refuse(CommitId),
}

/// When the next build of a repository may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Now.
    Now,
    /// At this time.
    At(Time),
    /// After another event.
    Never,
}

/// The next schedule of a repository, and what to do once it is recorded.
#[must_use]
pub fn step(
    mut schedule: Schedule,
    event: Event,
    limits: Limits,
    now: Time,
) -> (Schedule, Vec<Action>) {
    schedule.forget(now);
    let actions = match event {
        Event::Pushed(commit) => schedule.push(commit, now),
        Event::Requested(commit) => schedule.request(commit, now),
        Event::Admitted => schedule.start(limits, now),
        Event::Ended(outcome) => schedule.end(outcome, now),
        Event::Cancelled(commit) => schedule.cancel(&commit),
        Event::Resumed => schedule.resume(now),
    };
    (schedule, actions)
}

/// The repositories whose next build starts now, so that at most `all` builds run.
#[must_use]
pub fn choose<'s, N: Ord>(
    schedules: impl IntoIterator<Item = (N, &'s Schedule)>,
    limits: Limits,
    all: usize,
    now: Time,
) -> Vec<N> {
    let mut running: usize = 0;
    let mut due = Vec::new();
    for (name, schedule) in schedules {
        if schedule.running.is_some() {
            running = running.saturating_add(1);
        } else if schedule.due(limits, now) == Due::Now {
            due.push((schedule.starts.back().copied(), schedule.starts.len(), name));
        }
    }
    due.sort();
    due.truncate(all.saturating_sub(running));
    due.into_iter().map(|(_, _, name)| name).collect()
}

// === impl Limits ===

impl Limits {
    /// Those of requested builds alone. They leave the other half to what is pushed: who requests
    /// may have no right where that is deployed.
    fn of_requests(self) -> Self {
        Self { per_hour: self.per_hour.div_ceil(2), per_day: self.per_day.div_ceil(2) }
    }
}

// === impl Schedule ===

impl Schedule {
    /// The commit whose build runs.
    #[must_use]
    pub fn running(&self) -> Option<&CommitId> {
        self.running.as_ref().map(|running| &running.candidate.commit)
    }

    /// Whether the build that runs was requested, rather than pushed.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.requested)
    }

    /// Whether the build that runs was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.cancelled)
    }

    /// The newest commit of the branch, if it waits to be built.
    #[must_use]
    pub fn head(&self) -> Option<&CommitId> {
        self.head.as_ref().map(|candidate| &candidate.commit)
    }

    /// How many requested builds wait.
    #[must_use]
    pub fn requested(&self) -> usize {
        self.requested.len()
    }

    /// The commits that wait to be built: the newest of the branch, then requested ones.
    pub fn waiting(&self) -> impl Iterator<Item = &CommitId> {
        self.head.iter().chain(&self.requested).map(|candidate| &candidate.commit)
    }

    /// When the next build may start, as far as other repositories are concerned.
    #[must_use]
    pub fn due(&self, limits: Limits, now: Time) -> Due {
        if self.running.is_some() {
            return Due::Never;
        }
        let times = [self.head_at(limits), self.requested_at(limits)];
        match times.into_iter().flatten().min() {
            None => Due::Never,
            Some(at) if at <= now => Due::Now,
            Some(at) => Due::At(at),
        }
    }

    /// When the newest commit of the branch may be built; `None` for never.
    fn head_at(&self, limits: Limits) -> Option<Time> {
        let not_before = self.head.as_ref()?.not_before;
        Some(not_before.max(allowed_at(&self.starts, limits)?))
    }

    /// When a requested commit may be built; `None` for never.
    fn requested_at(&self, limits: Limits) -> Option<Time> {
        let not_before = self.requested.iter().map(|candidate| candidate.not_before).min()?;
        let allowed = allowed_at(&self.starts, limits)?;
        let requested = allowed_at(&self.requested_starts, limits.of_requests())?;
        Some(not_before.max(allowed).max(requested))
    }

    /// Forgets starts that no limit counts any more.
    fn forget(&mut self, now: Time) {
        for starts in [&mut self.starts, &mut self.requested_starts] {
            while starts.front().is_some_and(|start| start.0.saturating_add(DAY) <= now.0) {
                starts.pop_front();
            }
        }
    }

    fn push(&mut self, commit: CommitId, now: Time) -> Vec<Action> {
        if self.head.as_ref().is_some_and(|head| head.commit == commit) {
            return Vec::new();
        }
        self.dismissed.take_if(|dismissed| *dismissed != commit);
        let running = self.running.as_ref().filter(|running| !running.requested);
        // What is released in the end, if nothing else is built.
        let last = running.map(|running| &running.candidate.commit).or(self.ended.as_ref());
        // After a force-push back to it, nothing newer is left to build.
        let next = (last != Some(&commit) && self.dismissed.is_none()).then(|| Candidate {
            commit: commit.clone(),
            interruptions: 0,
            resumptions: 0,
            not_before: now,
        });
        let replaced = std::mem::replace(&mut self.head, next);
        replaced.map(|old| Action::Supersede(old.commit, commit)).into_iter().collect()
    }

    fn request(&mut self, commit: CommitId, now: Time) -> Vec<Action> {
        if self.requested.iter().any(|candidate| candidate.commit == commit) {
            return Vec::new();
        }
        if self.requested.len() >= MAX_REQUESTED {
            return vec![Action::Refuse(commit)];
        }
        self.requested.push_back(Candidate {
            commit,
            interruptions: 0,
            resumptions: 0,
            not_before: now,
        });
        Vec::new()
    }

    fn start(&mut self, limits: Limits, now: Time) -> Vec<Action> {
        if self.due(limits, now) != Due::Now {
            return Vec::new();
        }
        let is_ready = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let is_head_ready = is_ready(self.head_at(limits));
        let takes_turn =
            is_ready(self.requested_at(limits)) && !(is_head_ready && self.last_was_requested);
        let position = self.requested.iter().position(|candidate| candidate.not_before <= now);
        let position = position.filter(|_| takes_turn);
        let requested = position.is_some();
        let candidate = match position {
            Some(position) => self.requested.remove(position),
            None => self.head.take_if(|_| is_head_ready),
        };
        let Some(candidate) = candidate else { return Vec::new() };
        let action = Action::Start(candidate.commit.clone());
        self.running = Some(Running { candidate, requested, cancelled: false });
        self.last_was_requested = requested;
        self.starts.push_back(now);
        if requested {
            self.requested_starts.push_back(now);
        }
        vec![action]
    }

    fn end(&mut self, outcome: Outcome, now: Time) -> Vec<Action> {
        let Some(Running { mut candidate, requested, cancelled }) = self.running.take() else {
            return Vec::new();
        };
        if cancelled || outcome == Outcome::Finished {
            if !requested {
                self.ended = Some(candidate.commit);
            }
            return Vec::new();
        }
        candidate.not_before = Time(now.0.saturating_add(retry_after(candidate.interruptions)));
        candidate.interruptions = candidate.interruptions.saturating_add(1);
        match &self.head {
            _ if requested => self.requested.push_front(candidate),
            None => self.head = Some(candidate),
            Some(newer) => {
                return vec![Action::Supersede(candidate.commit, newer.commit.clone())];
            }
        }
        Vec::new()
    }

    /// The build was killed with its builder: by chance, or by what it did.
    fn resume(&mut self, now: Time) -> Vec<Action> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let candidate = &mut running.candidate;
        candidate.resumptions = candidate.resumptions.saturating_add(1);
        if running.cancelled || candidate.resumptions < MAX_RESUMED {
            return self.end(Outcome::Interrupted, now);
        }
        let action = Action::GiveUp(candidate.commit.clone());
        self.end(Outcome::Finished, now).into_iter().chain([action]).collect()
    }

    fn cancel(&mut self, commit: &CommitId) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(head) = self.head.take_if(|head| head.commit == *commit) {
            self.dismissed = Some(head.commit.clone());
            actions.push(Action::Cancel(head.commit));
        }
        let before = self.requested.len();
        self.requested.retain(|candidate| candidate.commit != *commit);
        if self.requested.len() < before {
            actions.push(Action::Cancel(commit.clone()));
        }
        if let Some(running) = &mut self.running
            && running.candidate.commit == *commit
            && !running.cancelled
        {
            running.cancelled = true;
            if !running.requested && self.head.is_none() {
                self.dismissed = Some(commit.clone());
            }
            actions.push(Action::Stop(commit.clone()));
        }
        actions
    }
}

/// When a further start is allowed; `None` for never.
fn allowed_at(starts: &VecDeque<Time>, limits: Limits) -> Option<Time> {
    let mut at = Time(0);
    for (count, window) in [(limits.per_hour, HOUR), (limits.per_day, DAY)] {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if let Some(before) = starts.len().checked_sub(count) {
            at = at.max(Time(starts.get(before)?.0.saturating_add(window)));
        }
    }
    Some(at)
}

/// How long the next attempt waits after this many interruptions before, in milliseconds.
fn retry_after(interruptions: u32) -> u64 {
    FIRST_RETRY.saturating_mul(2_u64.saturating_pow(interruptions)).min(MAX_RETRY)
}

#[cfg(test)]
mod tests;
