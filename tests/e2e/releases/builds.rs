//! Builds of repositories: real git, real buildah in its sandbox, a real registry.

mod builders;
mod jobs;
mod killed;
mod mirrors;
mod pods;
mod pushes;
mod walk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::builder::Builder;
use super::git_server::{CREDENTIALS, GitServer, WorkTree};
use super::registry::Registry;
use crate::harness::eventually;

/// Runs the script of the repository.
const DOCKERFILE: &str = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY script /script\n\
                          RUN [\"/bin/busybox\", \"sh\", \"/script\"]\n";

/// A ConfigMap with the image.
fn manifests(service: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {service}}}\ndata: {{image: \
         '{{{{image}}}}'}}\n"
    )
}

/// A layout `base` in a folder, with a base image that has busybox.
fn base_image(folder: &Path, name: &str) -> PathBuf {
    let context = folder.join("context");
    fs::create_dir(&context).expect("a folder");
    fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static: see tests/install");
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY busybox /bin/busybox\n")
        .expect("a Dockerfile");
    let layout = folder.join("base");
    let buildah = |arguments: &[&str]| {
        let store = |name: &str| folder.join(name).display().to_string();
        let run = Command::new("buildah")
            .args(["--storage-driver", "vfs", "--root", &store("store"), "--runroot"])
            .arg(store("run"))
            .args(arguments)
            .output()
            .expect("buildah runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    };
    let context = context.display().to_string();
    buildah(&["build", "--quiet", "--isolation", "chroot", "--tag", name, &context]);
    let target = format!("oci:{}:{name}", layout.display());
    buildah(&["push", "--quiet", "--format", "oci", name, &target]);
    layout
}

/// A builder that follows the repository `shop`.
struct Shop {
    registry: Registry,
    server: GitServer,
    work: WorkTree,
    builder: Builder,
    cluster: ApiServer,
}

// === impl Shop ===

impl Shop {
    /// Starts one with further settings of builds.
    async fn start(further: &Value) -> Self {
        let https = |server: &GitServer| {
            fs::write(server.file("credentials"), CREDENTIALS).expect("the credentials");
            json!({ "url": server.url("shop"), "credentials": server.file("credentials"),
                "certificateAuthorities": server.file("ca.pem") })
        };
        Self::following(https, further).await
    }

    /// The same, which reaches the repository by these settings.
    async fn following(by: impl FnOnce(&GitServer) -> Value, further: &Value) -> Self {
        let (registry, server) = (Registry::start().await, GitServer::start().await);
        let cluster = ApiServer::start().await;
        let work = server.create("shop");
        let mut repository = by(&server);
        repository["name"] = json!("shop");
        repository["services"] = json!(["web", "cart"]);
        (repository["pollEvery"], repository["autopush"]) = (json!("1h"), json!("staging"));
        let mut builds = json!({
            "folder": "builds", "images": format!("{}/{{service}}", registry.host()),
            "repositories": [repository],
        });
        for (key, value) in further.as_object().expect("settings") {
            builds[key] = value.clone();
        }
        let further = json!({ "builds": builds });
        let kubeconfig = cluster.kubeconfig();
        work.push("master");
        let builder = Builder::start_with(&registry, Some(&kubeconfig), &further).await;
        let shop = Self { registry, server, work, builder, cluster };
        // The commit without an image.
        shop.state_is(1, "failed").await;
        shop
    }

    /// A target whose build runs a script.
    fn write_script(&self, script: &str) {
        self.work.copy_busybox();
        self.work.write("web/Dockerfile", DOCKERFILE);
        let install = "/bin/busybox --install -s /bin";
        self.work.write("web/script", &format!("{install}\n{script}\n"));
        let busybox = self.work.git(&["rev-parse", "--show-toplevel"]);
        fs::rename(format!("{busybox}/busybox"), format!("{busybox}/web/busybox")).expect("moved");
        self.work.write("web/k8s.yaml", &manifests("web"));
    }

    /// A target whose image is one file.
    fn write_file(&self, service: &str, text: &str) {
        self.work.write(&format!("{service}/Dockerfile"), "FROM scratch\nCOPY file /file\n");
        self.work.write(&format!("{service}/file"), text);
        self.work.write(&format!("{service}/k8s.yaml"), &manifests(service));
    }

    /// Pushes, and waits until the builder knows it.
    async fn push(&self) -> String {
        let commit = self.work.push("master");
        self.builder.cli("admin", &["repo", "sync", "shop"]).await.expect("it is fetched");
        eventually("the commit is known", || async {
            self.get("/api/v1/repositories/shop").await["commit"] == commit
        })
        .await;
        commit
    }

    async fn get(&self, path: &str) -> Value {
        self.builder.get("admin", path).await.json()
    }

    async fn build(&self, number: usize) -> Value {
        self.get(&format!("/api/v1/builds/shop.{number}")).await
    }

    async fn state_is(&self, number: usize, state: &str) {
        eventually(&format!("build {number} is {state}"), || async {
            self.build(number).await["state"] == state
        })
        .await;
    }

    async fn log(&self, number: usize) -> String {
        let log = self.get(&format!("/api/v1/builds/shop.{number}/log")).await;
        log["text"].as_str().expect("a text").to_owned()
    }

    async fn releases(&self, service: &str) -> Vec<Value> {
        let page = self.get(&format!("/api/v1/releases?service={service}")).await;
        page["items"].as_array().expect("a page").clone()
    }

    async fn runs(&self, release: &str) {
        eventually(&format!("{release} runs in staging"), || async {
            let shown = self.get("/api/v1/environments/staging").await;
            let services = shown["services"].as_array().cloned().unwrap_or_default();
            services.iter().any(|service| service["running"] == release)
        })
        .await;
    }
}

#[tokio::test]
async fn a_push_becomes_a_release_by_digest_and_runs() {
    let shop = Shop::start(&json!({})).await;
    // Of what is beside a Dockerfile, the image depends on everything.
    let service = |name: &str| {
        format!("- {{name: {name}, context: {name}, manifests: [deploy/{name}.yaml]}}\n")
    };
    let services = ["web", "cart"].map(service).concat();
    shop.work.write("portcullis.yaml", &format!("services:\n{services}"));
    shop.work.write("deploy/web.yaml", &manifests("web"));
    shop.work.write("deploy/cart.yaml", &manifests("cart"));
    shop.write_file("web", "first");
    shop.write_file("cart", "cart");
    let first = shop.push().await;
    shop.state_is(2, "succeeded").await;
    let digest = shop.registry.digest("web", &first).await.expect("it is pushed");
    let image = format!("{}/web@{digest}", shop.registry.host());
    let released = &shop.releases("web").await[0];
    assert_eq!((&released["image"], &released["commit"]), (&json!(image), &json!(first)));
    assert_eq!(released["createdBy"], "portcullis:build");
    shop.runs("web.1").await;
    shop.runs("cart.1").await;
    assert!(shop.cluster.objects("staging").iter().any(|(_, data)| data["image"] == image));

    // What has changed is built alone.
    shop.write_file("web", "second");
    let second = shop.push().await;
    shop.state_is(3, "succeeded").await;
    let targets = shop.build(3).await["targets"].clone();
    assert_eq!(
        (&targets[0]["service"], &targets[0]["state"]),
        (&json!("cart"), &json!("unchanged"))
    );
    assert_eq!(targets[0]["unchangedSince"], "cart.1");
    assert_eq!(
        (&targets[1]["state"], &targets[1]["release"]),
        (&json!("released"), &json!("web.2"))
    );
    assert!(shop.log(3).await.contains("cart: unchanged since release cart.1"));
    assert_ne!(shop.registry.digest("web", &second).await, Some(digest.clone()));
    assert_eq!(shop.registry.digest("cart", &second).await, None);
    shop.runs("web.2").await;

    // Other manifests are another release of the same image; after a revert, too.
    shop.write_file("web", "first");
    shop.work.write("deploy/cart.yaml", &(manifests("cart") + "# changed\n"));
    let third = shop.push().await;
    shop.state_is(4, "succeeded").await;
    let web = shop.releases("web").await;
    assert_eq!((&web[0]["id"], &web[0]["image"]), (&json!("web.3"), &json!(image)));
    let cart = shop.releases("cart").await;
    assert_eq!((cart.len(), &cart[0]["image"]), (2, &cart[1]["image"]));
    let shown = shop.builder.cli("admin", &["build", "show", "shop.4"]).await.unwrap();
    assert!(shown.contains("unchanged since web.1"), "{shown}");

    // A commit that is requested is released, and not deployed.
    shop.runs("web.3").await;
    let arguments = ["release", "build", "shop", "--commit", &second, "--reason", "to compare"];
    let requested = shop.builder.cli("admin", &arguments).await.unwrap();
    assert_eq!(requested, "shop.5\n");
    shop.state_is(5, "succeeded").await;
    assert_eq!(shop.releases("web").await[0]["id"], "web.4");
    assert_eq!(shop.build(5).await["targets"][1]["autopush"], Value::Null);
    let audit = shop.get("/api/v1/audit").await;
    let entries = audit["items"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["action"] == "build.request").unwrap();
    assert_eq!((&entry["actor"], &entry["reason"]), (&json!("admin"), &json!("to compare")));
    let none = ["release", "build", "shop", "--commit", &"0".repeat(40)];
    let refused = shop.builder.cli("admin", &none).await.unwrap_err();
    assert!(refused.contains("the branch has no commit 0000"), "{refused}");
    // After a force-push to it, that release is deployed, and what was pushed later is not built.
    shop.work.git(&["reset", "--quiet", "--hard", &second]);
    shop.push().await;
    shop.state_is(6, "succeeded").await;
    let target = shop.build(6).await["targets"][1].clone();
    assert_eq!((&target["state"], &target["release"]), (&json!("unchanged"), &json!("web.4")));
    shop.runs("web.4").await;
    let gone = ["release", "build", "shop", "--commit", &third];
    let refused = shop.builder.cli("admin", &gone).await.unwrap_err();
    assert!(refused.contains("the branch has no commit"), "{refused}");
}

#[tokio::test]
async fn of_what_is_pushed_during_a_build_the_newest_is_built() {
    let shop = Shop::start(&json!({})).await;
    shop.write_script("echo it runs; sleep 25");
    shop.push().await;
    shop.state_is(2, "running").await;
    let mut last = String::new();
    for number in 0..3 {
        shop.write_file("web", &number.to_string());
        last = shop.push().await;
    }
    shop.state_is(5, "succeeded").await;
    let states: Vec<Value> = {
        let page = shop.get("/api/v1/builds?repository=shop").await;
        page["items"].as_array().unwrap().iter().map(|build| build["state"].clone()).collect()
    };
    assert_eq!(states, ["succeeded", "superseded", "superseded", "succeeded", "failed"]);
    assert_eq!(shop.build(3).await["supersededBy"], shop.build(4).await["commit"]);
    assert_eq!(shop.build(4).await["supersededBy"], last);
    assert_eq!(shop.releases("web").await.len(), 2);
    let listed = shop.builder.cli("admin", &["build", "list", "shop"]).await.unwrap();
    assert!(listed.contains("superseded"), "{listed}");
}

#[tokio::test]
async fn a_build_that_fails_or_hangs_or_is_cancelled_stops_no_later_one() {
    let shop = Shop::start(&json!({ "maxTime": "25s" })).await;
    // A password of the builder that is in the repository is not in the log.
    let (_, password) = CREDENTIALS.split_once(':').expect("a password");
    let long = "yes 0123456789 | head -c 605000";
    let end = format!("echo the password is {password}; echo no such thing >&2; exit 3");
    shop.write_script(&format!("{long}\n{end}"));
    shop.push().await;
    shop.state_is(2, "failed").await;
    let failed = shop.builder.cli("admin", &["release", "logs", "-f", "shop.2"]).await.unwrap_err();
    assert!(failed.contains("the password is ***"), "{failed}");
    assert!(failed.contains("no such thing") && !failed.contains(password), "{failed}");
    assert!(shop.build(2).await["reason"].as_str().unwrap().starts_with("web: the build failed"));

    shop.write_script("sleep 43210");
    shop.push().await;
    shop.state_is(3, "failed").await;
    let reason = shop.build(3).await["reason"].as_str().unwrap().to_owned();
    assert_eq!(reason, "web: the build took longer than 25 s, and was stopped");

    shop.write_script("echo started; sleep 54321");
    shop.push().await;
    eventually("the build runs", || async { shop.log(4).await.contains("started\n") }).await;
    let cancel = ["build", "cancel", "shop.4", "--reason", "a mistake"];
    let cancelled = shop.builder.cli("admin", &cancel).await.unwrap();
    assert_eq!(cancelled, "shop.4: it will be cancelled\n");
    shop.state_is(4, "cancelled").await;
    eventually("its processes end", || async { processes_with("54321") == 0 }).await;
    let audit = shop.get("/api/v1/audit").await;
    let entries = audit["items"].as_array().unwrap().iter();
    let cancels: Vec<_> = entries.filter(|entry| entry["action"] == "build.cancel").collect();
    let [cancel] = cancels.as_slice() else { panic!("{audit}") };
    assert_eq!((&cancel["actor"], &cancel["reason"]), (&json!("admin"), &json!("a mistake")));
    let again = shop.builder.cli("admin", &["build", "cancel", "shop.4"]).await.unwrap_err();
    assert!(again.contains("the build has ended"), "{again}");

    shop.write_file("web", "good");
    shop.push().await;
    shop.state_is(5, "succeeded").await;
    assert_eq!(shop.releases("web").await.len(), 1);
    assert_eq!(processes_with("43210"), 0);
}

/// The processes of this machine whose command has a text.
fn processes_with(text: &str) -> usize {
    let mut count = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        count += usize::from(String::from_utf8_lossy(&command).contains(text));
    }
    count
}

#[tokio::test]
async fn a_build_reads_nothing_of_its_builder() {
    let shop = Shop::start(&json!({})).await;
    let folder = shop.builder.folder().to_string_lossy().into_owned();
    shop.write_script(&format!(
        "cat {folder}/releases.db {folder}/registry.json {folder}/tls.key {git}\n\
         cat /proc/*/root{folder}/registry.json\n\
         cat /proc/*/environ\n\
         wget -T 2 -O - --no-check-certificate {url}/healthz && echo reached\n\
         ls -d {folder}/builds && echo found\n\
         exit 0",
        git = shop.server.file("credentials").display(),
        url = shop.builder.url(),
    ));
    shop.push().await;
    shop.state_is(2, "succeeded").await;
    let file = shop.builder.folder().join("builds/logs/shop.2.log");
    let log = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
    for secret in ["auths", "PRIVATE KEY", "SQLite format", "git-secret", "CARGO_"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    assert!(!log.lines().any(|line| line == "reached" || line == "found"), "{log}");
}

#[tokio::test]
async fn a_registry_that_is_away_is_tried_again() {
    let shop = Shop::start(&json!({})).await;
    shop.write_file("web", "first");
    shop.registry.pause();
    let commit = shop.push().await;
    eventually("it is interrupted", || async {
        let build = shop.build(2).await;
        build["state"] == "waiting" && build["reason"].is_string()
    })
    .await;
    assert!(shop.releases("web").await.is_empty());
    shop.registry.resume();
    shop.state_is(2, "succeeded").await;
    let build = shop.build(2).await;
    assert!(build["attempts"].as_u64().unwrap() >= 2, "{build}");
    let digest = shop.registry.digest("web", &commit).await.unwrap();
    assert!(shop.releases("web").await[0]["image"].as_str().unwrap().ends_with(&digest));
}

#[tokio::test]
async fn no_more_builds_start_than_the_limit_allows() {
    // The commit without an image has had the first of two.
    let shop = Shop::start(&json!({ "maxPerHour": 2 })).await;
    shop.write_file("web", "first");
    shop.push().await;
    shop.state_is(2, "succeeded").await;
    shop.write_file("web", "second");
    shop.push().await;
    // The third has to wait.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(shop.build(3).await["state"], "waiting");
}
