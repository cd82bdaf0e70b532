use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;

use super::health::Failure;
use super::*;

/// An endpoint that is good, starts slowly (with one request in flight allowed), or is ejected.
fn health(kind: u8) -> Health {
    let health = Health::default();
    let ejected = health.failed(health.era(), Failure::Unreachable, true);
    match kind {
        0 => health,
        1 => ejected.probed(),
        _ => ejected,
    }
}

fn candidate((kind, in_flight, is_tried): &(u8, u32, bool)) -> Candidate {
    Candidate {
        health: health(*kind),
        latency: Latency::default(),
        warm_up: WarmUp::default(),
        in_flight: *in_flight,
        is_tried: *is_tried,
    }
}

fn selection(endpoints: &[(u8, u32, bool)], is_first: bool) -> Selection<'_, (u8, u32, bool)> {
    let ejected = endpoints.iter().filter(|(kind, ..)| *kind > 1).count();
    select(endpoints, ejected, is_first)
}

/// A selection among endpoints of the same latency.
fn select<T>(endpoints: &[T], ejected: usize, is_first: bool) -> Selection<'_, T> {
    let (now, typical) = (Instant::now(), Typical::default());
    Selection { endpoints, near: 0, ejected, is_first, now, typical, slow_start: Duration::ZERO }
}

/// Random numbers as good as those of the request path.
fn randoms() -> impl Iterator<Item = u64> {
    (0..).map(|number| mixed(1, number))
}

proptest! {
    #[test]
    fn in_turn_the_endpoints_to_avoid_least_get_the_same(
        endpoints in proptest::collection::vec((0..3_u8, 0..3_u32, any::<bool>()), 0..16),
        is_first: bool,
        turn: usize,
        random: u64,
    ) {
        let selection = selection(&endpoints, is_first);
        let avoidance = |endpoint: &(u8, u32, bool)| selection.avoidance(&candidate(endpoint));
        let least = endpoints.iter().filter_map(avoidance).min();
        let mut counts = vec![0_u32; endpoints.len()];
        let mut turn = turn / 2;
        let among = endpoints.iter().filter(|one| avoidance(one).is_some_and(|one| Some(one) == least));
        for _ in 0..among.count() * 3 {
            let (position, endpoint) = selection.choose_in_turn(candidate, turn, random).unwrap();
            prop_assert!(std::ptr::eq(endpoint, &raw const endpoints[position]));
            prop_assert_eq!(avoidance(endpoint), least);
            counts[position] += 1;
            turn = position + 1;
        }
        prop_assert!(counts.iter().all(|count| matches!(count, 0 | 3)), "{counts:?}");
        prop_assert_eq!(least.is_none(), selection.choose_in_turn(candidate, turn, random).is_none());
    }

    #[test]
    fn an_endpoint_is_chosen_in_the_order_of_avoidance(
        endpoints in proptest::collection::vec((0..3_u8, 0..3_u32, any::<bool>()), 0..16),
        is_first: bool,
        random: u64,
    ) {
        let selection = selection(&endpoints, is_first);
        let chosen = selection.choose(candidate, random);
        let untried = || endpoints.iter().filter(|(_, _, is_tried)| !is_tried).map(candidate);
        prop_assert_eq!(chosen.is_some(), untried().next().is_some(), "the set is never empty");
        if let Some(chosen) = chosen {
            let chosen = candidate(chosen);
            prop_assert!(!chosen.is_tried);
            let avoidance = |candidate: Candidate| candidate.health.avoidance(candidate.in_flight);
            let least = untried().map(avoidance).min().unwrap();
            prop_assert!(selection.panics() || avoidance(chosen) == least);
        }
    }

    #[test]
    fn the_most_loaded_of_several_is_never_chosen(loads in proptest::collection::vec(0..100_u32, 2..20), random: u64) {
        let endpoints: Vec<_> = loads.iter().map(|load| (0, *load, false)).collect();
        let (_, chosen, _) = selection(&endpoints, true).choose(candidate, random).unwrap();
        let most = loads.iter().max().unwrap();
        let is_alone = loads.iter().filter(|load| *load == most).count() == 1;
        prop_assert!(!is_alone || chosen < most);
    }

    #[test]
    fn a_large_set_is_chosen_from_like_a_small_one(
        endpoints in proptest::collection::vec((0..3_u8, 0..3_u32, proptest::bool::weighted(0.1)), 17..100),
        random: u64,
    ) {
        let selection = selection(&endpoints, false);
        let chosen = candidate(selection.choose(candidate, random).unwrap());
        let has_good = endpoints.iter().map(candidate).any(|candidate| {
            !candidate.is_tried && candidate.health.avoidance(candidate.in_flight) == Avoidance::Good
        });
        prop_assert!(!chosen.is_tried);
        prop_assert!(!has_good || chosen.health.avoidance(chosen.in_flight) == Avoidance::Good);
    }

    #[test]
    fn two_different_ones_are_compared(count in 2..1000_usize, random: u64) {
        let (first, second) = two_of(count, random);
        prop_assert!(first != second && first < count && second < count);
    }

    #[test]
    fn ejections_grow_and_vary_by_a_quarter(failures in 0..40_u32, random: u64) {
        let mut health = health(2);
        for _ in 0..failures {
            health = health.probe_failed();
        }
        let expected = Duration::from_millis(500 << failures.min(6)).min(Duration::from_secs(30));
        let until_probe = health.until_probe(random).unwrap();
        prop_assert!(until_probe >= expected * 3 / 4 && until_probe <= expected * 5 / 4);
    }
}

#[test]
fn equal_load_is_spread_evenly() {
    for count in [8, 40] {
        let endpoints = vec![(0, 0, false); count];
        let mut counts = vec![0_u32; count];
        for random in randoms().take(count * 10_000) {
            let chosen = selection(&endpoints, true).choose(candidate, random).unwrap();
            let index = endpoints.iter().position(|endpoint| std::ptr::eq(endpoint, chosen));
            counts[index.unwrap()] += 1;
        }
        // 10,000 each, standard deviation 94 to 99.
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}

#[test]
fn in_turn_a_new_endpoint_is_passed_over_at_first() {
    let endpoints = [false, false, true];
    let begin = Instant::now();
    let passed = |seconds, slow_start| {
        let now = begin + Duration::from_secs(seconds);
        let selection = Selection { now, slow_start, ..select(&endpoints, 0, true) };
        let candidate = |is_new: &bool| Candidate {
            warm_up: if *is_new { WarmUp::since(begin) } else { WarmUp::default() },
            ..candidate(&(0, 0, false))
        };
        let chosen = |random| selection.choose_in_turn(candidate, 2, random).unwrap().0;
        randoms().take(1_000).filter(|random| chosen(*random) != 2).count()
    };
    let window = Duration::from_secs(30);
    assert!((850..950).contains(&passed(0, window)), "{}", passed(0, window));
    assert_eq!((passed(30, window), passed(0, Duration::ZERO)), (0, 0));
}

#[test]
fn far_endpoints_are_used_if_no_near_one_is_good() {
    let among = |near: [u8; 2]| {
        let endpoints = [(near[0], 0, false), (near[1], 0, false), (0, 0, false), (0, 0, false)];
        let selection = Selection { near: 2, ..selection(&endpoints, true) };
        let position = |random| {
            let chosen = selection.choose(candidate, random).unwrap();
            let in_turn = selection.choose_in_turn(candidate, 0, random).unwrap();
            assert!(std::ptr::eq(in_turn.1, &raw const endpoints[in_turn.0]));
            let position = endpoints.iter().position(|endpoint| std::ptr::eq(endpoint, chosen));
            [position.unwrap(), in_turn.0]
        };
        randoms().take(1_000).flat_map(position).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(among([0, 0]), [0, 1].into());
    assert_eq!(among([0, 2]), [0].into());
    assert_eq!(among([2, 2]), [2, 3].into());
}

#[test]
fn latencies_count_from_twice_as_long_on() {
    let load = |latency, requests| Load { latency, requests };
    assert!(!load(0.01, 1.0).is_less(load(0.019, 1.0)), "equally fast");
    assert!(load(0.01, 1.0).is_less(load(0.021, 1.0)));
    assert!(load(0.01, 2.0).is_less(load(0.05, 1.0)) && load(0.05, 1.0).is_less(load(0.01, 3.0)));
    assert!(load(10.0, 1.0).is_less(load(0.01, 33.0)), "by a factor of 64 at most");
    assert!(load(0.01, 31.0).is_less(load(10.0, 1.0)));
}

#[test]
fn one_request_at_a_time_reaches_all_equally_fast_endpoints() {
    let begin = Instant::now();
    let mut latencies = [Latency::default(); 3];
    let (mut typical, mut counts) = (Typical::default(), [0_u32; 3]);
    for (number, random) in randoms().enumerate().take(3_000) {
        let now = begin + Duration::from_millis(10 * number as u64);
        let numbers = [0, 1, 2];
        let selection = Selection { now, typical, ..select(&numbers, 0, true) };
        let candidate =
            |number: &usize| Candidate { latency: latencies[*number], ..candidate(&(0, 0, false)) };
        let chosen = *selection.choose(candidate, random).unwrap();
        let taken = Duration::from_micros(5_000 + mixed(random, 99) % 5_000);
        latencies[chosen] = latencies[chosen].responded(taken, now, typical);
        typical = typical.responded(latencies[chosen], now);
        counts[chosen] += 1;
    }
    assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
}

#[test]
fn few_of_a_thousand_endpoints_are_looked_at() {
    // Just short of panic, which is the worst case.
    let endpoints: Vec<_> =
        (0..1000).map(|number| (2 * u8::from(number < 500), 1, false)).collect();
    let looked_at = Cell::new(0_u32);
    for random in randoms().take(1_000) {
        selection(&endpoints, true)
            .choose(
                |endpoint| {
                    looked_at.set(looked_at.get() + 1);
                    candidate(endpoint)
                },
                random,
            )
            .unwrap();
    }
    assert!(looked_at.get() < 5_000, "{} per choice", looked_at.get() / 1_000);
}

#[test]
fn below_half_of_the_endpoints_all_are_used() {
    let endpoints = [(2, 0, false), (2, 0, false), (0, 0, false)];
    let uses = |is_first| {
        let selection = selection(&endpoints, is_first);
        assert_eq!(selection.panics(), is_first);
        randoms()
            .take(1_000)
            .filter(|random| selection.choose(candidate, *random).unwrap().0 == 2)
            .count()
    };
    assert!(uses(true) > 500);
    assert_eq!(uses(false), 0, "a further attempt goes to the one that responds");
    let half = [(2, 0, false), (0, 0, false)];
    assert!(!selection(&half, true).panics());
}

#[test]
fn an_endpoint_that_fails_fast_is_not_attractive() {
    let health = Health::default();
    let failing = health.failed(health.era(), Failure::Closed, true);
    let endpoints = [(failing, 0), (health, 8)];
    let selection = select(&endpoints, 0, true);
    let candidate = |(health, in_flight): &(Health, u32)| Candidate {
        health: *health,
        latency: Latency::default(),
        warm_up: WarmUp::default(),
        in_flight: *in_flight,
        is_tried: false,
    };
    let is_chosen = |random| !selection.choose(candidate, random).unwrap().0.is_good();
    let count = randoms().take(8_000).filter(|random| is_chosen(*random)).count();
    assert!((800..1_200).contains(&count), "{count}: it has nothing in flight, because it fails");
}

#[test]
fn an_endpoint_is_ejected_by_failures_in_a_row() {
    let after = |failures: &[Option<Failure>]| {
        let mut health = Health::default();
        for failure in failures {
            health = match failure {
                Some(failure) => health.failed(health.era(), *failure, true),
                None => health.responded(health.era()),
            };
        }
        health.is_ejected()
    };
    let (closed, error) = (Some(Failure::Closed), Some(Failure::ServerError));
    assert!(after(&[Some(Failure::Unreachable)]));
    assert!(after(&[closed, closed, closed]));
    assert!(!after(&[closed, closed, None, closed, closed]));
    assert!(after(&[error; 5]));
    assert!(!after(&[error, error, error, error, None, error]));
}

#[test]
fn server_errors_do_not_eject_where_that_is_not_allowed() {
    let mut health = Health::default();
    for _ in 0..100 {
        health = health.failed(health.era(), Failure::ServerError, false);
    }
    assert!(!health.is_ejected());
}

#[test]
fn an_endpoint_returns_by_a_probe_then_one_request_then_more() {
    let mut health = health(2);
    assert_eq!(health.avoidance(0), Avoidance::Ejected);
    health = health.probed();
    assert!(!health.is_ejected());
    for allowed in 1..32 {
        assert_eq!(health.avoidance(allowed - 1), Avoidance::Good);
        assert_eq!(health.avoidance(allowed), Avoidance::SlowStarting);
        health = health.responded(health.era());
    }
    health = health.responded(health.era());
    assert_eq!((health.avoidance(10_000), health.is_good()), (Avoidance::Good, true));
}

#[test]
fn one_failure_after_a_probe_ejects_again_for_longer() {
    for failure in [Failure::Unreachable, Failure::Closed, Failure::ServerError] {
        let probed = health(2).probed();
        let again = probed.failed(probed.era(), failure, true);
        assert!(again.is_ejected(), "{failure:?}");
        assert!(again.until_probe(0) > health(2).until_probe(u64::MAX), "{failure:?}");
    }
}

#[test]
fn results_of_requests_from_before_an_ejection_are_ignored() {
    let before = Health::default().era();
    let ejected = health(2);
    assert_eq!(ejected.responded(before), ejected);
    assert_eq!(ejected.probed().failed(before, Failure::Unreachable, true), ejected.probed());
    assert!(!ejected.responded(ejected.era()).is_ejected(), "it was chosen although ejected");
}

#[test]
fn an_active_check_alone_ends_the_ejection_that_it_began() {
    for before in [health(0), health(1), health(2)] {
        let failing = before.check_failed();
        assert_eq!(failing.avoidance(0), Avoidance::Ejected);
        assert_eq!(failing.until_probe(0), None, "it is not probed");
        assert_eq!(failing.probed(), failing);
        assert_eq!(failing.responded(failing.era()), failing, "in panic, a request may succeed");
        assert_eq!(failing.failed(failing.era(), Failure::Unreachable, true), failing);
        assert_eq!(failing.check_failed(), failing);
        let passed = failing.check_passed();
        assert_eq!(
            (passed.avoidance(0), passed.avoidance(1)),
            (Avoidance::Good, Avoidance::SlowStarting)
        );
        assert_eq!(passed.responded(before.era()), passed, "that request began before");
        assert!(passed.failed(passed.era(), Failure::Closed, true).is_ejected());
    }
    assert_eq!(health(2).check_passed(), health(2), "another cause has another end");
}
