use proptest::prelude::*;

use super::*;

fn events() -> impl Strategy<Value = Event> {
    let outcome = || prop_oneof![Just(Ok(())), Just(Err("no".to_owned()))];
    prop_oneof![
        4 => Just(Event::Resumed),
        4 => outcome().prop_map(Event::Checked),
        4 => outcome().prop_map(Event::Applied),
        4 => outcome().prop_map(Event::Pruned),
        2 => Just(Event::Observed(Readiness::Ready)),
        2 => Just(Event::Observed(Readiness::Progressing("1 of 3".to_owned()))),
        1 => Just(Event::Observed(Readiness::Failed("crash".to_owned()))),
        2 => Just(Event::Unreachable("away".to_owned())),
        1 => Just(Event::Superseded),
        2 => Just(Event::RolloutBegan),
        1 => Just(Event::RolledOut(RolloutEnd::Promoted)),
        1 => Just(Event::RolledOut(RolloutEnd::RolledBack("worse".to_owned()))),
        1 => Just(Event::RolledOut(RolloutEnd::Superseded)),
    ]
}

/// The place of a state on the way; closed states share the last one. What is rolled out is not
/// applied at once.
fn place(state: &State) -> usize {
    let name = state.name().replace("rollingOut", "applying");
    let places = ["recorded", "applying", "waiting", "pruning"];
    places.iter().position(|place| *place == name).unwrap_or(4)
}

proptest! {
    #[test]
    fn a_deployment_never_goes_back_and_stays_closed(
        events in proptest::collection::vec((events(), 0_u64..400_000), 0..60),
    ) {
        let mut state = State::Recorded;
        let mut now = Time(0);
        for (event, elapsed) in events {
            now.0 += elapsed;
            let (next, action) = step(state.clone(), event, now);
            prop_assert!(place(&next) >= place(&state), "{state:?} → {next:?}");
            prop_assert!(place(&next) <= place(&state) + 1 || !next.is_open());
            prop_assert_eq!(action.is_some(), next.is_open());
            if !state.is_open() {
                prop_assert_eq!(&next, &state);
            }
            state = next;
        }
    }

    #[test]
    fn resuming_repeats_the_action_of_the_recorded_state(
        events in proptest::collection::vec(events(), 0..20),
    ) {
        let mut state = State::Recorded;
        for event in events {
            let (next, action) = step(state, event, Time(0));
            prop_assert_eq!(
                step(next.clone(), Event::Resumed, Time(u64::MAX)),
                (next.clone(), action)
            );
            state = next;
        }
    }
}

#[test]
fn a_release_is_ready_only_after_it_was_checked_applied_observed_and_pruned() {
    let happened = [
        (Event::Resumed, Some(Action::Check)),
        (Event::Checked(Ok(())), Some(Action::Apply)),
        (Event::Applied(Ok(())), Some(Action::Observe)),
        (Event::Observed(Readiness::Progressing("1 of 2".to_owned())), Some(Action::Observe)),
        (Event::Observed(Readiness::Ready), Some(Action::Prune)),
        (Event::Pruned(Ok(())), None),
    ];
    let mut state = State::Recorded;
    for (event, expected) in happened {
        let (next, action) = step(state, event, Time(5));
        assert_eq!(action, expected);
        state = next;
    }
    assert_eq!(state, State::Ready);
}

#[test]
fn an_unreachable_cluster_is_waited_for_until_the_deadline() {
    let away = || Event::Unreachable("connection refused".to_owned());
    for state in [State::Recorded, State::Applying, State::Pruning] {
        assert_eq!(step(state.clone(), away(), Time(u64::MAX)).0, state);
    }
    let waiting = State::Waiting { deadline: Time(100), reason: String::new() };
    assert_eq!(
        step(waiting.clone(), away(), Time(99)).0,
        State::Waiting { deadline: Time(100), reason: "connection refused".to_owned() }
    );
    let (failed, action) = step(waiting, away(), Time(100));
    assert_eq!(failed.reason(), Some("it was not ready in time: connection refused"));
    assert_eq!(action, None);
}

#[test]
fn a_rollout_ends_its_deployment_and_is_not_superseded_before() {
    let (state, action) = step(State::Recorded, Event::RolloutBegan, Time(5));
    assert_eq!((&state, action), (&State::RollingOut, Some(Action::RollOut)));
    assert_eq!(step(state.clone(), Event::Superseded, Time(6)).0, State::RollingOut);
    let end = |end| step(state.clone(), Event::RolledOut(end), Time(7)).0;
    assert_eq!(end(RolloutEnd::Promoted).name(), "waiting");
    assert_eq!(end(RolloutEnd::RolledBack("worse".to_owned())).reason(), Some("worse"));
    assert_eq!(end(RolloutEnd::Superseded), State::Superseded);
}
