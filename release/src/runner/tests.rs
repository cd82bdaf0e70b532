//! Deployments to a simulated cluster, by a builder that is killed at every point.

pub(crate) mod fuse;
mod rollouts;
mod simulation;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use self::fuse::{Faulty, Fuse};
use self::simulation::Simulation;
use super::*;
use crate::manifest::Template;
use crate::state::Intent;
use crate::store::sql::SqlStore;
use crate::store::suite::{by, order, placement, release};
use crate::store::{AuditEntry, NewRelease};

/// What a caller does.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Create,
    Deploy,
    Promote,
    Rollback,
}

const OPERATIONS: [Operation; 4] =
    [Operation::Create, Operation::Deploy, Operation::Promote, Operation::Rollback];

/// A closed store in which releases 1 and 2 ran in staging and 2 runs, with its cluster. Release 2
/// has lost the object `old` of release 1, and release 3 has a new one.
struct Scene {
    folder: TempDir,
    cluster: Simulation,
}

// === impl Scene ===

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Simulation::default();
        let store = open(folder.path()).await;
        for (at, objects) in [(1, &["old", "both"][..]), (2, &["both"]), (3, &["both", "new"])] {
            store.create_release(release("web", by(at, ""), objects)).await.unwrap();
        }
        let runner = Runner::new(
            store.clone(),
            Arc::new(cluster.clone()),
            Sensors::default(),
            Arc::default(),
        );
        for number in [1, 2] {
            let order = order("web.staging", Some(number), Intent::Deploy, by(10, ""));
            let deployment = store.create_deployment(order).await.unwrap();
            runner.drive(&deployment.id).await.unwrap();
        }
        assert_eq!(cluster.objects("staging"), ["ConfigMap both", "Deployment web"]);
        Self { folder, cluster }
    }

    /// A copy that shares nothing with this one.
    fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        Self { folder, cluster: self.cluster.copy() }
    }
}

/// Opens the store of a builder that was just killed. Other tests start processes, and a child has the
/// lock, too, from its fork until its program starts.
pub(crate) async fn open(folder: &Path) -> Arc<SqlStore> {
    let opened = async {
        loop {
            match SqlStore::open_file(&folder.join("releases.db")).await {
                Err(StoreError::InUse) => tokio::time::sleep(Duration::from_millis(1)).await,
                opened => return opened.expect("the store opens"),
            }
        }
    };
    Arc::new(tokio::time::timeout(Duration::from_secs(10), opened).await.expect("the lock is free"))
}

/// Performs the operation as the API does, with an idempotency key, and works until nothing is open.
async fn perform(
    operation: Operation,
    store: Arc<dyn Store>,
    cluster: Arc<dyn Cluster>,
    acknowledged: &std::sync::Mutex<Option<String>>,
) {
    let by = || by(20, "operation");
    let made = match operation {
        Operation::Create => {
            store.create_release(release("web", by(), &[])).await.unwrap().id.to_string()
        }
        Operation::Deploy => {
            let order = order("web.staging", Some(3), Intent::Deploy, by());
            store.create_deployment(order).await.unwrap().id.to_string()
        }
        Operation::Promote => {
            let order = order("web.production", Some(2), Intent::Promote, by());
            store.create_deployment(order).await.unwrap().id.to_string()
        }
        Operation::Rollback => {
            let order = order("web.staging", None, Intent::Rollback, by());
            store.create_deployment(order).await.unwrap().id.to_string()
        }
    };
    *acknowledged.lock().unwrap() = Some(made);
    resume(store, cluster).await;
}

/// Works until nothing is open.
async fn resume(store: Arc<dyn Store>, cluster: Arc<dyn Cluster>) {
    let runner = Runner::new(Arc::clone(&store), cluster, Sensors::default(), Arc::default());
    for id in store.open_deployments().await.unwrap() {
        runner.drive(&id).await.unwrap();
    }
}

/// Checks that the operation happened exactly once and that the cluster is what the store says.
async fn check(operation: Operation, store: &dyn Store, cluster: &Simulation) {
    let count = |at: &'static str| async move {
        store.deployments(&placement(at), None, 50).await.unwrap().len()
    };
    let releases = store.releases(None, None, 50).await.unwrap().len();
    let counts = (releases, count("web.staging").await, count("web.production").await);
    let (expected, staging) = match operation {
        Operation::Create => ((4, 2, 0), &["ConfigMap both", "Deployment web"][..]),
        Operation::Deploy => {
            ((3, 3, 0), &["ConfigMap both", "ConfigMap new", "Deployment web"][..])
        }
        Operation::Promote => ((3, 2, 1), &["ConfigMap both", "Deployment web"][..]),
        Operation::Rollback => {
            ((3, 3, 0), &["ConfigMap both", "ConfigMap old", "Deployment web"][..])
        }
    };
    assert_eq!(counts, expected, "nothing is lost or done twice");
    assert_eq!(cluster.objects("staging"), staging);
    for status in store.placements(None).await.unwrap() {
        let running = status.running.expect("it became ready");
        let release = store.release(&running).await.unwrap().unwrap();
        let namespace = status.placement.environment.as_str();
        assert_eq!(cluster.image(namespace), Some(release.summary.image));
    }
    assert!(store.open_deployments().await.unwrap().is_empty());
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the number of points is a result of the test")]
async fn a_builder_killed_at_any_point_resumes_and_nothing_is_lost_or_done_twice() {
    let scene = Scene::new().await;
    let mut points = 0;
    for operation in OPERATIONS {
        for point in 0.. {
            let scene = scene.copy();
            let fuse = Fuse::after(point);
            let acknowledged = std::sync::Mutex::new(None);
            let store = open(scene.folder.path()).await;
            let work = perform(
                operation,
                Arc::new(Faulty::new(store.clone() as Arc<dyn Store>, &fuse)),
                Arc::new(Faulty::new(Arc::new(scene.cluster.clone()) as Arc<dyn Cluster>, &fuse)),
                &acknowledged,
            );
            let survived = tokio::select! {
                () = work => true,
                () = fuse.blown() => false,
            };
            drop(store);
            let store = open(scene.folder.path()).await;
            let made = acknowledged.lock().unwrap().clone();
            if let Some(made) = made {
                let known = match operation {
                    Operation::Create => {
                        store.release(&made.parse().unwrap()).await.unwrap().is_some()
                    }
                    _ => store.deployment(&made.parse().unwrap()).await.unwrap().is_some(),
                };
                assert!(known, "{operation:?} at {point}: {made} was acknowledged");
            }
            // The caller repeats its request, as it has no response.
            perform(operation, store.clone(), Arc::new(scene.cluster.clone()), &acknowledged).await;
            check(operation, &*store, &scene.cluster).await;
            if survived {
                break;
            }
            points += 1;
        }
    }
    println!("killed at {points} points");
    assert!(points >= 150, "only {points} points");
}

#[tokio::test]
async fn the_same_release_twice_writes_nothing() {
    let scene = Scene::new().await;
    let store = open(scene.folder.path()).await;
    let writes = scene.cluster.writes();
    let order = order("web.staging", Some(2), Intent::Deploy, by(30, ""));
    let deployment = store.create_deployment(order).await.unwrap();
    Runner::new(store.clone(), Arc::new(scene.cluster.clone()), Sensors::default(), Arc::default())
        .drive(&deployment.id)
        .await
        .unwrap();
    assert_eq!(store.deployment(&deployment.id).await.unwrap().unwrap().state, State::Ready);
    assert_eq!(scene.cluster.writes(), writes);
    assert_eq!(scene.cluster.fences(), [""; 0]);
}

#[tokio::test]
async fn a_rollback_brings_the_configuration_back() {
    let scene = Scene::new().await;
    let store = open(scene.folder.path()).await;
    let runner = Runner::new(
        store.clone(),
        Arc::new(scene.cluster.clone()),
        Sensors::default(),
        Arc::default(),
    );
    let template = |data: &str| {
        Template::parse(&serde_json::json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
                "data": {"key": data}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "spec": {"image": "{{image}}", "template": {"spec": {"containers": [
                    {"name": "web", "envFrom": [{"configMapRef": {"name": "settings"}}]},
                ]}}}},
        ]))
        .unwrap()
    };
    let mut seen = Vec::new();
    for (number, data) in [(Some(4), "first"), (Some(5), "second"), (None, "")] {
        let intent = if number.is_some() { Intent::Deploy } else { Intent::Rollback };
        if number.is_some() {
            let new = NewRelease { template: template(data), ..release("web", by(40, ""), &[]) };
            store.create_release(new).await.unwrap();
        }
        let order = order("web.staging", number, intent, by(41, ""));
        let deployment = store.create_deployment(order).await.unwrap();
        runner.drive(&deployment.id).await.unwrap();
        let objects = scene.cluster.objects("staging");
        let copies = objects.iter().filter(|object| object.starts_with("ConfigMap settings-"));
        seen.push((copies.count(), scene.cluster.configuration("staging")));
    }
    let [(one, first), (two, second), (again, third)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!([one, two, again], [&1, &2, &2], "a ReplicaSet may refer to the earlier one");
    assert!(first != second && first == third, "{seen:?}");
    // It is pruned when as many later ones ran as a Deployment keeps ReplicaSets.
    for number in 6..=6 + KEPT_COPIES {
        let new = NewRelease {
            template: template(&number.to_string()),
            ..release("web", by(50, ""), &[])
        };
        store.create_release(new).await.unwrap();
        let order = order("web.staging", Some(number), Intent::Deploy, by(51, ""));
        runner.drive(&store.create_deployment(order).await.unwrap().id).await.unwrap();
    }
    let objects = scene.cluster.objects("staging");
    assert_eq!(objects.len(), 1 + 1 + KEPT_COPIES as usize, "{objects:?}");
}

#[tokio::test]
async fn the_data_of_a_secret_is_readable_in_the_cluster_alone() {
    let scene = Scene::new().await;
    let store = open(scene.folder.path()).await;
    let keys = Arc::new(crate::sealing::tests::keys(&[1]));
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"},
        "stringData": {"password": "hunter2"}, "data": {"user": "d2Vi"},
    });
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"},
        "data": {"image": "{{image}}"},
    });
    let unsealed = Template::parse_unsealed(&serde_json::json!([object, secret]), true).unwrap();
    let template = unsealed.seal(&keys, &"web".parse().unwrap()).unwrap();
    let new = NewRelease { template: template.clone(), ..release("web", by(40, ""), &[]) };
    store.create_release(new).await.unwrap();
    for readable in ["hunter2", "aHVudGVyMg", "d2Vi"] {
        for texts in
            [serde_json::to_string(&template).unwrap(), format!("{:?}", template.redacted())]
        {
            assert!(!texts.contains(readable), "{texts}");
        }
        for entry in std::fs::read_dir(scene.folder.path()).unwrap() {
            let octets = std::fs::read(entry.unwrap().path()).unwrap();
            let is_there = octets.windows(readable.len()).any(|part| part == readable.as_bytes());
            assert!(!is_there, "the store has {readable}");
        }
    }
    let deploy = async |keys: Arc<crate::sealing::SealingKeys>| {
        let order = order("web.staging", Some(4), Intent::Deploy, by(41, ""));
        let id = store.create_deployment(order).await.unwrap().id;
        Runner::new(store.clone(), Arc::new(scene.cluster.clone()), Sensors::default(), keys)
            .drive(&id)
            .await
            .unwrap();
        store.deployment(&id).await.unwrap().unwrap().state
    };
    let failed = deploy(Arc::default()).await;
    assert!(failed.reason().is_some_and(|reason| reason.contains("sealingKeys")), "{failed:?}");
    assert_eq!(deploy(keys).await, State::Ready);
    let applied = scene.cluster.data("staging", "Secret database");
    let expected = serde_json::json!({"user": "d2Vi", "password": "aHVudGVyMg=="});
    assert_eq!(applied, Some(expected));
}

#[tokio::test]
async fn a_builder_whose_store_a_later_one_has_opened_changes_nothing() {
    let scene = Scene::new().await;
    let late = open(scene.folder.path()).await.epoch();
    let store = open(scene.folder.path()).await;
    let order = order("web.staging", Some(3), Intent::Deploy, by(30, ""));
    let deployment = store.create_deployment(order).await.unwrap();
    Runner::new(store.clone(), Arc::new(scene.cluster.clone()), Sensors::default(), Arc::default())
        .drive(&deployment.id)
        .await
        .unwrap();
    let owner = Owner { service: "web".parse().unwrap(), epoch: late, fence: None };
    let manifest = crate::store::suite::template(&["both"])
        .render(&"web.1".parse().unwrap(), "delayed", &[], "staging")
        .remove(0);
    let delayed = scene.cluster.apply(&manifest, &owner, Mode::Apply).await;
    assert!(matches!(delayed, Err(ClusterError::Rejected(_))), "{delayed:?}");
    let image = store.release(&"web.3".parse().unwrap()).await.unwrap().unwrap().summary.image;
    assert_eq!(scene.cluster.image("staging"), Some(image));
}

#[tokio::test]
async fn what_a_late_call_creates_again_is_deleted_unless_a_release_brings_it() {
    let scene = Scene::new().await;
    let late = open(scene.folder.path()).await.epoch();
    let store = open(scene.folder.path()).await;
    let runner = Runner::new(
        store.clone(),
        Arc::new(scene.cluster.clone()),
        Sensors::default(),
        Arc::default(),
    );
    for (release, intent) in [(Some(3), Intent::Deploy), (None, Intent::Rollback)] {
        let order = order("web.staging", release, intent, by(30, ""));
        runner.drive(&store.create_deployment(order).await.unwrap().id).await.unwrap();
    }
    assert_eq!(scene.cluster.objects("staging"), ["ConfigMap both", "Deployment web"]);
    // The call of the builder before, which created what is pruned now.
    let owner = Owner { service: "web".parse().unwrap(), epoch: late, fence: None };
    let template = crate::store::suite::template(&["new"]);
    let manifest = template.render(&"web.3".parse().unwrap(), "delayed", &[], "staging").remove(1);
    scene.cluster.apply(&manifest, &owner, Mode::Apply).await.unwrap();
    assert_eq!(scene.cluster.objects("staging").len(), 3);
    assert_eq!(store.watched_placements().await.unwrap(), [placement("web.staging")]);
    Arc::clone(&runner).sweep(placement("web.staging")).await;
    assert_eq!(scene.cluster.objects("staging"), ["ConfigMap both", "Deployment web"]);
    // A later release has it again.
    store.create_release(release("web", by(40, ""), &["both", "new"])).await.unwrap();
    let order = order("web.staging", Some(4), Intent::Deploy, by(41, ""));
    runner.drive(&store.create_deployment(order).await.unwrap().id).await.unwrap();
    Arc::clone(&runner).sweep(placement("web.staging")).await;
    assert_eq!(scene.cluster.objects("staging").len(), 3);
}

#[tokio::test]
async fn a_superseded_deployment_stops_and_its_successor_runs() {
    let scene = Scene::new().await;
    let store = open(scene.folder.path()).await;
    scene.cluster.hold_back("crash loop");
    let runner = Runner::new(
        store.clone(),
        Arc::new(scene.cluster.clone()),
        Sensors::default(),
        Arc::default(),
    );
    let running = tokio::spawn(Arc::clone(&runner).run());
    let bad = order("web.staging", Some(3), Intent::Deploy, by(30, ""));
    let bad = store.create_deployment(bad).await.unwrap();
    runner.wake();
    let reaches = |id: DeploymentId, name: &'static str| {
        let store = store.clone();
        async move {
            while store.deployment(&id).await.unwrap().unwrap().state.name() != name {
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    reaches(bad.id.clone(), "waiting").await;
    scene.cluster.let_through();
    let back = order("web.staging", None, Intent::Rollback, by(31, ""));
    let back = store.create_deployment(back).await.unwrap();
    assert_eq!(back.release.number, 2, "the one that ran");
    runner.wake();
    reaches(back.id.clone(), "ready").await;
    assert_eq!(store.deployment(&bad.id).await.unwrap().unwrap().state, State::Superseded);
    assert_eq!(scene.cluster.fences(), ["web.staging.4"], "calls of the bad one are invalid");
    assert_eq!(scene.cluster.objects("staging"), ["ConfigMap both", "Deployment web"]);
    running.abort();
}

#[tokio::test]
async fn an_unreachable_cluster_is_tried_again_and_a_rejection_is_not() {
    let scene = Scene::new().await;
    let store = open(scene.folder.path()).await;
    let runner = Runner::new(
        store.clone(),
        Arc::new(scene.cluster.clone()),
        Sensors::default(),
        Arc::default(),
    );
    scene.cluster.be_away(1);
    let deploy = |number, at| order("web.staging", Some(number), Intent::Deploy, by(at, ""));
    let deployment = store.create_deployment(deploy(3, 30)).await.unwrap();
    runner.drive(&deployment.id).await.unwrap();
    assert_eq!(store.deployment(&deployment.id).await.unwrap().unwrap().state, State::Ready);
    scene.cluster.reject("ConfigMap new: conflict with kubectl");
    let deployment = store.create_deployment(deploy(3, 40)).await.unwrap();
    let writes = scene.cluster.writes();
    runner.drive(&deployment.id).await.unwrap();
    let state = store.deployment(&deployment.id).await.unwrap().unwrap().state;
    assert_eq!(state.reason(), Some("ConfigMap new: conflict with kubectl"));
    assert_eq!(scene.cluster.writes(), writes, "the dry run found it");
}
