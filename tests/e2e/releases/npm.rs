//! The npm module, run by Node.js against the builder.

use std::path::PathBuf;
use std::process::Output;

use serde_json::json;
use tokio::process::Command;

use super::builder::{self, Builder};
use super::manifests;
use super::registry::Registry;
use crate::harness::soon;

async fn run(builder: &Builder, caller: &str, server: &str, arguments: &[&str]) -> Output {
    let script =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/npm/bin/portcullis-release.js");
    let mut command = Command::new("node");
    command
        .arg(script)
        .args(["--server", server])
        .args(arguments)
        .current_dir(builder.folder())
        .env("PORTCULLIS_TOKEN", builder::token(caller))
        .env("PORTCULLIS_AUTHORITIES", builder.folder().join("ca.pem"))
        .kill_on_drop(true);
    soon("the script ends", command.output()).await.expect("node starts")
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn an_npm_script_creates_a_release_or_fails_the_build() {
    let registry = Registry::start().await;
    let digest = registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let (image, url) = (registry.image("web", "1"), builder.url());
    std::fs::write(builder.folder().join("web.yaml"), manifests("web")).unwrap();
    let arguments = [
        "--manifest",
        "web.yaml",
        "--image",
        &image,
        "--commit",
        "0a1b2c",
        "--irreversible",
        "migrates",
    ];
    let created = run(&builder, "ci", url, &arguments).await;
    assert_eq!(String::from_utf8_lossy(&created.stdout), "web.1\n", "{created:?}");
    let release = builder.get("ci", "/api/v1/releases/web.1").await.json();
    assert!(release["image"].as_str().unwrap().ends_with(&digest), "{release}");
    assert_eq!(
        (&release["commit"], &release["irreversible"]),
        (&json!("0a1b2c"), &json!("migrates"))
    );

    let refused = error(&run(&builder, "nobody", url, &arguments).await);
    assert!(refused.contains("no valid key"), "{refused}");
    std::fs::write(builder.folder().join("bad.yaml"), "kind: Secret\n").unwrap();
    let bad = ["--manifest", "bad.yaml", "--image", &image];
    let refused = error(&run(&builder, "ci", url, &bad).await);
    assert!(refused.contains("/template"), "every problem with its place: {refused}");
    let absent = error(&run(&builder, "ci", url, &["--manifest", "no.yaml", "--image", "x"]).await);
    assert!(absent.contains("no.yaml"), "{absent}");
    let clear = error(&run(&builder, "ci", "http://builder.example.com", &arguments).await);
    assert!(clear.contains("in clear"), "{clear}");
    let missing = error(&run(&builder, "ci", url, &["--image", &image]).await);
    assert!(missing.contains("--manifest"), "{missing}");
    let listed = builder.get("ci", "/api/v1/releases").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
}
