use proptest::prelude::*;

use super::*;

const DAY: Seconds = 24 * 3600;
const NOW: Seconds = 1_800_000_000;
const AUTHORITY: &str = "https://ca.test/directory";

fn record() -> Record {
    Record {
        names: BTreeSet::from(["a.test".to_owned()]),
        authority: Some(AUTHORITY.to_owned()),
        ..Record::default()
    }
}

/// Of ninety days, begun `age` ago.
fn facts(age: Seconds) -> Facts {
    let not_before = NOW - age;
    Facts {
        names: record().names,
        not_before,
        not_after: not_before + 90 * DAY,
        renewal_asked: false,
    }
}

fn advice(at: Seconds, facts: &Facts) -> Option<Renewal> {
    Some(Renewal { not_after: facts.not_after, at, ask_again: NOW + 3600 })
}

fn trouble(until: Seconds) -> Option<Trouble> {
    Some(Trouble { failures: 1, until, error: "no".to_owned() })
}

#[test]
fn what_is_not_there_is_ordered_and_after_a_failure_only_once_its_time_has_come() {
    assert_eq!(step(&record(), None, &[AUTHORITY], NOW), Step::Order);
    let failed = Record { trouble: trouble(NOW + 60), ..record() };
    assert_eq!(step(&failed, None, &[AUTHORITY], NOW), Step::Wait(NOW + 60));
    assert_eq!(step(&failed, None, &[AUTHORITY], NOW + 60), Step::Order);
}

#[test]
fn what_failed_while_the_clock_was_months_ahead_is_tried_as_soon_as_it_is_right() {
    let failed = failed(
        None,
        "no".to_owned(),
        Duration::from_secs(60),
        Some(NOW + 90 * DAY + OBEYED),
        NOW + 90 * DAY,
        0,
    );
    assert_eq!(
        step(&Record { trouble: Some(failed), ..record() }, None, &[AUTHORITY], NOW),
        Step::Order
    );
    let demanded = trouble(NOW + OBEYED);
    assert_eq!(
        step(&Record { trouble: demanded, ..record() }, None, &[AUTHORITY], NOW),
        Step::Wait(NOW + OBEYED)
    );
}

#[test]
fn a_new_certificate_is_asked_about_and_then_left_alone_until_two_thirds_of_its_life() {
    let facts = facts(DAY);
    assert_eq!(step(&record(), Some(&facts), &[AUTHORITY], NOW), Step::AskRenewal);
    let unadvised = Record { renewal: Some(unadvised(&facts, None, NOW)), ..record() };
    assert_eq!(step(&unadvised, Some(&facts), &[AUTHORITY], NOW), Step::Wait(NOW + NO_ADVICE));
    assert_eq!(step(&unadvised, Some(&facts), &[AUTHORITY], NOW + 59 * DAY), Step::Order);
}

#[test]
fn the_authoritys_advice_counts_before_any_rule() {
    let facts = facts(DAY);
    let early = Record { renewal: advice(NOW, &facts), ..record() };
    assert_eq!(step(&early, Some(&facts), &[AUTHORITY], NOW), Step::Order);
    let late = Record { renewal: advice(NOW + 80 * DAY, &facts), ..record() };
    assert_eq!(step(&late, Some(&facts), &[AUTHORITY], NOW), Step::Wait(NOW + 3600));
    let of_another =
        Record { renewal: advice(NOW, &Facts { not_after: 1, ..facts.clone() }), ..record() };
    assert_eq!(
        step(&of_another, Some(&facts), &[AUTHORITY], NOW),
        Step::AskRenewal,
        "what was said of the one before is void"
    );
}

#[test]
fn a_certificate_of_an_authority_that_is_not_named_any_more_is_replaced() {
    assert_eq!(step(&record(), Some(&facts(DAY)), &["https://other.test/"], NOW), Step::Order);
}

#[test]
fn more_names_are_ordered_and_fewer_are_not() {
    let more =
        Record { names: BTreeSet::from(["a.test".to_owned(), "b.test".to_owned()]), ..record() };
    assert_eq!(step(&more, Some(&facts(DAY)), &[AUTHORITY], NOW), Step::Order);
    let wide = Facts { names: more.names, ..facts(DAY) };
    assert_eq!(step(&record(), Some(&wide), &[AUTHORITY], NOW), Step::AskRenewal);
}

#[test]
fn whoever_asks_for_a_renewal_gets_one() {
    let asked = Facts { renewal_asked: true, ..facts(DAY) };
    assert_eq!(step(&record(), Some(&asked), &[AUTHORITY], NOW), Step::Order);
}

#[test]
fn a_moment_that_was_drawn_stays_while_the_window_does() {
    let facts = facts(DAY);
    let window = (NOW + DAY, NOW + 2 * DAY);
    let first = advised(&facts, None, window, 3600, NOW, 7);
    assert_eq!(first.at, NOW + DAY + 7);
    assert_eq!(advised(&facts, Some(&first), window, 3600, NOW, 99).at, first.at);
    assert_ne!(advised(&facts, Some(&first), (NOW, NOW + 10), 3600, NOW, 3).at, first.at);
}

proptest! {
    #[test]
    fn pauses_grow_are_spread_and_never_end_before_what_is_demanded(failures in 0_u32..100, demanded in 0_u64..DAY * 7, random: u64) {
        let before = Trouble { failures, until: 0, error: String::new() };
        let first = Duration::from_secs(60);
        let next = failed(Some(&before), "no".to_owned(), first, Some(NOW + demanded), NOW, random);
        let most = (60_u64 << failures.min(31)).min(DAY);
        prop_assert!(next.until >= NOW + demanded.max(most / 2));
        prop_assert!(next.until <= NOW + demanded.max(most));
        prop_assert_eq!(next.failures, failures + 1);
    }

    #[test]
    fn advice_is_inside_of_its_window_and_before_the_end(age in 0..80 * DAY, start in 0_u64..NOW * 2, length in 0_u64..NOW, random: u64) {
        let facts = facts(age);
        let renewal = advised(&facts, None, (start, start + length), 0, NOW, random);
        prop_assert!(renewal.at <= start + length && renewal.at < facts.not_after);
        prop_assert!(renewal.ask_again > NOW);
    }

    #[test]
    fn a_step_is_never_to_wait_for_what_has_come(
        age in 0..200 * DAY, at in 0..NOW * 2, until in 0..NOW * 2, ask_again in 0..NOW * 2, asked: bool, there: bool,
    ) {
        let facts = Facts { renewal_asked: asked, ..facts(age) };
        let renewal = Some(Renewal { not_after: facts.not_after, at, ask_again });
        let record = Record { trouble: trouble(until), renewal, ..record() };
        match step(&record, there.then_some(&facts), &[AUTHORITY], NOW) {
            Step::Wait(time) => prop_assert!(time > NOW),
            Step::Order => prop_assert!(until <= NOW || until - NOW > BELIEVED),
            Step::AskRenewal => prop_assert!(ask_again <= NOW && at > NOW),
        }
    }
}
