//! `portcullis traffic`: weights are set in one write, and gateways follow.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Gateway, Service, WEB, World, echo, eventually};

/// Runs `portcullis traffic` with these arguments.
async fn traffic(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("traffic").args(arguments).env("NO_COLOR", "1").env("KUBECONFIG", "/dev/null");
    command.output().await.expect("portcullis runs")
}

/// Runs `portcullis traffic set web` on the manifests of a gateway.
async fn set(manifests: &Path, arguments: &[&str]) -> Output {
    let folder = manifests.to_string_lossy();
    traffic(&[&["set", "web", "--folder", &folder, "-e", "staging"], arguments].concat()).await
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What was reported, on one line.
fn refusal(output: &Output) -> String {
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).replace("│", " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn variant(name: &str) -> Service {
    Service::new(name).annotation("canary-of", "web")
}

/// The pod that answers.
async fn pod(gateway: &Gateway) -> String {
    gateway.curl(WEB, "/whoami").run().await.text().trim().to_owned()
}

#[tokio::test]
async fn weights_take_effect_and_are_undone_in_one_write_each() {
    let (stable, canary) = (echo("stable").await, echo("canary").await);
    let world = World::web(&stable).with(variant("web-canary").pod(&canary));
    let gateway = Gateway::start(world).await;
    let manifests = gateway.folder().join("manifests");
    assert_eq!(pod(&gateway).await, "stable");
    let output = set(&manifests, &["canary=100"]).await;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "VARIANT     WEIGHT  BEFORE\nstable      0 %     100 %\nweb-canary  100 %   0 %\n\
         staging/web now has generation 1\n"
    );
    eventually("the canary answers", || async { pod(&gateway).await == "canary" }).await;
    let undone = json_of(&set(&manifests, &["--previous", "-o", "json"]).await);
    let variants = json!([
        { "name": "stable", "weight": 100.0, "before": 0.0 },
        { "name": "web-canary", "weight": 0.0, "before": 100.0 },
    ]);
    let expected = json!({ "namespace": "staging", "service": "web", "generation": "2",
        "changed": true, "variants": variants });
    assert_eq!(undone, expected);
    eventually("the stable one answers", || async { pod(&gateway).await == "stable" }).await;
    let again = json_of(&set(&manifests, &["--previous", "-o", "json"]).await);
    assert_eq!(
        (&again["generation"], &again["variants"][1]["weight"]),
        (&json!("3"), &json!(100.0))
    );
    eventually("the canary answers again", || async { pod(&gateway).await == "canary" }).await;
    let same = json_of(&set(&manifests, &["canary=100%", "-o", "json"]).await);
    assert_eq!((&same["generation"], &same["changed"]), (&json!("3"), &json!(false)));
}

#[tokio::test]
async fn what_cannot_be_set_changes_nothing() {
    let pod = echo("stable").await;
    let world = World::web(&pod).with(variant("web-canary")).with(variant("web-b"));
    let folder = tempfile::tempdir().unwrap();
    world.write(folder.path());
    let file = folder.path().join("service-staging-web.json");
    let before = std::fs::read_to_string(&file).unwrap();
    for (arguments, code, expected) in [
        (
            &["x=5"][..],
            1,
            "there is no variant `x`: the variants of Service staging/web are web-b, web-canary",
        ),
        (&["canary=60", "b=50"], 1, "the weights add up to 110 %: web-b 50 %, web-canary 60 %"),
        (&["canary=1.234"], 2, "a weight is a percentage from 0 to 100 with two decimals at most"),
        (&["canary"], 2, "write VARIANT=WEIGHT, such as canary=5"),
        (&[], 2, "the following required arguments were not provided"),
        (&["--previous"], 1, "there is no previous split of Service staging/web"),
        (&["canary=5", "--if-generation", "7"], 1, "its split was changed meanwhile"),
    ] {
        let output = set(folder.path(), arguments).await;
        let said = refusal(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let elsewhere = folder.path().to_string_lossy();
    let output = traffic(&["set", "web", "canary=5", "-n", "other", "--folder", &elsewhere]).await;
    assert!(refusal(&output).contains("there is no Service `web` in the Namespace `other`"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
}
