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

/// Of a certificate for ninety days, valid since `age`.
fn facts(age: Seconds) -> Facts {
    let not_before = NOW - age;
    Facts {
        names: record().names,
        not_before,
        not_after: not_before + 90 * DAY,
        renewal_requested: false,
    }
}

fn advice(at: Seconds, facts: &Facts) -> Option<Renewal> {
    Some(Renewal { not_after: facts.not_after, at, next_query: NOW + 3600 })
}

fn failure(until: Seconds) -> Option<Failure> {
    Some(Failure { failures: 1, until, error: "no".to_owned() })
}

#[test]
fn a_missing_certificate_is_ordered_and_after_a_failure_only_at_its_time() {
    assert_eq!(step(&record(), None, &[AUTHORITY], NOW), Step::Order);
    let failed = Record { failure: failure(NOW + 60), ..record() };
    assert_eq!(step(&failed, None, &[AUTHORITY], NOW), Step::Wait(NOW + 60));
    assert_eq!(step(&failed, None, &[AUTHORITY], NOW + 60), Step::Order);
}

#[test]
fn a_failure_while_the_clock_was_months_ahead_does_not_block_once_it_is_right() {
    let failed = after_failure(
        None,
        "no".to_owned(),
        Duration::from_secs(60),
        Some(NOW + 90 * DAY + MAX_RETRY_AFTER),
        NOW + 90 * DAY,
        0,
    );
    assert_eq!(
        step(&Record { failure: Some(failed), ..record() }, None, &[AUTHORITY], NOW),
        Step::Order
    );
    let demanded = failure(NOW + MAX_RETRY_AFTER);
    assert_eq!(
        step(&Record { failure: demanded, ..record() }, None, &[AUTHORITY], NOW),
        Step::Wait(NOW + MAX_RETRY_AFTER)
    );
}

#[test]
fn without_advice_a_certificate_is_renewed_after_two_thirds_of_its_lifetime() {
    let facts = facts(DAY);
    assert_eq!(step(&record(), Some(&facts), &[AUTHORITY], NOW), Step::QueryRenewal);
    let unadvised = Record { renewal: Some(unadvised(&facts, None, NOW)), ..record() };
    assert_eq!(
        step(&unadvised, Some(&facts), &[AUTHORITY], NOW),
        Step::Wait(NOW + NO_ADVICE_INTERVAL)
    );
    assert_eq!(step(&unadvised, Some(&facts), &[AUTHORITY], NOW + 59 * DAY), Step::Order);
}

#[test]
fn advice_of_the_authority_has_precedence() {
    let facts = facts(DAY);
    let early = Record { renewal: advice(NOW, &facts), ..record() };
    assert_eq!(step(&early, Some(&facts), &[AUTHORITY], NOW), Step::Order);
    let late = Record { renewal: advice(NOW + 80 * DAY, &facts), ..record() };
    assert_eq!(step(&late, Some(&facts), &[AUTHORITY], NOW), Step::Wait(NOW + 3600));
    let of_another =
        Record { renewal: advice(NOW, &Facts { not_after: 1, ..facts.clone() }), ..record() };
    assert_eq!(
        step(&of_another, Some(&facts), &[AUTHORITY], NOW),
        Step::QueryRenewal,
        "advice for the previous certificate is void"
    );
}

#[test]
fn a_certificate_of_an_authority_that_is_not_configured_is_replaced() {
    assert_eq!(step(&record(), Some(&facts(DAY)), &["https://other.test/"], NOW), Step::Order);
}

#[test]
fn additional_names_are_ordered_and_fewer_names_are_not() {
    let more =
        Record { names: BTreeSet::from(["a.test".to_owned(), "b.test".to_owned()]), ..record() };
    assert_eq!(step(&more, Some(&facts(DAY)), &[AUTHORITY], NOW), Step::Order);
    let wide = Facts { names: more.names, ..facts(DAY) };
    assert_eq!(step(&record(), Some(&wide), &[AUTHORITY], NOW), Step::QueryRenewal);
}

#[test]
fn a_requested_renewal_is_ordered() {
    let requested = Facts { renewal_requested: true, ..facts(DAY) };
    assert_eq!(step(&record(), Some(&requested), &[AUTHORITY], NOW), Step::Order);
}

#[test]
fn a_selected_time_stays_while_it_is_in_the_window() {
    let facts = facts(DAY);
    let window = (NOW + DAY, NOW + 2 * DAY);
    let first = advised(&facts, None, window, 3600, NOW, 7);
    assert_eq!(first.at, NOW + DAY + 7);
    assert_eq!(advised(&facts, Some(&first), window, 3600, NOW, 99).at, first.at);
    assert_ne!(advised(&facts, Some(&first), (NOW, NOW + 10), 3600, NOW, 3).at, first.at);
}

proptest! {
    #[test]
    fn pauses_grow_with_jitter_and_never_end_before_the_demanded_time(failures in 0_u32..100, demanded in 0_u64..DAY * 7, random: u64) {
        let before = Failure { failures, until: 0, error: String::new() };
        let first = Duration::from_secs(60);
        let next = after_failure(Some(&before), "no".to_owned(), first, Some(NOW + demanded), NOW, random);
        let most = (60_u64 << failures.min(31)).min(DAY);
        prop_assert!(next.until >= NOW + demanded.max(most / 2));
        prop_assert!(next.until <= NOW + demanded.max(most));
        prop_assert_eq!(next.failures, failures + 1);
    }

    #[test]
    fn renewals_are_in_the_window_and_before_the_expiry(age in 0..80 * DAY, start in 0_u64..NOW * 2, length in 0_u64..NOW, random: u64) {
        let facts = facts(age);
        let renewal = advised(&facts, None, (start, start + length), 0, NOW, random);
        prop_assert!(renewal.at <= start + length && renewal.at < facts.not_after);
        prop_assert!(renewal.next_query > NOW);
    }

    #[test]
    fn a_step_never_waits_for_a_time_that_has_passed(
        age in 0..200 * DAY, at in 0..NOW * 2, until in 0..NOW * 2, next_query in 0..NOW * 2, requested: bool, exists: bool,
    ) {
        let facts = Facts { renewal_requested: requested, ..facts(age) };
        let renewal = Some(Renewal { not_after: facts.not_after, at, next_query });
        let record = Record { failure: failure(until), renewal, ..record() };
        match step(&record, exists.then_some(&facts), &[AUTHORITY], NOW) {
            Step::Wait(time) => prop_assert!(time > NOW),
            Step::Order => prop_assert!(until <= NOW || until - NOW > MAX_PLAUSIBLE),
            Step::QueryRenewal => prop_assert!(next_query <= NOW && at > NOW),
        }
    }
}
