//! `make bench-hiding`: can a clock tell a host that exists from one that was never configured?
//!
//! Pairs of requests, one to each host, in random order on one kept connection, each timed from its
//! first octet to the answer's last. Told are the difference of the medians, and the area under the
//! curve (AUC) of the best guess by time: 0.5 is guessing blindly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by a panic"
)]
#![allow(clippy::print_stdout, reason = "a bench tells on standard output what it measured")]
#![allow(clippy::disallowed_methods, reason = "it has a thread of its own to wait on")]

#[path = "../tests/e2e/access/issuer.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod issuer;

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::issuer::{Issuer, encoded, now};

const PAIRS: usize = 20_000;
const WARM_UP: usize = 2_000;
const EXISTS: &str = "web--closed.apps.test";
const ABSENT: &str = "web--absent.apps.test";
/// What is asked of the outcome.
const MOST_NANOSECONDS: f64 = 1000.0;
const AUC: std::ops::RangeInclusive<f64> = 0.49..=0.51;

/// A kind of credentials: its name, and the header line of a request by the request's number.
type Kind = (&'static str, Box<dyn Fn(usize) -> String>);

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (issuer, other) =
        runtime.block_on(async { (Issuer::start("key").await, Issuer::start("other").await) });
    let folder = tempfile::tempdir().expect("a folder");
    let (_gateway, address) = start(folder.path(), &issuer, &other);
    let good = issuer.token(&issuer.header(), &issuer.claims());
    await_keys(address, &good);

    let mut expired = issuer.claims();
    expired["exp"] = json!(now() - 3600);
    let expired = issuer.token(&issuer.header(), &expired);
    let elsewhere = other.token(&other.header(), &other.claims());
    let unsigned = good.rsplit_once('.').expect("three parts").0.to_owned();
    let random = RandomState::new();
    // A signature of its own each time, so that none is remembered.
    let bad = move |number: usize| {
        let octets: Vec<u8> =
            (0..8).flat_map(|part: u64| random.hash_one((number, part)).to_be_bytes()).collect();
        format!("Authorization: Bearer {unsigned}.{}\r\n", encoded(octets))
    };
    let kinds: [Kind; 4] = [
        ("no credential", Box::new(|_| String::new())),
        ("bad signature", Box::new(bad)),
        ("expired", Box::new(move |_| format!("Authorization: Bearer {expired}\r\n"))),
        ("other environment", Box::new(move |_| format!("Authorization: Bearer {elsewhere}\r\n"))),
    ];
    println!("{PAIRS} interleaved pairs each, HTTP/1.1 on one connection\n");
    println!(
        "| credentials | exists, median µs | absent, median µs | difference, ns | AUC |\n| --- | \
         --- | --- | --- | --- |"
    );
    let mut well = true;
    for (kind, credentials) in &kinds {
        let (mut exists, mut absent) = measure(address, credentials);
        let auc = auc(&exists, &absent);
        let (one, two) = (median(&mut exists), median(&mut absent));
        well &= (one - two).abs() < MOST_NANOSECONDS && AUC.contains(&auc);
        println!(
            "| {kind} | {:.2} | {:.2} | {:+.0} | {auc:.4} |",
            one / 1000.0,
            two / 1000.0,
            one - two
        );
    }
    println!(
        "\nasked: a difference below {MOST_NANOSECONDS} ns, and an AUC from {} to {}: {}",
        AUC.start(),
        AUC.end(),
        if well { "met" } else { "MISSED" }
    );
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn start(folder: &Path, issuer: &Issuer, other: &Issuer) -> (Gateway, SocketAddr) {
    let manifests = folder.join("manifests");
    std::fs::create_dir(&manifests).expect("a folder");
    std::fs::write(manifests.join("all.json"), manifest().to_string()).expect("manifests");
    let settings = json!({
        "zone": "apps.test",
        "source": { "directory": manifests },
        "listeners": { "http": { "address": "127.0.0.1:0", "mode": "serve" }, "https": { "address": null } },
        "probes": { "address": null },
        "telemetry": { "address": null },
        "admin": { "address": null },
        "accessLog": { "format": "none" },
        "workers": 1,
        "access": { "issuers": [issuer.settings("corp", ""), other.settings("other", "other:")] },
    });
    let (configuration, ready) = (folder.join("portcullis.yaml"), folder.join("ready.json"));
    std::fs::write(&configuration, settings.to_string()).expect("a configuration");
    let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["gateway", "--config"])
        .arg(&configuration)
        .arg("--ready-file")
        .arg(&ready)
        .stderr(Stdio::null())
        .spawn()
        .expect("the gateway starts");
    let gateway = Gateway(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(text) = std::fs::read_to_string(&ready) {
            let addresses: Value = serde_json::from_str(&text).expect("addresses");
            return (
                gateway,
                addresses["http"]
                    .as_str()
                    .and_then(|address| address.parse().ok())
                    .expect("an address"),
            );
        }
        assert!(Instant::now() < deadline, "the gateway is not ready");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn manifest() -> Value {
    let annotations = json!({
        "portcullis.dev/expose": "all", "portcullis.dev/require": "app+user",
        "portcullis.dev/allow-apps": "shop", "portcullis.dev/allow-users": "*@example.com", "portcullis.dev/allow-groups": "ops",
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "closed", "labels": { "portcullis.dev/environment": "closed" }, "annotations": annotations } },
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "closed" }, "spec": { "ports": [{ "name": "http", "port": 80 }] } },
        { "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "web", "namespace": "closed", "labels": { "kubernetes.io/service-name": "web" } },
          "addressType": "IPv4", "ports": [{ "name": "http", "port": 9 }], "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": true } }] },
    ]})
}

/// The issuer's keys are known once a good token leads to the pod, which is not there: 502.
fn await_keys(address: SocketAddr, token: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut client = Client::new(address);
    while client.ask(EXISTS, &format!("Authorization: Bearer {token}\r\n")).1 == 404 {
        assert!(Instant::now() < deadline, "the issuer's keys are not known");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Nanoseconds of each request to the host that exists, and to the one that does not.
fn measure(address: SocketAddr, credentials: &dyn Fn(usize) -> String) -> (Vec<f64>, Vec<f64>) {
    let mut client = Client::new(address);
    let random = RandomState::new();
    let (mut exists, mut absent) = (Vec::with_capacity(PAIRS), Vec::with_capacity(PAIRS));
    for number in 0..WARM_UP + PAIRS {
        let first = random.hash_one(number) & 1 == 0;
        for (place, is_first) in [first, !first].into_iter().enumerate() {
            let host = if is_first { EXISTS } else { ABSENT };
            let (time, status) = client.ask(host, &credentials(number * 2 + place));
            assert_eq!(status, 404);
            if number >= WARM_UP {
                if is_first { exists.push(time) } else { absent.push(time) }
            }
        }
    }
    (exists, absent)
}

struct Client {
    stream: TcpStream,
    buffer: [u8; 4096],
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, buffer: [0; 4096] }
    }

    /// How long the answer took, and its status.
    fn ask(&mut self, host: &str, credentials: &str) -> (f64, u16) {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{credentials}\r\n");
        let start = Instant::now();
        self.stream.write_all(request.as_bytes()).expect("it can be written to");
        let mut length = 0;
        loop {
            length += self.stream.read(&mut self.buffer[length..]).expect("it can be read from");
            let text = &self.buffer[..length];
            // Each of our answers ends with its request id and a line feed.
            if text.ends_with(b"\n")
                && text.windows(4).any(|window| window == b"\r\n\r\n")
                && !text.ends_with(b"\r\n\r\n")
            {
                let time = start.elapsed().as_nanos() as f64;
                let status = std::str::from_utf8(&text[9..12])
                    .ok()
                    .and_then(|code| code.parse().ok())
                    .unwrap_or(0);
                return (time, status);
            }
        }
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The probability that a request to the host that exists takes longer than one to the other, ties
/// counted half (Mann and Whitney's U).
fn auc(exists: &[f64], absent: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = exists
        .iter()
        .map(|time| (*time, true))
        .chain(absent.iter().map(|time| (*time, false)))
        .collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut ranks, mut start) = (0.0, 0);
    while start < all.len() {
        let end = start + all[start..].iter().take_while(|(time, _)| *time == all[start].0).count();
        let rank = (start + end + 1) as f64 / 2.0;
        ranks += rank * all[start..end].iter().filter(|(_, is_first)| *is_first).count() as f64;
        start = end;
    }
    let (n, m) = (exists.len() as f64, absent.len() as f64);
    (ranks - n * (n + 1.0) / 2.0) / (n * m)
}
