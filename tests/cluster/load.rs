//! Steady load on one URL, bounded in connections and time, that counts what was answered and keeps
//! what was not.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use tokio::task::JoinSet;

use crate::client::{Connection, Failure, Version, WHO};
use crate::gateway::Gateway;

/// The longest that a load runs, whatever the test does.
const LONGEST: Duration = Duration::from_secs(1200);
/// The number of failures that are kept with their reason.
const KEPT: usize = 50;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// `GET`s that return the pod's name.
    Get(Version),
    /// `POST`s that the pod records, each with a number of its own.
    Record(Version),
    /// Unary gRPC calls.
    Unary,
    /// gRPC calls with a stream of a few messages each way.
    Streams,
    /// WebSockets over HTTP/1.1: a handshake, a few messages, and the closing handshake.
    WebSockets,
}

/// What is asked, how often at once.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) host: String,
    pub(crate) work: Work,
    pub(crate) connections: usize,
    /// Requests at once on each connection; 1 on HTTP/1.1 and for WebSockets.
    pub(crate) streams: usize,
    /// How long each stream waits between requests.
    pub(crate) pause: Duration,
}

/// A load under way.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// What became of the requests.
#[derive(Debug, Default, Clone)]
pub(crate) struct Report {
    /// Requests that got 200.
    pub(crate) answered: u64,
    /// Requests that got anything else, or nothing.
    pub(crate) failed: u64,
    /// When, since the load began, and why the first of them failed.
    pub(crate) failures: Vec<(Duration, String)>,
    /// Answers by pod.
    pub(crate) pods: BTreeMap<String, u64>,
    /// Connections that the gateway closed between requests, and that were opened anew.
    pub(crate) reconnected: u64,
    /// Connections that could not be opened. No request was sent; other tests than those that kill
    /// the gateway mind.
    pub(crate) unconnected: u64,
    /// How long answered requests took, in microseconds: how many by their number of bits times 8,
    /// plus the next three bits.
    times: BTreeMap<u32, u64>,
    /// The numbers of the `POST`s that were answered with success.
    pub(crate) recorded: BTreeSet<u64>,
}

struct Shared {
    gateway: &'static Gateway,
    plan: Plan,
    began: Instant,
    stop: AtomicBool,
    answered: AtomicU64,
    /// The number of the next `POST`.
    next: AtomicU64,
    report: Mutex<Report>,
}

// === impl Plan ===

impl Plan {
    /// A little of everything: HTTP/2, a few requests at once, some hundreds a second.
    pub(crate) fn light(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            work: Work::Get(Version::Http2),
            connections: 2,
            streams: 2,
            pause: Duration::from_millis(5),
        }
    }
}

// === impl Load ===

impl Load {
    /// Begins the load, through the node port.
    pub(crate) fn start(gateway: &'static Gateway, plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            gateway,
            plan,
            began: Instant::now(),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            next: AtomicU64::new(0),
            report: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..shared.plan.connections {
            tasks.spawn(keep_connected(Arc::clone(&shared)));
        }
        Self { shared, tasks }
    }

    /// What it asks.
    pub(crate) fn work(&self) -> Work {
        self.shared.plan.work
    }

    /// Requests answered with 200 so far.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Whether it goes on: it ends by itself after a while, whatever became of it.
    pub(crate) fn goes_on(&self) -> bool {
        self.shared.goes_on()
    }

    /// Waits until `more` further requests were answered; a failed one does not count.
    pub(crate) async fn pass(&self, more: u64) {
        let mut last = (self.answered(), Instant::now());
        let goal = last.0 + more;
        while last.0 < goal {
            let stands_still = last.1.elapsed() > Duration::from_secs(60);
            assert!(!stands_still, "the load stands still: {:?}", self.report());
            tokio::time::sleep(Duration::from_millis(5)).await;
            let answered = self.answered();
            if answered > last.0 {
                last = (answered, Instant::now());
            }
        }
    }

    /// What became of the requests so far.
    pub(crate) fn report(&self) -> Report {
        let mut report = self.shared.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report.answered = self.answered();
        report
    }

    /// Lets what is under way finish, and tells what became of it all.
    pub(crate) async fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.report()
    }
}

/// One connection after the other, until the load ends.
async fn keep_connected(shared: Arc<Shared>) {
    let mut is_first = true;
    while shared.goes_on() {
        if !std::mem::take(&mut is_first) {
            shared.lock().reconnected += 1;
        }
        let used = match shared.plan.work {
            Work::Get(version) | Work::Record(version) => connect(&shared, version).await,
            Work::Unary | Work::Streams => calls::grpc(&shared).await,
            Work::WebSockets => calls::web_socket(&shared).await,
        };
        if let Err(error) = used {
            shared.lock().unconnected += 1;
            shared.keep(format!("connecting: {error}"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Opens a connection, and asks on it until it ends.
///
/// # Errors
/// The connection could not be opened.
async fn connect(shared: &Arc<Shared>, version: Version) -> Result<(), Failure> {
    let Plan { host, .. } = &shared.plan;
    let gateway = shared.gateway;
    let connection = Connection::open(gateway, gateway.https, version, host).await?;
    let mut streams = JoinSet::new();
    for _ in 1..shared.plan.streams {
        if let Some(stream) = connection.another_stream() {
            streams.spawn(ask(Arc::clone(shared), stream));
        }
    }
    ask(Arc::clone(shared), connection).await;
    while streams.join_next().await.is_some() {}
    Ok(())
}

async fn ask(shared: Arc<Shared>, mut connection: Connection) {
    while shared.goes_on() && !connection.is_closed() {
        let asked = Instant::now();
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let answer = match shared.plan.work {
            Work::Record(_) => connection.request(Method::POST, &format!("/record/{number}")).await,
            _ => connection.get(WHO).await,
        };
        match answer {
            Ok(answer) if answer.status == 200 => {
                shared.succeed(answer.pod(), asked);
                if let Work::Record(_) = shared.plan.work {
                    shared.lock().recorded.insert(number);
                }
            }
            Ok(answer) => {
                shared.fail(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)))
            }
            Err(error) if was_never_processed(&*error) => return,
            Err(error) => return shared.fail(describe(&*error)),
        }
        shared.pause().await;
    }
}

/// Whether the gateway certainly did nothing with the request: the connection was closed before it
/// was written, or HTTP/2 says so (RFC 9113 §8.7). Any client sends it again on its next
/// connection.
fn was_never_processed(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|error| {
        let closed = error
            .downcast_ref::<hyper::Error>()
            .is_some_and(|error| error.is_canceled() || error.is_closed());
        let refused = error.downcast_ref::<h2::Error>().is_some_and(|error| {
            (error.is_go_away()
                && error.is_remote()
                && error.reason() == Some(h2::Reason::NO_ERROR))
                || error.reason() == Some(h2::Reason::REFUSED_STREAM)
        });
        closed || refused
    })
}

/// An error and what caused it.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'e (dyn Error + 'static) = *error;
        error.source()
    })
}

fn describe(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The step of a time: eight for each doubling.
fn step(time: Duration) -> u32 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(8);
    let power = micros.ilog2();
    power * 8 + u32::try_from(micros >> (power - 3)).unwrap_or(8) - 8
}

/// The end of a step.
fn longest(step: u32) -> Duration {
    Duration::from_micros((u64::from(step % 8) + 9) << (step / 8 - 3))
}

// === impl Shared ===

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.began.elapsed() < LONGEST
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeed(&self, pod: String, asked: Instant) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let mut report = self.lock();
        *report.pods.entry(pod).or_default() += 1;
        *report.times.entry(step(asked.elapsed())).or_default() += 1;
    }

    fn fail(&self, reason: String) {
        self.lock().failed += 1;
        self.keep(reason);
    }

    fn keep(&self, reason: String) {
        let mut report = self.lock();
        if report.failures.len() < KEPT {
            report.failures.push((self.began.elapsed(), reason));
        }
    }

    async fn pause(&self) {
        if !self.plan.pause.is_zero() {
            tokio::time::sleep(self.plan.pause).await;
        }
    }
}

// === impl Report ===

impl Report {
    /// The time that so many percent of the answered requests took at most, to an eighth.
    pub(crate) fn percentile(&self, percent: u64) -> Duration {
        let all: u64 = self.times.values().sum();
        let mut left = (all * percent).div_ceil(100);
        let found = self.times.iter().find(|(_, count)| {
            let is_here = left <= **count;
            left = left.saturating_sub(**count);
            is_here
        });
        found.map_or(Duration::ZERO, |(step, _)| longest(*step))
    }

    /// Panics when any request failed, or a connection could not be opened.
    pub(crate) fn assert_flawless(&self) {
        assert_eq!(
            (self.failed, self.unconnected),
            (0, 0),
            "failed requests of {}, and failed connections: {:#?}",
            self.answered + self.failed,
            self.failures
        );
    }
}
