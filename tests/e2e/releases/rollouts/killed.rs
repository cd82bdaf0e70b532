//! Builders that are killed by SIGKILL at each recorded step of a rollout and of an abort.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};

use super::cluster::When;
use super::{LONGEST, Scene, short};
use crate::harness::{echo, eventually};

/// How often the stage is looked at.
const PAUSE: Duration = Duration::from_millis(100);
/// Responses that show that the traffic goes on.
const RESPONSES: u64 = 50;

// === impl Scene ===

impl Scene {
    /// The stage of the rollout; `None` before it began.
    async fn stage(&self) -> Option<String> {
        let shown = self.builder.get("ci", "/api/v1/rollouts/web.staging.2").await;
        let is_there = shown.status == 200;
        is_there.then(|| shown.json()["stage"].as_str().expect("a stage").to_owned())
    }

    /// Kills the builder. While it is dead, the traffic stays as it is.
    async fn kill(&mut self) {
        self.builder.kill().await;
        let (splits, (before, ..)) = (self.cluster.splits(), self.load.counts());
        eventually("the traffic goes on", || async { self.load.counts().0 >= before + RESPONSES })
            .await;
        assert_eq!(self.cluster.splits(), splits, "nobody changes the split");
        assert_eq!(self.load.counts().1, 0, "no request is lost");
    }

    /// Kills the builder at each change of the cluster, and once in each stage that changes nothing,
    /// until the rollout is closed. If it `is_aborted`, a person does that when the stable Deployment
    /// has the second release. Returns the stages in which it was killed, and how often.
    async fn killed_until_closed(&mut self, is_aborted: bool) -> (BTreeSet<String>, usize) {
        let first = self.cluster.image("web");
        let mut is_ordered = !is_aborted;
        let (mut stages, mut kills) = (BTreeSet::new(), 0);
        let mut deadline = Instant::now() + LONGEST;
        loop {
            let is_held = timeout(PAUSE, self.cluster.held()).await.is_ok();
            let stage = self.stage().await.unwrap_or_default();
            if ["promoted", "rolledBack"].contains(&&*stage) {
                return (stages, kills);
            }
            let is_watching = stage == "watching" && !stages.contains(&stage);
            if !is_held && !is_watching {
                assert!(Instant::now() < deadline, "nothing happens: {stage:?}");
                continue;
            }
            if !is_ordered && self.cluster.image("web") != first {
                self.order("abort").await;
                is_ordered = true;
            }
            self.kill().await;
            stages.insert(stage);
            (kills, deadline) = (kills + 1, Instant::now() + LONGEST);
            self.builder.restart().await;
            // What the killed builder had sent arrives after the next one has begun to work.
            self.cluster.deliver();
        }
    }
}

#[tokio::test]
async fn a_builder_killed_at_each_step_of_a_rollout_resumes() {
    let second = echo("second").await;
    let mut rollout = short();
    rollout["gate"] = json!({ "command": ["/app", "check"] });
    let mut scene = Scene::with(second.address(), &rollout).await;
    scene.cluster.hold_changes(When::ByTurns);
    scene.deploy().await;
    let (stages, kills) = scene.killed_until_closed(false).await;
    println!("killed {kills} times in {stages:?}");
    for stage in ["scaling", "gate", "shifting", "watching", "replacing", "returning", "cleaning"] {
        assert!(stages.contains(stage), "{stage}: {stages:?}");
    }
    assert_eq!(scene.stage().await.as_deref(), Some("promoted"));
    let expected = ["web-canary=0-4999", "web-canary=0-9999", "stable=0-9999"];
    assert_eq!(scene.cluster.splits(), expected, "each weight once");
    scene.check(2).await;
    assert_eq!(scene.load.counts().1, 0, "no request is lost");
}

#[tokio::test]
async fn a_builder_killed_at_each_step_of_an_abort_resumes() {
    let second = echo("second").await;
    let mut scene = Scene::new(second.address()).await;
    scene.deploy().await;
    scene.reaches("watching").await;
    scene.order("promote").await;
    scene.cluster.hold_changes(When::Made);
    let (stages, kills) = scene.killed_until_closed(true).await;
    println!("killed {kills} times in {stages:?}");
    for stage in ["replacing", "restoring", "withdrawing", "removing"] {
        assert!(stages.contains(stage), "{stage}: {stages:?}");
    }
    assert_eq!(scene.stage().await.as_deref(), Some("rolledBack"));
    scene.check(1).await;
    assert_eq!(scene.load.counts().1, 0, "no request is lost");
}
