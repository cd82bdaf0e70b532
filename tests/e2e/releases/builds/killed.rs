//! Builders that are killed by SIGKILL during a build: the next one makes one release of each commit, and
//! nothing is left of the build.

use std::fs;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use super::Shop;
use crate::harness::eventually;

/// Builders that run at the same time.
const AT_ONCE: usize = 4;

/// When a builder is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// The push was reported, and may not be known yet.
    Reported,
    /// The commit is known.
    Known,
    /// The build has begun.
    Begun,
    /// The image is built.
    Building,
    /// Its script runs.
    Running,
    /// It is pushed, and the registry does not answer.
    Pushing,
    /// The registry was away for too long, and the build waits for another attempt.
    Waiting,
    /// The release is recorded.
    Released,
    /// The build has ended.
    Ended,
    /// The release is deployed.
    Deployed,
    /// A person has cancelled the build that runs.
    Cancelled,
    /// A build that a person has requested runs.
    Requested,
}

use Point::{
    Begun, Building, Cancelled, Deployed, Ended, Known, Pushing, Released, Reported, Requested,
    Running, Waiting,
};

const POINTS: [Point; 12] = [
    Reported, Known, Begun, Building, Running, Pushing, Waiting, Released, Ended, Deployed,
    Cancelled, Requested,
];

/// Waits until build 2 is at the point.
async fn reach(shop: &Shop, point: Point) {
    let log_has = async |part: &str| {
        eventually("the log has a line", || async { shop.log(2).await.contains(part) }).await;
    };
    match point {
        Reported | Known => {}
        Begun => log_has("attempt 1").await,
        Building => log_has("web: building").await,
        Running | Requested => log_has("started\n").await,
        Pushing => log_has("web: pushing").await,
        Waiting => shop.state_is(2, "waiting").await,
        Released => log_has("release web.1 is").await,
        Ended => shop.state_is(2, "succeeded").await,
        Deployed => {
            eventually("it is deployed", || async {
                shop.build(2).await["targets"][0]["autopushed"].is_string()
            })
            .await;
        }
        Cancelled => {
            log_has("started\n").await;
            let cancel = ["build", "cancel", "shop.2", "--reason", "a mistake"];
            shop.builder.cli("admin", &cancel).await.expect("it is ordered");
        }
    }
}

async fn kill_at(point: Point) {
    let mut shop = Shop::start(&json!({})).await;
    if matches!(point, Running | Cancelled | Requested) {
        shop.write_script("echo started; sleep 8");
    } else {
        shop.write_file("web", "first");
    }
    if matches!(point, Pushing | Waiting) {
        shop.registry.pause();
    }
    let commit = match point {
        Reported => {
            let commit = shop.work.push("master");
            shop.builder.cli("admin", &["repo", "sync", "shop"]).await.expect("it is ordered");
            commit
        }
        Requested => {
            // What is pushed after it has its turn later.
            let commit = shop.push().await;
            let build = ["release", "build", "shop", "--commit", &commit];
            shop.builder.cli("admin", &build).await.expect("it is requested");
            commit
        }
        _ => shop.push().await,
    };
    if point == Waiting {
        shop.state_is(2, "running").await;
    }
    reach(&shop, point).await;
    shop.builder.kill_and_restart().await;
    shop.registry.resume();

    let builds = async || -> Vec<Value> {
        let page = shop.get("/api/v1/builds?repository=shop").await;
        page["items"].as_array().expect("a page").clone()
    };
    let is_open = |build: &Value| build["state"] == "waiting" || build["state"] == "running";
    eventually("all builds have ended", || async {
        let builds = builds().await;
        builds.first().is_some_and(|build| build["commit"] == commit) && !builds.iter().any(is_open)
    })
    .await;
    let at = format!("killed at {point:?}: {:?}", builds().await);
    let releases = shop.releases("web").await;
    if point == Cancelled {
        assert_eq!((shop.build(2).await["state"].as_str(), releases.len()), (Some("cancelled"), 0));
        assert_eq!(shop.build(2).await["targets"][0]["state"], "failed", "{at}");
    } else {
        assert_eq!(shop.build(2).await["state"], "succeeded", "{at}");
        let [release] = &releases[..] else { panic!("{at}: {releases:?}") };
        assert_eq!(release["commit"], commit, "{at}");
        let digest = shop.registry.digest("web", &commit).await.expect("it is pushed");
        assert!(release["image"].as_str().is_some_and(|image| image.ends_with(&digest)), "{at}");
        shop.runs("web.1").await;
        let page = shop.get("/api/v1/environments/staging").await;
        assert_eq!(page["services"].as_array().map(Vec::len), Some(1), "{at}: {page}");
    }
    let left: Vec<_> = fs::read_dir(shop.builder.folder().join("builds/work")).unwrap().collect();
    assert!(left.is_empty(), "{at}: {left:?}");
}

#[tokio::test]
async fn a_builder_killed_at_any_step_of_a_build_releases_once() {
    futures::stream::iter(POINTS.map(kill_at)).for_each_concurrent(AT_ONCE, |killed| killed).await;
}

#[tokio::test]
async fn a_builder_that_is_killed_again_and_again_builds_the_newest_commit() {
    let mut shop = Shop::start(&json!({})).await;
    // At different times after a push.
    for pause in [0, 100, 300, 600, 900, 1200, 1500] {
        shop.write_file("web", &format!("after {pause}"));
        shop.push().await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        shop.builder.kill_and_restart().await;
    }
    let last = shop.push().await;
    eventually("the newest commit is built", || async {
        let page = shop.get("/api/v1/builds?repository=shop").await;
        let builds = page["items"].as_array().unwrap().clone();
        let is_open = |build: &Value| build["state"] == "waiting" || build["state"] == "running";
        builds[0]["commit"] == last && !builds.iter().any(is_open)
    })
    .await;
    let releases = shop.releases("web").await;
    let mut commits: Vec<_> = releases.iter().map(|it| it["commit"].to_string()).collect();
    commits.dedup();
    assert_eq!(commits.len(), releases.len(), "each commit has one release: {releases:?}");
    let newest = releases[0]["id"].as_str().unwrap();
    shop.runs(newest).await;
}
