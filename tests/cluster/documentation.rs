//! The documentation's commands, as a newcomer types them: an empty cluster, the pages one after
//! the other, and after each page what they promise.
//!
//! They have a node of their own, since they install the gateway, upgrade it and remove it.

#[path = "../documentation/blocks.rs"]
mod blocks;
mod exposures;
mod installer;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use self::blocks::{Block, START, WALK};
use crate::node::{eventually, kubectl, name_image, node_address, output, report, repository};

/// Where the first route leads, as README.md has it.
const URL: &str = "https://web--staging.apps.example.com/";
/// How long pods may take.
const PODS: Duration = Duration::from_secs(180);

/// A newcomer's folder: a copy of what the commands use of the repository.
struct Folder(TempDir);

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn the_documentation_works_as_written() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(walk());
}

async fn walk() {
    let began = std::time::Instant::now();
    name_images();
    let folder = Folder::new();
    let run = |page: &str| {
        for block in blocks::of(page).iter().filter(|block| block.is_tested("node")) {
            folder.run(block);
            available();
        }
    };
    run(START);
    report(&format!("getting started took {:.1?}", began.elapsed()));
    let began_rendering = std::time::Instant::now();
    folder.bash("helm template deploy/helm/portcullis --set zone=apps.example.com > /dev/null");
    report(&format!("the chart is rendered in {:.2?}", began_rendering.elapsed()));
    let mut key = None;
    for page in WALK {
        run(page);
        // Created on the first page, and valid to the last one, whatever was uninstalled between.
        let key = key.get_or_insert_with(|| folder.bash("portcullis key create importer"));
        folder.is_served(Some(key.trim()), "200").await;
        folder.is_served(None, "404").await;
    }
    report(&format!("the documentation's commands took {:?}", began.elapsed()));
    exposures::each_responds().await;
    installer::what_install_prints_responds().await;
}

/// Gives the images that the suite built the names in the documentation: the cluster "has the
/// image", and the echo server stands for nginx, which cannot be pulled here.
fn name_images() {
    for (built, name) in [
        ("local/portcullis:test", "docker.io/library/portcullis:0.1.0"),
        ("local/portcullis-echo:test", "docker.io/nginxinc/nginx-unprivileged:1.29"),
    ] {
        name_image(built, name);
    }
}

/// Waits until every Deployment has its pods, and no other pod is left.
fn available() {
    let deployments = kubectl(&["get", "deployments", "--all-namespaces", "--output=name"]);
    if !deployments.trim().is_empty() {
        let wait = ["wait", "--for=condition=Available", "deployments", "--all"];
        kubectl(&[&wait[..], &["--all-namespaces", "--timeout=180s"]].concat());
    }
    // A pod that is ending may be gone before a command that lists pods asks for its log.
    let template = "jsonpath={range .items[?(@.metadata.deletionTimestamp)]}{.metadata.namespace} \
                    pod/{.metadata.name}{\"\\n\"}{end}";
    let ending = kubectl(&["get", "pods", "--all-namespaces", "--output", template]);
    for (namespace, pod) in ending.lines().filter_map(|line| line.split_once(' ')) {
        kubectl(&["wait", "--for=delete", pod, "--namespace", namespace, "--timeout=180s"]);
    }
}

// === impl Folder ===

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        output(Command::new("cp").arg("-r").arg(repository("deploy")).arg(folder.path()));
        // What a user brings: a certificate for the zone.
        folder.bash(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
             -subj '/CN=apps.example.com' -addext 'subjectAltName=DNS:*.apps.example.com' \
             -keyout zone.key -out zone.crt",
        );
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, block: &Block) {
        report(&format!("{}:{}", block.page, block.line));
        self.bash(&block.text);
    }

    /// Runs commands in the folder, with the program in the path, and DNS as if the zone's record
    /// led to the gateway.
    fn bash(&self, commands: &str) -> String {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_portcullis"));
        let programs = program.parent().expect("a folder").display().to_string();
        let build = repository("tests/chart/build");
        let helm = output(Command::new(build).arg("--print-dir"));
        let rest = std::env::var("PATH").unwrap_or_default();
        let path = format!("{programs}:{}:{rest}", helm.trim());
        std::fs::write(self.path().join(".curlrc"), curl_settings()).expect("the settings");
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", commands]).current_dir(self.path());
        output(bash.env("PATH", path).env("CURL_HOME", self.path()))
    }

    /// Waits until the first route responds with `status` to a request with this client key.
    async fn is_served(&self, key: Option<&str>, status: &str) {
        let header = key.map(|key| format!("--header 'X-Api-Key: {key}'")).unwrap_or_default();
        let curl = format!(
            "curl --silent --max-time 10 --output /dev/null --write-out '%{{http_code}}' \
             {header} {URL} || true"
        );
        eventually(&format!("{status} with {} key", key.map_or("no", |_| "a")), PODS, || async {
            match self.bash(&curl) {
                got if got == status => Ok(()),
                got => Err(got),
            }
        })
        .await;
    }
}

/// Settings of curl: every name leads to the gateway's node port, or to its pod's port of the node.
fn curl_settings() -> String {
    let find = |arguments: &[&str]| {
        let found = Command::new("kubectl").args(arguments).output().expect("kubectl runs");
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    let port = r#"jsonpath={.spec.ports[?(@.name=="https")].nodePort}"#;
    let port = find(&["get", "service", "portcullis", "--namespace=portcullis", "--output", port]);
    let port = if port.is_empty() { "443" } else { &port };
    format!("insecure\nconnect-to = \"::{}:{port}\"\n", node_address())
}
