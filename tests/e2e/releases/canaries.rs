//! Rollouts on the test node: two replicas of the gateway split the requests of 2,000 people among
//! real pods, and a builder judges good, failing and slow releases.
//!
//! The pods run the node's echo server under the release's name and digest, because this registry's
//! certificate is not one that the node trusts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::StatusCode;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::builder::Builder;
use super::node::{gateway, image, names, open_environment, release_of};
use super::registry::Registry;
use crate::harness::node::{kubectl, rights};
use crate::harness::{Gateway, eventually};

const ENVIRONMENT: &str = "canaries";
const HOST: &str = "web--canaries.apps.test";
/// What the pods run.
const ECHO: &str = "docker.io/local/portcullis-echo:test";
/// Made-up people, each of whom keeps a variant.
const PEOPLE: usize = 2_000;
/// Clients at the same time.
const CLIENTS: usize = 16;
/// How long a bad release may have traffic.
const LONGEST: Duration = Duration::from_secs(180);
/// How long a good one may take.
const PATIENCE: Duration = Duration::from_secs(360);

/// Requests of all people, until it is dropped.
struct Load {
    counts: Arc<Counts>,
    _clients: JoinSet<()>,
}

/// What became of the requests.
#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    /// Responses that are not successful.
    errors: AtomicU64,
    /// Requests without a response.
    lost: AtomicU64,
    /// Whose turn it is.
    person: AtomicUsize,
}

/// The service with these variables of its pods.
fn template(variables: &Value) -> Value {
    json!([
        { "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "web",
                "annotations": { "portcullis.dev/affinity": "header:x-person" } },
            "spec": { "selector": { "app": "web" },
                "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } },
        { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
                "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                "template": { "metadata": { "labels": { "app": "web" } },
                    "spec": { "terminationGracePeriodSeconds": 15, "containers": [{
                        "name": "web", "image": "{{image}}", "imagePullPolicy": "IfNotPresent",
                        "env": variables,
                        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 },
                            "periodSeconds": 1, "timeoutSeconds": 5 },
                    }] } } } },
        { "apiVersion": "releases.portcullis.dev/v1", "kind": "Rollout",
            "metadata": { "name": "web" },
            "rollout": { "warmUp": "5s", "ratio": 10,
                "objectives": { "errorRatio": 0.02 }, "steps": [
                { "weight": 10, "hold": "1s" }, { "weight": 50, "hold": "1s" },
                { "weight": 100 } ] } },
    ])
}

/// The rollout of a release, by the number of its deployment.
async fn rollout(builder: &Builder, number: usize) -> Value {
    let path = format!("/api/v1/rollouts/web.{ENVIRONMENT}.{number}");
    builder.get("ci", &path).await.json()
}

/// Deploys the release of a number, and prints its rollout until it has ended.
async fn ends(builder: &Builder, number: usize, what: &str, longest: Duration) -> Value {
    let (release, id) = (format!("web.{number}"), format!("web.{ENVIRONMENT}.{number}"));
    builder.cli("ci", &["deploy", &release, "--to", ENVIRONMENT]).await.expect("it is deployed");
    let began = Instant::now();
    let mut last = json!(null);
    loop {
        let shown = rollout(builder, number).await;
        let version = json!([shown["version"], shown["looks"]]);
        if version != last && shown["stage"].is_string() {
            let status = ["rollout", "status", &id];
            let text = builder.cli("reader", &status).await.expect("the rollout");
            println!("\n--- {what}, after {} s\n{text}", began.elapsed().as_secs());
            last = version;
        }
        if shown["stage"] == "promoted" || shown["stage"] == "rolledBack" {
            return shown;
        }
        assert!(began.elapsed() < longest, "not ended within {longest:?}: {shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Checks that a release is taken back on an alarm, and that nobody meets an error after that.
async fn is_taken_back(builder: &Builder, load: &Load, number: usize, what: &str, good: &str) {
    let back = ends(builder, number, what, LONGEST).await;
    assert_eq!((&back["stage"], &back["cause"]["cause"]), (&"rolledBack".into(), &"alarm".into()));
    assert_eq!(
        (names("deployment", ENVIRONMENT).await, image(ENVIRONMENT).await),
        (vec!["web".to_owned()], good.to_owned(),)
    );
    let (answered, errors, lost) = load.counts();
    println!("--- of {answered} requests, {errors} had an error, and {lost} no response");
    load.passes(2_000).await;
    let (answered, after, lost) = load.counts();
    assert_eq!((after, lost), (errors, 0), "of {answered} requests");
}

// === impl Load ===

impl Load {
    fn start(gateways: &[SocketAddr]) -> Self {
        let counts = Arc::new(Counts::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (address, counts) = (gateways[number % gateways.len()], Arc::clone(&counts));
            clients.spawn(async move {
                loop {
                    if requests(address, &counts).await.is_err() {
                        counts.lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        Self { counts, _clients: clients }
    }

    /// Responses, those that were not successful, and requests without one.
    fn counts(&self) -> (u64, u64, u64) {
        let Counts { answered, errors, lost, .. } = &*self.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(answered), read(errors), read(lost))
    }

    /// Waits for so many more responses.
    async fn passes(&self, responses: u64) {
        let (before, ..) = self.counts();
        eventually("the load goes on", || async { self.counts().0 >= before + responses }).await;
    }
}

/// Sends requests of people over one connection until one has no response.
async fn requests(address: SocketAddr, counts: &Counts) -> Result<(), ()> {
    let connection = TcpStream::connect(address).await.map_err(drop)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(connection)).await.map_err(drop)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    loop {
        let person = counts.person.fetch_add(1, Ordering::Relaxed) % PEOPLE;
        let request = hyper::Request::get("/whoami")
            .header("host", HOST)
            .header("x-person", format!("person-{person}"));
        let request = request.body(Empty::<Bytes>::new()).map_err(drop)?;
        sender.ready().await.map_err(drop)?;
        let response = sender.send_request(request).await.map_err(drop)?;
        let status = response.status();
        response.into_body().collect().await.map_err(drop)?;
        counts.answered.fetch_add(1, Ordering::Relaxed);
        if status != StatusCode::OK {
            counts.errors.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn a_good_release_is_rolled_out_and_bad_ones_are_taken_back_on_a_node() {
    open_environment(ENVIRONMENT).await;
    let folder = tempfile::tempdir().expect("a folder");
    let rights = rights(folder.path(), &["access.yaml"]).await;
    let gateways = [gateway(&rights).await, gateway(&rights).await];
    let registry = Registry::start().await;
    let kubeconfig = std::env::var_os("KUBECONFIG").expect("the node's kubeconfig");
    let replicas: Vec<SocketAddr> = gateways.iter().map(Gateway::telemetry).collect();
    let settings = json!({ "gateway": { "replicas": replicas } });
    let builder = Builder::start_with(&registry, Some(kubeconfig.as_ref()), &settings).await;
    let mut images = Vec::new();
    for variables in [
        json!([]),
        json!([{ "name": "VERSION", "value": "2" }]),
        json!([{ "name": "ECHO_FAIL_EVERY", "value": "4" }]),
        json!([{ "name": "ECHO_DELAY", "value": "300ms" }]),
    ] {
        images.push(release_of(&builder, &registry, template(&variables), ECHO).await);
    }
    let deploy = ["deploy", "web.1", "--to", ENVIRONMENT, "--wait"];
    builder.cli("ci", &deploy).await.expect("it is ready");
    for gateway in &gateways {
        eventually("the gateway has the pods", || async {
            gateway.curl(HOST, "/whoami").run().await.status == 200
        })
        .await;
    }
    let doors: Vec<SocketAddr> = gateways.iter().map(Gateway::http).collect();
    let load = Load::start(&doors);
    // What slow means is measured before a rollout.
    load.passes(4_000).await;

    let good = ends(&builder, 2, "a good release", PATIENCE).await;
    assert_eq!(good["stage"], "promoted", "{good}");
    load.passes(1_000).await;
    let (answered, errors, lost) = load.counts();
    println!("--- of {answered} requests, {errors} had an error, and {lost} no response");
    assert_eq!((errors, lost), (0, 0));
    assert_eq!(image(ENVIRONMENT).await, images[1]);
    assert_eq!(names("deployment", ENVIRONMENT).await, ["web"]);

    is_taken_back(&builder, &load, 3, "a release that fails a quarter of its requests", &images[1])
        .await;
    let (answered, errors, _) = load.counts();
    assert!(errors > 0 && errors < answered / 20, "{errors} of {answered}");
    is_taken_back(&builder, &load, 4, "a release that is 300 ms slower", &images[1]).await;
    let (_, after, _) = load.counts();
    assert_eq!(after, errors, "a slow release fails no request");

    let trail = builder.cli("admin", &["audit", "list"]).await.expect("the audit log");
    println!("\n--- the audit log\n{trail}");
    for entry in ["web.2", "web.3", "web.4"] {
        assert!(trail.contains(entry), "{entry}: {trail}");
    }
    kubectl(&["delete", "namespace", ENVIRONMENT, "--wait=false"], "").await;
}
