//! Opaque tokens: the effect on callers when their issuer is overloaded,
//! slow, or unreachable.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::{ABSENT, CLOSED, OPEN, SOON, face, world};
use crate::access::issuer::Issuer;
use crate::harness::{Answer, Curl, Echo, Gateway, Raw, Response, echo, eventually, soon};

const TOKEN: &str = "2YotnFZFEjr1zCsicMWpAA";
/// The addresses of the crowd, and of others.
const CROWD: [u8; 4] = [127, 0, 0, 2];
const CALLER: [u8; 4] = [127, 0, 0, 3];
const NEWCOMER: [u8; 4] = [127, 0, 0, 4];

/// A gateway that introspects tokens at its issuer.
struct Stage {
    pod: Echo,
    issuer: Issuer,
    gateway: Gateway,
    _folder: tempfile::TempDir,
}

/// Clients of one address that send a new unknown token with each request.
struct Crowd {
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Response>>>,
}

// === impl Stage ===

impl Stage {
    async fn start(introspection: Value) -> Self {
        let pod = echo("pod-1").await;
        let issuer = Issuer::start("key").await;
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "the-gateways-own-secret").expect("a file");
        let mut settings = issuer.settings("corp", "");
        settings["introspection"] = introspection;
        settings["introspection"]["clientId"] = json!("gateway");
        settings["introspection"]["clientSecretFile"] = json!(secret);
        let gateway = Gateway::of(world(&pod))
            .settings(json!({ "access": { "issuers": [settings] } }))
            .start()
            .await;
        Self { pod, issuer, gateway, _folder: folder }
    }

    /// Makes a token valid for Ann.
    fn vouch(&self, token: &str) {
        let mut answer = self.issuer.claims();
        answer["active"] = json!(true);
        self.issuer.say(token, answer);
    }

    fn call(&self, host: &str, path: &str, token: &str, from: [u8; 4]) -> Curl {
        self.gateway
            .curl(host, path)
            .header(&format!("Authorization: Bearer {token}"))
            .args(["--interface", &IpAddr::from(from).to_string()])
    }

    async fn status(&self, token: &str) -> u16 {
        self.call(CLOSED, "/", token, CALLER).run().await.status
    }

    /// A stream that stays open until it is aborted.
    async fn stream(&self, token: &str) -> JoinHandle<Answer> {
        let before = self.pod.counts().borrow().started;
        let path = "/stream/100000?interval=20ms";
        let stream = tokio::spawn(self.call(CLOSED, path, token, CALLER).run());
        let mut counts = self.pod.counts();
        soon("the stream begins", counts.wait_for(|counts| counts.started > before))
            .await
            .expect("the pod counts");
        stream
    }
}

// === impl Crowd ===

impl Crowd {
    /// Half of the requests are for a host that exists.
    fn of(size: usize, gateway: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = (0..size).map(|client| {
            let host = if client % 2 == 0 { CLOSED } else { ABSENT };
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move {
                let mut connection = Raw::over(connect(CROWD, gateway).await);
                let mut all = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let token = format!("junk-of-client-{client}-number-{}", all.len());
                    connection
                        .send(format!(
                            "GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer \
                             {token}\r\n\r\n"
                        ))
                        .await;
                    all.push(connection.response().await.expect("an answer"));
                    if all.last().is_some_and(|response| response.status == 503) {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
                all
            })
        });
        let clients = clients.collect();
        Self { is_over, clients }
    }

    /// All responses.
    async fn leave(self) -> Vec<Response> {
        self.is_over.store(true, Ordering::Relaxed);
        let all = soon("the crowd leaves", futures::future::join_all(self.clients)).await;
        all.into_iter().flat_map(|client| client.expect("no panic")).collect()
    }
}

async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of the loopback");
    socket.connect(to).await.expect("the gateway accepts connections")
}

#[tokio::test]
async fn an_opaque_token_is_introspected() {
    let stage = Stage::start(json!({})).await;
    assert_eq!(stage.status(TOKEN).await, 404, "the issuer does not know it");
    stage.vouch(TOKEN);
    eventually("the token is believed", || async { stage.status(TOKEN).await == 200 }).await;
    let stream = stage.stream(TOKEN).await;
    stage.issuer.say(TOKEN, json!({ "active": false }));
    let ended = tokio::time::timeout(SOON + Duration::from_secs(3), stream)
        .await
        .expect("the stream ends soon")
        .expect("curl ran");
    assert_ne!(ended.exit, 0, "{ended:?}");
    assert_eq!(stage.status(TOKEN).await, 404);
    let log = stage.gateway.log();
    assert!(!log.contains("the-gateways-own-secret") && !log.contains(TOKEN));
}

#[tokio::test]
async fn a_flood_of_unknown_tokens_evicts_no_known_caller() {
    const LASTING: Duration = Duration::from_secs(12);
    let stage = Stage::start(json!({})).await;
    stage.vouch(TOKEN);
    eventually("the token is believed", || async { stage.status(TOKEN).await == 200 }).await;
    let stream = stage.stream(TOKEN).await;
    stage.issuer.take(Duration::from_millis(300));
    let crowd = Crowd::of(400, stage.gateway.http());
    eventually("the queue is full", || async {
        stage.gateway.metric("portcullis_queue_rejected_total").await > 0.0
    })
    .await;

    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < LASTING {
        assert_eq!(stage.status(TOKEN).await, 200, "a known caller, call {calls}");
        let new = format!("a-good-token-number-{calls}");
        stage.vouch(&new);
        let answer = stage.call(CLOSED, "/", &new, NEWCOMER).run().await;
        assert_eq!(answer.status, 200, "a new caller, call {calls}");
        calls += 1;
    }
    assert!(!stream.is_finished(), "the stream goes on");
    assert!(calls >= 5, "{calls} calls");
    assert!(stage.issuer.most_questions() <= 32, "{}", stage.issuer.most_questions());

    // Revocation takes effect soon nevertheless.
    stage.issuer.say(TOKEN, json!({ "active": false }));
    let ended = tokio::time::timeout(SOON + Duration::from_secs(3), stream)
        .await
        .expect("the stream ends soon")
        .expect("curl ran");
    assert_ne!(ended.exit, 0, "{ended:?}");
    assert_eq!(stage.status(TOKEN).await, 404);

    let answers = crowd.leave().await;
    let of = |status| answers.iter().filter(|answer| answer.status == status).count();
    println!("{calls} calls of others; the crowd: {} of 404, {} of 503", of(404), of(503));
    assert!(of(404) > 0 && of(503) > 0 && of(404) + of(503) == answers.len());
    let busy = answers.iter().filter(|answer| answer.status == 503);
    assert!(busy.into_iter().all(|answer| answer.header("retry-after") == Some("1")));
}

#[tokio::test]
async fn cached_callers_stay_authenticated_while_the_issuer_is_down() {
    const STATED: Duration = Duration::from_secs(8);
    /// How long a response is cached in any case.
    const FRESH: Duration = Duration::from_secs(4);
    let stage = Stage::start(json!({ "staleIfError": "8s" })).await;
    stage.vouch(TOKEN);
    eventually("the token is believed", || async { stage.status(TOKEN).await == 200 }).await;
    let stream = stage.stream(TOKEN).await;
    let away = Instant::now();
    let Stage { pod: _pod, issuer, gateway, _folder } = stage;
    drop(issuer);
    let call = async |host: &str, token: &str| {
        gateway.curl(host, "/").header(&format!("Authorization: Bearer {token}")).run().await
    };
    while away.elapsed() < STATED - Duration::from_secs(1) {
        assert_eq!(call(CLOSED, TOKEN).await.status, 200, "after {:?}", away.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!stream.is_finished());

    // A caller whose credentials cannot be verified is asked to retry, on every host.
    let closed = call(CLOSED, "nobody-has-seen-this-one").await;
    let absent = call(ABSENT, "nobody-has-seen-that-one").await;
    assert_eq!(face(&closed), face(&absent));
    assert_eq!((closed.status, closed.header("retry-after")), (503, Some("1")));

    let ended = tokio::time::timeout(STATED + FRESH + SOON - away.elapsed(), stream)
        .await
        .expect("the stream ends in time")
        .expect("curl ran");
    assert_ne!(ended.exit, 0, "{ended:?}");
    assert!(away.elapsed() >= STATED - Duration::from_secs(1), "{:?}", away.elapsed());
    assert_eq!(face(&call(CLOSED, TOKEN).await), face(&absent));
}

#[tokio::test]
async fn identical_tokens_share_one_introspection_request() {
    let stage = Stage::start(json!({})).await;
    stage.issuer.take(Duration::from_secs(2));
    stage.vouch(TOKEN);
    let calls = (0..40).map(|_| stage.status(TOKEN));
    let statuses = futures::future::join_all(calls).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(stage.issuer.questions(TOKEN) <= 3, "{}", stage.issuer.questions(TOKEN));
}

#[tokio::test]
async fn a_token_for_an_open_service_is_not_introspected() {
    let stage = Stage::start(json!({})).await;
    stage.vouch(TOKEN);
    for token in [TOKEN, "a-token-of-the-service-itself"] {
        let answer = stage.call(OPEN, "/echo", token, CALLER).run().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.text().contains(token), "it may be the gateway's: {answer:?}");
        assert_eq!(stage.issuer.questions(token), 0, "{token}");
    }
    // Hidden and unknown hosts are alike: the issuer is asked.
    for (host, token) in [(CLOSED, "a-token-for-a-hidden-host"), (ABSENT, "a-token-for-no-host")] {
        assert_eq!(stage.call(host, "/", token, CALLER).run().await.status, 404);
        assert_eq!(stage.issuer.questions(token), 1, "{host}");
    }
    // The same client at a service that requires a caller.
    eventually("the token is valid", || async { stage.status(TOKEN).await == 200 }).await;
}
