//! The whole of h2spec against the listener, over TLS and plain.

use std::process::Stdio;

use tokio::process::Command;

use crate::harness::{Echo, Gateway, Service, World, echo, soon, tool};

/// The target and the path for h2spec.
const HOST: &str = "localhost";

async fn start() -> (Echo, Gateway) {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("web").annotation("hostnames", HOST).pod(&pod)),
    )
    .await;
    (pod, gateway)
}

/// The report's summary, and the report.
async fn run(port: u16, further: &[&str]) -> (String, String) {
    let mut command = Command::new(tool("h2spec"));
    // The sample service responds here after it has read the whole request. A response
    // before that, such as a 404, would overtake what h2spec sends after the head, and be seen as
    // a DATA frame instead of the expected error.
    command
        .args(["--strict", "--host", HOST, "--path", "/echo", "--port", &port.to_string()])
        .args(further);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = soon("h2spec ends", command.output()).await.expect("h2spec runs");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary =
        report.lines().rev().find(|line| line.contains(" tests, ")).unwrap_or_default().to_owned();
    (summary, report)
}

#[tokio::test]
async fn h2spec_passes_completely() {
    let (_pod, gateway) = start().await;
    let (summary, report) = run(gateway.https().port(), &["--tls", "--insecure"]).await;
    assert_eq!(summary, "146 tests, 146 passed, 0 skipped, 0 failed", "{report}");
}

#[tokio::test]
async fn h2spec_passes_without_tls_except_for_http1_cases() {
    let (_pod, gateway) = start().await;
    let (summary, report) = run(gateway.http().port(), &[]).await;
    assert_eq!(summary, "146 tests, 145 passed, 0 skipped, 1 failed", "{report}");
    // The listener also supports HTTP/1.1, and uses it for anything without an HTTP/2 preface.
    assert!(
        report.contains("× 2: Sends invalid connection preface")
            && report.contains("looked like an HTTP/1.1 header"),
        "{report}"
    );
}
