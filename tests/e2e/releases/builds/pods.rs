//! A builder that is a pod itself, installed by the chart as docs/builds.md has it typed: what is
//! pushed to a git server is built by Jobs, and the chart's gateway answers with it.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::super::builder::{Builder, callers};
use super::super::canaries::repository::{PROGRAM, PULL_SECRET, trust, unpack};
use super::super::git_server::{CREDENTIALS, GitServer, WorkTree};
use super::super::registry::Registry;
use super::super::walk::file_of;
use super::base_image;
use super::builders::PATIENCE;
use super::jobs::{IMAGE, NODE};
use crate::chart::built;
use crate::documentation::{BUILDS, blocks};
use crate::harness::node::{kubectl, name_image};
use crate::harness::{Authority, Curl, eventually, soon};

/// The installation, in place of `portcullis`, which other tests have.
const INSTALLED: &str = "portcullis-pods";
const BUILDER: &str = "portcullis-pods-builder";
const BUILDS_NAMESPACE: &str = "portcullis-pods-builds";
const ENVIRONMENT: &str = "pods-staging";
const ZONE: &str = "apps.pods.test";
/// The repository, as the page's URL names it.
const REPOSITORY: &str = "team/shop";
const BASE: &str = "r.test/busybox:1";
/// The label of the node that builds run on.
const LABEL: &str = "portcullis.dev/tested-builds";

/// What the page expects: a registry, a repository, an environment, and the user's folder.
struct Site {
    registry: Registry,
    server: GitServer,
    shop: WorkTree,
    folder: TempDir,
    /// The folder of the builder's volume.
    _volume: TempDir,
}

// === impl Site ===

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (registry, server) = (Registry::at(NODE).await, GitServer::at(NODE).await);
        let shop = server.create(REPOSITORY);
        super::super::node::open_environment(ENVIRONMENT).await;
        trust(&registry, ENVIRONMENT).await;
        base_image(folder.path(), BASE);
        let path = |name: &str| folder.path().join(name);
        let authority = Authority::new("Builder tests").expect("an authority");
        let issued = authority.issue(&["localhost"], Duration::from_secs(2 * 3600));
        let issued = issued.expect("a certificate");
        let auth = STANDARD.encode(registry.credentials());
        let config = json!({ "auths": { registry.host(): { "auth": auth } } });
        for (name, text) in [
            ("ca.pem", authority.certificate()),
            ("builder.crt", issued.certificate),
            ("builder.key", issued.key),
            ("git-credentials", CREDENTIALS.to_owned()),
            ("config.json", config.to_string()),
        ] {
            fs::write(path(name), text).expect("a file");
        }
        fs::copy(server.file("ca.pem"), path("git.pem")).expect("an authority");
        fs::copy(registry.authority(), path("registry.pem")).expect("an authority");
        let volume = volume().await;
        Self { registry, server, shop, folder, _volume: volume }
    }

    /// The page's values, for the images and servers that are here. Builds run on a node that does not
    /// exist yet, and their image is not there yet.
    fn values(&self) -> Value {
        let git = self.server.url("");
        let git = git.trim_start_matches("https://").split('/').next().expect("a host");
        let text = file_of(BUILDS, "values.yaml").replace("git.example.com", git);
        let text = text.replace("registry.example.com", &self.registry.host());
        let mut values: Value = serde_saphyr::from_str(&text).expect("YAML");
        values["zone"] = ZONE.into();
        values["replicas"] = 1.into();
        values["image"] = json!({ "repository": "local/portcullis", "tag": "test" });
        let builder = &mut values["builder"];
        builder["image"] = json!({ "repository": "local/portcullis-builder", "tag": "test" });
        builder["namespace"] = BUILDER.into();
        builder["jobs"]["namespace"] = BUILDS_NAMESPACE.into();
        let configuration = &mut builder["configuration"];
        configuration["callers"] = callers().into();
        configuration["registries"][0] = json!({ "host": self.registry.host(),
            "credentials": configuration["registries"][0]["credentials"],
            "certificateAuthorities": "/etc/portcullis-registry/ca.pem" });
        let builds = &mut configuration["builds"];
        (builds["maxMemory"], builds["maxDisk"]) = (512.into(), 512.into());
        builds["jobs"] = json!({ "image": self.image("portcullis-builder:later"),
            "nodeSelector": { LABEL: "true" } });
        let repository = &mut builds["repositories"][0];
        repository["certificateAuthorities"] = "/etc/portcullis-repositories/ca.pem".into();
        repository["autopush"] = ENVIRONMENT.into();
        values
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.host())
    }

    /// Types the page's commands, for an installation of another name.
    async fn install(&self) {
        fs::write(self.folder.path().join("values.yaml"), self.values().to_string())
            .expect("the values");
        let blocks = blocks::of(BUILDS);
        let commands = blocks.iter().find(|block| block.is_tested("pods")).expect("commands");
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/helm/");
        let mut text = commands.text.replace("deploy/helm/", chart);
        for before in [" ", ":", "deployment/"] {
            let name = |name| format!("{before}{name}");
            text = text.replace(&name("portcullis"), &name(INSTALLED));
        }
        // The servers have certificates of authorities of their own.
        let text = text
            .replace("namespace staging", &format!("namespace {ENVIRONMENT}"))
            .replace("=config.json", "=config.json --from-file ca.pem=registry.pem")
            .replace("=git-credentials", "=git-credentials --from-file ca.pem=git.pem");
        for line in text.lines() {
            self.bash(line).await;
        }
    }

    async fn bash(&self, command: &str) {
        let helm = built("helm");
        let path = std::env::var("PATH").unwrap_or_default();
        let folder = helm.parent().expect("a folder").display();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", command])
            .current_dir(self.folder.path())
            .env("PATH", format!("{folder}:{path}"))
            .output();
        let output = output.await.expect("bash runs");
        let [text, errors] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        assert!(output.status.success(), "{command}: {text}{errors}");
    }

    /// Pushes over HTTPS, and returns the commit.
    fn push(&self) -> String {
        let shop = &self.shop;
        shop.git(&["add", "--all"]);
        shop.git(&["commit", "--quiet", "--allow-empty", "--message", "change"]);
        let authority = format!("http.sslCAInfo={}", self.server.file("ca.pem").display());
        let url = self.server.url(REPOSITORY).replace("://", &format!("://{CREDENTIALS}@"));
        shop.git(&["-c", &authority, "push", "--quiet", &url, "HEAD:refs/heads/master"]);
        shop.git(&["rev-parse", "HEAD"])
    }

    /// Writes a service whose image is of the base image, and has the program of the echo server.
    fn write_service(&self) {
        let program = unpack(&self.folder.path().join("program"));
        self.shop.copy(&program, &format!("web/{PROGRAM}"));
        self.write_text("first");
        let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": ports } });
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "web" } }, "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "terminationGracePeriodSeconds": 0,
                    "imagePullSecrets": [{ "name": PULL_SECRET }],
                    "containers": [{ "name": "web", "image": "{{image}}",
                        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 },
                            "periodSeconds": 1 } }] } } },
        });
        self.shop.write("web/k8s.yaml", &format!("{service}\n---\n{deployment}\n"));
    }

    /// Writes the Dockerfile, with another text in the image.
    fn write_text(&self, text: &str) {
        self.shop.write(
            "web/Dockerfile",
            &format!(
                "FROM {BASE}\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo {text} > /text\"]\n\
                 COPY {PROGRAM} /{PROGRAM}\nUSER 65532:65532\nENTRYPOINT [\"/{PROGRAM}\"]\n"
            ),
        );
    }

    /// The builder, over a connection that kubectl forwards.
    async fn builder(&self) -> Builder {
        let service = format!("service/{BUILDER}");
        let mut child = Command::new("kubectl")
            .args(["port-forward", &service, ":8470", "--namespace", BUILDER])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl runs");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let line = soon("it forwards", lines.next_line()).await.expect("a line").expect("a line");
        // What it prints later must not block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let port =
            line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
        let url = format!("https://localhost:{}", port.unwrap_or_else(|| panic!("{line}")));
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(self.folder.path().join("ca.pem"), folder.path().join("ca.pem")).expect("a file");
        Builder::forwarded(child, url, folder)
    }

    /// Waits until the URL of the service answers from a pod with the image of a commit.
    async fn answers_from(&self, commit: &str) {
        let digest = self.registry.digest("web", commit).await.expect("it is pushed");
        let image = format!("{}@{digest}", self.image("web"));
        let address = "jsonpath={.spec.clusterIP}";
        let get = ["get", "service", INSTALLED, "--namespace", INSTALLED, "-o", address];
        let connect = format!("::{}:443", kubectl(&get, "").await);
        let url = format!("https://web--{ENVIRONMENT}.{ZONE}/whoami");
        let running = format!(
            "jsonpath={{range .items[?(@.spec.containers[0].image==\"{image}\")]}}{{.metadata.name}}\
             {{\"\\n\"}}{{end}}"
        );
        eventually("the URL answers from a pod that runs by digest", || async {
            let get = ["get", "pods", "--namespace", ENVIRONMENT, "-o", &running];
            let pods = kubectl(&get, "").await;
            let curl = Curl::new(&url).args(["--insecure", "--connect-to", &connect]);
            let answer = curl.run().await;
            answer.status == 200 && pods.lines().any(|pod| pod == answer.text().trim())
        })
        .await;
    }

    /// Removes what is installed.
    async fn end(self) {
        self.bash(&format!("helm uninstall {INSTALLED} --namespace {INSTALLED}")).await;
        // The store outlives that.
        let path = "jsonpath={.status.phase} {.metadata.deletionTimestamp}";
        let get = ["get", "namespace", BUILDER, "-o", path];
        assert_eq!(kubectl(&get, "").await, "Active ");
        let get = ["get", "persistentvolumeclaim", BUILDER, "--namespace", BUILDER, "-o", path];
        assert_eq!(kubectl(&get, "").await, "Bound ");
        let namespaces = [INSTALLED, BUILDER, ENVIRONMENT];
        let delete = [&["delete", "namespace", "--wait=false"][..], &namespaces].concat();
        kubectl(&delete, "").await;
        kubectl(&["delete", "persistentvolume", BUILDER, "--wait=false"], "").await;
        kubectl(&["label", "nodes", "--all", &format!("{LABEL}-")], "").await;
    }
}

/// A volume for the builder. The node has no provisioner: a folder of it is one, which the kubelet makes
/// writable for the pod's group, as it does with a disk.
async fn volume() -> TempDir {
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let node = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"] });
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": BUILDER },
        "spec": {
            "capacity": { "storage": "40Gi" }, "accessModes": ["ReadWriteOnce"],
            "local": { "path": folder.path() },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [node] }] } },
            "claimRef": { "namespace": BUILDER, "name": BUILDER },
        },
    });
    kubectl(&["apply", "-f", "-"], &volume.to_string()).await;
    folder
}

/// Waits until `build list` has this text in the line of a build.
async fn lists(builder: &Builder, id: &str, text: &str) {
    let line = async || {
        let listed = builder.cli("admin", &["build", "list", "shop"]).await.expect("the builds");
        let line = listed.lines().find(|line| line.starts_with(&format!("{id} ")));
        line.unwrap_or_default().to_owned()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = line().await;
        if found.contains(text) {
            return;
        }
        let is_late = tokio::time::Instant::now() > deadline;
        assert!(
            !is_late && found.split_whitespace().nth(2) != Some("failed"),
            "{text}: {found}\n{}",
            log(builder, id).await
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn log(builder: &Builder, id: &str) -> String {
    builder.cli("admin", &["release", "logs", id]).await.unwrap_or_else(|error| error)
}

// The push, which a server of this process receives, blocks a thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the node of tests/cluster/run"]
async fn a_builder_in_a_pod_builds_what_is_pushed_and_says_what_a_build_waits_for() {
    let site = Site::start().await;
    site.write_service();
    site.push();
    site.install().await;
    let builder = site.builder().await;
    let sync = ["repo", "sync", "shop"];
    builder.cli("admin", &sync).await.expect("it is fetched");

    // No node may run it, and then its image is not there.
    lists(&builder, "shop.1", "is not scheduled: 0/1 nodes are available").await;
    kubectl(&["label", "nodes", "--all", &format!("{LABEL}=true")], "").await;
    lists(&builder, "shop.1", "container build: ").await;
    let waits = log(&builder, "shop.1").await;
    assert!(
        waits.contains("--- waiting: pod build-") && waits.contains("is not scheduled"),
        "{waits}"
    );
    assert!(waits.contains("ImagePull"), "{waits}");
    // What is pushed meanwhile waits, and the newest alone.
    let mut last = String::new();
    for (build, text) in [("shop.2", "second"), ("shop.3", "third")] {
        site.write_text(text);
        last = site.push();
        builder.cli("admin", &sync).await.expect("it is fetched");
        lists(&builder, build, " waiting ").await;
    }
    lists(&builder, "shop.2", " superseded ").await;
    name_image(IMAGE, &site.image("portcullis-builder:later")).await;
    // It goes on by itself.
    lists(&builder, "shop.1", " succeeded ").await;
    lists(&builder, "shop.3", " succeeded ").await;
    let shown = builder.cli("admin", &["build", "show", "shop.3"]).await.expect("the build");
    assert!(shown.contains(&format!("{}@sha256:", site.image("web"))), "{shown}");
    site.answers_from(&last).await;
    drop(builder);

    // The next pod goes on with the store and the mirror of this one.
    let restart = ["rollout", "restart", "deployment", BUILDER, "--namespace", BUILDER];
    kubectl(&restart, "").await;
    let wait = ["rollout", "status", "deployment", BUILDER, "--namespace", BUILDER];
    kubectl(&[&wait[..], &["--timeout=60s"]].concat(), "").await;
    let builder = site.builder().await;
    site.shop.write("README.md", "read me");
    site.push();
    builder.cli("admin", &sync).await.expect("it is fetched");
    lists(&builder, "shop.4", " succeeded ").await;
    let shown = builder.cli("admin", &["build", "show", "shop.4"]).await.expect("the build");
    assert!(shown.contains("unchanged since web.2"), "{shown}");
    drop(builder);
    site.end().await;
}
