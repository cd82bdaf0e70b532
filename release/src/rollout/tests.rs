mod settings;
mod world;

use super::*;
use crate::analysis::Verdict;
use crate::model::Time;
use crate::state::READY_WITHIN;

const MINUTE: u64 = 60_000;

/// Two steps, 10 % for a minute and all; pods warm up for 10 s.
fn settings() -> Settings {
    Settings {
        steps: vec![
            Step { weight: 1_000, hold: MINUTE, manual: false },
            Step { hold: 0, ..Step::ALL },
        ],
        warm_up: 10_000,
        ..Settings::default()
    }
}

/// All is well, long since, with this split applied everywhere.
fn well(weight: u16, generation: u64) -> Observation {
    Observation {
        split: Some(Split { weight, generation }),
        canary: Some(Pods { exists: true, scaled_for: 10_000, ready_since: Some(Time(0)) }),
        stable: Stable::Present { is_new: false, ready_since: Some(Time(0)) },
        gateway: Gateway::Agrees(generation),
        ..Observation::unknown()
    }
}

fn judged(verdict: Verdict, at: u64) -> Option<Judged> {
    Some(Judged { at: Time(at), verdict, sentence: format!("judged {verdict:?}") })
}

/// A rollout that watches its first step since `Time(100_000)`, at generation 4.
fn watching() -> Rollout {
    let state = Rollout::new(settings(), Time(100_000));
    let (state, actions) = step(state, &well(0, 3), Time(100_000));
    assert_eq!(actions, [Action::SetWeight { weight: 1_000, if_generation: 3 }]);
    let (state, actions) = step(state, &well(1_000, 4), Time(100_000));
    assert_eq!(actions, []);
    assert_eq!(state.stage, Stage::Watching { step: 0, since: Time(100_000) });
    state
}

#[test]
fn a_good_release_goes_all_the_way() {
    let mut state = watching();
    let clear = |observation: Observation, at| Observation {
        judged: judged(Verdict::Clear, at),
        ..observation
    };
    let set = |weight, if_generation| vec![Action::SetWeight { weight, if_generation }];
    let replaced = |observation: Observation| Observation {
        stable: Stable::Present { is_new: true, ready_since: Some(Time(200_000)) },
        ..observation
    };
    let removed =
        |observation: Observation| Observation { canary: Some(Pods::default()), ..observation };
    let cases = [
        (clear(well(1_000, 4), 110_000), 110_000, "watching", vec![]),
        (clear(well(1_000, 4), 150_000), 160_000, "scaling", vec![]),
        (clear(well(1_000, 4), 150_000), 160_000, "shifting", set(10_000, 4)),
        (clear(well(10_000, 5), 150_000), 170_000, "watching", vec![]),
        (clear(well(10_000, 5), 180_000), 180_000, "replacing", vec![Action::ApplyStable]),
        (well(10_000, 5), 190_000, "replacing", vec![Action::ApplyStable]),
        (replaced(well(10_000, 5)), 205_000, "replacing", vec![Action::ApplyStable]),
        (replaced(well(10_000, 5)), 210_000, "returning", set(0, 5)),
        (replaced(well(0, 6)), 220_000, "cleaning", vec![Action::RemoveCanary]),
        (replaced(removed(well(0, 6))), 230_000, "promoted", vec![]),
    ];
    for (seen, now, stage, expected) in cases {
        let (next, actions) = step(state, &seen, Time(now));
        let recorded = serde_json::to_value(&next).unwrap();
        assert_eq!(recorded["stage"]["stage"], stage, "{}", next.sentence);
        assert_eq!(actions, expected, "{stage}");
        state = serde_json::from_value(recorded).unwrap();
    }
    assert!(!state.is_open());
}

#[test]
fn an_alarm_sets_the_weight_to_zero_before_anything_else() {
    let alarm =
        |observation| Observation { judged: judged(Verdict::Alarm, 110_000), ..observation };
    let (state, actions) = step(watching(), &alarm(well(1_000, 4)), Time(110_000));
    assert_eq!(actions, [Action::SetWeight { weight: 0, if_generation: 4 }]);
    // One replica has not applied it yet, and pods stay until it has.
    let behind = Observation { gateway: Gateway::Differs("b has 4".to_owned()), ..well(0, 5) };
    let (state, actions) = step(state, &behind, Time(111_000));
    assert_eq!(actions, []);
    let (state, actions) = step(state, &well(0, 5), Time(112_000));
    assert_eq!(actions, [Action::RemoveCanary, Action::Pin]);
    let gone = Observation { canary: Some(Pods::default()), is_pinned: true, ..well(0, 5) };
    let (state, actions) = step(state, &gone, Time(113_000));
    assert_eq!((state.is_open(), actions), (false, vec![]));
    assert_eq!(state.sentence, "rolled back: judged Alarm");
}

#[test]
fn a_silent_replica_does_not_keep_an_abort_for_ever() {
    let blind = |observation| Observation {
        gateway: Gateway::Blind("gateway-2 does not answer".to_owned()),
        judged: judged(Verdict::Alarm, 110_000),
        ..observation
    };
    let (state, _) = step(watching(), &blind(well(1_000, 4)), Time(110_000));
    let (state, actions) = step(state, &blind(well(0, 5)), Time(169_000));
    assert_eq!(actions, []);
    let (_, actions) = step(state, &blind(well(0, 5)), Time(170_000));
    assert_eq!(actions, [Action::RemoveCanary, Action::Pin]);
}

#[test]
fn whatever_is_missing_is_a_hold_with_a_sentence() {
    let clear = || Observation { judged: judged(Verdict::Clear, 170_000), ..well(1_000, 4) };
    let pods = |pods: Pods| Some(pods);
    let cases: [(&str, Observation); 12] = [
        (
            "holding: blind: gateway-2 does not answer",
            Observation {
                gateway: Gateway::Blind("gateway-2 does not answer".to_owned()),
                ..clear()
            },
        ),
        (
            "waiting for the gateway: b has 3",
            Observation { gateway: Gateway::Differs("b has 3".to_owned()), ..clear() },
        ),
        (
            "waiting for the gateway: it has generation 3, not 4",
            Observation { gateway: Gateway::Agrees(3), ..clear() },
        ),
        (
            "holding: no look has ended since the weight was set",
            Observation { judged: judged(Verdict::Clear, 100_000), ..clear() },
        ),
        (
            "waiting for the canary's pods: not all are ready",
            Observation {
                canary: pods(Pods { ready_since: None, exists: true, scaled_for: 1_000 }),
                ..clear()
            },
        ),
        (
            "waiting for the canary's pods to warm up",
            Observation {
                canary: pods(Pods {
                    ready_since: Some(Time(190_001)),
                    exists: true,
                    scaled_for: 1_000,
                }),
                ..clear()
            },
        ),
        (
            // Its Deployment was deleted, and its Service is there.
            "waiting for the canary's pods",
            Observation {
                canary: pods(Pods { ready_since: None, exists: true, scaled_for: 0 }),
                ..clear()
            },
        ),
        ("holding: the canary's pods cannot be read", Observation { canary: None, ..clear() }),
        ("holding: the environment is frozen", Observation { is_frozen: true, ..clear() }),
        (
            "holding: the stable Deployment does not exist",
            Observation { stable: Stable::Missing, ..clear() },
        ),
        (
            "holding: stable fails 12 %: that is an outage, and no fault of the canary",
            Observation { outage: Some("stable fails 12 %".to_owned()), ..clear() },
        ),
        (
            "holding: someone else has set the weight to 20 % (generation 5): resume to take it \
             over, or abort",
            Observation { split: Some(Split { weight: 2_000, generation: 5 }), ..clear() },
        ),
    ];
    for (sentence, seen) in cases {
        let (state, actions) = step(watching(), &seen, Time(200_000));
        assert_eq!((state.sentence.as_str(), actions), (sentence, vec![]));
        assert_eq!(state.stage, watching().stage);
        let (state, _) = step(state, &clear(), Time(200_000));
        assert_eq!(state.stage, Stage::Scaling { step: 1, since: Time(200_000) }, "{sentence}");
    }
}

#[test]
fn an_outage_or_a_missing_stable_side_is_not_blamed_on_the_canary() {
    let alarm = || Observation { judged: judged(Verdict::Alarm, 110_000), ..well(1_000, 4) };
    for seen in [
        Observation { outage: Some("stable fails".to_owned()), ..alarm() },
        Observation { stable: Stable::Missing, ..alarm() },
    ] {
        assert_eq!(step(watching(), &seen, Time(110_000)).1, []);
    }
    let paused = order(watching(), Order::Pause, "lunch", Time(105_000)).unwrap();
    let (state, actions) = step(paused, &alarm(), Time(110_000));
    assert_eq!(actions.len(), 1, "a pause keeps nothing from going back");
    assert!(matches!(state.stage, Stage::Withdrawing { cause: Cause::Alarm(_), .. }));
}

#[test]
fn a_weight_that_someone_else_has_set_is_left_until_a_person_decides() {
    let by_hand = Observation { judged: judged(Verdict::Clear, 170_000), ..well(2_000, 5) };
    let (held, actions) = step(watching(), &by_hand, Time(200_000));
    assert_eq!((actions, held.weight()), (vec![], 2_000));
    let resumed = order(held.clone(), Order::Resume, "it was me", Time(200_000)).unwrap();
    let (state, actions) = step(resumed, &by_hand, Time(200_000));
    assert_eq!(actions, [Action::SetWeight { weight: 1_000, if_generation: 5 }]);
    assert_eq!(state.by_hand, None);
    let aborted = order(held, Order::Abort, "no", Time(200_000)).unwrap();
    let (_, actions) = step(aborted, &by_hand, Time(200_000));
    assert_eq!(actions, [Action::SetWeight { weight: 0, if_generation: 5 }]);
    // The same weight, written again by someone else, is not the one that was wanted.
    let (held, _) = step(watching(), &well(1_000, 6), Time(110_000));
    assert!(held.by_hand.is_some());
}

#[test]
fn pods_that_never_become_ready_end_a_rollout_at_zero() {
    let unready = || Observation {
        canary: Some(Pods { exists: true, scaled_for: 1_000, ready_since: None }),
        ..well(0, 3)
    };
    let (state, actions) = step(Rollout::new(settings(), Time(0)), &unready(), Time(0));
    assert_eq!(actions, []);
    let (state, actions) = step(state, &unready(), Time(READY_WITHIN));
    assert!(matches!(state.stage, Stage::Withdrawing { cause: Cause::NotReady(_), .. }));
    assert_eq!(actions, [], "the weight is 0 already");
}

#[test]
fn the_gate_comes_before_the_first_request() {
    let seen = |gate| Observation { gate, ..well(0, 3) };
    let state = Rollout::new(settings(), Time(100_000));
    let (state, actions) = step(state, &seen(Gate::Absent), Time(100_000));
    assert_eq!(actions, [Action::StartGate]);
    let (state, actions) = step(state, &seen(Gate::Running), Time(100_000));
    assert_eq!(actions, []);
    let (failed, actions) =
        step(state.clone(), &seen(Gate::Failed("exit code 1".to_owned())), Time(100_000));
    let expected = "rolling back: the check before the first request failed: exit code 1";
    assert_eq!(failed.sentence, expected);
    assert!(matches!(failed.stage, Stage::Withdrawing { cause: Cause::Gate(_), .. }));
    assert_eq!(actions, [], "there is no traffic to take back");
    let (_, actions) = step(state, &seen(Gate::Passed), Time(100_000));
    assert_eq!(actions, [Action::SetWeight { weight: 1_000, if_generation: 3 }]);
}

#[test]
fn the_services_own_query_holds_a_rollout_and_takes_it_back() {
    let clear =
        |query| Observation { query, judged: judged(Verdict::Clear, 170_000), ..well(1_000, 4) };
    let at = Time(200_000);
    for (query, sentence) in [
        (Query::Awaited, "holding: the query was not evaluated since the weight was set"),
        (Query::Blind("it returned NaN".to_owned()), "holding: blind: it returned NaN"),
        (Query::Above("it is 3".to_owned()), "holding: it is 3"),
    ] {
        let (state, actions) = step(watching(), &clear(query), at);
        assert_eq!((state.sentence.as_str(), actions), (sentence, vec![]));
        assert_eq!(state.stage, watching().stage);
    }
    let (state, _) = step(watching(), &clear(Query::Within), at);
    assert_eq!(state.stage, Stage::Scaling { step: 1, since: at });
    let alarm = || clear(Query::Alarm("it is 3".to_owned()));
    let (state, actions) = step(watching(), &alarm(), at);
    assert_eq!(actions, [Action::SetWeight { weight: 0, if_generation: 4 }]);
    assert_eq!(state.sentence, "rolling back: it is 3");
    let outage = Observation { outage: Some("stable fails".to_owned()), ..alarm() };
    assert_eq!(step(watching(), &outage, at).1, [], "an outage is no fault of the canary");
    let promoted = order(watching(), Order::Promote, "urgent", at).unwrap();
    let (state, _) = step(promoted, &alarm(), at);
    assert!(state.is_forward(), "a person has promoted it");
}

#[test]
fn a_newer_release_takes_the_place_of_one_with_little_traffic() {
    let newer = |observation| Observation { newer: Some(8), ..observation };
    let little =
        Rollout { settings: Settings { replace_below: 1_001, ..settings() }, ..watching() };
    let (state, _) = step(little, &newer(well(1_000, 4)), Time(110_000));
    assert!(matches!(state.stage, Stage::Withdrawing { cause: Cause::Superseded(8), .. }));
    let (state, _) = step(watching(), &newer(well(1_000, 4)), Time(110_000));
    assert_eq!(state.stage, watching().stage, "it waits");
}

#[test]
fn a_person_is_asked_after_the_maximum() {
    let hold = |at| Observation {
        judged: judged(Verdict::Hold(crate::analysis::Hold::Undecided), at),
        ..well(1_000, 4)
    };
    let late = 100_000 + settings().max_hold;
    let (state, _) = step(watching(), &hold(late - 1), Time(late - 1));
    assert_eq!(state.question, None);
    let (state, _) = step(state, &hold(late), Time(late));
    assert!(state.question.is_some());
    let waits = order(state.clone(), Order::Resume, "wait on", Time(late)).unwrap();
    assert_eq!(step(waits, &hold(late + 1), Time(late + 1)).0.question, None, "as long again");
    let resumed = order(state, Order::Skip, "it is fine", Time(late)).unwrap();
    assert_eq!(resumed.question, None);
    assert_eq!(resumed.stage, Stage::Scaling { step: 1, since: Time(late) });
}

#[test]
fn a_manual_step_waits_for_a_person() {
    let manual = |state: Rollout| {
        let mut settings = settings();
        settings.steps[0].manual = true;
        Rollout { settings, ..state }
    };
    let clear = Observation { judged: judged(Verdict::Clear, 170_000), ..well(1_000, 4) };
    let (state, _) = step(manual(watching()), &clear, Time(200_000));
    assert_eq!(state.sentence, "clear: waiting for a person to resume the manual step");
    let paused = order(state.clone(), Order::Pause, "wait", Time(200_000)).unwrap();
    let resumed = order(paused, Order::Resume, "go", Time(200_000)).unwrap();
    assert!(!resumed.approved, "the pause is over, and the step is not approved");
    let approved = order(state, Order::Resume, "looks good", Time(200_000)).unwrap();
    let (state, _) = step(approved, &clear, Time(200_000));
    assert_eq!(state.stage, Stage::Scaling { step: 1, since: Time(200_000) });
    assert!(!state.approved, "the next step asks again");
}

#[test]
fn blue_green_is_one_step_that_a_person_promotes() {
    let settings = Settings { steps: vec![Step { hold: MINUTE, ..Step::ALL }], ..settings() };
    let state = Rollout::new(settings, Time(0));
    let (state, actions) = step(state, &well(0, 3), Time(20_000));
    assert_eq!(actions, [Action::SetWeight { weight: 10_000, if_generation: 3 }]);
    // Nobody is left on the stable side to compare with.
    let hold = Verdict::Hold(crate::analysis::Hold::Undecided);
    let seen = |at| Observation { judged: judged(hold, at), ..well(10_000, 4) };
    let (state, actions) = step(state, &seen(30_000), Time(30_000));
    let late = 40_000 + MINUTE;
    let (state, more) = step(state, &seen(late), Time(late));
    assert!(matches!(state.stage, Stage::Watching { step: 0, .. }), "{}", state.sentence);
    assert_eq!((actions, more), (vec![], vec![]));
    let aborted = order(state.clone(), Order::Abort, "no", Time(late)).unwrap();
    let (_, actions) = step(aborted, &seen(late), Time(late));
    assert_eq!(actions, [Action::SetWeight { weight: 0, if_generation: 4 }]);
    let promoted = order(state, Order::Promote, "it was tried", Time(late)).unwrap();
    let (state, actions) = step(promoted, &seen(late), Time(late));
    assert!(matches!(state.stage, Stage::Replacing { .. }));
    assert_eq!(actions, [Action::ApplyStable]);
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let refused =
        |state: Rollout, what, reason: &str| order(state, what, reason, Time(1)).unwrap_err();
    assert_eq!(refused(watching(), Order::Abort, " "), OrderRefusal::NoReason);
    assert_eq!(refused(watching(), Order::Resume, "x"), OrderRefusal::NothingToResume);
    let scaling = Rollout::new(settings(), Time(0));
    assert_eq!(refused(scaling, Order::Skip, "x"), OrderRefusal::NoStep);
    let aborted = order(watching(), Order::Abort, "x", Time(1)).unwrap();
    assert!(matches!(refused(aborted, Order::Promote, "x"), OrderRefusal::Back(_)));
    let returning = Rollout { stage: Stage::Returning { since: Time(0) }, ..watching() };
    assert_eq!(refused(returning, Order::Abort, "x"), OrderRefusal::Promoted);
    let closed = Rollout { stage: Stage::Promoted, ..watching() };
    assert!(matches!(refused(closed, Order::Pause, "x"), OrderRefusal::Closed(_)));
}

#[test]
fn promoting_needs_pods_and_no_evidence() {
    let promoted = order(watching(), Order::Promote, "urgent fix", Time(110_000)).unwrap();
    let few = Observation {
        canary: Some(Pods { exists: true, scaled_for: 1_000, ready_since: Some(Time(0)) }),
        ..well(1_000, 4)
    };
    let (state, actions) = step(promoted, &few, Time(110_000));
    assert_eq!(actions, [Action::Scale(10_000)]);
    let (_, actions) = step(state, &well(1_000, 4), Time(120_000));
    assert_eq!(actions, [Action::SetWeight { weight: 10_000, if_generation: 4 }]);
}

#[test]
fn a_promotion_that_is_taken_back_restores_the_stable_pods_first() {
    let replacing = Rollout {
        stage: Stage::Replacing { since: Time(0) },
        split: Some(Split { weight: 10_000, generation: 5 }),
        ..watching()
    };
    let aborted = order(replacing, Order::Abort, "wrong", Time(1)).unwrap();
    let (state, actions) = step(
        aborted,
        &Observation {
            stable: Stable::Present { is_new: true, ready_since: None },
            ..well(10_000, 5)
        },
        Time(2),
    );
    assert_eq!(actions, [Action::RestoreStable]);
    let (_, actions) = step(state, &well(10_000, 5), Time(3));
    assert_eq!(actions, [Action::SetWeight { weight: 0, if_generation: 5 }]);
}
