//! The laws of affinity: callers stay, few move when endpoints change, none is overloaded.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::health::{Failure, Health};
use super::super::latency::{Latency, Typical};
use super::super::warm_up::WarmUp;
use super::super::{below, mixed};
use super::*;

/// An endpoint: its number, its requests in flight, and whether it is ejected.
type Endpoint = (u64, u32, bool);

fn candidate((_, in_flight, is_ejected): &Endpoint) -> Candidate {
    let health = Health::default();
    Candidate {
        health: if *is_ejected {
            health.failed(health.era(), Failure::Unreachable, true)
        } else {
            health
        },
        latency: Latency::default(),
        warm_up: WarmUp::default(),
        in_flight: *in_flight,
        is_tried: false,
    }
}

fn select(endpoints: &[Endpoint], is_first: bool) -> Selection<'_, Endpoint> {
    Selection {
        endpoints,
        near: 0,
        ejected: endpoints.iter().filter(|(_, _, is_ejected)| *is_ejected).count(),
        is_first,
        now: Instant::now(),
        typical: Typical::default(),
        slow_start: Duration::ZERO,
    }
}

fn hash_of(number: u64) -> u64 {
    mixed(number, 7)
}

fn ring(endpoints: &[Endpoint]) -> Ring {
    Ring::new(endpoints.iter().map(|(number, ..)| hash_of(*number)).collect())
}

fn idle(numbers: impl IntoIterator<Item = u64>) -> Vec<Endpoint> {
    numbers.into_iter().map(|number| (number, 0, false)).collect()
}

fn in_flight(endpoints: &[Endpoint]) -> usize {
    endpoints.iter().map(|(_, in_flight, _)| *in_flight as usize).sum()
}

/// The endpoint that gets a request of `caller`.
fn kept<'a>(endpoints: &'a [Endpoint], ring: &Ring, caller: u64) -> Kept<'a, Endpoint> {
    let selection = select(endpoints, true);
    selection.choose_kept(ring, caller, in_flight(endpoints), candidate, caller).unwrap()
}

/// The numbers of the endpoints of many callers.
fn owners(endpoints: &[Endpoint]) -> Vec<u64> {
    let ring = ring(endpoints);
    (0..2_000).map(|caller| kept(endpoints, &ring, mixed(caller, 1)).endpoint.0).collect()
}

proptest! {
    #[test]
    fn a_caller_has_the_same_endpoint_on_every_worker_and_replica(
        numbers in proptest::collection::btree_set(0..1_000_u64, 1..30),
        changes in proptest::collection::vec(proptest::collection::btree_set(0..1_000_u64, 1..30), 0..5),
    ) {
        let endpoints = idle(numbers.iter().copied());
        // In another order, and by way of other sets.
        let other = idle(numbers.into_iter().rev());
        let mut ring = Ring::default();
        for change in changes {
            ring = ring.changed(change.into_iter().map(hash_of).collect());
        }
        ring = ring.changed(other.iter().map(|(number, ..)| hash_of(*number)).collect());
        let owners = owners(&endpoints);
        for (caller, owner) in (0..2_000).zip(owners) {
            prop_assert_eq!(kept(&other, &ring, mixed(caller, 1)).endpoint.0, owner);
        }
    }

    #[test]
    fn only_callers_of_a_removed_endpoint_move_and_they_come_back_with_it(
        numbers in proptest::collection::btree_set(0..1_000_u64, 2..30), removed: proptest::sample::Index,
    ) {
        let removed = *removed.get(&numbers.iter().copied().collect::<Vec<_>>());
        let before = owners(&idle(numbers.iter().copied()));
        let after = owners(&idle(numbers.iter().copied().filter(|number| *number != removed)));
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(before == after || *before == removed);
        }
        // 2,000 callers: the share of one endpoint varies by an eighth, and by chance.
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        let expected = 2_000.0 / numbers.len() as f64;
        prop_assert!((moved as f64) < 1.7 * expected + 30.0, "{moved} of {expected}");
    }

    #[test]
    fn callers_of_an_ejected_endpoint_alone_move_and_never_to_an_ejected_one(
        ejected in proptest::collection::vec(any::<bool>(), 1..30), is_first: bool, caller: u64,
    ) {
        let endpoints: Vec<Endpoint> =
            (0..).zip(&ejected).map(|(number, is_ejected)| (number, 0, *is_ejected)).collect();
        let all = idle(0..ejected.len() as u64);
        let (ring, selection) = (ring(&all), select(&endpoints, is_first));
        let own = kept(&all, &ring, caller).endpoint.0;
        let chosen = selection.choose_kept(&ring, caller, 0, candidate, caller).unwrap();
        let is_good = |number: u64| !ejected[number as usize];
        if is_good(own) || selection.panics() {
            prop_assert_eq!(chosen.endpoint.0, own);
        }
        let has_good = ejected.iter().any(|is_ejected| !is_ejected);
        prop_assert!(is_good(chosen.endpoint.0) || !has_good || selection.panics());
        prop_assert_eq!(chosen.is_own, chosen.endpoint.0 == own && (is_good(own) || selection.panics()));
    }

    #[test]
    fn no_endpoint_has_more_than_five_quarters_of_the_mean_load_and_one(
        count in 1..40_usize, requests in 1..3_000_usize, ends in 0..4_u64, favourites in 1..5_u64, seed: u64,
    ) {
        let mut endpoints = idle(0..count as u64);
        let ring = ring(&endpoints);
        for number in 0..requests as u64 {
            // Most requests are those of few callers.
            let random = mixed(seed, number);
            let caller = if random.is_multiple_of(4) { random } else { mixed(seed, random % favourites) };
            let chosen = kept(&endpoints, &ring, caller).endpoint.0 as usize;
            endpoints[chosen].1 += 1;
            let mean = in_flight(&endpoints) as f64 / count as f64;
            prop_assert!(f64::from(endpoints[chosen].1) <= (1.25 * mean + 1.0).max(FREE as f64));
            if random % 5 < ends {
                let other = below(count, mixed(random, 3));
                endpoints[other].1 = endpoints[other].1.saturating_sub(1);
            }
        }
    }
}

#[test]
fn callers_are_spread_over_all_endpoints() {
    for count in [2, 3, 10, 50] {
        let endpoints = idle(0..count);
        let ring = ring(&endpoints);
        let mut counts = vec![0_u32; count as usize];
        for caller in 0..count * 2_000 {
            counts[kept(&endpoints, &ring, mixed(caller, 1)).endpoint.0 as usize] += 1;
        }
        // 2,000 each, standard deviation 250 because of the points.
        assert!(counts.iter().all(|count| (1_100..3_000).contains(count)), "{counts:?}");
    }
}

#[test]
fn a_circle_of_many_endpoints_is_bounded_and_the_same_on_any_way_to_it() {
    let hashes = |count: usize| (0..count as u64).map(hash_of).collect::<Vec<_>>();
    for count in [1_000, 1_025, 3_000, MAX_ENDPOINTS] {
        let ring = Ring::new(hashes(count));
        assert!((count * 15..=65_536).contains(&ring.points.len()), "{count}");
        for before in [900, 1_100, MAX_ENDPOINTS] {
            let changed = Ring::new(hashes(before)).changed(hashes(count));
            assert_eq!(changed.points, ring.points, "{before} → {count}");
        }
    }
}

#[test]
fn parallel_requests_of_one_caller_stay_until_they_are_many() {
    let mut endpoints = idle(0..3);
    let ring = ring(&endpoints);
    for number in 0..FREE + 10 {
        let chosen = kept(&endpoints, &ring, 5);
        assert_eq!(chosen.is_own, number < FREE, "{number}");
        let index = chosen.endpoint.0 as usize;
        endpoints[index].1 += 1;
    }
}

#[test]
fn a_new_endpoint_gets_its_callers_at_once_but_less_load_at_first() {
    let now = Instant::now();
    let endpoints = idle(0..2);
    let ring = ring(&endpoints);
    let own = |in_flight: u32, seconds| {
        let selection = Selection {
            now: now + Duration::from_secs(seconds),
            slow_start: Duration::from_secs(30),
            ..select(&endpoints, true)
        };
        let candidate = |endpoint: &Endpoint| Candidate {
            warm_up: WarmUp::since(now),
            in_flight,
            ..candidate(endpoint)
        };
        selection.choose_kept(&ring, 5, 2 * in_flight as usize, candidate, 5).unwrap().is_own
    };
    assert!(own(0, 0) && own(31, 0));
    assert!(!own(200, 0) && own(200, 30));
}

#[test]
fn a_request_that_was_tried_at_its_endpoint_goes_to_the_next() {
    let endpoints = idle(0..5);
    let (ring, selection) = (ring(&endpoints), select(&endpoints, false));
    let mut tried = Vec::new();
    let choose = |tried: &[u64]| {
        let candidate = |endpoint: &Endpoint| Candidate {
            is_tried: tried.contains(&endpoint.0),
            ..candidate(endpoint)
        };
        let kept = selection.choose_kept(&ring, 9, 0, candidate, 9);
        kept.map(|kept| kept.endpoint.0)
    };
    while let Some(next) = choose(&tried) {
        // The next one is that of a set without those that were tried.
        let rest = idle((0..5).filter(|number| !tried.contains(number)));
        assert_eq!(next, kept(&rest, &super::tests::ring(&rest), 9).endpoint.0);
        tried.push(next);
    }
    assert_eq!(tried.len(), 5);
}
