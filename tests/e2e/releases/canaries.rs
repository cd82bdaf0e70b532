//! Rollouts on the test node: two replicas of the gateway split the requests of 2,000 people among
//! real pods, and a builder judges releases of all kinds, in environments of their own: the bad ones
//! side by side, and then a good one.
//!
//! One service is pushed to a repository, built, and pulled by the node. The pods of the others run the
//! node's echo server under the release's name and digest.
//!
//! It is the [demo] as well (`make demo-release`): pushes to one environment, one after the other.

mod demo;
mod door;
mod load;
pub(super) mod repository;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use self::door::Door;
use self::load::{Load, Protocol};
use self::repository::{PULL_SECRET, Repository};
use super::builder::Builder;
use super::node::{gateway, image, names, open_environment, release_of};
use super::registry::Registry;
use crate::harness::eventually;
use crate::harness::node::{kubectl, rights};

/// What the pods run.
const ECHO: &str = "docker.io/local/portcullis-echo:test";
/// How long a bad release may have traffic.
const LONGEST: Duration = Duration::from_secs(180);
/// How long a good release may take: the less often people wait longer than the stable p99, the more of
/// them it takes to know that a canary is no worse.
const SOUND: Duration = Duration::from_secs(900);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(360);
/// The longest time from a verdict until no replica sends anybody to the canary, in milliseconds. It
/// takes some tenths of a second where the processors are not busy.
const MAX_WITHDRAWAL: u64 = 10_000;
/// The pauses of a client between two requests.
const OFTEN: Duration = Duration::from_millis(60);
const SELDOM: Duration = Duration::from_millis(100);

/// A release.
#[derive(Clone)]
struct Kind {
    name: &'static str,
    /// The variables of its container.
    variables: Value,
    /// The path of its readiness probe.
    ready: &'static str,
    /// After how long a person is asked.
    max_hold: &'static str,
}

/// Two replicas of the gateway and a builder, in front of the node.
struct Stage {
    doors: [Door; 2],
    builder: Builder,
    repository: Repository,
    registry: Registry,
    /// The identifiers of the releases of all kinds, if they are recorded.
    releases: Vec<String>,
    /// The files of the gateways.
    _folder: Option<TempDir>,
}

/// The service in an environment of its own, in which the first release runs.
struct Site<'s> {
    stage: &'s Stage,
    environment: String,
    /// Whether its releases are pushed to the repository. The others are those of [`Kind::all`].
    is_pushed: bool,
    /// Whether the terminal shows what `rollout status` says.
    is_shown: bool,
}

// === impl Kind ===

impl Kind {
    /// All releases: the first one runs before each of the others.
    fn all() -> [Self; 7] {
        let kind = |name, variables| Self { name, variables, ready: "/ready", max_hold: "4h" };
        let variable = |name: &str, value: &str| json!([{ "name": name, "value": value }]);
        [
            kind("first", json!([])),
            kind("good", variable("VERSION", "2")),
            kind("failing", variable("ECHO_FAIL_EVERY", "4")),
            kind("slow", variable("ECHO_DELAY", "300ms")),
            kind("silent", variable("ECHO_DELAY", "3600s")),
            Self { max_hold: "20s", ..kind("crashing", variable("ECHO_ADDRESS", "nowhere")) },
            Self { ready: "/never", max_hold: "20s", ..kind("never-ready", json!([])) },
        ]
    }

    /// Its port speaks HTTP/2, for gRPC calls.
    fn template(&self) -> Value {
        json!([
            { "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "web", "annotations": {
                    "portcullis.dev/affinity": "header:x-person",
                    "portcullis.dev/timeout": "5s" } },
                "spec": { "selector": { "app": "web" },
                    "ports": [{ "name": "grpc", "port": 80, "targetPort": 8080 }] } },
            { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
                "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
                    "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                    "template": { "metadata": { "labels": { "app": "web" } },
                        "spec": { "terminationGracePeriodSeconds": 15,
                            "imagePullSecrets": [{ "name": PULL_SECRET }], "containers": [{
                            "name": "web", "image": "{{image}}", "imagePullPolicy": "IfNotPresent",
                            "env": self.variables,
                            "readinessProbe": { "httpGet": { "path": self.ready, "port": 8080 },
                                "periodSeconds": 1, "timeoutSeconds": 5 },
                        }] } } } },
            { "apiVersion": "releases.portcullis.dev/v1", "kind": "Rollout",
                "metadata": { "name": "web" },
                "rollout": { "warmUp": "5s", "ratio": 10, "maxHold": self.max_hold,
                    "objectives": { "errorRatio": 0.02 }, "steps": [
                    { "weight": 10, "hold": "1s" }, { "weight": 50, "hold": "1s" },
                    { "weight": 100 } ] } },
        ])
    }
}

// === impl Stage ===

impl Stage {
    /// On the node. What is pushed is deployed to the environment `pushed`.
    async fn new(pushed: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let rights = rights(folder.path(), &["access.yaml"]).await;
        let doors = [gateway(&rights).await, gateway(&rights).await];
        let doors = doors.map(|gateway| Door::Process(Arc::new(gateway)));
        let stage = Self::with(pushed, doors, Registry::start().await).await;
        Self { _folder: Some(folder), ..stage }
    }

    /// Behind these replicas, with images of this registry.
    async fn with(pushed: &str, doors: [Door; 2], registry: Registry) -> Self {
        let repository = Repository::create().await;
        let kubeconfig = std::env::var_os("KUBECONFIG").expect("the cluster's kubeconfig");
        let replicas = doors.each_ref().map(Door::telemetry);
        let settings = json!({ "gateway": { "replicas": replicas },
            "builds": repository.settings(&registry, pushed) });
        open_environment(pushed).await;
        repository::trust(&registry, pushed).await;
        let builder = Builder::start_with(&registry, Some(kubeconfig.as_ref()), &settings).await;
        Self { doors, builder, repository, registry, releases: Vec::new(), _folder: None }
    }

    /// Records the releases of all kinds.
    async fn create_releases(&mut self) {
        for kind in Kind::all() {
            let image = release_of(&self.builder, &self.registry, kind.template(), ECHO).await;
            let page = self.builder.get("ci", "/api/v1/releases?service=web").await.json();
            let releases = page["items"].as_array().expect("a page");
            let created = releases.iter().find(|one| one["image"] == image).expect("the release");
            self.releases.push(created["id"].as_str().expect("an identifier").to_owned());
        }
    }

    /// Opens an environment, in which the first release runs.
    async fn site(&self, environment: &str) -> Site<'_> {
        open_environment(environment).await;
        repository::trust(&self.registry, environment).await;
        let (environment, is_pushed) = (environment.to_owned(), false);
        let site = Site { stage: self, environment, is_pushed, is_shown: false };
        site.begins().await;
        site
    }

    /// The environment that what is pushed is deployed to.
    async fn pushed_site(&self, environment: &str, is_shown: bool) -> Site<'_> {
        let environment = environment.to_owned();
        let site = Site { stage: self, environment, is_pushed: true, is_shown };
        site.begins().await;
        site
    }
}

// === impl Site ===

impl Site<'_> {
    /// Waits until the first release runs, and all replicas of the gateway have it.
    async fn begins(&self) {
        let Stage { builder, repository, doors, .. } = self.stage;
        let id = if self.is_pushed {
            repository.first(builder).await
        } else {
            self.deploy("first").await
        };
        let began = Instant::now();
        loop {
            let shown = self.get(&format!("/api/v1/deployments/{id}")).await;
            if shown["state"] == "ready" {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "the first release does not run: {shown}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for door in doors {
            eventually("the gateway has the pods", || async {
                door.status(&self.host(), "/whoami").await == 200
            })
            .await;
        }
    }

    fn host(&self) -> String {
        format!("web--{}.apps.test", self.environment)
    }

    fn load(&self, protocol: Protocol, clients: usize, pause: Duration) -> Load {
        Load::start(&self.stage.doors, &self.host(), protocol, clients, pause)
    }

    async fn get(&self, path: &str) -> Value {
        self.stage.builder.get("ci", path).await.json()
    }

    /// Deploys the release of a kind; returns the identifier of its rollout.
    async fn deploy(&self, kind: &str) -> String {
        let all = Kind::all();
        let index = all.iter().position(|one| one.name == kind).expect("a kind");
        if self.is_pushed {
            return self.stage.repository.push(&self.stage.builder, &all[index]).await;
        }
        let deploy = ["deploy", &self.stage.releases[index], "--to", &self.environment];
        let deployed = self.stage.builder.cli("ci", &deploy).await.expect("it is deployed");
        deployed.split(':').next().expect("an identifier").to_owned()
    }

    /// Waits until a rollout is as is asked.
    async fn until(
        &self,
        id: &str,
        longest: Duration,
        mut is_it: impl FnMut(&Value) -> bool,
    ) -> Value {
        let began = Instant::now();
        let mut last = json!(null);
        loop {
            let shown = self.get(&format!("/api/v1/rollouts/{id}")).await;
            let version = json!([shown["version"], shown["looks"]]);
            if self.is_shown && version != last && shown["stage"].is_string() {
                let status = ["rollout", "status", id];
                let text = self.stage.builder.cli("reader", &status).await.expect("the rollout");
                println!("\n--- after {} s\n{text}", began.elapsed().as_secs());
                last = version;
            }
            if is_it(&shown) {
                return shown;
            }
            let (stage, sentence) = (&shown["stage"], &shown["sentence"]);
            assert!(
                began.elapsed() < longest,
                "{id} after {longest:?}: {stage}, {sentence}: {shown}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Checks that one release alone is there.
    async fn runs(&self, release: &Value) {
        let page = self.get("/api/v1/releases?service=web").await;
        let releases = page["items"].as_array().expect("a page");
        let found = releases.iter().find(|one| one["id"] == *release).expect("the release");
        assert_eq!(found["image"], image(&self.environment).await, "{release}");
        assert_eq!(names("deployment", &self.environment).await, ["web"]);
        assert_eq!(names("service", &self.environment).await, ["web"]);
    }

    /// A good release gets all of the traffic, and no request fails, whatever the protocol.
    async fn promotes(&self, loads: &[Load]) {
        let id = self.deploy("good").await;
        let good = self.until(&id, SOUND, is_closed).await;
        assert_eq!(good["stage"], "promoted", "{good}");
        for load in loads {
            load.passes(1_000).await;
            println!("--- good: {load}");
            assert_eq!(load.failed(), 0, "{load}");
            assert!(load.people_on_canary() > 500, "{load}");
            load.check_sides();
        }
        self.runs(&good["release"]).await;
    }

    /// A release is taken back on an alarm, and from then on nobody meets an error.
    async fn takes_back(&self, kind: &str, load: &Load) {
        let before = (load.answered(), load.failed());
        let id = self.deploy(kind).await;
        self.until(&id, LONGEST, |shown| shown["stage"] == "removing" || is_closed(shown)).await;
        load.withdraw();
        let back = self.until(&id, LONGEST, is_closed).await;
        let (stage, cause) = (&back["stage"], &back["cause"]["cause"]);
        assert_eq!((stage, cause), (&json!("rolledBack"), &json!("alarm")), "{kind}: {back}");
        self.runs(&back["stable"]).await;
        let lost = load.lost();
        load.passes(2_000).await;
        assert_eq!(load.lost(), lost, "{kind}: {load}");
        load.check_sides();
        let (answered, failed) = (load.answered() - before.0, load.failed() - before.1);
        let withdrawal = self.withdrawal(&id).await;
        println!(
            "--- {kind}: {}\n--- {kind}: {failed} of {answered} requests failed; all replicas had the \
             weight 0 {withdrawal} ms after the verdict",
            back["sentence"]
        );
        assert!(failed < answered / 20, "{kind}: beyond the canary's own part: {load}");
        assert!(withdrawal < MAX_WITHDRAWAL, "{kind}: {withdrawal} ms");
    }

    /// The milliseconds from the verdict of a rollout until all replicas had applied the weight 0.
    async fn withdrawal(&self, id: &str) -> u64 {
        let history = self.get(&format!("/api/v1/rollouts/{id}/history")).await;
        let at = |stage: &str| {
            let entries = history["items"].as_array().expect("entries");
            let found = entries.iter().find(|entry| entry["stage"] == stage);
            found.and_then(|entry| entry["at"].as_u64()).expect("the stage was recorded")
        };
        at("removing") - at("withdrawing")
    }

    /// A release whose pods are not ready holds without traffic, and its sentence or its problem says
    /// so. A person is asked, and takes it back.
    async fn holds(&self, kind: &str, says: &str) {
        let id = self.deploy(kind).await;
        let asked = self
            .until(&id, PATIENCE, |shown| {
                let texts = ["sentence", "problem"].map(|key| shown[key].as_str());
                let is_said = texts.into_iter().flatten().any(|text| text.contains(says));
                assert!(!is_closed(shown), "{kind} is not decided by itself: {shown}");
                assert_eq!(shown["weight"].as_u64().unwrap_or_default(), 0, "{shown}");
                is_said && shown["question"].is_string()
            })
            .await;
        println!("--- {kind}: {} ({})", asked["sentence"], asked["problem"]);
        let abort = ["rollout", "abort", &id, "--reason", "nobody waits for it"];
        self.stage.builder.cli("ci", &abort).await.expect("it is ordered");
        let back = self.until(&id, PATIENCE, is_closed).await;
        assert_eq!(back["cause"]["cause"], "person", "{back}");
        self.runs(&back["stable"]).await;
    }

    async fn close(self) {
        kubectl(&["delete", "namespace", &self.environment, "--wait=false"], "").await;
    }
}

fn is_closed(rollout: &Value) -> bool {
    rollout["stage"] == "promoted" || rollout["stage"] == "rolledBack"
}

async fn good(stage: &Stage) {
    let site = stage.pushed_site("canaries-good", false).await;
    let loads = [Protocol::Http1, Protocol::Http2, Protocol::Grpc];
    let loads = loads.map(|protocol| site.load(protocol, 6, OFTEN));
    loads[0].passes(1_000).await;
    site.promotes(&loads).await;
    drop(loads);
    site.close().await;
}

async fn bad(stage: &Stage, kind: &str, protocol: Protocol) {
    let site = stage.site(&format!("canaries-{kind}")).await;
    let load = site.load(protocol, 8, OFTEN);
    load.passes(2_000).await;
    site.takes_back(kind, &load).await;
    drop(load);
    site.close().await;
}

async fn not_ready(stage: &Stage, kind: &str, says: &str) {
    let site = stage.site(&format!("canaries-{kind}")).await;
    let load = site.load(Protocol::Http1, 2, SELDOM);
    site.holds(kind, says).await;
    load.passes(20).await;
    assert_eq!((load.failed(), load.of_canary()), (0, 0), "{kind}: {load}");
    drop(load);
    site.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the node of tests/cluster/run"]
async fn canaries_of_all_kinds_end_as_they_should_on_a_node() {
    if std::env::var_os("PORTCULLIS_DEMO").is_some() {
        return demo::show().await;
    }
    let mut stage = Stage::new("canaries-good").await;
    stage.create_releases().await;
    tokio::join!(
        bad(&stage, "failing", Protocol::Http2),
        bad(&stage, "slow", Protocol::Http1),
        bad(&stage, "silent", Protocol::Grpc),
        not_ready(&stage, "crashing", "CrashLoopBackOff"),
        not_ready(&stage, "never-ready", "not ready"),
    );
    // What slow means is measured before a rollout, so the load beside it has to be the same all the time.
    good(&stage).await;
    let trail = stage.builder.get("admin", "/api/v1/audit").await.text();
    for entry in ["rollout.promoted", "rollout.rolled-back", "rollout.abort", "service.pin"] {
        assert!(trail.contains(entry), "{entry}: {trail}");
    }
}
