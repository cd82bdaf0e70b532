//! The API, sent what its OpenAPI document allows and what it does not, by schemathesis.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use super::builder::{self, Builder};
use super::manifests;
use super::registry::Registry;

/// The longest that some two thousand requests may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The program, in the folder in which `tests/schemathesis/build` installs it.
async fn schemathesis() -> PathBuf {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis/build");
    let output = Command::new(build).arg("--print-dir").output().await.expect("it runs");
    let folder = String::from_utf8(output.stdout).expect("a path");
    let python = PathBuf::from(folder.trim()).join("bin/python");
    assert!(python.exists(), "schemathesis is not there: run tests/schemathesis/build");
    python
}

#[tokio::test]
async fn no_request_that_the_description_allows_or_forbids_is_an_error_of_the_server() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    // What the examples of the description name.
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    for _ in 0..17 {
        assert_eq!(builder.post("admin", "/api/v1/releases", &request).await.status, 201);
    }
    for _ in 0..3 {
        let order = json!({ "release": "web.17", "environment": "staging" });
        assert_eq!(builder.post("admin", "/api/v1/deployments", &order).await.status, 202);
    }
    let mut command = Command::new(schemathesis().await);
    command
        .args(["-m", "schemathesis.cli", "run"])
        .arg(format!("{}/api/v1/openapi.json", builder.url()))
        .arg("--header")
        .arg(format!("Authorization: Bearer {}", builder::token("admin")))
        .arg("--tls-verify")
        .arg(builder.folder().join("ca.pem"))
        .args(["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "25", "--seed", "1", "--request-timeout", "10", "--no-shrink"])
        // A stream of events ends with its deployment.
        .args(["--exclude-path-regex", "/events$", "--generation-database", "none", "--no-color"])
        .current_dir(builder.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends").expect("it runs");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!report.contains(" 0 generated"), "{report}");
    assert_eq!(builder.get("admin", "/healthz").await.status, 200);
}
