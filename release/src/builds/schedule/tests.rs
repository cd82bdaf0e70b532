use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const GENEROUS: Limits = Limits { per_hour: 1000, per_day: 1000 };

fn commit(number: usize) -> CommitId {
    format!("{number:040x}").parse().unwrap()
}

/// A repository, and all that was done for it.
struct Repository {
    schedule: Schedule,
    limits: Limits,
    now: Time,
    done: Vec<Action>,
    starts: Vec<Time>,
}

impl Repository {
    fn new(limits: Limits) -> Self {
        let schedule = Schedule::default();
        Self { schedule, limits, now: Time(1_000_000), done: Vec::new(), starts: Vec::new() }
    }

    fn see(&mut self, event: Event) -> Vec<Action> {
        let schedule = std::mem::take(&mut self.schedule);
        // What is recorded is what goes on.
        let recorded = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&recorded).unwrap(), schedule);
        let (next, actions) = step(schedule, event, self.limits, self.now);
        self.schedule = next;
        self.done.extend(actions.clone());
        let is_start = |action: &&Action| matches!(action, Action::Start(_));
        self.starts.extend(actions.iter().filter(is_start).map(|_| self.now));
        actions
    }

    /// Lets everything that waits be built, one after the other.
    fn drain(&mut self) {
        for _ in 0..1000 {
            if self.schedule.running().is_some() {
                self.see(Event::Ended(Outcome::Finished));
            }
            match self.schedule.due(self.limits, self.now) {
                Due::Now => drop(self.see(Event::Admitted)),
                Due::At(at) => self.now = at,
                Due::Never => return,
            }
        }
        panic!("there is no end of builds");
    }

    fn started(&self) -> Vec<CommitId> {
        let start = |action: &Action| match action {
            Action::Start(commit) => Some(commit.clone()),
            _ => None,
        };
        self.done.iter().filter_map(start).collect()
    }

    fn superseded(&self) -> Vec<CommitId> {
        let superseded = |action: &Action| match action {
            Action::Supersede(old, _) => Some(old.clone()),
            _ => None,
        };
        self.done.iter().filter_map(superseded).collect()
    }
}

#[test]
fn a_hundred_pushes_at_once_lose_none_and_build_two() {
    let mut repository = Repository::new(GENEROUS);
    for number in 0..100 {
        repository.see(Event::Pushed(commit(number)));
        repository.see(Event::Admitted);
    }
    repository.drain();
    assert_eq!(repository.started(), [commit(0), commit(99)]);
    assert_eq!(repository.superseded(), (1..99).map(commit).collect::<Vec<_>>());
}

#[test]
fn a_running_build_is_cut_off_by_no_push() {
    let mut repository = Repository::new(GENEROUS);
    repository.see(Event::Pushed(commit(1)));
    assert_eq!(repository.see(Event::Admitted), [Action::Start(commit(1))]);
    assert_eq!(repository.see(Event::Pushed(commit(2))), []);
    assert_eq!(repository.see(Event::Admitted), [], "one at a time");
    assert_eq!(repository.schedule.running(), Some(&commit(1)));
    assert_eq!(repository.see(Event::Pushed(commit(3))), [Action::Supersede(commit(2), commit(3))]);
    repository.see(Event::Ended(Outcome::Finished));
    assert_eq!(repository.see(Event::Admitted), [Action::Start(commit(3))]);
}

#[test]
fn polling_the_same_commit_builds_it_once() {
    let mut repository = Repository::new(GENEROUS);
    for _ in 0..3 {
        repository.see(Event::Pushed(commit(1)));
        repository.drain();
    }
    assert_eq!(repository.started(), [commit(1)]);
    // A force-push to an older commit and back is two changes of what is newest.
    for number in [2, 1] {
        repository.see(Event::Pushed(commit(number)));
        repository.drain();
    }
    assert_eq!(repository.started(), [commit(1), commit(2), commit(1)]);
    // Back to what is being built: what was in between is not built.
    repository.see(Event::Pushed(commit(5)));
    repository.see(Event::Admitted);
    repository.see(Event::Pushed(commit(6)));
    let back = repository.see(Event::Pushed(commit(5)));
    assert_eq!(back, [Action::Supersede(commit(6), commit(5))]);
    repository.drain();
    assert_eq!(repository.started().last(), Some(&commit(5)));
}

#[test]
fn an_interrupted_build_is_tried_again_later_unless_there_is_a_newer_commit() {
    let mut repository = Repository::new(GENEROUS);
    repository.see(Event::Pushed(commit(1)));
    let mut waits = Vec::new();
    let mut events = vec![Event::Ended(Outcome::Interrupted); 12];
    events[1] = Event::Resumed;
    for event in &events {
        assert_eq!(repository.see(Event::Admitted), [Action::Start(commit(1))]);
        repository.see(event.clone());
        assert_eq!(repository.see(Event::Pushed(commit(1))), [], "it waits already");
        let Due::At(at) = repository.schedule.due(GENEROUS, repository.now) else {
            panic!("it is not tried again later");
        };
        assert_eq!(repository.see(Event::Admitted), [], "not yet");
        waits.push((at.0 - repository.now.0) / 1000);
        repository.now = at;
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600, 600, 600]);
    repository.see(Event::Admitted);
    repository.see(Event::Pushed(commit(2)));
    let interrupted = repository.see(Event::Ended(Outcome::Interrupted));
    assert_eq!(interrupted, [Action::Supersede(commit(1), commit(2))]);
    assert_eq!(repository.see(Event::Admitted), [Action::Start(commit(2))], "at once");
}

#[test]
fn a_commit_during_whose_build_builders_end_is_given_up() {
    let mut repository = Repository::new(GENEROUS);
    repository.see(Event::Pushed(commit(1)));
    let given_up = Action::GiveUp(commit(1));
    for expected in [vec![], vec![], vec![given_up]] {
        assert_eq!(repository.see(Event::Admitted), [Action::Start(commit(1))]);
        assert_eq!(repository.see(Event::Resumed), expected);
        repository.now = Time(repository.now.0 + HOUR);
    }
    repository.see(Event::Pushed(commit(1)));
    assert_eq!(repository.schedule.due(GENEROUS, repository.now), Due::Never);
    repository.see(Event::Requested(commit(1)));
    assert_eq!(repository.see(Event::Admitted), [Action::Start(commit(1))]);
}

#[test]
fn requests_leave_half_of_the_builds_to_pushes() {
    let limits = Limits { per_hour: 4, per_day: 100 };
    let mut repository = Repository::new(limits);
    for number in 10..20 {
        repository.see(Event::Requested(commit(number)));
    }
    while repository.schedule.due(limits, repository.now) == Due::Now {
        repository.see(Event::Admitted);
        repository.see(Event::Ended(Outcome::Finished));
    }
    assert_eq!(repository.started(), [10, 11].map(commit));
    repository.see(Event::Pushed(commit(1)));
    assert_eq!(repository.see(Event::Admitted), [Action::Start(commit(1))]);
}

#[test]
fn requests_and_pushes_take_turns() {
    let mut repository = Repository::new(GENEROUS);
    repository.see(Event::Pushed(commit(1)));
    for number in 10..13 {
        repository.see(Event::Requested(commit(number)));
    }
    for number in 2..5 {
        repository.see(Event::Admitted);
        repository.see(Event::Pushed(commit(number)));
        repository.see(Event::Ended(Outcome::Finished));
    }
    repository.drain();
    let numbers = [10, 2, 11, 4, 12];
    assert_eq!(repository.started(), numbers.map(commit));
    assert_eq!(repository.superseded(), [1, 3].map(commit));
    // A request builds again what was built.
    repository.see(Event::Requested(commit(4)));
    repository.drain();
    assert_eq!(repository.started().len(), 6);
    for number in 0..=MAX_REQUESTED {
        repository.see(Event::Requested(commit(100 + number)));
    }
    assert_eq!(repository.done.last(), Some(&Action::Refuse(commit(100 + MAX_REQUESTED))));
}

#[test]
fn a_commit_that_is_cancelled_is_not_built_by_the_next_poll() {
    let mut repository = Repository::new(GENEROUS);
    repository.see(Event::Pushed(commit(1)));
    assert_eq!(repository.see(Event::Cancelled(commit(1))), [Action::Cancel(commit(1))]);
    repository.see(Event::Pushed(commit(1)));
    repository.drain();
    assert_eq!(repository.started(), []);
    repository.see(Event::Pushed(commit(2)));
    repository.see(Event::Admitted);
    assert_eq!(repository.see(Event::Cancelled(commit(2))), [Action::Stop(commit(2))]);
    assert_eq!(repository.see(Event::Cancelled(commit(2))), [], "it stops already");
    repository.see(Event::Ended(Outcome::Interrupted));
    repository.see(Event::Pushed(commit(2)));
    repository.drain();
    assert_eq!(repository.started(), [commit(2)]);
}

#[test]
fn builds_of_an_hour_and_a_day_are_limited() {
    let mut repository = Repository::new(Limits { per_hour: 2, per_day: 3 });
    let began = repository.now;
    for number in 0..5 {
        repository.see(Event::Pushed(commit(number)));
        repository.drain();
    }
    let hours: Vec<u64> = repository.starts.iter().map(|at| (at.0 - began.0) / HOUR).collect();
    assert_eq!(hours, [0, 0, 1, 24, 24]);
    let mut closed = Repository::new(Limits { per_hour: 0, per_day: 9 });
    closed.see(Event::Pushed(commit(1)));
    assert_eq!(closed.schedule.due(closed.limits, closed.now), Due::Never);
    assert_eq!(closed.see(Event::Admitted), []);
}

fn events() -> impl Strategy<Value = Vec<(u64, u8)>> {
    prop::collection::vec((0_u64..2_000_000, 0_u8..10), 1..200)
}

proptest! {
    /// Whatever happens in whatever order: one build at a time, no more than the limits allow, and
    /// in the end the newest commit is built and each other one is built, superseded or cancelled.
    #[test]
    fn no_commit_is_lost_and_the_newest_is_built(events in events()) {
        let limits = Limits { per_hour: 5, per_day: 30 };
        let mut repository = Repository::new(limits);
        let mut pushed = Vec::new();
        for (wait, kind) in events {
            repository.now = Time(repository.now.0 + wait);
            match kind {
                0..=3 => {
                    pushed.push(commit(pushed.len()));
                    repository.see(Event::Pushed(pushed.last().unwrap().clone()));
                }
                4..=6 => drop(repository.see(Event::Admitted)),
                7 => drop(repository.see(Event::Ended(Outcome::Finished))),
                8 => drop(repository.see(Event::Ended(Outcome::Interrupted))),
                _ => drop(repository.see(Event::Resumed)),
            }
        }
        repository.drain();
        let (started, superseded) = (repository.started(), repository.superseded());
        for commit in &pushed {
            prop_assert!(started.contains(commit) || superseded.contains(commit), "{commit} is lost");
        }
        prop_assert!(pushed.last().is_none_or(|newest| started.contains(newest)));
        prop_assert!(pushed.last().is_none_or(|newest| !superseded.contains(newest)));
        for (count, window) in [(limits.per_hour, HOUR), (limits.per_day, DAY)] {
            for group in repository.starts.windows(count as usize + 1) {
                prop_assert!(group[group.len() - 1].0 - group[0].0 >= window);
            }
        }
    }

    /// Repositories that always have something to build get the same number of builds, within one,
    /// and no more builds run at a time than may.
    #[test]
    fn builds_are_shared_fairly(repositories in 1_usize..8, all in 1_usize..4, rounds in 1_usize..60) {
        let mut shared: BTreeMap<usize, Repository> =
            (0..repositories).map(|name| (name, Repository::new(GENEROUS))).collect();
        let mut next = 0;
        for round in 0..rounds {
            let now = Time(1_000_000 + round as u64 * 1000);
            for repository in shared.values_mut() {
                repository.now = now;
                next += 1;
                repository.see(Event::Pushed(commit(next)));
            }
            let schedules = shared.iter().map(|(name, it)| (*name, &it.schedule));
            let chosen = choose(schedules, GENEROUS, all, now);
            prop_assert!(chosen.len() <= all);
            for name in chosen {
                shared.get_mut(&name).unwrap().see(Event::Admitted);
            }
            let schedules = shared.iter().map(|(name, it)| (*name, &it.schedule));
            prop_assert_eq!(choose(schedules, GENEROUS, all, now).len(), 0, "all places are taken");
            for repository in shared.values_mut() {
                repository.see(Event::Ended(Outcome::Finished));
            }
        }
        let counts: Vec<usize> = shared.values().map(|it| it.starts.len()).collect();
        let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
        prop_assert!(spread <= 1, "{counts:?}");
    }
}
