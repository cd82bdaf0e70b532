//! Rollouts by the built binaries: a builder, two replicas of the gateway that split real traffic,
//! and the feed between them. The API server is one in memory.

mod cluster;
mod killed;
mod orders;
mod replica;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::cluster::Cluster;
use self::replica::Replica;
use super::builder::Builder;
use super::registry::Registry;
use crate::harness::{Echo, Gateway, Service, WEB, World, echo, eventually};

/// Longer than a rollout of these tests takes: each look is of ten seconds.
const LONGEST: Duration = Duration::from_secs(240);
/// Clients at the same time.
const CLIENTS: usize = 4;

/// A service of which release 1 runs, behind two replicas of the gateway and under load.
struct Scene {
    cluster: Cluster,
    gateways: Vec<Gateway>,
    builder: Builder,
    load: Load,
    /// The second gateway, as the builder reads it.
    replica: Replica,
    _registry: Registry,
    _stable: Echo,
}

/// Requests, until it is dropped.
struct Load {
    answered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    /// Responses of the second release.
    second: Arc<AtomicU64>,
    _clients: JoinSet<()>,
}

fn template(rollout: &Value) -> Value {
    json!([
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" },
                "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } },
        { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "web", "image": "{{image}}" }] } } } },
        { "apiVersion": "releases.portcullis.dev/v1", "kind": "Rollout",
            "metadata": { "name": "web" }, "rollout": rollout },
    ])
}

/// Half of the traffic for a second at least, then all.
fn short() -> Value {
    json!({ "steps": [{ "weight": 50, "hold": "1s" }, { "weight": 100 }],
        "objectives": { "errorRatio": 0.2 }, "warmUp": "0s" })
}

/// Half of the traffic, for longer than the test takes.
fn long() -> Value {
    json!({ "steps": [{ "weight": 50, "hold": "1h" }, { "weight": 100 }],
        "objectives": { "errorRatio": 0.2 }, "warmUp": "0s" })
}

// === impl Scene ===

impl Scene {
    /// The pod of the second release is at this address.
    async fn new(second: SocketAddr) -> Self {
        Self::with(second, &short()).await
    }

    /// The same, rolled out in this way.
    async fn with(second: SocketAddr, rollout: &Value) -> Self {
        let stable = echo("first").await;
        let world = World::empty().with(Service::new("web").pod(&stable));
        let gateways = vec![Gateway::start(world.clone()).await, Gateway::start(world).await];
        let registry = Registry::start().await;
        let cluster = Cluster::start().await;
        let replica = Replica::start(gateways[1].telemetry()).await;
        let replicas = [gateways[0].telemetry(), replica.address()];
        let settings = json!({ "gateway": { "replicas": replicas } });
        let builder = Builder::start_with(&registry, Some(&cluster.kubeconfig()), &settings).await;
        for address in [stable.address(), second] {
            registry.push("web", "1").await;
            let request =
                json!({ "template": template(rollout), "image": registry.image("web", "1") });
            let created = builder.post("ci", "/api/v1/releases", &request).await;
            assert_eq!(created.status, 201, "{}", created.text());
            cluster.run(created.json()["image"].as_str().expect("an image"), address);
        }
        builder.cli("ci", &["deploy", "web.1", "--to", "staging", "--wait"]).await.expect("ready");
        for gateway in &gateways {
            cluster.feed(gateway.folder().join("manifests"));
        }
        let load = Load::start(gateways.iter().map(Gateway::http).collect());
        let (_registry, _stable) = (registry, stable);
        Self { cluster, gateways, builder, load, replica, _registry, _stable }
    }

    /// Deploys the second release, which is rolled out.
    async fn deploy(&self) {
        let deployed = self.builder.cli("ci", &["deploy", "web.2", "--to", "staging"]).await;
        assert_eq!(deployed.as_deref(), Ok("web.staging.2: web.2\n"));
    }

    /// Waits until the rollout has this stage.
    async fn reaches(&self, stage: &str) -> Value {
        let deadline = tokio::time::Instant::now() + LONGEST;
        loop {
            let shown = self.builder.get("ci", "/api/v1/rollouts/web.staging.2").await;
            let is_there = shown.status == 200 && shown.json()["stage"] == stage;
            if is_there {
                return shown.json();
            }
            assert!(tokio::time::Instant::now() < deadline, "not {stage}: {}", shown.text());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the sentence of the rollout has this part.
    ///
    /// A sentence alone is recorded every ten seconds.
    async fn says(&self, part: &str) -> Value {
        let deadline = tokio::time::Instant::now() + LONGEST;
        loop {
            let shown = self.builder.get("ci", "/api/v1/rollouts/web.staging.2").await.json();
            if shown["sentence"].as_str().is_some_and(|sentence| sentence.contains(part)) {
                return shown;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {part}: {shown}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn order(&self, order: &str) {
        let body = json!({ "order": order, "reason": "test" });
        let path = "/api/v1/rollouts/web.staging.2/orders";
        assert_eq!(self.builder.post("ci", path, &body).await.status, 202, "{order}");
    }

    /// The times at which looks began, the oldest first, in seconds.
    async fn looks(&self) -> Vec<u64> {
        let shown = self.builder.get("ci", "/api/v1/rollouts/web.staging.2/looks").await.json();
        let looks = shown["items"].as_array().cloned().unwrap_or_default();
        looks.iter().rev().filter_map(|look| Some(look["at"].as_u64()? / 1000)).collect()
    }

    /// Checks that one release alone is there, and that each replica sends everything to it.
    async fn check(&self, release: usize) {
        let (deployments, services) =
            (self.cluster.names("deployments"), self.cluster.names("services"));
        assert_eq!((deployments, services), (vec!["web".to_owned()], vec!["web".to_owned()]));
        for gateway in &self.gateways {
            for _ in 0..5 {
                let answer = gateway.curl(WEB, "/whoami").run().await;
                let is_second = answer.text().trim() != "first";
                assert_eq!(is_second, release == 2, "{}", answer.text());
            }
        }
    }
}

// === impl Load ===

impl Load {
    fn start(gateways: Vec<SocketAddr>) -> Self {
        let [answered, failed, second] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let address = gateways[number % gateways.len()];
            let (answered, failed, second) = (answered.clone(), failed.clone(), second.clone());
            clients.spawn(async move {
                loop {
                    match requests(address, &answered, &second).await {
                        Ok(()) => {}
                        Err(()) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        Self { answered, failed, second, _clients: clients }
    }

    fn counts(&self) -> (u64, u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.answered), count(&self.failed), count(&self.second))
    }
}

/// Sends requests over one connection until one fails.
async fn requests(address: SocketAddr, answered: &AtomicU64, second: &AtomicU64) -> Result<(), ()> {
    let connection = TcpStream::connect(address).await.map_err(drop)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(connection)).await.map_err(drop)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    loop {
        let request = hyper::Request::get("/whoami").header("host", WEB);
        let request = request.body(Empty::<Bytes>::new()).map_err(drop)?;
        sender.ready().await.map_err(drop)?;
        let response = sender.send_request(request).await.map_err(drop)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(drop)?.to_bytes();
        answered.fetch_add(1, Ordering::Relaxed);
        if !body.starts_with(b"first") {
            second.fetch_add(1, Ordering::Relaxed);
        }
        if !status.is_success() {
            return Err(());
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// A pod that answers every request with an error.
async fn broken() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                while connection.read(&mut head).await.is_ok_and(|length| length > 0) {
                    let response = b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n";
                    if connection.write_all(response).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_good_release_gets_the_traffic_and_loses_no_request() {
    let second = echo("second").await;
    let scene = Scene::new(second.address()).await;
    scene.deploy().await;
    let watching = scene.reaches("watching").await;
    assert_eq!((&watching["weight"], &watching["stable"]), (&json!(5000), &json!("web.1")));
    let shown = scene.builder.cli("reader", &["rollout", "status", "web", "--in", "staging"]).await;
    let shown = shown.expect("the rollout");
    for part in ["web.2 beside web.1, watching, 50 % of the traffic", "▶", "an abort would do this"]
    {
        assert!(shown.contains(part), "{shown}");
    }
    let wait = ["rollout", "status", "web.staging.2", "--wait", "--timeout", "1s", "-o", "name"];
    assert!(scene.builder.cli("ci", &wait).await.is_err(), "it is still open");
    let promoted = scene.reaches("promoted").await;
    assert!(promoted["looks"].as_array().is_some_and(|looks| !looks.is_empty()), "{promoted}");
    eventually("the deployment is ready", || async {
        let shown = scene.builder.get("ci", "/api/v1/deployments/web.staging.2").await;
        shown.json()["state"] == "ready"
    })
    .await;
    scene.check(2).await;
    let again = ["deploy", "web.2", "--to", "staging", "--wait"];
    scene.builder.cli("ci", &again).await.expect("the release that runs is deployed at once");
    let (answered, failed, second) = scene.load.counts();
    assert_eq!(failed, 0, "of {answered} requests");
    assert!(second > 100, "{second} of {answered} by the second release");
    let told = scene.cluster.events();
    for reason in ["RolloutWatching", "RolloutPromoted"] {
        assert!(told.iter().any(|found| found == reason), "{told:?}");
    }
    let metrics = scene.builder.get("admin", "/metrics").await.text();
    assert!(
        metrics.contains("portcullis_rollouts_closed_total{outcome=\"promoted\"} 1"),
        "{metrics}"
    );
    assert_eq!(scene.builder.get("ci", "/metrics").await.status, 403);
    let picture = scene.builder.get("reader", "/api/v1/rollouts/web.staging.2/picture.svg").await;
    assert!(picture.text().starts_with("<svg ") && picture.text().contains("promoted"));
    let page = "/api/v1/rollouts/web.staging.2/history?limit=2";
    let page = scene.builder.get("reader", page).await.json();
    assert_eq!(page["items"][0]["stage"], "promoted", "the newest step first: {page}");
    let older = page["next"].as_str().expect("there are more");
    let older = format!("/api/v1/rollouts/web.staging.2/history?limit=2&after={older}");
    let older = scene.builder.get("reader", &older).await.json();
    assert_ne!(older["items"][0], page["items"][0]);
    let listed = "/api/v1/rollouts?service=web&environment=staging";
    assert_eq!(scene.builder.get("reader", listed).await.json()["items"][0]["id"], "web.staging.2");
    let elsewhere = "/api/v1/rollouts?environment=production";
    assert_eq!(scene.builder.get("reader", elsewhere).await.json()["items"], json!([]));
    let events = scene.builder.get("reader", "/api/v1/rollouts/web.staging.2/events").await;
    assert!(events.text().contains("event: step") && events.text().contains("\"promoted\""));
}

#[tokio::test]
async fn a_bad_release_is_taken_back_by_itself() {
    let scene = Scene::new(broken().await).await;
    scene.deploy().await;
    let back = scene.reaches("rolledBack").await;
    assert_eq!(back["cause"], json!({ "cause": "alarm", "reason": back["cause"]["reason"] }));
    scene.check(1).await;
    let splits = scene.cluster.splits();
    assert_eq!((splits.len(), &*splits[1]), (2, "stable=0-9999"), "{splits:?}");
    let deployment = scene.builder.get("ci", "/api/v1/deployments/web.staging.2").await.json();
    assert_eq!(deployment["state"], "failed", "{deployment}");
    let again = scene.builder.cli("ci", &["deploy", "web.2", "--to", "staging"]).await;
    assert!(again.is_err_and(|why| why.contains("were rolled back here")));
    assert!(scene.cluster.image("web").is_some_and(|image| image.contains("@sha256:")));
}

#[tokio::test]
async fn a_builder_that_is_killed_resumes_and_a_person_takes_the_release_back() {
    let second = echo("second").await;
    let mut scene = Scene::new(second.address()).await;
    scene.deploy().await;
    scene.reaches("watching").await;
    scene.builder.kill_and_restart().await;
    let order = json!({ "order": "abort", "reason": "it looks wrong" });
    let path = "/api/v1/rollouts/web.staging.2/orders";
    assert_eq!(scene.builder.post("reader", path, &order).await.status, 403);
    assert_eq!(scene.builder.post("stranger", path, &order).await.status, 404);
    let silent = json!({ "order": "abort", "reason": " " });
    assert_eq!(scene.builder.post("ci", path, &silent).await.status, 422);
    let pause = ["rollout", "pause", "web", "--in", "staging", "--reason", "lunch"];
    assert_eq!(
        scene.builder.cli("ci", &pause).await.as_deref(),
        Ok("web.staging.2: pause recorded\n")
    );
    assert_eq!(scene.builder.post_once("ci", path, &order).await.status, 202);
    let back = scene.reaches("rolledBack").await;
    assert_eq!(back["sentence"], "rolled back: it looks wrong");
    // The same request again is no second order.
    assert_eq!(scene.builder.post_once("ci", path, &order).await.status, 202);
    assert_eq!(scene.builder.post("ci", path, &order).await.status, 409);
    scene.check(1).await;
    assert_eq!(scene.load.counts().1, 0, "no request is lost");
    let audit = scene.builder.get("admin", "/api/v1/audit").await.text();
    for action in ["rollout.pause", "rollout.abort", "service.pin"] {
        assert!(audit.contains(action), "{action}: {audit}");
    }
}

#[tokio::test]
async fn what_others_do_meanwhile_holds_a_rollout_with_a_sentence() {
    let second = echo("second").await;
    let scene = Scene::with(second.address(), &long()).await;
    scene.deploy().await;
    scene.says("s more").await;
    // One replica's clock is a minute behind: its windows cannot be compared with those of others.
    scene.replica.set_behind(60);
    scene.says("s away from the builder's").await;
    scene.replica.set_behind(0);
    scene.says("s more").await;
    // It is restarted within a look, and has lost what it had counted: those windows are left out.
    scene.replica.restart();
    let restarted = scene.looks().await.last().copied().expect("a look");
    let mut looks = Vec::new();
    while looks.last().is_none_or(|last| *last <= restarted) {
        scene.says("s more").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        looks = scene.looks().await;
    }
    let is_gap = |pair: &[u64]| pair[0] >= restarted && pair[1] - pair[0] > 10;
    assert!(looks.windows(2).any(is_gap), "what it had counted is lost: {looks:?}");
    scene.cluster.interfere(1000);
    let held = scene.says("helm has set the weight to 10 %").await;
    assert_eq!(held["weight"], 1000);
    scene.order("resume").await;
    eventually("the rollout sets its own weight again", || async {
        let shown = scene.builder.get("ci", "/api/v1/rollouts/web.staging.2").await.json();
        shown["weight"] == 5000
    })
    .await;
    // An autoscaler that is not in the template scales the canary: it is not fought.
    scene.cluster.scale("web-canary", 3);
    let removed = scene.cluster.remove("web");
    scene.says("the stable Deployment does not exist").await;
    scene.cluster.put_back("web", removed);
    assert_eq!(scene.cluster.replicas("web-canary"), Some(3));
    let removed = scene.cluster.remove("web-canary");
    scene.says("waiting for the canary's pods").await;
    assert_eq!(scene.cluster.splits().len(), 3, "nobody changes the weight");
    scene.cluster.put_back("web-canary", removed);
    scene.order("abort").await;
    scene.reaches("rolledBack").await;
    scene.check(1).await;
}

#[tokio::test]
async fn an_autoscaler_beside_the_template_keeps_its_replicas() {
    let second = echo("second").await;
    let scene = Scene::new(second.address()).await;
    scene.cluster.scale("web", 5);
    scene.deploy().await;
    scene.reaches("promoted").await;
    assert_eq!(scene.cluster.replicas("web"), Some(5));
    scene.check(2).await;
    assert_eq!(scene.load.counts().1, 0, "no request is lost");
}

#[tokio::test]
async fn a_canary_that_fails_its_check_gets_no_request() {
    let second = echo("second").await;
    let mut rollout = short();
    rollout["gate"] = json!({ "command": ["/app", "check"] });
    let scene = Scene::with(second.address(), &rollout).await;
    scene.cluster.fail_jobs();
    scene.deploy().await;
    let back = scene.reaches("rolledBack").await;
    assert_eq!(back["cause"]["cause"], "gate", "{back}");
    let sentence = back["sentence"].as_str().expect("a sentence");
    assert!(sentence.contains("container gate: it ended with exit code 1"), "{sentence}");
    assert_eq!(back["gate"]["log"], "GET / 500\n");
    assert_eq!(scene.cluster.splits(), [""; 0], "the weight was never set");
    scene.check(1).await;
    assert_eq!(scene.cluster.names("jobs"), [""; 0], "the Job is removed, too");
    let (_, failed, second) = scene.load.counts();
    assert_eq!((failed, second), (0, 0));
    let status = ["rollout", "status", "web", "--in", "staging"];
    let shown = scene.builder.cli("reader", &status).await.expect("the rollout");
    assert!(shown.contains("the check before the first request failed"), "{shown}");
    assert!(shown.contains("  GET / 500\n"), "{shown}");
}
