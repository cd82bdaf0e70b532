//! The feed as a reader sees it: what is counted adds up, windows roll, and limits are shared.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use portcullis_config::model::Origin;
use portcullis_config::snapshot::backend::{Backend, UpstreamProtocol, WeightedBackends};
use portcullis_config::snapshot::endpoints::{EndpointKey, EndpointSet, Endpoints};
use portcullis_config::snapshot::host::{HostTable, VirtualHost};
use portcullis_config::snapshot::policy::Policy;
use portcullis_config::snapshot::rule::{PathPrefix, Route, RouteMatch, Rule};
use portcullis_config::snapshot::split::{Bucket, Generation, Ranges, Split};
use portcullis_config::snapshot::{Listener, ListenerProtocol, Snapshot};
use proptest::prelude::*;

use super::bucket_map::BucketMap;
use super::feed::{Feed, Service, Tally};
use super::registry::Start;
use super::window::MAX_OCTETS;
use super::*;
use crate::choose::{Assignment, Reason};

/// The beginning of a window, in seconds since 1970.
const NOW: u64 = 1_795_953_600;

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
struct Event {
    bucket: u16,
    is_sticky: bool,
    /// 0 if the client left before the response.
    status: u16,
    milliseconds: u64,
    at: u64,
}

const EVENT: Event = Event { bucket: 7, is_sticky: true, status: 200, milliseconds: 5, at: NOW };

fn backend(namespace: &str, service: &str, variant: &str) -> Backend {
    let key = EndpointKey { namespace: namespace.into(), service: service.into(), port: 80 };
    Backend {
        variant: variant.into(),
        weight: 1,
        protocol: UpstreamProtocol::Http1,
        filters: Vec::new(),
        endpoints: Arc::new(Endpoints::new(key, EndpointSet::default())),
    }
}

fn rule(namespace: &str, service: &str, split: Option<Split>) -> Arc<Rule> {
    let mut backends = vec![backend(namespace, service, "stable")];
    let canary = format!("{service}-canary");
    backends.extend(split.as_ref().map(|_| backend(namespace, &canary, &canary)));
    Arc::new(Rule {
        origin: Origin { namespace: namespace.into(), ..Origin::default() },
        service: service.into(),
        filters: Vec::new(),
        backends: WeightedBackends::new(backends),
        split: split.map(Arc::new),
        policy: Policy::default(),
    })
}

fn split(canary: u16, generation: u64) -> Split {
    let ranges = Ranges::by_weight(&[canary]).unwrap();
    Split::new("salt".into(), ranges, Vec::new(), Generation::new(generation))
}

fn canary(weight: u16) -> Arc<Rule> {
    rule("shop", "web", Some(split(weight, 1)))
}

fn snapshot(rules: &[&Arc<Rule>]) -> Snapshot {
    let host = |(number, rule): (usize, &&Arc<Rule>)| VirtualHost {
        pattern: format!("host-{number}.example").parse().unwrap(),
        environment: "staging".into(),
        origin: Origin::default(),
        routes: [Route { matches: RouteMatch::prefix(PathPrefix::root()), rule: Arc::clone(rule) }]
            .into(),
    };
    let hosts: HostTable = rules.iter().enumerate().map(host).map(Arc::new).collect();
    let listener = Listener {
        name: "https".into(),
        protocol: ListenerProtocol::Https,
        hostname: None,
        hosts: Arc::new(hosts),
    };
    Snapshot { listeners: vec![listener], ..Snapshot::default() }
}

fn registry(max_counts: usize, max_splits: usize) -> Arc<Registry> {
    let start = Start { id: "start".to_owned(), at: NOW };
    Arc::new(Registry::with(start, max_counts, max_splits * MAX_OCTETS))
}

fn count(recorder: &Recorder, rule: &Arc<Rule>, event: Event) {
    let bucket = Bucket::new(event.bucket).unwrap();
    let assignment = rule.split.as_ref().map(|split| Assignment {
        variant: split.variant(bucket),
        reason: if event.is_sticky { Reason::User } else { Reason::Weight },
        bucket: Some(bucket),
        generation: split.generation(),
    });
    let position = assignment.map_or(0, |assignment| assignment.variant.position());
    let arrived = UNIX_EPOCH + Duration::from_secs(event.at);
    let entered = recorder.enter(&"staging".into(), rule, &rule.backends.all()[position], arrived);
    let latency = Duration::from_millis(event.milliseconds);
    let ended = Ended {
        is_forced: false,
        is_missed: false,
        first: None,
        response: (event.status > 0).then_some(Response {
            status: event.status,
            grpc_status: None,
            latency,
        }),
        ending: if event.status > 0 { Ending::Complete } else { Ending::ClientLeft },
        // Short, so that each ends in the window of its arrival.
        duration: latency.min(Duration::from_millis(100)),
    };
    recorder.end(&entered, &Request { rule, assignment, ended, retries: 0, arrived });
}

fn feed(registry: &Registry, rules: &[&Arc<Rule>], now: u64) -> Feed {
    registry.feed(&snapshot(rules), &Filter::default(), now)
}

fn only(registry: &Registry, rule: &Arc<Rule>, now: u64) -> Service {
    feed(registry, &[rule], now).services.remove(0)
}

/// What is sticky in all windows and variants.
fn sticky(service: &Service) -> Tally {
    let mut sum = Tally::default();
    let variants = service.windows.iter().flat_map(|window| &window.variants);
    variants.for_each(|variant| sum.add(&variant.sticky));
    sum
}

fn events(max: usize) -> impl Strategy<Value = Vec<Event>> {
    let status = prop_oneof![Just(0_u16), Just(200), Just(404), Just(503)];
    let event = (0..10_000_u16, any::<bool>(), status, 0..100_000_u64, 0..250_u64);
    let event = event.prop_map(|(bucket, is_sticky, status, milliseconds, after)| Event {
        bucket,
        is_sticky,
        status,
        milliseconds,
        at: NOW + after,
    });
    prop::collection::vec(event, 0..max).prop_map(|mut events| {
        events.sort_by_key(|event| event.at);
        events
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn workers_and_replicas_add_up_exactly(
        events in events(400), parts in prop::collection::vec(0..4_usize, 400), weight in 1..10_000_u16,
    ) {
        let rule = canary(weight);
        let (whole, replicas) = (registry(9, 9), [registry(9, 9), registry(9, 9)]);
        let one = whole.recorder();
        let workers: Vec<Recorder> =
            (0..4).map(|number| replicas[number / 2].recorder()).collect();
        for (event, part) in events.iter().zip(parts) {
            count(&one, &rule, *event);
            count(&workers[part], &rule, *event);
        }
        let expected = only(&whole, &rule, NOW + 250);
        let mut sum = only(&replicas[0], &rule, NOW + 250);
        sum.add(&only(&replicas[1], &rule, NOW + 250));
        prop_assert_eq!(&sum.variants, &expected.variants);
        prop_assert_eq!(&sum.windows, &expected.windows);
        // Nothing is lost, and nothing counts twice.
        let left = |one: &feed::Variant| one.left_out.clients_left.values().sum::<u64>();
        let total: u64 = sum.variants.iter().map(|one| one.requests + left(one)).sum();
        prop_assert_eq!(total, events.len() as u64);
        let errors: u64 = sum.variants.iter().map(|one| one.errors).sum();
        prop_assert_eq!(errors, events.iter().filter(|one| one.status == 503).count() as u64);
        let text = serde_json::to_string(&sum).unwrap();
        prop_assert_eq!(serde_json::from_str::<Service>(&text).unwrap(), sum);
    }

    #[test]
    fn a_noisy_client_is_one_vote(
        errors in 1..300_usize, bucket in 0..10_000_u16, others in events(100),
    ) {
        let rule = canary(5_000);
        let registry = registry(9, 9);
        let worker = registry.recorder();
        let others = others.iter().filter(|event| event.status != 503);
        others.for_each(|event| count(&worker, &rule, *event));
        let noise = Event { bucket, status: 503, at: NOW + 250, ..EVENT };
        (0..errors).for_each(|_| count(&worker, &rule, noise));
        let sum = sticky(&only(&registry, &rule, NOW + 250));
        prop_assert_eq!((sum.errors, sum.erred.len()), (errors as u64, 1));
        prop_assert!(sum.erred.has(Bucket::new(bucket).unwrap()));
    }
}

#[test]
fn slow_is_who_waited_for_the_threshold_whether_or_not_there_was_a_response() {
    // 40 ms is rounded up to the edge of a step.
    let threshold = Some(Duration::from_millis(40));
    let of =
        |threshold| rule("shop", "web", Some(split(5_000, 1).with_latency_threshold(threshold)));
    let (rule, registry) = (of(threshold), registry(9, 9));
    let worker = registry.recorder();
    let event = |bucket, milliseconds, status| Event { bucket, milliseconds, status, ..EVENT };
    for event in [
        event(1, 39, 200),
        event(2, 40, 200),
        event(3, 80, 200),
        event(4, 80, 503),
        event(5, 80, 0),
        event(6, 1, 0),
        Event { is_sticky: false, ..event(7, 80, 200) },
    ] {
        count(&worker, &rule, event);
    }
    let service = only(&registry, &rule, NOW);
    assert_eq!(service.windows[0].latency_threshold, Some(40_960));
    let numbers = |map: &BucketMap| map.iter().map(Bucket::number).collect::<Vec<_>>();
    let tally = sticky(&service);
    assert_eq!((numbers(&tally.seen), numbers(&tally.slow)), (vec![1, 2, 3, 4], vec![3, 4, 5]));
    // What is counted with another threshold, or none, is another window.
    count(&worker, &of(None), event(8, 80, 200));
    count(&worker, &of(threshold), event(9, 80, 200));
    let service = only(&registry, &rule, NOW);
    let thresholds: Vec<_> = service.windows.iter().map(|one| one.latency_threshold).collect();
    assert_eq!(thresholds, [None, Some(40_960)]);
    assert_eq!(numbers(&sticky(&service).slow), [3, 4, 5, 9]);
}

#[test]
fn a_reader_gets_the_windows_from_a_time_on_and_all_other_counts() {
    let (rule, registry) = (canary(500), registry(9, 9));
    let worker = registry.recorder();
    for at in [NOW, NOW + 10, NOW + 20] {
        count(&worker, &rule, Event { at, ..EVENT });
    }
    let starts = |filter: &Filter| {
        let mut feed = registry.feed(&snapshot(&[&rule]), filter, NOW + 20);
        let service = feed.services.remove(0);
        let requests: u64 = service.variants.iter().map(|one| one.requests).sum();
        assert_eq!(requests, 3, "{service:?}");
        service.windows.iter().map(|window| window.start - NOW).collect::<Vec<_>>()
    };
    let from = |from| starts(&Filter { from, ..Filter::default() });
    assert_eq!((from(0), from(NOW)), (vec![0, 10, 20], vec![0, 10, 20]));
    assert_eq!((from(NOW + 1), from(NOW + 20)), (vec![10, 20], vec![20]));
    assert_eq!(from(u64::MAX), [0; 0]);
}

#[test]
fn the_last_thirty_windows_are_kept_by_time_and_generation() {
    let rule = canary(500);
    let registry = registry(9, 9);
    let worker = registry.recorder();
    for number in 0..40 {
        count(&worker, &rule, Event { at: NOW + 10 * number, ..EVENT });
    }
    let last = NOW + 390;
    let starts = |service: &Service| -> Vec<u64> {
        service.windows.iter().map(|window| window.start).collect()
    };
    let service = only(&registry, &rule, last);
    assert_eq!(starts(&service), (10..40).map(|number| NOW + 10 * number).collect::<Vec<_>>());
    assert!(service.incomplete.is_none(), "they were old: {service:?}");
    // Too late for its window.
    count(&worker, &rule, EVENT);
    let service = only(&registry, &rule, last);
    assert_eq!(service.incomplete.unwrap().dropped_windows, 1);
    assert_eq!(sticky(&service).requests, 30);
    // Another generation in the same 10 seconds is another window; the same one again is not.
    let other = rule_of(500, 2);
    count(&worker, &other, Event { at: last, ..EVENT });
    count(&worker, &canary(500), Event { at: last + 9, ..EVENT });
    let service = only(&registry, &other, last);
    let newest: Vec<_> = service.windows.iter().rev().take(2).collect();
    assert_eq!((newest[0].start, &*newest[0].generation), (last, "2"));
    assert_eq!((newest[1].start, &*newest[1].generation), (last, "1"));
    assert_eq!(newest[1].variants[0].sticky.requests, 2);
    // Without requests they end, too, and a clock that was set back does not keep them.
    assert_eq!(only(&registry, &other, last + 290).windows.len(), 2);
    assert!(only(&registry, &other, last + 300).windows.is_empty());
    count(&worker, &other, Event { at: last + 9_000, ..EVENT });
    assert!(only(&registry, &other, last).windows.is_empty());
    count(&worker, &other, Event { at: last, ..EVENT });
    assert_eq!(only(&registry, &other, last).windows.len(), 1);
}

fn rule_of(weight: u16, generation: u64) -> Arc<Rule> {
    rule("shop", "web", Some(split(weight, generation)))
}

#[test]
fn there_are_windows_only_while_the_traffic_is_shared() {
    for (weight, expected) in [(0, 0), (1, 1), (9_999, 1), (10_000, 0)] {
        let (rule, registry) = (canary(weight), registry(9, 9));
        count(&registry.recorder(), &rule, EVENT);
        let service = only(&registry, &rule, NOW);
        assert_eq!(service.windows.len(), expected, "{weight}");
        assert_eq!(service.variants.iter().map(|one| one.requests).sum::<u64>(), 1);
    }
}

#[test]
fn many_latencies_and_buckets_take_limited_memory() {
    let rule = canary(5_000);
    let registry = registry(9, 9);
    let worker = registry.recorder();
    for number in 0..30 {
        for step in 0..4_000_u16 {
            let milliseconds = 1 << (step % 17);
            let event = Event {
                bucket: u16::try_from(u32::from(step) * 7 % 10_000).unwrap(),
                milliseconds: milliseconds + milliseconds * u64::from(step / 17 % 16) / 16,
                at: NOW + number * 10,
                ..EVENT
            };
            count(&worker, &rule, event);
            count(&worker, &rule, Event { status: 503, is_sticky: step % 2 == 0, ..event });
            count(&worker, &rule, Event { status: 0, is_sticky: step % 2 == 0, ..event });
        }
    }
    let service = only(&registry, &rule, NOW + 290);
    let dropped = service.incomplete.expect("it says so").dropped_windows;
    assert_eq!(service.windows.len() as u64 + dropped, 30);
    assert!((5..30).contains(&service.windows.len()), "{}", service.windows.len());
    assert_eq!(service.windows.last().unwrap().start, NOW + 290);
}

#[test]
fn a_service_beyond_the_limit_is_without_data_and_says_so() {
    let registry = registry(2, 2);
    let worker = registry.recorder();
    let of = |namespace: &str, name: &str| rule(namespace, name, Some(split(500, 1)));
    let greedy = [of("greedy", "a"), of("greedy", "b"), of("greedy", "c")];
    greedy.iter().for_each(|rule| count(&worker, rule, EVENT));
    let modest = of("modest", "a");
    let all: Vec<&Arc<Rule>> = greedy.iter().chain([&modest]).collect();
    let counted = |service: &Service| service.counted_since.is_some();
    let before: Vec<bool> = feed(&registry, &all, NOW).services.iter().map(counted).collect();
    assert_eq!(before, [true, true, false, false]);
    count(&worker, &modest, EVENT);
    count(&worker, &greedy[0], EVENT);
    let services = feed(&registry, &all, NOW).services;
    let after: Vec<bool> = services.iter().map(counted).collect();
    assert_eq!(after, [true, false, false, true], "the greedy one gives one up");
    for service in services {
        let is_missing = service.incomplete.is_some_and(|incomplete| incomplete.counts);
        assert_eq!(is_missing, service.counted_since.is_none(), "{service:?}");
    }
}

#[test]
fn each_worker_takes_a_place_and_a_service_that_lacks_some_says_so() {
    let registry = registry(3, 9);
    let workers = [registry.recorder(), registry.recorder()];
    let rules = ["a", "b"].map(|name| rule("shop", name, Some(split(500, 1))));
    workers.iter().for_each(|worker| rules.iter().for_each(|rule| count(worker, rule, EVENT)));
    let services = feed(&registry, &[&rules[0], &rules[1]], NOW).services;
    let seen = services.iter().map(|service| {
        let requests: u64 = service.variants.iter().map(|variant| variant.requests).sum();
        (requests, service.incomplete.is_some_and(|incomplete| incomplete.counts))
    });
    assert_eq!(seen.collect::<Vec<_>>(), [(2, false), (1, true)]);
}

#[test]
fn windows_beyond_the_limit_are_missing_and_the_feed_says_so() {
    let registry = registry(9, 2);
    let worker = registry.recorder();
    let of = |namespace: &str, name: &str| rule(namespace, name, Some(split(500, 1)));
    let greedy = [of("greedy", "a"), of("greedy", "b"), of("greedy", "c")];
    let modest = of("modest", "a");
    let all: Vec<&Arc<Rule>> = greedy.iter().chain([&modest]).collect();
    let look = |now| -> Vec<(usize, bool)> {
        let lacks = |one: &Service| one.incomplete.is_some_and(|incomplete| incomplete.windows);
        let services = feed(&registry, &all, now).services;
        services.iter().map(|one| (one.windows.len(), lacks(one))).collect()
    };
    all.iter().for_each(|rule| count(&worker, rule, EVENT));
    assert_eq!(look(NOW), [(1, false), (0, true), (0, true), (1, false)]);
    // In the same window there is no further attempt; in the next one, there is no place either.
    all.iter().for_each(|rule| count(&worker, rule, Event { at: NOW + 10, ..EVENT }));
    assert_eq!(look(NOW + 10), [(2, false), (0, true), (0, true), (2, false)]);
    // A place whose windows are over is free.
    let late = NOW + 1_000;
    count(&worker, &greedy[1], Event { at: late, ..EVENT });
    assert_eq!(look(late), [(0, false), (1, false), (0, true), (0, false)]);
}

#[test]
fn a_removed_service_starts_anew_and_a_restart_has_another_id() {
    let (rule, registry) = (canary(500), registry(9, 9));
    let worker = registry.recorder();
    count(&worker, &rule, EVENT);
    assert_eq!(only(&registry, &rule, NOW).counted_since, Some(NOW));
    assert!(feed(&registry, &[], NOW).services.is_empty());
    count(&worker, &rule, Event { at: NOW + 60, ..EVENT });
    let again = only(&registry, &rule, NOW + 60);
    assert_eq!((again.counted_since, again.variants[1].requests), (Some(NOW + 60), 1));
    let ids = [Registry::new(NOW).unwrap(), Registry::new(NOW).unwrap()]
        .map(|registry| feed(&registry, &[], NOW).start);
    assert!(ids[0] != ids[1] && ids[0].len() == 32, "{ids:?}");
}

#[test]
fn a_request_is_in_flight_until_it_is_dropped() {
    let (rule, registry) = (rule("shop", "web", None), registry(9, 9));
    let worker = registry.recorder();
    let enter = || worker.enter(&"staging".into(), &rule, &rule.backends.all()[0], UNIX_EPOCH);
    let in_flight = || only(&registry, &rule, NOW).variants[0].in_flight;
    let (one, other) = (enter(), enter());
    assert_eq!(in_flight(), 2);
    drop(one);
    assert_eq!(in_flight(), 1);
    worker.ejected(rule.backends.all()[0].endpoints.id());
    drop(other);
    let variant = only(&registry, &rule, NOW).variants.remove(0);
    assert_eq!((variant.in_flight, variant.ejections, variant.requests), (0, 1, 0));
    assert_eq!(variant.weight, 100.0);
}

#[test]
fn variants_that_were_removed_are_forgotten_once_there_are_many() {
    let registry = registry(99, 9);
    let worker = registry.recorder();
    let of = |number: u16| {
        let mut rule = Rule::clone(&canary(10_000));
        let canary = format!("web-{number}");
        let backends = vec![backend("shop", "web", "stable"), backend("shop", &canary, &canary)];
        rule.backends = WeightedBackends::new(backends);
        Arc::new(rule)
    };
    for number in 0..200 {
        count(&worker, &of(number), EVENT);
    }
    let service = only(&registry, &of(199), NOW);
    assert!((2..=33).contains(&service.variants.len()), "{}", service.variants.len());
    assert_eq!((&*service.variants[1].name, service.variants[1].requests), ("web-199", 1));
}
