//! Builds as Jobs on the test node, by a builder with the rights of its manifests.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::super::builder::Builder;
use super::super::canaries::repository::{PROGRAM, PULL_SECRET, trust, unpack};
use super::super::git_server::{CREDENTIALS, GitServer, WorkTree};
use super::super::registry::{PASSWORD, Registry};
use super::builders::{PATIENCE, WORKSPACE};
use super::{DOCKERFILE, base_image, manifests, processes_with};
use crate::harness::eventually;
use crate::harness::node::{kubeconfig, kubectl};

/// The Namespace of the Jobs.
const BUILDS: &str = "portcullis-builds";
/// The image of their pods.
pub(super) const IMAGE: &str = "docker.io/local/portcullis-builder:test";
/// The base image of the service.
const BASE: &str = "r.test/busybox:1";
/// An address of the node.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// Where clouds have the metadata of a machine.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// A builder whose builds are Jobs, and two repositories.
struct Site {
    registry: Registry,
    _server: GitServer,
    shop: WorkTree,
    other: WorkTree,
    builder: Builder,
    folder: TempDir,
}

// === impl Site ===

impl Site {
    /// Starts one. What is pushed to `shop` is deployed to an environment of that name.
    async fn start(environment: &str, further: &Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = rights(folder.path(), environment).await;
        let (registry, server) = (Registry::start().await, GitServer::start().await);
        trust(&registry, environment).await;
        fs::write(server.file("credentials"), CREDENTIALS).expect("the credentials");
        let repository = |name: &str, services: &[&str]| {
            json!({ "name": name, "url": server.url(name), "services": services,
                "pollEvery": "1h", "credentials": server.file("credentials"),
                "certificateAuthorities": server.file("ca.pem") })
        };
        let mut shop = repository("shop", &["web"]);
        shop["autopush"] = environment.into();
        let mut builds = json!({
            "folder": "builds", "images": format!("{}/{{service}}", registry.host()),
            "maxMemory": 512, "maxDisk": 512, "baseImages": base_image(folder.path(), BASE),
            "jobs": { "namespace": BUILDS, "image": IMAGE },
            "repositories": [shop, repository("other", &["cart"])],
        });
        for (key, value) in further.as_object().expect("settings") {
            builds[key] = value.clone();
        }
        let (shop, other) = (server.create("shop"), server.create("other"));
        for work in [&shop, &other] {
            work.push("master");
        }
        let settings = json!({ "builds": builds });
        let builder = Builder::start_with(&registry, Some(&kubeconfig), &settings).await;
        let site = Self { registry, _server: server, shop, other, builder, folder };
        // The commits without an image.
        site.state_is("shop.1", "failed").await;
        site.state_is("other.1", "failed").await;
        site
    }

    async fn build(&self, id: &str) -> Value {
        self.builder.get("admin", &format!("/api/v1/builds/{id}")).await.json()
    }

    async fn state_is(&self, id: &str, state: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let build = self.build(id).await;
            if build["state"] == state {
                return;
            }
            let has_ended = ["failed", "succeeded", "cancelled"].map(Value::from);
            let is_wrong = has_ended.contains(&build["state"]);
            let is_late = tokio::time::Instant::now() > deadline;
            assert!(!is_wrong && !is_late, "{build}\n{}", self.log(id).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn log(&self, id: &str) -> String {
        let path = format!("/api/v1/builds/{id}/log");
        let log = self.builder.get("admin", &path).await.json();
        log["text"].as_str().unwrap_or_default().to_owned()
    }

    async fn prints(&self, id: &str, text: &str) {
        eventually(&format!("{id} prints {text}"), || async { self.log(id).await.contains(text) })
            .await;
    }

    /// Pushes a target whose build runs a script.
    async fn push_script(&self, repository: &str, script: &str) {
        let (work, service) = match repository {
            "shop" => (&self.shop, "web"),
            _ => (&self.other, "cart"),
        };
        work.copy_busybox();
        let root = work.git(&["rev-parse", "--show-toplevel"]);
        work.write(&format!("{service}/Dockerfile"), DOCKERFILE);
        let install = "/bin/busybox --install -s /bin";
        work.write(&format!("{service}/script"), &format!("{install}\n{script}\n"));
        fs::rename(format!("{root}/busybox"), format!("{root}/{service}/busybox")).expect("moved");
        work.write(&format!("{service}/k8s.yaml"), &manifests(service));
        work.push("master");
        self.builder.cli("admin", &["repo", "sync", repository]).await.expect("it is fetched");
    }

    /// Pushes a target whose manifests run a command of its image, and waits until its pods run by
    /// digest.
    async fn deploys(&self, environment: &str, command: &[&str]) {
        let Self { shop, registry, builder, .. } = self;
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "app": "web" } }, "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "terminationGracePeriodSeconds": 0,
                    "imagePullSecrets": [{ "name": PULL_SECRET }],
                    "containers": [{ "name": "web", "image": "{{image}}", "command": command,
                        "securityContext": { "runAsUser": 65532 },
                        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 },
                            "periodSeconds": 1 } }] } } },
        });
        shop.write("web/k8s.yaml", &deployment.to_string());
        let commit = shop.push("master");
        builder.cli("admin", &["repo", "sync", "shop"]).await.expect("it is fetched");
        self.state_is("shop.2", "succeeded").await;
        let digest = registry.digest("web", &commit).await.expect("it is pushed");
        let image = format!("{}/web@{digest}", registry.host());
        assert_eq!(self.build("shop.2").await["targets"][0]["image"], image);
        let inside = ["--namespace", environment];
        eventually("it is deployed", || async {
            let get = [&["get", "deployments", "-o", "name"][..], &inside].concat();
            kubectl(&get, "").await.contains("deployment.apps/web")
        })
        .await;
        let wait = ["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"];
        kubectl(&[&wait[..], &inside].concat(), "").await;
        let path = "jsonpath={.items[*].spec.containers[0].image}";
        assert_eq!(kubectl(&[&["get", "pods", "-o", path][..], &inside].concat(), "").await, image);
        nothing_is_left().await;
        kubectl(&["delete", "namespace", environment, "--wait=false"], "").await;
    }
}

/// Installs the manifests of the builder and of its Jobs, and binds its role in a new environment.
/// Returns a kubeconfig with no other rights.
async fn rights(folder: &Path, environment: &str) -> std::path::PathBuf {
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kubernetes");
    // Other tests have bound the role to a builder in another Namespace.
    let apply = ["apply", "--server-side", "--field-manager=tests", "--force-conflicts"];
    for file in ["builder/namespace.yaml", "builder/access.yaml"] {
        kubectl(&[&apply[..], &["-f", &format!("{deploy}/{file}")]].concat(), "").await;
    }
    kubectl(&[&apply[..], &["-k", &format!("{deploy}/builder-jobs")]].concat(), "").await;
    super::super::node::open_environment(environment).await;
    let role = "--clusterrole=portcullis-builder-environment";
    let account = "--serviceaccount=portcullis-builder:portcullis-builder";
    let bind = ["create", "rolebinding", "builder", role, account, "--namespace", environment];
    kubectl(&bind, "").await;
    kubeconfig(folder, "portcullis-builder", "portcullis-builder").await
}

/// Waits until nothing of a build is left in the cluster.
async fn nothing_is_left() {
    eventually("the Job and its pod are gone", || async {
        kubectl(&["get", "jobs,pods", "-n", BUILDS, "-o", "name"], "").await.is_empty()
    })
    .await;
}

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn a_push_is_built_by_a_job_and_runs_by_digest() {
    let site = Site::start("jobs-push", &json!({})).await;
    let shop = &site.shop;
    shop.copy(&unpack(&site.folder.path().join("program")), &format!("web/{PROGRAM}"));
    shop.write(
        "web/Dockerfile",
        &format!(
            "FROM {BASE}\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo it is built > /built\"]\n\
             COPY {PROGRAM} /{PROGRAM}\nUSER 65532:65532\nENTRYPOINT [\"/{PROGRAM}\"]\n"
        ),
    );
    site.deploys("jobs-push", &[&format!("/{PROGRAM}")]).await;
}

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn a_target_of_bazel_is_found_and_built_by_jobs_and_runs_by_digest() {
    let further = json!({ "bazel": "/opt/bazel/bazel", "maxMemory": 2048, "maxDisk": 1024 });
    let site = Site::start("jobs-bazel", &further).await;
    let shop = &site.shop;
    shop.copy(&unpack(&site.folder.path().join("program")), "web/file");
    for file in ["WORKSPACE", "BUILD", "image.bzl", "layout.sh", "web/BUILD"] {
        shop.copy(&Path::new(WORKSPACE).join(file), file);
    }
    site.deploys("jobs-bazel", &["/web/file"]).await;
}

/// What a build tries, by name. Each prints `tried: NAME`, and `reached: NAME` if it succeeds.
fn attempts(another_pod: &str, node_port: u16, builder: &str) -> Vec<(&'static str, String)> {
    let connect = |address: &str, port: u16| {
        format!("timeout 5 nc -w 2 {address} {port} -e /bin/true 2> /dev/null")
    };
    // The text of a secret is not in the script itself.
    let (first, last) = PASSWORD.split_once('-').expect("a password with a hyphen");
    let password = format!("{first}[-]{last}");
    let (_, port) = builder.rsplit_once(':').expect("a port");
    let port = port.parse().expect("a port");
    vec![
        (
            "the token of a service account",
            "cat /var/run/secrets/kubernetes.io/serviceaccount/token /proc/*/root/var/run/secrets/\
             kubernetes.io/serviceaccount/token 2> /dev/null | grep ."
                .to_owned(),
        ),
        ("the API server", format!("{} || {}", connect("10.96.0.1", 443), connect("10.200.0.1", 6443))),
        ("the metadata of the machine", connect(&METADATA.to_string(), 80)),
        ("another pod", connect(another_pod, 8080)),
        ("the network of the node", connect(&NODE.to_string(), node_port)),
        ("the network of the builder", connect("127.0.0.1", port)),
        (
            "the credentials of a registry in files",
            format!(
                "grep -rslE '{password}|git[-]secret|auth[s]\"' /etc /home /root /run /var /work /base \
                 /proc/1/root/etc /proc/1/root/home /proc/1/root/work 2> /dev/null | grep ."
            ),
        ),
        (
            "the credentials of a registry in the environment",
            format!("cat /proc/*/environ | tr '\\0' '\\n' | grep -E '{password}|PORTCULLI[S]|KUBERNETE[S]'"),
        ),
        (
            "the files of another build",
            "find / /proc/*/root /proc/*/cwd -name 'marker-of-[a]*' 2> /dev/null | grep .".to_owned(),
        ),
        (
            "the processes of the pod and of the node",
            "grep -lE 'build-in-[p]od|[k]ubelet|[c]ontainerd' /proc/[0-9]*/cmdline 2> /dev/null".to_owned(),
        ),
        (
            "the root of the node",
            "ls -d /proc/*/root/var/lib/kubelet /proc/*/root/boot 2> /dev/null | grep ."
                .to_owned(),
        ),
        ("a mount", "mkdir -p /m; mount -t tmpfs x /m || mount -o bind /proc /m".to_owned()),
        (
            "a device of the node",
            "for it in 7:0 8:0 253:0 254:0; do mknod /d b ${it%:*} ${it#*:} && head -c 1 /d; rm -f /d; \
             done | grep -q ."
                .to_owned(),
        ),
        (
            "writing outside",
            "for it in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness /sys/kernel/uevent_helper \
             /proc/1/root/usr/bin/portcullis /proc/1/root/usr/written; do echo x > $it && echo $it; \
             done 2> /dev/null | grep ."
                .to_owned(),
        ),
        ("a user namespace", "unshare -U true".to_owned()),
    ]
}

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn a_hostile_build_in_a_job_reaches_nothing() {
    let site = Site::start("jobs-hostile", &json!({})).await;
    // What it could reach is there.
    let address = format!("{METADATA}/32");
    let mut ip = Command::new("ip");
    assert!(ip.args(["address", "replace", &address, "dev", "node0"]).status().unwrap().success());
    let metadata = TcpListener::bind((METADATA, 80)).await.expect("the address of the metadata");
    let node = TcpListener::bind((NODE, 0)).await.expect("an address of the node");
    let node_port = node.local_addr().expect("its address").port();
    for listener in [metadata, node] {
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    }
    let run =
        ["run", "other-pod", "-n", "jobs-hostile", "--image=docker.io/local/portcullis-echo:test"];
    kubectl(&[&run[..], &["--image-pull-policy=IfNotPresent"]].concat(), "").await;
    let wait = ["wait", "--for=condition=Ready", "pod/other-pod", "-n", "jobs-hostile"];
    kubectl(&[&wait[..], &["--timeout=60s"]].concat(), "").await;
    let path = "jsonpath={.status.podIP}";
    let pod = kubectl(&["get", "pod", "other-pod", "-n", "jobs-hostile", "-o", path], "").await;
    let attempts = attempts(&pod, node_port, site.builder.url());

    for (name, script) in &attempts {
        if ["the API server", "another pod"].contains(name) || name.starts_with("the network") {
            let there = Command::new("busybox").args(["sh", "-c", script]).status().unwrap();
            assert!(there.success(), "{name} is out of reach of this machine, too");
        }
    }

    // Another build runs at the same time.
    site.other.write("cart/marker-of-another-build", "a secret of another build");
    site.push_script("other", "echo other runs; sleep 65432").await;
    site.prints("other.2", "other runs\n").await;
    let script = attempts.iter().map(|(name, script)| {
        format!("echo 'tried: {name}'\nif {{ {script}; }} < /dev/null; then echo 'reached: {name}'; fi\n")
    });
    let survive = "echo 'tried: surviving'\nsetsid sleep 76543 > /dev/null 2>&1 < /dev/null &\n";
    site.push_script("shop", &format!("{}{survive}sleep 1; exit 0", script.collect::<String>()))
        .await;
    eventually("it runs", || async { processes_with("76543") > 0 }).await;
    // What is in the pod's log, everyone may read who may read the pods of that Namespace.
    let logs = kubectl(
        &["logs", "-n", BUILDS, "-l", "app.kubernetes.io/managed-by=portcullis-builder"],
        "",
    );
    assert_eq!(logs.await.trim(), "");
    site.state_is("shop.2", "succeeded").await;
    let log = site.log("shop.2").await;
    for (name, _) in &attempts {
        assert!(log.contains(&format!("tried: {name}\n")), "{name}: {log}");
        assert!(!log.contains(&format!("reached: {name}\n")), "{name}: {log}");
    }
    assert!(log.contains("tried: surviving\n"), "{log}");
    eventually("surviving", || async { processes_with("76543") == 0 }).await;

    let cancel = ["build", "cancel", "other.2", "--reason", "seen enough"];
    site.builder.cli("admin", &cancel).await.expect("it is cancelled");
    site.state_is("other.2", "cancelled").await;
    nothing_is_left().await;
    assert_eq!(processes_with("65432"), 0);
    kubectl(&["delete", "namespace", "jobs-hostile", "--wait=false"], "").await;
}

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn of_a_build_that_is_late_or_whose_builder_was_killed_nothing_is_left() {
    let mut site = Site::start("jobs-stopped", &json!({ "maxTime": "15s" })).await;
    site.push_script("shop", "echo it runs; sleep 87654").await;
    site.prints("shop.2", "it runs\n").await;
    site.state_is("shop.2", "failed").await;
    let reason = site.build("shop.2").await["reason"].as_str().expect("a reason").to_owned();
    assert_eq!(reason, "web: the build took longer than 15 s, and was stopped");
    // By its pod, before that is deleted.
    assert_eq!(processes_with("87654"), 0);
    nothing_is_left().await;

    // The pod notices that its builder is gone.
    site.push_script("shop", "echo it runs; [ -e /once ] || sleep 98765").await;
    site.prints("shop.3", "it runs\n").await;
    assert_ne!(kubectl(&["get", "jobs", "-n", BUILDS, "-o", "name"], "").await, "");
    site.builder.kill().await;
    eventually("its processes end", || async { processes_with("98765") == 0 }).await;
    // The next one removes what is left, and builds again.
    site.builder.restart().await;
    eventually("the next attempt runs", || async {
        let log = site.log("shop.3").await;
        log.contains("attempt 2") && log.matches("it runs\n").count() == 2
    })
    .await;
    let jobs = kubectl(&["get", "jobs", "-n", BUILDS, "-o", "name"], "").await;
    assert_eq!(jobs.lines().count(), 1, "{jobs}");
    site.state_is("shop.3", "failed").await;
    nothing_is_left().await;
    kubectl(&["delete", "namespace", "jobs-stopped", "--wait=false"], "").await;
}
