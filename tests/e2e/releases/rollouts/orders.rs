//! What people see of a rollout in a terminal, and what they order.

use serde_json::{Value, json};

use super::super::builder::Lines;
use super::{Scene, echo, eventually};
use crate::harness::soon;

/// Three steps, the first two for longer than the test takes.
fn steps() -> Value {
    json!({ "steps": [{ "weight": 20, "hold": "1h" }, { "weight": 50, "hold": "1h" },
        { "weight": 100 }], "objectives": { "errorRatio": 0.2 }, "warmUp": "0s" })
}

/// Reads the lines of a command until one has a part; returns them.
async fn lines_until(lines: &mut Lines, part: &str) -> Vec<String> {
    let read = async {
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().await.expect("its output") {
            seen.push(line);
            if seen.last().is_some_and(|line| line.contains(part)) {
                return seen;
            }
        }
        panic!("it ended before {part}: {seen:?}");
    };
    soon("the lines are written", read).await
}

async fn order(scene: &Scene, order: &str, reason: &str) {
    let order = ["rollout", order, "web", "--in", "staging", "--reason", reason];
    let said = scene.builder.cli("ci", &order).await;
    assert_eq!(said.as_deref(), Ok(&*format!("web.staging.2: {} recorded\n", order[1])));
}

async fn weight_is(scene: &Scene, weight: u16) {
    eventually("the canary has its weight", || async {
        let shown = scene.builder.get("ci", "/api/v1/rollouts/web.staging.2").await.json();
        shown["weight"] == weight && shown["stage"] == "watching"
    })
    .await;
}

#[tokio::test]
async fn a_person_watches_and_steers_a_rollout_in_the_terminal() {
    let second = echo("second").await;
    let scene = Scene::with(second.address(), &steps()).await;
    scene.deploy().await;
    scene.reaches("watching").await;
    let watch = ["rollout", "status", "web", "--in", "staging", "--watch"];
    let (mut watching, mut lines) = scene.builder.follow("reader", &watch);
    // The steps, both sides' numbers, the evidence, one sentence, and what an abort would do.
    lines_until(&mut lines, "web.2 beside web.1, watching, 20 % of the traffic").await;
    for part in ["▶  1", "CANARY", "it is worse", "it is not bad", "an abort would do this"] {
        lines_until(&mut lines, part).await;
    }
    order(&scene, "pause", "lunch").await;
    lines_until(&mut lines, "pause by ci: lunch").await;
    order(&scene, "resume", "back again").await;
    order(&scene, "skip", "it was seen in the other environment").await;
    weight_is(&scene, 5000).await;
    lines_until(&mut lines, "✓  1").await;
    order(&scene, "promote", "an urgent fix").await;
    lines_until(&mut lines, ", promoted, ").await;
    soon("the command ends", watching.wait()).await.expect("it ends");
    scene.reaches("promoted").await;
    scene.check(2).await;
    let audit = scene.builder.get("admin", "/api/v1/audit").await.json();
    let entries = audit["items"].as_array().expect("entries");
    for (action, reason) in [
        ("rollout.pause", "lunch"),
        ("rollout.resume", "back again"),
        ("rollout.skip", "it was seen in the other environment"),
        ("rollout.promote", "an urgent fix"),
    ] {
        let found = entries.iter().find(|entry| entry["action"] == action).expect(action);
        assert_eq!((&found["actor"], &found["reason"]), (&json!("ci"), &json!(reason)));
    }
    assert_eq!(scene.load.counts().1, 0, "no request is lost");

    // A rollback after that walks no steps: the stable Deployment has the earlier release at once.
    let back = ["rollback", "web", "--in", "staging", "--wait", "--reason", "it was wrong"];
    scene.builder.cli("ci", &back).await.expect("it is rolled back");
    let none = scene.builder.get("ci", "/api/v1/rollouts/web.staging.3").await;
    assert_eq!(none.status, 404, "{}", none.text());
    assert_eq!(scene.cluster.splits().len(), 4, "20, 50, 100 and 0 %: no further weight was set");
    scene.check(1).await;
    assert_eq!(scene.load.counts().1, 0, "no request is lost");
}
