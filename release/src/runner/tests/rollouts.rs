//! Rollouts in a simulated cluster with a simulated gateway, by a builder that is killed at every
//! write.

mod traffic;

use serde_json::json;

use self::traffic::Traffic;
use super::*;
use crate::analysis::Verdict;
use crate::gateway::Gateway;
use crate::query::{NoValue, Scope};
use crate::rollout::{Order, Stage};
use crate::store::Rollout;

/// More turns than any rollout of these tests takes.
const TURNS: usize = 60;

/// A closed store in which release 1 runs in staging, and release 2 is to be rolled out.
struct Course {
    folder: TempDir,
    cluster: Simulation,
    traffic: Traffic,
    id: DeploymentId,
}

/// A Service and its Deployment, rolled out in two steps, with a further setting of its rollout.
fn template(key: &str, value: Value) -> Template {
    Template::parse(&objects(key, value).into()).unwrap()
}

fn objects(key: &str, value: Value) -> Vec<Value> {
    let mut rollout = json!({ "warmUp": "0s",
        "steps": [{ "weight": 10, "hold": "60s" }, { "weight": 100 }] });
    rollout[key] = value;
    vec![
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } }),
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "image": "{{image}}", "replicas": 4,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": {} } } }),
        json!({ "apiVersion": "releases.portcullis.dev/v1", "kind": "Rollout",
            "metadata": { "name": "web" }, "environments": ["staging"], "rollout": rollout }),
    ]
}

// === impl Course ===

impl Course {
    /// Variants that fail as often, of 1,000 requests.
    async fn new(canary: u64, stable: u64) -> Self {
        Self::of(template("warmUp", "0s".into()), canary, stable).await
    }

    async fn of(template: Template, canary: u64, stable: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (cluster, traffic) = (Simulation::default(), Traffic::new(canary, stable));
        let store = open(folder.path()).await;
        for at in 1..=4 {
            let new = NewRelease { template: template.clone(), ..release("web", by(at, ""), &[]) };
            store.create_release(new).await.unwrap();
        }
        let new = Self { folder, cluster, traffic, id: "web.staging.2".parse().unwrap() };
        let runner = new.runner(&store);
        for number in [1, 2] {
            let order = order("web.staging", Some(number), Intent::Deploy, by(10, ""));
            let deployment = store.create_deployment(order).await.unwrap();
            runner.drive(&deployment.id).await.unwrap();
        }
        new
    }

    fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let (cluster, traffic) = (self.cluster.copy(), self.traffic.copy());
        Self { folder, cluster, traffic, id: self.id.clone() }
    }

    fn runner(&self, store: &Arc<SqlStore>) -> Arc<Runner> {
        self.runner_with(store, Some(Said::new(Ok(0.0))))
    }

    fn runner_with(&self, store: &Arc<SqlStore>, said: Option<Arc<Said>>) -> Arc<Runner> {
        let traffic = Arc::new(self.traffic.clone());
        let cluster = Arc::new(self.cluster.clone());
        let queries = said.map(|said| -> Arc<dyn Queries> { said });
        let sensors = Sensors { gateway: Some(traffic), queries };
        Runner::new(store.clone(), cluster, sensors, Arc::default())
    }

    /// Lets a builder work until the rollout is closed or this holds.
    async fn run_until(&self, runner: &Runner, stop: impl Fn(&Rollout) -> bool) -> Rollout {
        let mut course = runner.course(&self.id).await.unwrap().unwrap();
        for _ in 0..TURNS {
            let goes_on = runner.turn(&mut course, self.traffic.later()).await.unwrap();
            let rollout = runner.store.rollout(&self.id).await.unwrap().unwrap();
            if goes_on.is_none() || stop(&rollout) {
                return rollout;
            }
        }
        let rollout = runner.store.rollout(&self.id).await.unwrap().unwrap();
        panic!("it does not end: {:?} {}", rollout.problem, rollout.state.sentence);
    }

    async fn run(&self, runner: &Runner) -> Rollout {
        self.run_until(runner, |_| false).await
    }

    /// Lets a builder work for some turns.
    async fn turns(&self, runner: &Runner, count: usize) -> Rollout {
        let mut course = runner.course(&self.id).await.unwrap().unwrap();
        for _ in 0..count {
            runner.turn(&mut course, self.traffic.later()).await.unwrap();
        }
        runner.store.rollout(&self.id).await.unwrap().unwrap()
    }

    /// Checks that the release arrived, or that it is gone without a trace.
    async fn check(&self, store: &SqlStore, is_promoted: bool, at: &str) {
        let number = if is_promoted { 2 } else { 1 };
        let image = release("web", by(number, ""), &[]).image;
        assert_eq!(self.cluster.image("staging"), Some(image), "{at}");
        assert_eq!(self.cluster.objects("staging"), ["Deployment web", "Service web"], "{at}");
        assert_eq!(self.traffic.weight(), 0, "{at}");
        let status = store.placements(None).await.unwrap().remove(0);
        assert_eq!(status.running.map(|release| release.number), Some(number as u32), "{at}");
        assert_eq!(
            status.pinned.map(|release| release.number),
            (!is_promoted).then_some(2),
            "{at}"
        );
        assert!(store.open_rollouts().await.unwrap().is_empty(), "{at}");
    }
}

fn web(number: u32) -> Option<String> {
    Some(format!("web.{number}"))
}

fn is_watching(step: usize) -> impl Fn(&Rollout) -> bool {
    move |rollout| {
        matches!(rollout.state.stage, Stage::Watching { step: at, .. } if at == step)
            && rollout.evidence["sensor"]["judged"].is_object()
    }
}

#[tokio::test]
async fn a_good_release_is_rolled_out_and_leaves_nothing_behind() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    assert_eq!(store.open_deployments().await.unwrap(), [], "its rollout is worked on");
    let open = store.open_rollouts().await.unwrap();
    assert_eq!(open, std::slice::from_ref(&course.id));
    let rollout = course.run_until(&runner, is_watching(0)).await;
    assert_eq!(course.cluster.replicas("staging", "web-canary"), Some(1), "enough for 10 %");
    assert_eq!(rollout.stable, Some("web.1".parse().unwrap()));
    let rollout = course.run_until(&runner, is_watching(1)).await;
    assert_eq!(course.cluster.replicas("staging", "web-canary"), Some(4), "enough for all");
    assert_eq!(rollout.problem, None);
    let rollout = course.run(&runner).await;
    assert_eq!(
        (rollout.state.stage, course.traffic.weights()),
        (Stage::Promoted, vec![1_000, 10_000, 0])
    );
    // What is not of the canary is applied and pruned as in any deployment.
    runner.drive(&course.id).await.unwrap();
    assert_eq!(store.deployment(&course.id).await.unwrap().unwrap().state, State::Ready);
    course.check(&store, true, "promoted").await;
    let looks = store.looks(&course.id, None, 50).await.unwrap();
    assert!(looks.iter().any(|look| look.report.verdict == Verdict::Clear), "{looks:?}");
    let events = course.cluster.events();
    assert!(events.iter().all(|(object, _)| object == "Deployment web"), "{events:?}");
    let reasons: Vec<&str> = events.iter().map(|(_, reason)| reason.as_str()).collect();
    for reason in ["RolloutWatching", "RolloutReplacing", "RolloutPromoted"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
    let metrics = runner.metrics().text().unwrap();
    assert!(metrics.contains("portcullis_rollouts_closed_total{outcome=\"promoted\"} 1"));
    assert!(!metrics.contains("service=\"web\""), "nothing is open: {metrics}");
    let steps = store.rollout_steps(&course.id, 0).await.unwrap();
    let stages: Vec<&str> = steps.iter().map(|step| step.stage.name()).collect();
    assert_eq!((stages[0], stages[stages.len() - 1]), ("scaling", "promoted"), "{stages:?}");
    assert!(steps.iter().map(|step| step.number).eq(1..=steps.len() as u32));
    let audit = store.audit(None, 1).await.unwrap().remove(0);
    assert_eq!((&*audit.action, &*audit.actor), ("rollout.promoted", "portcullis:rollout"));
    assert_eq!((audit.before, audit.after), (web(1), web(2)));
    assert_eq!(store.rollout_steps(&course.id, 2).await.unwrap(), steps[2..]);
}

#[tokio::test]
async fn a_bad_release_is_taken_back_and_pinned_out() {
    let course = Course::new(40, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    let rollout = course.run(&runner).await;
    assert!(matches!(rollout.state.stage, Stage::RolledBack { .. }), "{}", rollout.state.sentence);
    assert_eq!(course.traffic.weights(), [1_000, 0]);
    course.check(&store, false, "taken back").await;
    let deployment = store.deployment(&course.id).await.unwrap().unwrap();
    let reason = deployment.state.reason().unwrap().to_owned();
    assert!(reason.starts_with("rolled back: alarm: "), "{reason}");
    let audit = store.audit(None, 50).await.unwrap();
    let own = audit.iter().filter(|entry| entry.actor == "portcullis:rollout");
    let own: Vec<_> = own.map(|entry| (&*entry.action, &*entry.subject)).collect();
    assert_eq!(own, [("rollout.rolled-back", "web.staging.2"), ("service.pin", "web.staging")]);
    assert!(audit[0].reason.starts_with("rolled back: alarm: "), "{:?}", audit[0]);
    assert_eq!((&audit[0].before, &audit[0].after), (&web(1), &web(1)), "web.1 runs again");
    let again = store.create_deployment(order("web.staging", Some(2), Intent::Deploy, by(90, "")));
    assert!(again.await.is_err(), "it is pinned out");
}

#[tokio::test]
async fn an_outage_of_both_sides_is_not_blamed_on_the_canary() {
    // Both fail: the canary is not blamed, and nobody goes forward.
    let course = Course::new(400, 200).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    let rollout = course.turns(&runner, 30).await;
    assert!(rollout.state.sentence.contains("an outage"), "{}", rollout.state.sentence);
    assert_eq!(course.traffic.weights(), [1_000]);
}

#[tokio::test]
async fn whoever_is_blind_raises_no_weight_and_says_so() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    course.traffic.silence(Some("connection refused"));
    let rollout = course.turns(&runner, 10).await;
    let blind = "holding: blind: gateway-2 cannot be read: connection refused";
    assert_eq!((rollout.state.sentence.as_str(), course.traffic.weights()), (blind, vec![]));
    course.traffic.silence(None);
    course.run_until(&runner, is_watching(0)).await;
    course.traffic.silence(Some("connection refused"));
    let rollout = course.turns(&runner, 10).await;
    assert_eq!((rollout.state.sentence.as_str(), course.traffic.weights()), (blind, vec![1_000]));
    // A person can still take it back, and the canary is removed after a minute.
    store.order_rollout(&course.id, Order::Abort, by(99, "")).await.unwrap();
    let rollout = course.run(&runner).await;
    assert_eq!(rollout.state.sentence, "rolled back: test");
    course.check(&store, false, "aborted").await;
}

#[tokio::test]
async fn what_cannot_be_done_is_shown_and_tried_again() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    course.traffic.refuse("the split of Service staging/web is set by helm");
    let rollout = course.turns(&runner, 10).await;
    let why = "the split of Service staging/web is set by helm";
    assert_eq!(rollout.problem.as_deref(), Some(why));
    assert_eq!(course.traffic.weight(), 0);
    course.cluster.hold_back("0 of 1 pods are available; CrashLoopBackOff");
    let rollout = course.turns(&runner, 3).await;
    let problem = rollout.problem.unwrap();
    assert!(
        problem.contains("the canary is not ready: 0 of 1") && problem.contains("Crash"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_weight_that_a_person_sets_is_left_and_orders_are_recorded() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    course.run_until(&runner, is_watching(0)).await;
    course.traffic.interfere(500);
    let rollout = course.turns(&runner, 5).await;
    let metrics = runner.metrics().text().unwrap();
    let weight = "portcullis_rollout_weight_ratio{environment=\"staging\",service=\"web\"} 0.05";
    assert!(metrics.contains(weight), "{metrics}");
    assert!(rollout.state.sentence.starts_with("holding: helm has set the weight to 5 %"));
    assert_eq!((course.traffic.weight(), rollout.state.weight()), (500, 500));
    let order = |order| store.order_rollout(&course.id, order, by(99, ""));
    assert!(matches!(order(Order::Skip).await, Err(StoreError::Order(_))));
    order(Order::Resume).await.unwrap();
    order(Order::Pause).await.unwrap();
    let before = store.rollout(&course.id).await.unwrap().unwrap().version;
    let rollout = course.turns(&runner, 5).await;
    assert_eq!(rollout.state.sentence, "paused: test");
    assert!(rollout.version > before);
    let steps = store.rollout_steps(&course.id, 0).await.unwrap();
    let ordered: Vec<_> = steps.iter().filter_map(|step| step.order).collect();
    assert_eq!(ordered, [Order::Resume, Order::Pause]);
    assert!(steps.iter().filter(|step| step.order.is_some()).all(|step| {
        (step.actor.as_deref(), step.reason.as_deref()) == (Some("ci"), Some("test"))
    }));
}

#[tokio::test]
async fn a_newer_release_takes_its_place_below_the_limit_and_waits_above() {
    for (weight, expected) in [(1_000, "watching"), (0, "rolledBack")] {
        let course = Course::new(2, 2).await;
        let store = open(course.folder.path()).await;
        let runner = course.runner(&store);
        if weight > 0 {
            course.run_until(&runner, is_watching(0)).await;
            store.order_rollout(&course.id, Order::Pause, by(98, "")).await.unwrap();
        }
        let newer = order("web.staging", Some(3), Intent::Deploy, by(99, ""));
        let newer = store.create_deployment(newer).await.unwrap();
        assert_eq!(store.open_deployments().await.unwrap(), [], "it waits for the rollout");
        let mut open = course.turns(&runner, 1).await;
        for _ in 0..10 {
            if open.state.is_open() {
                open = course.turns(&runner, 1).await;
            }
        }
        assert_eq!(open.state.stage.name(), expected, "{}", open.state.sentence);
        if weight == 0 {
            let old = store.deployment(&course.id).await.unwrap().unwrap();
            assert_eq!(old.state, State::Superseded);
            assert_eq!(store.open_deployments().await.unwrap(), [newer.id]);
        }
    }
}

#[tokio::test]
async fn a_rollback_takes_a_rollout_back_and_has_none_itself() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    course.run_until(&runner, is_watching(0)).await;
    let back = order("web.staging", None, Intent::Rollback, by(99, ""));
    let back = store.create_deployment(back).await.unwrap();
    assert_eq!(back.release.number, 1);
    let rollout = course.run(&runner).await;
    assert_eq!(rollout.state.sentence, "rolled back: the release is pinned out");
    runner.drive(&back.id).await.unwrap();
    assert_eq!(store.deployment(&back.id).await.unwrap().unwrap().state, State::Ready);
    assert_eq!(store.rollout(&back.id).await.unwrap(), None);
    course.check(&store, false, "rolled back").await;
}

#[tokio::test]
async fn a_release_that_cannot_be_watched_is_refused_before_anything_changes() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    course.run(&runner).await;
    let cluster = Arc::new(course.cluster.clone());
    let blind = Runner::new(store.clone(), cluster, Sensors::default(), Arc::default());
    blind.drive(&course.id).await.unwrap();
    let writes = course.cluster.writes();
    let next = order("web.staging", Some(3), Intent::Deploy, by(99, ""));
    let next = store.create_deployment(next).await.unwrap();
    blind.drive(&next.id).await.unwrap();
    let state = store.deployment(&next.id).await.unwrap().unwrap().state;
    assert!(state.reason().unwrap().contains("no `gateway`"), "{state:?}");
    assert_eq!(course.cluster.writes(), writes);
    // Where the template declares none, it is deployed at once.
    let next = order("web.production", Some(1), Intent::Deploy, by(99, ""));
    let next = store.create_deployment(next).await.unwrap();
    blind.drive(&next.id).await.unwrap();
    assert_eq!(store.deployment(&next.id).await.unwrap().unwrap().state, State::Ready);
}

/// What a Prometheus says.
struct Said(std::sync::Mutex<Result<f64, NoValue>>);

// === impl Said ===

impl Said {
    fn new(result: Result<f64, NoValue>) -> Arc<Self> {
        Arc::new(Self(std::sync::Mutex::new(result)))
    }
}

impl Queries for Said {
    fn value<'a>(
        &'a self,
        expr: &'a str,
        scope: &'a Scope,
    ) -> futures::future::BoxFuture<'a, Result<f64, NoValue>> {
        assert_eq!((expr, scope.service.canary.as_str()), ("errors", "web-canary"));
        let said = self.0.lock().unwrap().clone();
        Box::pin(async move { said })
    }
}

#[tokio::test]
async fn the_services_own_query_holds_while_it_is_blind_and_takes_the_release_back() {
    let query = json!({ "expr": "errors", "max": 0.5 });
    let course = Course::of(template("query", query), 2, 2).await;
    let store = open(course.folder.path()).await;
    let blind = course.runner_with(&store, None);
    let rollout = course.turns(&blind, 20).await;
    let why = "holding: blind: the builder has no `prometheus` in its configuration";
    assert_eq!((rollout.state.sentence.as_str(), course.traffic.weights()), (why, vec![1_000]));
    let said = Said::new(Ok(0.0));
    let runner = course.runner_with(&store, Some(said.clone()));
    for (why, part) in [
        (NoValue::Several(3), "the query returned 3 series"),
        (NoValue::Nothing, "the query returned nothing"),
        (NoValue::NotANumber("NaN".to_owned()), "the query returned NaN"),
        (NoValue::Apart(3_600), "Prometheus is 3600 s away from the builder's clock"),
        (NoValue::Away("cannot be reached".to_owned()), "Prometheus cannot be reached"),
    ] {
        *said.0.lock().unwrap() = Err(why);
        let rollout = course.turns(&runner, 10).await;
        let (sentence, weights) = (rollout.state.sentence, course.traffic.weights());
        assert!(sentence.starts_with(&format!("holding: blind: {part}")), "{sentence}");
        assert_eq!(weights, [1_000], "{part}");
    }
    *said.0.lock().unwrap() = Ok(0.7);
    let rollout = course.run(&runner).await;
    let back = "rolled back: the service's query is 0.7, and 0.5 is the most";
    assert_eq!(rollout.state.sentence, back);
    course.check(&store, false, "by its query").await;
}

#[tokio::test]
async fn a_canary_that_fails_the_check_is_taken_back_without_a_request() {
    let gate = json!({ "command": ["/app", "check"], "timeout": "90s", "runAsUser": 1000 });
    let course = Course::of(template("gate", gate), 2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    course.cluster.set_job(Readiness::Progressing("it is running".to_owned()));
    let rollout = course.turns(&runner, 10).await;
    assert_eq!(rollout.state.sentence, "waiting for the check before the first request");
    let job = course.cluster.object("staging", "Job").expect("it was started");
    let pod = &job["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["command"], json!(["/app", "check"]));
    assert_eq!(container["image"], release("web", by(2, ""), &[]).image, "the release's own");
    assert_eq!(container["env"][0]["value"], "http://web-canary.staging.svc:80");
    assert_eq!(container["resources"]["limits"], json!({ "cpu": "500m", "memory": "256Mi" }));
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(
        pod["securityContext"],
        json!({ "runAsNonRoot": true, "runAsUser": 1000,
            "seccompProfile": { "type": "RuntimeDefault" } })
    );
    assert_eq!(
        (&job["spec"]["activeDeadlineSeconds"], &job["spec"]["backoffLimit"]),
        (&json!(90), &json!(0))
    );
    let labels = job["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
    assert_eq!(labels.len(), 1, "nothing of the release selects its pods: {labels:?}");
    let why = "Job web-gate: it ended with exit code 1; its last log lines:\n500";
    course.cluster.set_job(Readiness::Failed(why.to_owned()));
    let rollout = course.run(&runner).await;
    assert_eq!(
        rollout.state.sentence,
        "rolled back: the check before the first request failed: Job web-gate: it ended with exit \
         code 1"
    );
    let gate = rollout.gate.expect("it is recorded");
    assert!(gate.log.starts_with("log of Job web-gate-") && gate.failure.is_some(), "{gate:?}");
    assert_eq!(course.traffic.weights(), [0; 0], "it never had traffic");
    course.check(&store, false, "failed").await;
}

#[tokio::test]
async fn a_canary_that_passes_the_check_is_rolled_out() {
    let course = Course::of(template("gate", json!({ "image": "check:1" })), 2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    let rollout = course.run_until(&runner, is_watching(0)).await;
    assert_eq!(rollout.gate.map(|gate| gate.failure), Some(None));
    let job = course.cluster.object("staging", "Job").expect("it was started");
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["command"]), (&json!("check:1"), &Value::Null));
    course.run(&runner).await;
    runner.drive(&course.id).await.unwrap();
    course.check(&store, true, "passed").await;
}

#[tokio::test]
async fn a_rollout_that_cannot_be_worked_on_is_a_problem_in_metrics() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let cluster = Arc::new(course.cluster.clone());
    let blind = Runner::new(store.clone(), cluster, Sensors::default(), Arc::default());
    Arc::clone(&blind).work_on_rollout(course.id.clone()).await;
    let metrics = blind.metrics().text().unwrap();
    let problem = "portcullis_rollout_problem{environment=\"staging\",service=\"web\"} 1";
    assert!(metrics.lines().any(|line| line == problem), "{metrics}");
    let problem = store.rollout(&course.id).await.unwrap().unwrap().problem.unwrap();
    assert!(problem.contains("no `gateway`"), "{problem}");
}

#[tokio::test]
async fn an_autoscaler_keeps_the_pods_that_an_abort_needs_until_the_end() {
    let mut objects = objects("warmUp", "0s".into());
    objects.push(json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "web" }, "spec": { "minReplicas": 2, "maxReplicas": 10,
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" } } }));
    let template = Template::parse(&objects.into()).unwrap();
    for order in [Order::Promote, Order::Abort] {
        let course = Course::of(template.clone(), 2, 2).await;
        let store = open(course.folder.path()).await;
        let runner = course.runner(&store);
        // It has scaled the stable pods.
        let mut deployment = course.cluster.object("staging", "Deployment").unwrap();
        assert_eq!(deployment["spec"]["replicas"], Value::Null, "they are the autoscaler's");
        deployment["spec"]["replicas"] = json!(6);
        let owner = Owner { service: "web".parse().unwrap(), epoch: store.epoch(), fence: None };
        course.cluster.apply(&deployment, &owner, Mode::Apply).await.unwrap();
        let least = || {
            let scaler = course.cluster.object("staging", "HorizontalPodAutoscaler").unwrap();
            scaler["spec"]["minReplicas"].clone()
        };
        course.run_until(&runner, is_watching(0)).await;
        assert_eq!(
            (least(), course.cluster.replicas("staging", "web-canary")),
            (json!(6), Some(1))
        );
        store.order_rollout(&course.id, order, by(99, "")).await.unwrap();
        course.run(&runner).await;
        assert_eq!(least(), json!(2), "{order:?}: as the release declares it");
    }
}

#[tokio::test]
async fn a_rollback_after_success_walks_no_steps() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    course.run(&runner).await;
    runner.drive(&course.id).await.unwrap();
    assert_eq!(course.traffic.weights(), [1_000, 10_000, 0]);
    let back = order("web.staging", None, Intent::Rollback, by(99, ""));
    let back = store.create_deployment(back).await.unwrap();
    runner.drive(&back.id).await.unwrap();
    assert_eq!(store.deployment(&back.id).await.unwrap().unwrap().state, State::Ready);
    assert_eq!(store.rollout(&back.id).await.unwrap(), None);
    assert_eq!(course.traffic.weights(), [1_000, 10_000, 0], "no weight was set");
    course.check(&store, false, "rolled back").await;
}

#[tokio::test]
async fn what_else_selects_the_canarys_pods_is_a_warning() {
    let course = Course::new(2, 2).await;
    let store = open(course.folder.path()).await;
    let runner = course.runner(&store);
    assert_eq!(course.run(&runner).await.state.warnings, Vec::<String>::new());
    let any = json!({ "matchExpressions": [{ "key": "app", "operator": "Exists" }] });
    let object = |name: &str, kind: &str, service: Option<&str>, spec: Value| {
        let labels = service.map(|service| json!({ "releases.portcullis.dev/service": service }));
        json!({ "apiVersion": if kind == "Service" { "v1" } else { "x/v1" }, "kind": kind,
            "metadata": { "name": name, "namespace": "staging", "labels": labels }, "spec": spec })
    };
    for manifest in [
        object("budget", "PodDisruptionBudget", None, json!({ "selector": any })),
        object("secret-project", "NetworkPolicy", Some("shop"), json!({ "podSelector": any })),
        object("deny-all", "NetworkPolicy", None, json!({ "podSelector": {} })),
        object("other", "Service", None, json!({ "selector": { "app": "other" } })),
    ] {
        let owner = Owner { service: "shop".parse().unwrap(), epoch: 0, fence: None };
        course.cluster.apply(&manifest, &owner, Mode::Apply).await.unwrap();
    }
    runner.drive(&course.id).await.unwrap();
    let next = order("web.staging", Some(3), Intent::Deploy, by(99, ""));
    let next = store.create_deployment(next).await.unwrap();
    runner.drive(&next.id).await.unwrap();
    let rollout = store.rollout(&next.id).await.unwrap().expect("it is rolled out");
    assert_eq!(
        rollout.state.warnings,
        [
            "PodDisruptionBudget budget selects the canary's pods, too",
            "a NetworkPolicy of another service selects the canary's pods, too",
        ]
    );
}

/// Lets a builder work that is killed before or after its write number `point`; `true` if it
/// survived.
async fn killed_at(course: &Course, point: usize) -> bool {
    let fuse = Fuse::on_writes_after(point);
    let store: Arc<dyn Store> = open(course.folder.path()).await;
    let cluster: Arc<dyn Cluster> = Arc::new(course.cluster.clone());
    let traffic: Arc<dyn Gateway> = Arc::new(course.traffic.clone());
    let runner = Runner::new(
        Arc::new(Faulty::new(store, &fuse)),
        Arc::new(Faulty::new(cluster, &fuse)),
        Sensors { gateway: Some(Arc::new(Faulty::new(traffic, &fuse))), ..Sensors::default() },
        Arc::default(),
    );
    tokio::select! {
        _ = course.run(&runner) => true,
        () = fuse.blown() => false,
    }
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the number of points is a result of the test")]
async fn a_builder_killed_at_any_write_of_a_rollout_resumes() {
    for (errors, is_promoted) in [(2, true), (40, false)] {
        let gate = json!({ "command": ["check"] });
        let scene = Course::of(template("gate", gate.clone()), errors, 2).await;
        let mut points = 0;
        loop {
            let course = scene.copy();
            let survived = killed_at(&course, points).await;
            let store = open(course.folder.path()).await;
            let runner = course.runner(&store);
            if !store.open_rollouts().await.unwrap().is_empty() {
                course.run(&runner).await;
            }
            runner.drive(&course.id).await.unwrap();
            course.check(&store, is_promoted, &format!("killed at {points}")).await;
            let audit = store.audit(None, 50).await.unwrap();
            let ended = |entry: &&AuditEntry| entry.subject == course.id.to_string();
            let ended =
                audit.iter().filter(ended).filter(|entry| entry.action != "deployment.deploy");
            assert_eq!(ended.count(), 1, "killed at {points}: it ends once");
            let weights = course.traffic.weights();
            let expected = if is_promoted { vec![1_000, 10_000, 0] } else { vec![1_000, 0] };
            assert_eq!(weights, expected, "killed at {points}: each weight once");
            if survived {
                break;
            }
            points += 1;
        }
        println!("killed at {points} writes, promoted: {is_promoted}");
        assert!(points >= 30, "only {points} points");
    }
}
