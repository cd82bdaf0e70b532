//! Steady load on one URL, bounded in connections and time, that counts what was answered and keeps
//! what was not.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::client::{Answer, Connection, Failure, Version, WHO};
use crate::gateway::Gateway;

/// The longest that a load runs, whatever the test does.
const LONGEST: Duration = Duration::from_secs(1200);
/// The number of failures that are kept with their reason.
const KEPT: usize = 50;

/// What is asked, how often at once.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) host: String,
    pub(crate) version: Version,
    pub(crate) connections: usize,
    /// Requests at once on each connection; 1 on HTTP/1.1.
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
}

struct Shared {
    gateway: &'static Gateway,
    plan: Plan,
    began: Instant,
    stop: AtomicBool,
    answered: AtomicU64,
    report: Mutex<Report>,
}

// === impl Plan ===

impl Plan {
    /// A little of everything: HTTP/2, a few requests at once, some hundreds a second.
    pub(crate) fn light(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            version: Version::Http2,
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
            report: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..shared.plan.connections {
            tasks.spawn(keep_connected(Arc::clone(&shared)));
        }
        Self { shared, tasks }
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
        let goal = self.answered() + more;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.answered() < goal {
            assert!(Instant::now() < deadline, "the load stands still: {:?}", self.report());
            tokio::time::sleep(Duration::from_millis(5)).await;
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
        match Connection::open(
            shared.gateway,
            shared.gateway.https,
            shared.plan.version,
            &shared.plan.host,
        )
        .await
        {
            Ok(connection) => use_up(&shared, connection).await,
            Err(error) => {
                shared.fail(format!("connecting: {error}"));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Asks on one connection, by as many streams as planned, until it ends.
async fn use_up(shared: &Arc<Shared>, connection: Connection) {
    let mut streams = JoinSet::new();
    for _ in 1..shared.plan.streams {
        if let Some(stream) = connection.another_stream() {
            streams.spawn(ask(Arc::clone(shared), stream));
        }
    }
    ask(Arc::clone(shared), connection).await;
    while streams.join_next().await.is_some() {}
}

async fn ask(shared: Arc<Shared>, mut connection: Connection) {
    while shared.goes_on() {
        if connection.is_closed() {
            return;
        }
        match connection.get(WHO).await {
            Ok(answer) if answer.status == 200 => shared.succeed(&answer),
            Ok(answer) => {
                shared.fail(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)))
            }
            Err(error) if was_never_processed(&error) => return,
            Err(error) => {
                shared.fail(describe(&error));
                return;
            }
        }
        if !shared.plan.pause.is_zero() {
            tokio::time::sleep(shared.plan.pause).await;
        }
    }
}

/// Whether the gateway certainly did nothing with the request: the connection was closed before it
/// was written, or HTTP/2 says so (RFC 9113 §8.7). Any client sends it again on its next
/// connection.
fn was_never_processed(error: &Failure) -> bool {
    let Some(error) = error.downcast_ref::<hyper::Error>() else { return false };
    let refused =
        error.source().and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(|error| {
            (error.is_go_away()
                && error.is_remote()
                && error.reason() == Some(h2::Reason::NO_ERROR))
                || error.reason() == Some(h2::Reason::REFUSED_STREAM)
        });
    error.is_canceled() || error.is_closed() || refused
}

fn describe(error: &Failure) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

// === impl Shared ===

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.began.elapsed() < LONGEST
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeed(&self, answer: &Answer) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        *self.lock().pods.entry(answer.pod()).or_default() += 1;
    }

    fn fail(&self, reason: String) {
        let mut report = self.lock();
        report.failed += 1;
        if report.failures.len() < KEPT {
            report.failures.push((self.began.elapsed(), reason));
        }
    }
}

// === impl Report ===

impl Report {
    /// Panics when any request failed.
    pub(crate) fn assert_flawless(&self) {
        assert_eq!(
            self.failed,
            0,
            "of {} requests, {} failed: {:#?}",
            self.answered + self.failed,
            self.failed,
            self.failures
        );
    }
}
