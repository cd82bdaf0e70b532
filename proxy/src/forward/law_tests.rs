//! The law of failing endpoints: while one endpoint responds, no idempotent request fails; ejection
//! never empties the set; and probes return an endpoint that responds again.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::attempts::{Attempts, Cost, FailedAttempt, Repeatable};
use crate::balance::health::{Failure, Health};
use crate::balance::latency::{Latency, Typical};
use crate::balance::warm_up::WarmUp;
use crate::balance::{Candidate, Selection};
use crate::exchange::Broken;
use crate::random::Random;
use crate::upstream::exchange::Failed;

/// Endpoints up to which the law holds whatever happens to each of them. If connections fail, it
/// holds for more.
const ENDPOINTS: usize = 10;

/// What an endpoint does with connections and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Responds,
    Refuses,
    Closes,
    Resets,
    Hangs,
}

#[derive(Debug, Clone)]
enum Event {
    Change(usize, Behaviour),
    /// Milliseconds pass.
    Wait(u64),
    /// A request is sent, while other endpoints change.
    Request(u64),
}

struct Pod {
    address: SocketAddr,
    behaviour: Behaviour,
    health: Health,
    has_connection: bool,
    probe_at: Option<u64>,
}

struct Cluster {
    pods: Vec<Pod>,
    now: u64,
    random: Random,
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        Just(Behaviour::Responds),
        Just(Behaviour::Refuses),
        Just(Behaviour::Closes),
        Just(Behaviour::Resets),
        Just(Behaviour::Hangs),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..ENDPOINTS, behaviour()).prop_map(|(pod, behaviour)| Event::Change(pod, behaviour)),
        1 => (0..3_000_u64).prop_map(Event::Wait),
        4 => any::<u64>().prop_map(Event::Request),
    ]
}

// === impl Pod ===

impl Pod {
    fn new(number: usize) -> Self {
        let port = 1 + u16::try_from(number).unwrap();
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            behaviour: Behaviour::Responds,
            health: Health::default(),
            has_connection: false,
            probe_at: None,
        }
    }

    /// One attempt; what it fails by, and whether on a kept connection.
    fn attempt(&mut self, needs_new_connection: bool) -> Result<(), (Failed, bool)> {
        if self.behaviour == Behaviour::Responds {
            self.has_connection = true;
            return Ok(());
        }
        if std::mem::take(&mut self.has_connection) && !needs_new_connection {
            return Err((Failed::NoResponse, true));
        }
        let failure = match self.behaviour {
            Behaviour::Closes => Failed::NoResponse,
            Behaviour::Resets => Failed::Broken(Broken::Closed),
            Behaviour::Hangs => Failed::Broken(Broken::TimedOut),
            Behaviour::Refuses | Behaviour::Responds => Failed::Connect,
        };
        Err((failure, false))
    }
}

// === impl Cluster ===

impl Cluster {
    fn new(count: usize) -> Self {
        Self { pods: (0..count).map(Pod::new).collect(), now: 0, random: Random::seeded(0) }
    }

    /// Sets the behaviour of an endpoint, unless it is the only one that responds.
    fn change(&mut self, pod: usize, behaviour: Behaviour) {
        let count = self.pods.len();
        let responding = |pod: &Pod| pod.behaviour == Behaviour::Responds;
        let others = self
            .pods
            .iter()
            .enumerate()
            .any(|(other, one)| other != pod % count && responding(one));
        if others {
            self.pods[pod % count].behaviour = behaviour;
        }
    }

    fn choose(&self, attempts: &Attempts) -> Option<usize> {
        let loads: Vec<(usize, u32)> =
            (0..self.pods.len()).map(|number| (number, (self.random.next() % 4) as u32)).collect();
        let selection = Selection {
            endpoints: &loads,
            near: 0,
            ejected: self.pods.iter().filter(|pod| pod.health.is_ejected()).count(),
            is_first: attempts.is_first(),
            now: Instant::now(),
            typical: Typical::default(),
            slow_start: Duration::ZERO,
        };
        let candidate = |(number, in_flight): &(usize, u32)| Candidate {
            health: self.pods[*number].health,
            latency: Latency::default(),
            warm_up: WarmUp::default(),
            in_flight: *in_flight,
            is_tried: attempts.has_tried(self.pods[*number].address),
        };
        selection.choose(candidate, self.random.next()).map(|(number, _)| *number)
    }

    /// Sends a request as `send` does; returns the number of attempts, or `None` if it failed.
    /// Meanwhile endpoints other than one that responds may change.
    fn request(&mut self, mut changes: u64) -> Option<usize> {
        let steady = self.pods.iter().position(|pod| pod.behaviour == Behaviour::Responds).unwrap();
        let mut attempts = Attempts::default();
        for count in 1.. {
            let chosen = self.choose(&attempts).or_else(|| {
                let address = attempts.retry(|_| true)?;
                self.pods.iter().position(|pod| pod.address == address)
            })?;
            let pod = &mut self.pods[chosen];
            let era = pod.health.era();
            let (failure, was_kept) = match pod.attempt(attempts.needs_new_connection()) {
                Ok(()) => {
                    pod.health = pod.health.responded(era);
                    return Some(count);
                }
                Err(failed) => failed,
            };
            match failure {
                Failed::NoResponse if was_kept => {}
                Failed::NoResponse | Failed::Broken(Broken::Closed) => {
                    self.fail(chosen, Failure::Closed);
                }
                _ => self.fail(chosen, Failure::Unreachable),
            }
            let pod = &self.pods[chosen];
            let is_ejected = pod.health.is_ejected();
            let failed = FailedAttempt { address: pod.address, failure, was_kept, is_ejected };
            attempts.failed(failed, Repeatable::Always)?;
            let changed = (changes % 16) as usize % self.pods.len();
            if changed != steady {
                self.pods[changed].behaviour =
                    if changes & 16 == 0 { Behaviour::Refuses } else { Behaviour::Closes };
            }
            changes >>= 5;
        }
        None
    }

    fn fail(&mut self, number: usize, failure: Failure) {
        let pod = &mut self.pods[number];
        pod.health = pod.health.failed(pod.health.era(), failure, true);
        if pod.health.is_ejected() && pod.probe_at.is_none() {
            self.schedule(number);
        }
    }

    fn schedule(&mut self, number: usize) {
        let pod = &mut self.pods[number];
        let until_probe = pod.health.until_probe(self.random.next());
        pod.probe_at = until_probe.map(|time| self.now + u64::try_from(time.as_millis()).unwrap());
    }

    /// Lets time pass, and probes what is due.
    fn wait(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        for number in 0..self.pods.len() {
            let pod = &mut self.pods[number];
            if pod.probe_at.is_none_or(|due| due > self.now) {
                continue;
            }
            pod.health = match pod.behaviour {
                Behaviour::Refuses => pod.health.probe_failed(),
                _ => pod.health.probed(),
            };
            pod.probe_at = None;
            self.schedule(number);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn while_one_endpoint_responds_no_idempotent_request_fails(
        count in 1..=ENDPOINTS,
        events in proptest::collection::vec(event(), 1..200),
    ) {
        let mut cluster = Cluster::new(count);
        for event in events {
            match event {
                Event::Change(pod, behaviour) => cluster.change(pod, behaviour),
                Event::Wait(milliseconds) => cluster.wait(milliseconds),
                Event::Request(changes) => {
                    prop_assert!(cluster.choose(&Attempts::default()).is_some());
                    let attempts = cluster.request(changes);
                    prop_assert!(attempts.is_some_and(|attempts| attempts <= count + 1), "{attempts:?}");
                }
            }
        }
        // Everything responds again: within the longest ejection, all are used as before.
        for pod in &mut cluster.pods {
            pod.behaviour = Behaviour::Responds;
        }
        for _ in 0..400 {
            cluster.wait(100);
        }
        for _ in 0..1_500 {
            prop_assert!(cluster.request(0).is_some());
        }
        prop_assert!(cluster.pods.iter().all(|pod| pod.health.is_good()));
    }

    #[test]
    fn the_only_endpoint_of_many_that_can_be_connected_to_is_reached(count in 2..=64_usize, alive: prop::sample::Index) {
        let mut cluster = Cluster::new(count);
        let alive = alive.index(count);
        for (number, pod) in cluster.pods.iter_mut().enumerate() {
            if number != alive {
                pod.behaviour = Behaviour::Refuses;
            }
        }
        for _ in 0..100 {
            prop_assert!(cluster.request(0).is_some());
        }
        // Then all others are known: one attempt at a random endpoint, one at the right one.
        prop_assert!(cluster.request(0).is_some_and(|attempts| attempts <= 2));
    }
}

#[test]
fn what_may_be_processed_is_not_repeated_unless_it_is_idempotent() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let failures = [
        (Failed::Connect, true, true),
        (Failed::Full, true, true),
        (Failed::NotSent, true, true),
        (Failed::NoResponse, false, true),
        (Failed::Broken(Broken::Closed), false, true),
        (Failed::Broken(Broken::TimedOut), false, true),
        (Failed::Broken(Broken::Malformed("reason")), false, false),
        (Failed::NoWebSocket, false, false),
    ];
    for (failure, unprocessed, always) in failures {
        for was_kept in [false, true] {
            let may_follow = |request| {
                let attempt = FailedAttempt { address, failure, was_kept, is_ejected: false };
                Attempts::default().failed(attempt, request).is_some()
            };
            assert!(!may_follow(Repeatable::Never), "{failure:?}");
            assert_eq!(may_follow(Repeatable::Unprocessed), unprocessed, "{failure:?}");
            assert_eq!(may_follow(Repeatable::Always), always, "{failure:?}");
        }
    }
}

#[test]
fn a_request_that_makes_backends_crash_does_not_reach_all_of_a_large_service() {
    let mut attempts = Attempts::default();
    let crashed = (1..).take_while(|port| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        let failure = Failed::NoResponse;
        let attempt = FailedAttempt { address, failure, was_kept: false, is_ejected: false };
        attempts.failed(attempt, Repeatable::Always).is_some()
    });
    assert_eq!(crashed.count() + 1, 11);
}

#[test]
fn a_kept_connection_that_was_closed_is_followed_by_a_new_one_if_there_is_no_other_endpoint() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let mut attempts = Attempts::default();
    let failure = Failed::NoResponse;
    let stale = FailedAttempt { address, failure, was_kept: true, is_ejected: false };
    assert_eq!(attempts.failed(stale, Repeatable::Always), Some(Cost::Free));
    assert!(attempts.needs_new_connection());
    assert_eq!(attempts.retry(|_| false), None, "the endpoint is gone");
    assert_eq!(attempts.retry(|_| true), Some(address));
    let fresh = FailedAttempt { was_kept: false, ..stale };
    assert_eq!(attempts.failed(fresh, Repeatable::Always), Some(Cost::Paid));
    assert_eq!(attempts.retry(|_| true), None, "once");
}

#[test]
fn a_request_goes_to_another_backend_only_if_none_of_its_own_is_full_or_has_responded() {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut attempts = Attempts::default();
    let refused = FailedAttempt {
        address: address(1),
        failure: Failed::Connect,
        was_kept: false,
        is_ejected: true,
    };
    attempts.failed(refused, Repeatable::Always);
    assert!(attempts.may_cross());
    (2..100).for_each(|port| attempts.found_full(address(port)));
    assert!(!attempts.may_cross() && !attempts.may_go_on(), "one may have a place in time");
    attempts.cross();
    assert!(!attempts.any_was_full() && attempts.may_go_on());
    assert!(attempts.has_tried(address(1)) && !attempts.has_tried(address(2)));
    attempts.rejected(address(2));
    assert!(!attempts.may_cross());
}

#[test]
fn what_may_add_to_the_load_of_a_failing_backend_takes_from_its_retry_budget() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let cost = |failure, was_kept, is_ejected| {
        let attempt = FailedAttempt { address, failure, was_kept, is_ejected };
        Attempts::default().failed(attempt, Repeatable::Always)
    };
    for failure in [Failed::Connect, Failed::Full, Failed::NotSent] {
        assert_eq!(cost(failure, false, false), Some(Cost::Free), "{failure:?}: not processed");
    }
    assert_eq!(cost(Failed::NoResponse, true, false), Some(Cost::Free), "an old connection");
    for failure in [Failed::NoResponse, Failed::Broken(Broken::Closed)] {
        assert_eq!(cost(failure, false, false), Some(Cost::Paid), "{failure:?}");
        assert_eq!(cost(failure, false, true), Some(Cost::FreeIfGood), "{failure:?}");
    }
}
