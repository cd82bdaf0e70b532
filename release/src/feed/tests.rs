use super::wire::{Counted, Feed, Incomplete, Requests, VERSION, Variant, Window, decode};
use super::*;
use crate::analysis::{self, Buckets, Counts, Share, Sides};
use crate::rollout::Gateway;

const NOW: u64 = 1_795_957_205;

fn watch() -> Watch {
    let service =
        Service { namespace: "shop".into(), name: "web".into(), canary: "web-canary".into() };
    Watch::new(service, vec![Measure::Errors, Measure::SlowerThan(5_120)])
}

fn map(buckets: &[u16]) -> Buckets {
    buckets.iter().copied().collect()
}

/// A window in which the canary had 3 requests of people, one of which failed, and each side some
/// that were dealt.
fn window(start: u64, generation: &str) -> Window {
    let sticky = Requests {
        requests: 3,
        errors: 1,
        latency: [(4_864, 1), (5_376, 1)].into(),
        clients_left: [(6_000, 1), (100, 5)].into(),
        seen: map(&[1, 2]),
        erred: map(&[2]),
        slow: map(&[2, 3]),
    };
    let canary = Variant {
        name: "web-canary".to_owned(),
        sticky,
        dealt: Requests { requests: 10, ..Requests::default() },
    };
    let stable = Variant {
        name: "web".to_owned(),
        sticky: Requests { requests: 5, seen: map(&[9_000]), ..Requests::default() },
        dealt: Requests { requests: 90, errors: 2, ..Requests::default() },
    };
    let other = Variant { name: "web-b".to_owned(), ..canary.clone() };
    Window {
        start,
        generation: generation.to_owned(),
        latency_threshold: Some(5_120),
        variants: vec![stable, other, canary],
    }
}

/// The feed of a replica at this time, with a window every 10 s.
fn feed(now: u64, generation: &str) -> Feed {
    let windows = (0..30).map(|back| window((now / 10 - back) * 10, generation));
    let service = Counted {
        namespace: "shop".to_owned(),
        service: "web".to_owned(),
        counted_since: Some(NOW - 1_000),
        generation: Some(generation.to_owned()),
        windows: windows.collect(),
        ..Counted::default()
    };
    Feed { version: VERSION, start: "s".to_owned(), now, services: vec![service] }
}

fn read(watch: &mut Watch, feeds: Vec<(&str, Fed)>, now: u64) -> (Gateway, Readout) {
    let readings = feeds.into_iter().map(|(replica, feed)| Reading {
        replica: replica.to_owned(),
        feed: feed.map_err(str::to_owned),
    });
    watch.read(&readings.collect::<Vec<Reading>>(), 0, now)
}

type Fed = std::result::Result<Feed, &'static str>;

/// Both replicas, with this change to the feed of the second one.
fn both(now: u64, change: impl Fn(&mut Feed)) -> Vec<(&'static str, Fed)> {
    let mut second = feed(now, "12");
    change(&mut second);
    vec![("a", Ok(feed(now, "12"))), ("b", Ok(second))]
}

fn same(_: &mut Feed) {}

/// The starts of the looks, in seconds after the first reading.
fn starts(result: &Readout) -> Vec<i64> {
    result.looks.iter().map(|(start, _)| *start as i64 - (NOW / 10 * 10) as i64).collect()
}

#[test]
fn replicas_are_added_up_and_each_window_is_looked_at_once() {
    let mut watch = watch();
    let (gateway, result) = read(&mut watch, both(NOW, same), NOW);
    assert_eq!((gateway, result), (Gateway::Agrees(12), Readout::default()));
    let (_, result) = read(&mut watch, both(NOW + 20, same), NOW + 20);
    assert_eq!((starts(&result), &result.left_out), (vec![-10, 0], &None));
    let (_, look) = &result.looks[0];
    let tally = |at_risk, events| analysis::Tally { at_risk, events };
    let counts = |canary, stable| Counts { canary, stable };
    let errors = &look.metrics[0];
    assert_eq!(errors.sticky, counts(tally(6, 2), tally(10, 0)));
    assert_eq!(errors.dealt, counts(tally(20, 0), tally(180, 4)));
    assert_eq!(look.seen, Sides { canary: map(&[1, 2]), stable: map(&[9_000]) });
    assert_eq!(errors.buckets, Some(Sides { canary: map(&[2]), stable: map(&[]) }));
    // 5,376 is above 5,120; of the clients that left, the one that did after it counts.
    let slow = &look.metrics[1];
    assert_eq!(slow.sticky.canary, tally(6, 4));
    assert_eq!(slow.buckets, Some(Sides { canary: map(&[2, 3]), stable: map(&[]) }));
    let (_, result) = read(&mut watch, both(NOW + 21, same), NOW + 21);
    assert_eq!(starts(&result), [0; 0]);
    // The record goes on where it was.
    let recorded = serde_json::to_string(&watch).unwrap();
    let mut watch: Watch = serde_json::from_str(&recorded).unwrap();
    assert_eq!(starts(&read(&mut watch, both(NOW + 30, same), NOW + 30).1), [10]);
}

#[test]
fn a_replica_that_cannot_be_used_makes_it_blind_and_its_windows_are_read_later() {
    let mut watch = watch();
    read(&mut watch, both(NOW, same), NOW);
    let now = NOW + 20;
    let incomplete = |windows| Incomplete { windows, ..Incomplete::default() };
    let cases: [(&str, Vec<(&str, Fed)>); 6] = [
        ("the gateway has no replicas", vec![]),
        ("b cannot be read: timed out", vec![("a", Ok(feed(now, "12"))), ("b", Err("timed out"))]),
        ("b has version 2 of the feed", both(now, |feed| feed.version = 2)),
        ("the clock of b is 40 s away from the builder's", both(now, |feed| feed.now -= 40)),
        ("b does not list the service", both(now, |feed| feed.services.clear())),
        (
            "b does not count all requests of the service",
            both(now, |feed| feed.services[0].incomplete = Some(incomplete(true))),
        ),
    ];
    for (why, feeds) in cases {
        let (gateway, result) = read(&mut watch, feeds, now);
        assert_eq!((gateway, result), (Gateway::Blind(why.to_owned()), Readout::default()));
    }
    let (_, result) = read(&mut watch, both(NOW + 40, same), NOW + 40);
    assert_eq!((starts(&result), result.left_out), (vec![-10, 0, 10, 20], None));
}

#[test]
fn windows_that_are_not_complete_are_left_out() {
    let dropped = |feed: &mut Feed| {
        let incomplete = Incomplete { dropped_windows: 3, ..Incomplete::default() };
        feed.services[0].incomplete = Some(incomplete);
    };
    type Change = Box<dyn Fn(&mut Feed)>;
    // A window is complete ten seconds after its end. Of those that are not, a replica that was
    // restarted has lost a part.
    let cases: [(&str, u64, Change); 4] = [
        ("b was restarted", 40, Box::new(|feed| feed.start = "other".to_owned())),
        ("b was restarted", 40, Box::new(|feed| feed.services[0].counted_since = Some(NOW))),
        ("b has dropped windows", 40, Box::new(dropped)),
        (
            "replicas had different generations",
            20,
            Box::new(|feed| feed.services[0].generation = Some("11".to_owned())),
        ),
    ];
    for (why, seconds, change) in cases {
        let mut watch = watch();
        read(&mut watch, both(NOW, same), NOW);
        let (_, result) = read(&mut watch, both(NOW + 20, &change), NOW + 20);
        assert_eq!(starts(&result), [0; 0], "{why}");
        let left_out = result.left_out.unwrap();
        let length = left_out.until - left_out.from;
        assert_eq!((length, left_out.reason.as_str()), (seconds, why));
        let (_, result) = read(&mut watch, both(NOW + 60, &change), NOW + 60);
        let first = result.looks.first().map(|(start, _)| *start);
        let is_known = first.is_none_or(|first| first >= left_out.until);
        assert!(is_known, "{why}: {first:?} is before {}", left_out.until);
    }
}

#[test]
fn counts_that_fall_back_are_a_restart_and_never_counted_twice() {
    let mut watch = watch();
    read(&mut watch, both(NOW, same), NOW);
    read(&mut watch, both(NOW + 20, same), NOW + 20);
    // Windows that were looked at are not looked at again, whatever they say now.
    let emptied = |feed: &mut Feed| {
        let windows = feed.services[0].windows.iter_mut();
        windows.flat_map(|window| &mut window.variants).for_each(|variant| {
            (variant.sticky, variant.dealt) = (Requests::default(), Requests::default());
        });
    };
    let (_, result) = read(&mut watch, both(NOW + 24, emptied), NOW + 24);
    assert_eq!(starts(&result), [0; 0]);
    let (_, result) = read(&mut watch, both(NOW + 30, emptied), NOW + 30);
    let at_risk = result.looks[0].1.metrics[0].dealt.canary.at_risk;
    assert_eq!((starts(&result), at_risk), (vec![10], 10), "what b counts now is what it says");
    // The feed says that it began to count anew: what it had counted before is lost.
    let anew = |feed: &mut Feed| {
        emptied(feed);
        feed.services[0].counted_since = Some(NOW + 35);
    };
    let (_, result) = read(&mut watch, both(NOW + 40, anew), NOW + 40);
    assert_eq!(starts(&result), [0; 0]);
    assert_eq!(result.left_out.unwrap().reason, "b was restarted");
}

#[test]
fn other_replicas_than_before_leave_a_gap() {
    let mut watch = watch();
    read(&mut watch, both(NOW, same), NOW);
    let mut now = NOW;
    for (why, names) in
        [("c is a new replica", vec!["a", "b", "c"]), ("b has gone", vec!["a", "c"])]
    {
        now += 20;
        let feeds = names.into_iter().map(|name| (name, Ok(feed(now, "12")))).collect();
        let (gateway, result) = read(&mut watch, feeds, now);
        assert_eq!((gateway, starts(&result)), (Gateway::Agrees(12), vec![]));
        assert_eq!(result.left_out.unwrap().reason, why);
    }
}

#[test]
fn looks_are_cut_where_the_weight_changes() {
    let mut watch = watch();
    let of =
        |now, generation| vec![("a", Ok(feed(now, generation))), ("b", Ok(feed(now, generation)))];
    read(&mut watch, of(NOW, "12"), NOW);
    let (gateway, result) = read(&mut watch, of(NOW + 20, "13"), NOW + 20);
    assert_eq!((gateway, starts(&result)), (Gateway::Agrees(13), vec![]));
    assert_eq!(result.left_out.unwrap().reason, "the weight has changed");
    // Requests that the split before had assigned are not counted later either.
    let mut old = feed(NOW + 30, "13");
    old.services[0].windows.iter_mut().for_each(|window| window.generation = "12".to_owned());
    let (_, result) =
        read(&mut watch, vec![("a", Ok(old)), ("b", Ok(feed(NOW + 30, "13")))], NOW + 30);
    assert_eq!(result.looks[0].1.metrics[0].dealt.canary.at_risk, 10, "those of b alone");
}

#[test]
fn warm_up_and_old_windows_are_left_out() {
    let mut watch = watch();
    read(&mut watch, both(NOW, same), NOW);
    let readings: Vec<Reading> = both(NOW + 40, same)
        .into_iter()
        .map(|(replica, feed)| Reading { replica: replica.to_owned(), feed: Ok(feed.unwrap()) })
        .collect();
    let (_, result) = watch.read(&readings, NOW + 11, NOW + 40);
    assert_eq!(starts(&result), [20]);
    assert_eq!(result.left_out.unwrap().reason, "pods were warming up");
    let (_, result) = read(&mut watch, both(NOW + 1_000, same), NOW + 1_000);
    assert_eq!(result.looks.len(), 26, "those of the last 280 s, without the one that may grow");
    assert_eq!(result.left_out.unwrap().reason, "replicas no longer have all of their windows");
}

#[test]
fn an_outage_needs_many_errors_on_the_stable_side() {
    let mut outage = Outage::default();
    let look = |requests, errors| analysis::Look {
        metrics: vec![analysis::MetricLook {
            dealt: Counts {
                stable: analysis::Tally { at_risk: requests, events: errors },
                ..Counts::default()
            },
            ..analysis::MetricLook::default()
        }],
        ..analysis::Look::default()
    };
    let objective = Share::ONE_PERCENT;
    outage.add(&look(100, 19));
    assert_eq!(outage.describe(objective), None, "too few");
    outage.add(&look(100, 5));
    let why = "the stable variant fails 12.0 % of its requests";
    assert_eq!(outage.describe(objective).as_deref(), Some(why));
    (0..6).for_each(|_| outage.add(&look(1_000, 10)));
    assert_eq!(outage.describe(objective), None, "it is over");
}

#[test]
fn a_feed_is_read_from_its_json() {
    let feed: Feed = serde_json::from_str(
        r#"{
            "version": 1, "start": "0f3c", "startedAt": 1795953600, "now": 1795957215, "more": [],
            "services": [{
                "environment": "staging", "namespace": "shop", "service": "web",
                "countedSince": null, "generation": "12", "variants": [],
                "windows": [{ "start": 1795957200, "generation": "12",
                              "latencyThreshold": 5120, "variants": [{
                    "name": "web-canary",
                    "sticky": { "requests": 50, "errors": 6, "latency": { "5120": 44, "5376": 6 },
                                "clientsLeft": {}, "seen": "AAUADA==", "erred": "AAw=", "slow": "AAU=" },
                    "dealt": { "requests": 12, "errors": 0, "latency": {}, "clientsLeft": {} }
                }] }]
            }]
        }"#,
    )
    .unwrap();
    let sticky = &feed.services[0].windows[0].variants[0].sticky;
    assert_eq!((&sticky.seen, &sticky.erred), (&map(&[5, 12]), &map(&[12])));
    assert_eq!(sticky.slow, map(&[5]));
    assert_eq!(sticky.latency, [(5_120, 44), (5_376, 6)].into());
}

#[test]
fn sets_of_buckets_are_lists_or_bit_maps() {
    let base64 =
        |octets: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, octets);
    let mut bits = [0; 1_250];
    (bits[0], bits[1_249]) = (0b10, 0b1000_0000);
    assert_eq!(decode(&base64(&bits)), Some(map(&[1, 9_999])));
    assert_eq!(decode(""), Some(map(&[])));
    for malformed in [&[0][..], &[0xff, 0xff], &[0x27, 0x10]] {
        assert_eq!(decode(&base64(malformed)), None, "{malformed:?}");
    }
    assert_eq!(decode("?"), None);
}

#[test]
fn slow_buckets_are_known_if_the_threshold_of_the_split_is_that_of_the_metric() {
    for threshold in [None, Some(4_864)] {
        let mut watch = watch();
        read(&mut watch, both(NOW, same), NOW);
        let change = |feed: &mut Feed| {
            let windows = &mut feed.services[0].windows;
            windows.iter_mut().for_each(|window| window.latency_threshold = threshold);
        };
        let (_, result) = read(&mut watch, both(NOW + 20, change), NOW + 20);
        assert_eq!(result.looks[0].1.metrics[1].buckets, None, "{threshold:?}");
    }
}
