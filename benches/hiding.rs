//! `make bench-hiding`: can a clock tell a host that exists from one that was never configured?
//!
//! Pairs of requests, one to each host, in random order on one kept connection, each timed from its
//! first octet to the answer's last. Printed are the difference of the medians, and the area under
//! the curve (AUC) of the best guess by time: 0.5 is guessing blindly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by a panic"
)]
#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]
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
/// A host with short lists of grants and no path rules.
const SHORT: Pair =
    Pair { exists: "web--closed.apps.test", absent: "web--absent.apps.test", path: "/" };
/// A host whose lists of grants are as long as they may be.
const GRANTS: Pair =
    Pair { exists: "lists--closed.apps.test", absent: "lists--absent.apps.test", path: "/" };
/// A host with a thousand path rules, and a path of none of them.
const PATHS: Pair = Pair {
    exists: "paths--closed.apps.test",
    absent: "paths--absent.apps.test",
    path: "/p1/a/b/c/d/e/f/g/h",
};
/// How many groups the user has who is granted none of the long lists.
const GROUPS: usize = 512;
/// The longest value of an annotation, in octets.
const LONGEST: usize = 8 * 1024;
/// What is asked of the outcome.
const MOST_NANOSECONDS: f64 = 1000.0;
const AUC: std::ops::RangeInclusive<f64> = 0.49..=0.51;

/// A host that exists, a name of the same length that was never configured, and a path.
#[derive(Clone, Copy)]
struct Pair {
    exists: &'static str,
    absent: &'static str,
    path: &'static str,
}

/// A kind of request: its name, its hosts, and its header line by the request's number.
type Kind = (&'static str, Pair, Box<dyn Fn(usize) -> String>);

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
    let mut claims = other.claims();
    claims["groups"] = (0..GROUPS).map(|number| json!(format!("team-{number}"))).collect();
    let crowd = other.token(&other.header(), &claims);
    let bearer = |token: String| {
        Box::new(move |_| format!("Authorization: Bearer {token}\r\n"))
            as Box<dyn Fn(usize) -> String>
    };
    let kinds: [Kind; 8] = [
        ("no credential", SHORT, Box::new(|_| String::new())),
        ("bad signature", SHORT, Box::new(bad)),
        ("expired", SHORT, bearer(expired)),
        ("other environment", SHORT, bearer(elsewhere.clone())),
        ("no credential, long grants", GRANTS, Box::new(|_| String::new())),
        ("other environment, long grants", GRANTS, bearer(elsewhere)),
        ("512 groups, long grants", GRANTS, bearer(crowd)),
        ("no credential, 1,000 paths", PATHS, Box::new(|_| String::new())),
    ];
    println!("{PAIRS} interleaved pairs each, HTTP/1.1 on one connection\n");
    println!(
        "| credentials | exists, median µs | absent, median µs | difference, ns | AUC |\n| --- | \
         --- | --- | --- | --- |"
    );
    let mut well = true;
    for (kind, pair, credentials) in &kinds {
        let (mut exists, mut absent) = measure(address, *pair, credentials);
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
    let long = |item: &dyn Fn(usize) -> String| {
        let mut list = item(0);
        for next in (1..).map(item).take_while(|next| next.len() < LONGEST) {
            if list.len() + 1 + next.len() > LONGEST {
                break;
            }
            list = format!("{list},{next}");
        }
        list
    };
    let grants = json!({
        "portcullis.dev/allow-apps": long(&|number| format!("a{number}")),
        "portcullis.dev/allow-users": long(&|number| format!("u{number}@example.com")),
        "portcullis.dev/allow-groups": long(&|number| format!("g{number}*")),
    });
    let paths: Vec<String> = (0..1000).map(|number| format!("/p{number}")).collect();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "closed", "labels": { "portcullis.dev/environment": "closed" }, "annotations": annotations } });
    let mut items = vec![namespace];
    items.extend(service("web", &json!({})));
    items.extend(service("lists", &grants));
    items.extend(service("paths", &json!({ "portcullis.dev/paths": paths.join(",") })));
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// A Service with these annotations, and its pod, which is not there.
fn service(name: &str, annotations: &Value) -> [Value; 2] {
    [
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "closed", "annotations": annotations }, "spec": { "ports": [{ "name": "http", "port": 80 }] } }),
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": name, "namespace": "closed", "labels": { "kubernetes.io/service-name": name } },
          "addressType": "IPv4", "ports": [{ "name": "http", "port": 9 }], "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": true } }] }),
    ]
}

/// The issuer's keys are known once a good token leads to the pod, which is not there: 502.
fn await_keys(address: SocketAddr, token: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut client = Client::new(address);
    while client.ask(SHORT.exists, SHORT.path, &format!("Authorization: Bearer {token}\r\n")).1
        == 404
    {
        assert!(Instant::now() < deadline, "the issuer's keys are not known");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Nanoseconds of each request to the host that exists, and to the one that does not.
fn measure(
    address: SocketAddr,
    pair: Pair,
    credentials: &dyn Fn(usize) -> String,
) -> (Vec<f64>, Vec<f64>) {
    let mut client = Client::new(address);
    let random = RandomState::new();
    let (mut exists, mut absent) = (Vec::with_capacity(PAIRS), Vec::with_capacity(PAIRS));
    for number in 0..WARM_UP + PAIRS {
        let first = random.hash_one(number) & 1 == 0;
        for (place, is_first) in [first, !first].into_iter().enumerate() {
            let host = if is_first { pair.exists } else { pair.absent };
            let (time, status) = client.ask(host, pair.path, &credentials(number * 2 + place));
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
    fn ask(&mut self, host: &str, path: &str, credentials: &str) -> (f64, u16) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{credentials}\r\n");
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
