//! The requests of made-up people, each of whom keeps a variant, over HTTP/1.1, HTTP/2 and gRPC.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::StatusCode;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis_echo::grpc::{Client, EchoRequest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::PATIENCE;
use super::door::Door;
use crate::harness::{Gateway, client};

/// Made-up people, each of whom keeps a variant.
const PEOPLE: usize = 2_000;
/// The most failures that are kept in words.
const FAILURES: usize = 20;

/// What the clients speak.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    Http1,
    Http2,
    Grpc,
}

/// Requests of all people over one protocol, until it is dropped.
pub(super) struct Load {
    protocol: Protocol,
    counts: Arc<Counts>,
    _clients: JoinSet<()>,
}

/// What became of the requests.
struct Counts {
    host: String,
    pause: Duration,
    answered: AtomicU64,
    /// Responses that are not successful.
    errors: AtomicU64,
    /// Requests without a response.
    lost: AtomicU64,
    /// Responses of a canary.
    canary: AtomicU64,
    /// Whether no replica of the gateway sends anybody to the canary any more.
    is_withdrawn: AtomicBool,
    /// Responses of a canary, and errors, to requests that were sent after that.
    late: AtomicU64,
    /// The first of those that failed, in words.
    failures: Mutex<Vec<String>>,
    began: Instant,
    /// Whose turn it is.
    turn: AtomicUsize,
    /// How often each person has changed sides, to the canary and back: even on the stable side.
    changes: Vec<AtomicUsize>,
}

/// The next request.
struct Turn {
    person: usize,
    was_withdrawn: bool,
}

// === impl Protocol ===

impl Protocol {
    /// Sends requests over one connection, until one has no response or the gateway closes it.
    async fn requests(self, door: &Door, counts: &Counts) -> Result<(), String> {
        match self {
            Self::Http1 => counts.http1(door.http()).await,
            Self::Http2 => counts.http2(door.process()).await,
            Self::Grpc => counts.grpc(door.process()).await,
        }
    }
}

// === impl Load ===

impl Load {
    /// Begins with this number of clients, by turns at each of the replicas. Each pauses for as long
    /// after a response.
    pub(super) fn start(
        doors: &[Door],
        host: &str,
        protocol: Protocol,
        clients: usize,
        pause: Duration,
    ) -> Self {
        let counts = Arc::new(Counts {
            host: host.to_owned(),
            pause,
            answered: AtomicU64::default(),
            errors: AtomicU64::default(),
            lost: AtomicU64::default(),
            canary: AtomicU64::default(),
            is_withdrawn: AtomicBool::default(),
            late: AtomicU64::default(),
            failures: Mutex::default(),
            began: Instant::now(),
            turn: AtomicUsize::default(),
            changes: (0..PEOPLE).map(|_| AtomicUsize::default()).collect(),
        });
        let mut tasks = JoinSet::new();
        for door in doors.iter().cycle().take(clients) {
            let (door, counts) = (door.clone(), Arc::clone(&counts));
            tasks.spawn(async move {
                loop {
                    if let Err(error) = protocol.requests(&door, &counts).await {
                        counts.lost.fetch_add(1, Ordering::Relaxed);
                        counts.tell(&error);
                    }
                }
            });
        }
        Self { protocol, counts, _clients: tasks }
    }

    pub(super) fn answered(&self) -> u64 {
        self.counts.answered.load(Ordering::Relaxed)
    }

    /// Requests that were not successful, and those without a response.
    pub(super) fn failed(&self) -> u64 {
        let Counts { errors, lost, .. } = &*self.counts;
        errors.load(Ordering::Relaxed) + lost.load(Ordering::Relaxed)
    }

    /// Requests without a response.
    pub(super) fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Responses of a canary.
    pub(super) fn of_canary(&self) -> u64 {
        self.counts.canary.load(Ordering::Relaxed)
    }

    /// Waits for so many more responses.
    pub(super) async fn passes(&self, responses: u64) {
        let (until, began) = (self.answered() + responses, Instant::now());
        while self.answered() < until {
            assert!(began.elapsed() < PATIENCE, "the load is too slow: {self}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// From now on, nobody is sent to the canary.
    pub(super) fn withdraw(&self) {
        self.counts.is_withdrawn.store(true, Ordering::Relaxed);
    }

    /// Checks that each person went to the canary once at most, and back once at most, and that no
    /// request that was sent after it was withdrawn went to it, or failed.
    pub(super) fn check_sides(&self) {
        let most = self.counts.changes.iter().map(|changes| changes.load(Ordering::Relaxed)).max();
        assert!(most.is_none_or(|most| most <= 2), "a person changed sides {most:?} times: {self}");
        assert_eq!(self.counts.late.load(Ordering::Relaxed), 0, "after it was withdrawn: {self}");
    }

    /// How many people have been on the canary's side.
    pub(super) fn people_on_canary(&self) -> usize {
        let changes = self.counts.changes.iter();
        changes.filter(|changes| changes.load(Ordering::Relaxed) > 0).count()
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: of {} requests, {} by the canary for {} people, {} had an error, and {} no response {:?}",
            self.protocol,
            self.answered(),
            self.of_canary(),
            self.people_on_canary(),
            self.counts.errors.load(Ordering::Relaxed),
            self.lost(),
            self.counts.failures.lock().expect("no panic with the lock"),
        )
    }
}

// === impl Counts ===

impl Counts {
    fn next(&self) -> Turn {
        let person = self.turn.fetch_add(1, Ordering::Relaxed) % PEOPLE;
        Turn { person, was_withdrawn: self.is_withdrawn.load(Ordering::Relaxed) }
    }

    /// Counts the response of a pod; an error is one that is not successful.
    async fn count(&self, turn: &Turn, pod: Result<String, String>) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        match pod {
            Err(error) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                self.late.fetch_add(u64::from(turn.was_withdrawn), Ordering::Relaxed);
                self.tell(&error);
            }
            Ok(pod) => self.see(turn, pod.starts_with("web-canary-")),
        }
        tokio::time::sleep(self.pause).await;
    }

    fn tell(&self, failure: &str) {
        let mut failures = self.failures.lock().expect("no panic with the lock");
        if failures.len() < FAILURES {
            failures.push(format!("{:.1} s: {failure}", self.began.elapsed().as_secs_f64()));
        }
    }

    fn see(&self, turn: &Turn, is_canary: bool) {
        // Nobody has two requests under way: there are more people than clients.
        let changes = &self.changes[turn.person];
        let was_canary = !changes.load(Ordering::Relaxed).is_multiple_of(2);
        if is_canary != was_canary {
            changes.fetch_add(1, Ordering::Relaxed);
        }
        if is_canary {
            self.canary.fetch_add(1, Ordering::Relaxed);
            self.late.fetch_add(u64::from(turn.was_withdrawn), Ordering::Relaxed);
        }
    }

    async fn http1(&self, address: SocketAddr) -> Result<(), String> {
        let connection = TcpStream::connect(address).await.map_err(said)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(connection)).await.map_err(said)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        loop {
            let turn = self.next();
            let request = hyper::Request::get("/whoami")
                .header("host", &self.host)
                .header("x-person", turn.name());
            let request = request.body(Empty::<Bytes>::new()).map_err(said)?;
            sender.ready().await.map_err(said)?;
            let response = sender.send_request(request).await.map_err(said)?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(said)?.to_bytes();
            self.count(&turn, pod(status, &body)).await;
        }
    }

    async fn http2(&self, gateway: &Gateway) -> Result<(), String> {
        let mut sender = client::http2(gateway, &self.host).await;
        loop {
            // A connection that the gateway has closed between two requests is opened anew.
            let Ok(ready) = sender.ready().await else { return Ok(()) };
            sender = ready;
            let turn = self.next();
            let request = hyper::Request::get(format!("https://{}/whoami", self.host))
                .header("x-person", turn.name());
            let request = request.body(()).map_err(said)?;
            let (response, _) = sender.send_request(request, true).map_err(said)?;
            let response = response.await.map_err(said)?;
            let (status, mut incoming, mut body) =
                (response.status(), response.into_body(), Vec::new());
            while let Some(data) = incoming.data().await {
                let data = data.map_err(said)?;
                let _ = incoming.flow_control().release_capacity(data.len());
                body.extend_from_slice(&data);
            }
            self.count(&turn, pod(status, &body)).await;
        }
    }

    async fn grpc(&self, gateway: &Gateway) -> Result<(), String> {
        let mut client = Client::new(client::grpc(gateway, &self.host).await);
        loop {
            let turn = self.next();
            let mut call = tonic::Request::new(EchoRequest::new("hello"));
            let person = turn.name().parse().expect("a value of metadata");
            call.metadata_mut().insert("x-person", person);
            let answer = client.unary(call).await;
            let pod = answer.map(|answer| answer.into_inner().pod);
            self.count(&turn, pod.map_err(said)).await;
        }
    }
}

/// The pod of a successful response to `/whoami`.
fn pod(status: StatusCode, body: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(body).trim().to_owned();
    if status == StatusCode::OK { Ok(text) } else { Err(format!("{status}: {text}")) }
}

fn said(error: impl fmt::Display) -> String {
    error.to_string()
}

// === impl Turn ===

impl Turn {
    fn name(&self) -> String {
        format!("person-{}", self.person)
    }
}
