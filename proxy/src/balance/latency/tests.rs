use proptest::prelude::*;

use super::*;

fn after(begin: Instant, milliseconds: u64) -> Instant {
    begin + Duration::from_millis(milliseconds)
}

/// The latency of an endpoint that responded at `now`, after so many milliseconds.
fn responded(latency: Latency, milliseconds: u64, now: Instant, typical: Typical) -> Latency {
    latency.responded(Duration::from_millis(milliseconds), now, typical)
}

fn typical(milliseconds: u64, now: Instant) -> Typical {
    let latency = responded(Latency::default(), milliseconds, now, Typical::default());
    Typical::default().responded(latency, now)
}

proptest! {
    #[test]
    fn a_slower_response_counts_in_full_and_a_faster_one_with_time(
        first in 1..10_000_u64,
        second in 1..10_000_u64,
        pause in 0..60_000_u64,
    ) {
        let (begin, typical) = (Instant::now(), Typical::default());
        let before = responded(Latency::default(), first, begin, typical);
        let now = after(begin, pause);
        let expected = before.estimate(now, typical);
        let estimate = responded(before, second, now, typical).estimate(now, typical);
        let (first, second) = (first as f64 / 1e3, second as f64 / 1e3);
        if second >= expected {
            prop_assert!((estimate - second).abs() < 1e-9);
        } else {
            let weight = (-(pause as f64) / 10_000.0).exp();
            prop_assert!((estimate - (second + (first - second) * weight)).abs() < 1e-9);
        }
    }

    #[test]
    fn what_was_seen_is_forgotten_in_favour_of_what_is_typical(
        seen in 1..10_000_u64,
        other in 1..10_000_u64,
        pause in 0..100_000_u64,
    ) {
        let begin = Instant::now();
        let (typical, latency) =
            (typical(other, begin), responded(Latency::default(), seen, begin, Typical::default()));
        let distance = |milliseconds| {
            latency.estimate(after(begin, milliseconds), typical) - typical.seconds()
        };
        prop_assert!(distance(pause).abs() <= distance(0).abs() + 1e-9);
        prop_assert!((distance(pause + 10_000) * 1_f64.exp() - distance(pause)).abs() < 1e-9);
        prop_assert!(distance(0) * distance(pause) >= 0.0, "it does not go beyond");
    }

    #[test]
    fn what_fails_does_not_make_an_endpoint_faster(
        seen in 1..10_000_u64,
        failures in proptest::collection::vec((0..10_000_u64, 0..1_000_u64), 1..20),
    ) {
        let (begin, typical) = (Instant::now(), Typical::default());
        let succeeding = responded(Latency::default(), seen, begin, typical);
        let (mut now, mut failing) = (begin, succeeding);
        for (taken, pause) in failures {
            now = after(now, pause);
            failing = failing.unanswered(Duration::from_millis(taken), now, typical);
            prop_assert!(failing.estimate(now, typical) >= succeeding.estimate(now, typical));
            prop_assert!(failing.estimate(now, typical) >= taken as f64 / 1e3 - 1e-9);
        }
    }
}

#[test]
fn one_request_that_takes_very_long_is_soon_forgotten() {
    let begin = Instant::now();
    let typical = typical(10, begin);
    let latency = responded(Latency::default(), 1_000_000, begin, typical);
    assert!((latency.estimate(begin, typical) - 0.64).abs() < 1e-9);
    assert!(latency.estimate(after(begin, 42_000), typical) < 0.02, "as fast as the others");
}

#[test]
fn an_endpoint_without_responses_has_what_is_typical() {
    let now = Instant::now();
    assert!((Latency::default().estimate(now, typical(25, now)) - 0.025).abs() < 1e-9);
    assert!((Latency::default().estimate(now, Typical::default()) - UNKNOWN).abs() < 1e-9);
}

#[test]
fn one_slow_endpoint_of_many_requests_changes_little_of_what_is_typical() {
    let begin = Instant::now();
    let mut typical = typical(10, begin);
    for number in 1..=1_000 {
        let taken = if number % 100 == 0 { 500 } else { 10 };
        let now = after(begin, number);
        let latency = responded(Latency::default(), taken, now, Typical::default());
        typical = typical.responded(latency, now);
    }
    assert!((0.010..0.011).contains(&typical.seconds()), "{}", typical.seconds());
}
