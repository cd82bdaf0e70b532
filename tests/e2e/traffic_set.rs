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

#[tokio::test]
async fn a_wait_ends_when_every_replica_has_applied_the_weights_and_names_those_that_have_not() {
    let (stable, canary) = (echo("stable").await, echo("canary").await);
    let world = World::web(&stable).with(variant("web-canary").pod(&canary));
    let first = Gateway::start(world).await;
    let manifests = first.folder().join("manifests");
    let source = json!({ "source": { "directory": manifests } });
    let second = Gateway::of(World::empty()).settings(source).start().await;
    let admins = [first.admin().to_string(), second.admin().to_string()];
    let wait = ["--wait", "--admin", &admins[0], "--admin", &admins[1]];
    for (weight, expected) in [("100", "canary"), ("0", "stable"), ("100", "canary")] {
        let output = set(&manifests, &[&[&*format!("canary={weight}")], &wait[..]].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.ends_with("applied by all replicas: 2\n"),
            "{said}"
        );
        // Nothing is left to wait for.
        assert_eq!([pod(&first).await, pod(&second).await], [expected, expected]);
    }
    let both = &wait[1..];
    let rows = json_of(&traffic(&[&["web", "-o", "json"], both].concat()).await);
    let row = &rows[0];
    assert_eq!(
        (&row["generation"], &row["applied"], &row["replicas"]),
        (&json!("3"), &json!(2), &json!(2))
    );
    let variants = row["variants"].as_array().unwrap();
    let of = |position: usize, key: &str| variants[position][key].as_f64().unwrap();
    assert_eq!(
        [of(0, "requests"), of(1, "requests"), of(0, "weight"), of(1, "weight")],
        [2.0, 4.0, 0.0, 100.0]
    );
    let table = traffic(both).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("web-canary  100 %   4         0       3           2/2"), "{table}");

    signal(&second, "STOP");
    let short = ["--timeout", "1s", "-o", "name"];
    let output = set(&manifests, &[&["canary=50"], &wait[..], &short[..]].concat()).await;
    signal(&second, "CONT");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "staging/web\n", "it is written");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&admins[1]) && said.contains("not applied by"), "{said}");
    let output = set(&manifests, &[&["canary=50"], &wait[..]].concat()).await;
    assert!(output.status.success(), "unchanged, and applied: {output:?}");
}

fn signal(gateway: &Gateway, name: &str) {
    let id = gateway.id().to_string();
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &id]).status();
    assert!(sent.expect("kill runs").success());
}

#[tokio::test]
async fn the_pods_of_a_gateway_are_reached_by_kubectl() {
    let (stable, canary) = (echo("stable").await, echo("canary").await);
    let world = World::web(&stable).with(variant("web-canary").pod(&canary));
    let gateway = Gateway::start(world).await;
    let manifests = gateway.folder().join("manifests");
    let tools = tempfile::tempdir().unwrap();
    let kubectl = tools.path().join("kubectl");
    let pods = json!({ "items": [{ "metadata": { "name": "portcullis-1" } }] });
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n'--namespace gateway get pods '*) echo '{pods}' ;;\n\
         '--namespace gateway port-forward pod/portcullis-1 :9901') echo 'Forwarding from {} -> \
         9901'; exec sleep 60 ;;\n*) exit 1 ;;\nesac\n",
        gateway.admin()
    );
    std::fs::write(&kubectl, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&kubectl, executable).unwrap();
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap());
    let folder = manifests.to_string_lossy();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["traffic", "set", "web", "canary=5", "--folder", &folder, "--wait", "--gateway"])
        .arg("gateway")
        .env("PATH", path)
        .output()
        .await
        .expect("portcullis runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("applied by all replicas: 1"), "{said}");
}
