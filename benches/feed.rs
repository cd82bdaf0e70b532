//! `make bench-feed`: what it costs the builder to read the traffic feed, and to judge what is in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by a panic"
)]
#![allow(clippy::print_stdout, reason = "a bench reports on standard output what it measured")]

use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_release::analysis::Trial;
use portcullis_release::feed::{Feed, Measure, Reading, Service, Watch};
use portcullis_release::model::Time;
use portcullis_release::rollout::{Judged, Observation, Rollout, Settings, step};
use serde_json::{Value, json};

/// The services that are read, and the rollouts that are judged.
const SERVICES: usize = 1_000;
/// The replicas of the gateway.
const REPLICAS: usize = 3;
/// The edges of a histogram: latencies from 1 to 16 ms.
const EDGES: u64 = 64;
/// The windows of a split that a replica has.
const WINDOWS: u64 = 30;
/// Those that the builder reads at a look: the one that is judged, the one that may still grow on some
/// replica, and the one that begins.
const UNREAD: u64 = 3;
/// The most CPU time of reading all, and of judging all, in milliseconds.
const MAX_READING: f64 = 50.0;
const MAX_JUDGING: f64 = 100.0;
/// How often each is done for a mean: the clock of CPU time is coarse.
const ROUNDS: usize = 20;
/// A time at which a window ends.
const NOW: u64 = 1_795_957_200;

fn main() -> ExitCode {
    let feed = counts();
    let reading = parse(&feed);
    println!(
        "the counts of {SERVICES} services with 2 variants on {REPLICAS} replicas, {} KiB each: \
         {reading:.1} ms of CPU (goal: less than {MAX_READING})",
        feed.len() / 1024
    );
    for (count, which) in [(WINDOWS, "all"), (UNREAD, "those of a look")] {
        let window = windows(NOW, count);
        println!(
            "one service with {count} windows ({which}) on {REPLICAS} replicas, {} KiB each: {:.2} ms \
             of CPU",
            window.len() / 1024,
            parse(&window)
        );
    }
    let judging = judge();
    println!(
        "a look of {SERVICES} rollouts on {REPLICAS} replicas: {judging:.1} ms of CPU (goal: less \
         than {MAX_JUDGING})"
    );
    let is_met = reading < MAX_READING && judging < MAX_JUDGING;
    if !is_met {
        println!("not met");
    }
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The CPU time of parsing a feed of each replica, in milliseconds.
fn parse(feed: &[u8]) -> f64 {
    measure(|| {
        for _ in 0..REPLICAS {
            let feed: Feed = serde_json::from_slice(feed).expect("a feed");
            std::hint::black_box(feed);
        }
    })
}

/// The mean CPU time of some rounds, in milliseconds.
fn measure(mut work: impl FnMut()) -> f64 {
    let start = processor_time();
    (0..ROUNDS).for_each(|_| work());
    processor_time().saturating_sub(start) as f64 / 1e6 / ROUNDS as f64
}

/// The CPU time of this thread in nanoseconds (`proc(5)`).
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split_whitespace().next().and_then(|first| first.parse().ok()).expect("a number")
}

/// A histogram whose edges are those of latencies from 1 to 16 ms.
fn latency(requests: u64) -> Value {
    let edges = (0..EDGES).map(|edge| (1 << (10 + edge / 16)) * (17 + edge % 16) / 16);
    edges
        .map(|edge| (edge.to_string(), json!(requests / EDGES)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn feed(now: u64, services: &[Value]) -> Vec<u8> {
    let feed = json!({ "version": 1, "start": "0f3c", "startedAt": NOW - 100_000, "now": now,
        "services": services });
    feed.to_string().into_bytes()
}

/// The feed of all services, without windows, of one replica.
fn counts() -> Vec<u8> {
    let variant = |name: String, weight: f64| {
        json!({ "name": name, "label": name, "weight": weight, "requests": 200_000, "errors": 12,
            "responses": { "2xx": 199_000, "4xx": 988, "5xx": 12 }, "failed": 0, "missed": 0,
            "latency": latency(200_000), "retries": 3, "ejections": 0, "inFlight": 4,
            "leftOut": { "forced": 0, "ownReplies": 0, "clientsLeft": {} } })
    };
    let service = |number: usize| {
        let (name, canary) = (format!("service-{number}"), format!("service-{number}-canary"));
        json!({ "environment": "production", "namespace": "shop", "service": name,
            "countedSince": NOW - 100_000, "generation": "12",
            "ranges": [{ "first": 0, "last": 999, "variant": canary }],
            "variants": [variant(name, 90.0), variant(canary, 10.0)] })
    };
    let services: Vec<Value> = (0..SERVICES).map(service).collect();
    feed(NOW, &services)
}

/// The feed of one service with its last windows, of one replica: 2,000 people of whom a tenth is on
/// the canary.
fn windows(now: u64, count: u64) -> Vec<u8> {
    let people = |range: std::ops::Range<usize>| {
        let mut bits = vec![0_u8; 1_250];
        range.for_each(|bucket| bits[bucket / 8] |= 1 << (bucket % 8));
        STANDARD.encode(bits)
    };
    let tally = |requests: u64, seen: String| {
        json!({ "requests": requests, "errors": 0, "latency": latency(requests), "clientsLeft": {},
            "seen": seen })
    };
    let dealt = json!({ "requests": 0, "errors": 0, "latency": {}, "clientsLeft": {} });
    let window = |back: u64| {
        json!({ "start": now / 10 * 10 - back * 10, "generation": "12", "variants": [
            { "name": "service-0-canary", "sticky": tally(400, people(0..200)), "dealt": dealt },
            { "name": "service-0", "sticky": tally(3_600, people(1_000..2_800)), "dealt": dealt },
        ] })
    };
    let service = json!({ "environment": "production", "namespace": "shop", "service": "service-0",
        "countedSince": NOW - 100_000, "generation": "12", "variants": [],
        "windows": (0..count).map(window).collect::<Vec<_>>() });
    feed(now, &[service])
}

/// The CPU time of one look of all rollouts, in milliseconds: what all replicas counted is added up,
/// judged, and decided. All have the same traffic.
fn judge() -> f64 {
    let settings = Settings::default();
    let read = |now: u64| -> Vec<Reading> {
        let feed: Feed = serde_json::from_slice(&windows(now, UNREAD)).expect("a feed");
        let replicas = (0..REPLICAS).map(|replica| format!("gateway-{replica}"));
        replicas.map(|replica| Reading { replica, feed: Ok(feed.clone()) }).collect()
    };
    let (first, now) = (read(NOW), Time(NOW * 1000));
    let rollout = |_| {
        let [name, canary] = ["service-0", "service-0-canary"].map(str::to_owned);
        let service = Service { namespace: "shop".to_owned(), name, canary };
        let mut watch = Watch::new(service, vec![Measure::Errors]);
        watch.read(&first, 0, NOW);
        (watch, Trial::new(settings.plan(false)), Rollout::new(settings.clone(), now))
    };
    let mut rollouts: Vec<_> = (0..SERVICES).map(rollout).collect();
    let mut passed = 0;
    for round in 1..=ROUNDS as u64 {
        let now = NOW + round * 10;
        let readings = read(now);
        let start = processor_time();
        for (watch, trial, rollout) in &mut rollouts {
            let (gateway, readout) = watch.read(&readings, 0, now);
            let [(_, look)] = readout.looks.as_slice() else { panic!("one look: {readout:?}") };
            let report = trial.look(look);
            let (at, verdict, sentence) = (Time(now * 1000), report.verdict, report.sentence);
            let judged = Some(Judged { at, verdict, sentence });
            let seen = Observation { gateway, judged, ..Observation::unknown() };
            *rollout = step(rollout.clone(), &seen, at).0;
        }
        passed += processor_time().saturating_sub(start);
    }
    passed as f64 / 1e6 / ROUNDS as f64
}
