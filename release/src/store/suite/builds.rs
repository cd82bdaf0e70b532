//! Builds of repositories.

use super::*;
use crate::model::RepositoryName;

fn commit(digit: char) -> crate::model::CommitId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn shop() -> RepositoryName {
    "shop".parse().unwrap()
}

fn target(service: &str, key: &str) -> BuildTarget {
    BuildTarget {
        service: service.parse().unwrap(),
        key: key.to_owned(),
        manifests: "m".to_owned(),
        state: TargetState::Building,
        image: None,
        release: None,
        unchanged_since: None,
        problem: None,
        autopush: None,
        autopushed: None,
    }
}

async fn create(store: &dyn BuildStore, digit: char, is_requested: bool, by: By) -> Build {
    let change = BuildChange::Create { commit: commit(digit), is_requested };
    let made = store.record_schedule(&shop(), json!({"of": digit}), vec![change], by).await;
    made.unwrap().pop().unwrap()
}

async fn advance(
    store: &dyn BuildStore,
    build: &Build,
    state: BuildState,
) -> Result<Build, StoreError> {
    let reason = Some("a reason".to_owned());
    let change = BuildChange::Advance { build: build.clone(), state, reason };
    let changed = store.record_schedule(&shop(), json!({}), vec![change], by(9, "")).await?;
    Ok(changed.into_iter().next().unwrap())
}

/// Runs this part of the suite.
pub(super) async fn run<F: Future<Output = Arc<dyn BuildStore>>>(open: &impl Fn() -> F) {
    builds_change_together_with_their_schedule(&*open().await).await;
    a_builder_that_is_outdated_changes_no_build(&*open().await).await;
    nothing_more_becomes_of_the_targets_of_a_build_that_has_ended(&*open().await).await;
    people_are_audited_and_repeat_their_request(&*open().await).await;
    the_last_release_with_the_same_inputs_is_found(&*open().await).await;
    the_newest_release_alone_is_pushed_on(&*open().await).await;
}

async fn builds_change_together_with_their_schedule(store: &dyn BuildStore) {
    assert!(store.schedules().await.unwrap().is_empty());
    let first = create(store, 'a', false, by(1, "")).await;
    let second = create(store, 'b', false, by(2, "")).await;
    assert_eq!((first.id.to_string(), second.id.to_string()), ("shop.1".into(), "shop.2".into()));
    assert_eq!(store.schedules().await.unwrap()[&shop()], json!({"of": "b"}));
    let superseded = BuildState::Superseded { superseded_by: commit('b') };
    advance(store, &first, superseded.clone()).await.unwrap();
    let running = advance(store, &second, BuildState::Running).await.unwrap();
    assert_eq!((running.attempts, running.started_at), (1, Some(Time(9))));
    assert_eq!(store.open_builds(&shop()).await.unwrap(), [running]);
    let listed = store.builds(&shop(), None, 9).await.unwrap();
    assert_eq!(listed.iter().map(|build| build.id.number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(listed[1].state, superseded);
    assert_eq!(store.builds(&shop(), Some(2), 9).await.unwrap().len(), 1);
    assert!(store.builds(&"other".parse().unwrap(), None, 9).await.unwrap().is_empty());
}

async fn a_builder_that_is_outdated_changes_no_build(store: &dyn BuildStore) {
    let waiting = create(store, 'a', false, by(1, "")).await;
    let running = advance(store, &waiting, BuildState::Running).await.unwrap();
    let mut web = target("web", "1");
    assert!(store.record_target(&running, &web, Time(3)).await.unwrap());
    let again = advance(store, &running, BuildState::Waiting).await.unwrap();
    web.state = TargetState::Failed;
    assert!(!store.record_target(&running, &web, Time(4)).await.unwrap());
    let schedule = store.schedules().await.unwrap();
    let late = BuildChange::Advance { build: running, state: BuildState::Failed, reason: None };
    let refused = store.record_schedule(&shop(), json!("late"), vec![late], by(5, "")).await;
    assert!(matches!(refused, Err(StoreError::Outdated)));
    assert_eq!(store.schedules().await.unwrap(), schedule, "nothing of it is recorded");
    assert_eq!(store.build(&again.id).await.unwrap(), Some(again.clone()));
    assert_eq!(store.build_targets(&again.id).await.unwrap()[0].state, TargetState::Building);
    let ended = advance(store, &again, BuildState::Failed).await.unwrap();
    assert!(!store.record_target(&ended, &web, Time(6)).await.unwrap(), "it is closed");
}

async fn nothing_more_becomes_of_the_targets_of_a_build_that_has_ended(store: &dyn BuildStore) {
    let superseded = BuildState::Superseded { superseded_by: commit('f') };
    let ends = [BuildState::Failed, superseded, BuildState::Cancelled];
    for (digit, state) in ['a', 'b', 'c'].into_iter().zip(ends) {
        let waiting = create(store, digit, false, by(1, "")).await;
        let running = advance(store, &waiting, BuildState::Running).await.unwrap();
        let states = [TargetState::Building, TargetState::Pushed, TargetState::Unchanged];
        for (service, state) in ["api", "cart", "web"].into_iter().zip(states) {
            let target = BuildTarget { state, ..target(service, "1") };
            assert!(store.record_target(&running, &target, Time(3)).await.unwrap());
        }
        let again = advance(store, &running, BuildState::Waiting).await.unwrap();
        let open = store.build_targets(&again.id).await.unwrap();
        assert_eq!(open.iter().map(|one| one.state).collect::<Vec<_>>(), states);
        advance(store, &again, state).await.unwrap();
        let closed = store.build_targets(&again.id).await.unwrap();
        let closed: Vec<_> = closed.iter().map(|one| (one.state, one.problem.as_deref())).collect();
        let failed = (TargetState::Failed, Some("a reason"));
        assert_eq!(closed, [failed, failed, (TargetState::Unchanged, None)]);
    }
}

async fn people_are_audited_and_repeat_their_request(store: &dyn BuildStore) {
    create(store, 'a', false, by(1, "")).await;
    let requested = create(store, 'b', true, by(2, "key")).await;
    assert_eq!(store.made_build(&by(3, "key")).await.unwrap(), Some(requested.clone()));
    assert_eq!(store.made_build(&by(3, "other")).await.unwrap(), None);
    advance(store, &requested, BuildState::Cancelled).await.unwrap();
    // One that runs: the order is audited, and not its end.
    let waiting = create(store, 'c', false, by(4, "")).await;
    let running = advance(store, &waiting, BuildState::Running).await.unwrap();
    let ordered = advance(store, &running, BuildState::Running).await.unwrap();
    assert_eq!((ordered.attempts, ordered.started_at), (1, running.started_at));
    advance(store, &ordered, BuildState::Cancelled).await.unwrap();
    let audit = store.audit(None, 9).await.unwrap();
    let mut entries: Vec<_> = audit.iter().map(|entry| (&*entry.action, &*entry.subject)).collect();
    entries.sort_unstable();
    assert_eq!(
        entries,
        [("build.cancel", "shop.2"), ("build.cancel", "shop.3"), ("build.request", "shop.2")]
    );
}

/// Records a build with a released target.
async fn released(store: &dyn BuildStore, number: u32, key: &str, autopush: bool) -> BuildTarget {
    let digit = char::from_digit(number, 16).unwrap();
    let waiting = create(store, digit, false, by(1, "")).await;
    let running = advance(store, &waiting, BuildState::Running).await.unwrap();
    let target = BuildTarget {
        state: TargetState::Released,
        image: Some(format!("r.test/web@sha256:{number}")),
        release: Some(format!("web.{number}").parse().unwrap()),
        autopush: autopush.then(|| "staging".parse().unwrap()),
        ..target("web", key)
    };
    assert!(store.record_target(&running, &target, Time(2)).await.unwrap());
    target
}

async fn the_last_release_with_the_same_inputs_is_found(store: &dyn BuildStore) {
    let first = released(store, 1, "x", false).await;
    let second = released(store, 2, "y", false).await;
    let web = "web".parse().unwrap();
    let repository = shop();
    let of = |key| store.released_target(&repository, &web, key);
    assert_eq!(of(Some("x")).await.unwrap(), Some(first));
    assert_eq!(of(None).await.unwrap(), Some(second));
    assert_eq!(of(Some("z")).await.unwrap(), None);
    let other = store.released_target(&"other".parse().unwrap(), &web, None).await.unwrap();
    assert_eq!(other, None, "what another repository built is not taken over");
}

async fn the_newest_release_alone_is_pushed_on(store: &dyn BuildStore) {
    for number in 1..=3 {
        released(store, number, "x", true).await;
    }
    let open = store.open_autopushes().await.unwrap();
    let numbers: Vec<_> = open.iter().map(|autopush| autopush.release.number).collect();
    assert_eq!(numbers, [3, 2, 1]);
    store.close_autopush(&open[1], "web.staging.1").await.unwrap();
    let left = store.open_autopushes().await.unwrap();
    assert_eq!(left, [open[0].clone()]);
    let targets = async |id| store.build_targets(id).await.unwrap()[0].autopushed.clone();
    assert_eq!(targets(&open[2].build).await.unwrap(), "superseded by web.2");
    assert_eq!(targets(&open[1].build).await.unwrap(), "web.staging.1");
}
