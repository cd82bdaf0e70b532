//! Commands and real Bazel as builders, with what a repository could try.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Shop, manifests, processes_with};

/// A workspace with a rule that makes an image of files.
pub(super) const WORKSPACE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/release/testdata/workspace");
/// The longest that a build by Bazel may take on a busy machine: its query and each of its images
/// start a Java of their own.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// Executes `hostile.sh` when targets are looked for.
const REPOSITORY_RULE: &str = r#"
def _hostile(ctx):
    result = ctx.execute(["bash", ctx.path(Label("//:hostile.sh"))], timeout = 500)
    print(result.stdout + result.stderr)
    ctx.file("BUILD", "")
    ctx.file("x.bzl", "X = 1")

hostile = repository_rule(_hostile)
"#;
/// Looks for what belongs to the builder, and for a way out.
const PROBE: &str = r#"
cat /proc/1/environ /proc/*/environ | tr '\0' '\n'
cat /etc/shadow /root/.ssh/* /proc/1/root/etc/shadow
ls -d /root /var/lib /tmp/* $BUILDER
(echo x > /usr/bin/x) && echo "wrote it"
(exec 3<> /dev/tcp/169.254.169.254/80) && echo "reached it"
unshare -r true && echo "unshared it"
mount -t tmpfs tmpfs /work && echo "mounted it"
echo 9 > /proc/sys/user/max_user_namespaces && echo "limited it"
echo probed
"#;

/// Bazel where the users of sandboxes can read it.
struct Bazel(TempDir);

// === impl Bazel ===

impl Bazel {
    fn install() -> Self {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bazel/build");
        let output = std::process::Command::new(build).arg("--print-dir").output();
        let folder = String::from_utf8(output.expect("it runs").stdout).expect("a path");
        let program = Path::new(folder.trim()).join("bazel");
        assert!(program.exists(), "Bazel is not there: run tests/bazel/build");
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), readable).expect("it is readable");
        let bazel = Self(folder);
        fs::copy(program, bazel.program()).expect("it is copied");
        bazel
    }

    fn program(&self) -> PathBuf {
        self.0.path().join("bazel")
    }

    /// A builder that has it, with further settings of builds.
    async fn shop(&self, further: &Value) -> Shop {
        let mut settings = json!({ "bazel": self.program() });
        for (key, value) in further.as_object().expect("settings") {
            settings[key] = value.clone();
        }
        let shop = Shop::start(&settings).await;
        for file in ["WORKSPACE", "BUILD", "image.bzl", "layout.sh"] {
            shop.work.copy(&Path::new(WORKSPACE).join(file), file);
        }
        shop
    }
}

/// A target of Bazel whose image is one file.
fn write_target(shop: &Shop, service: &str) {
    shop.work.copy(&Path::new(WORKSPACE).join("web/BUILD"), &format!("{service}/BUILD"));
    shop.work.write(&format!("{service}/file"), service);
    shop.work.write(&format!("{service}/k8s.yaml"), &manifests(service));
}

/// Lets a query of a target execute `hostile.sh`; returns its `BUILD`.
fn load_hostile(shop: &Shop) -> String {
    let target = fs::read_to_string(Path::new(WORKSPACE).join("web/BUILD")).expect("it is read");
    let target = format!("load(\"@hostile//:x.bzl\", \"X\")\n{target}");
    shop.work
        .write("WORKSPACE", "load(\"//:hostile.bzl\", \"hostile\")\nhostile(name = \"hostile\")\n");
    shop.work.write("hostile.bzl", REPOSITORY_RULE);
    shop.work.write("web/BUILD", &target);
    target
}

/// Waits until a build has ended, and returns it.
async fn ended(shop: &Shop, number: usize) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let build = shop.build(number).await;
        if !["waiting", "running"].map(Value::from).contains(&build["state"]) {
            return build;
        }
        let is_late = tokio::time::Instant::now() > deadline;
        assert!(!is_late, "not within {PATIENCE:?}: {build} {}", shop.log(number).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The reason why a build has failed, with its log.
async fn failed(shop: &Shop, number: usize) -> String {
    let build = ended(shop, number).await;
    let log = shop.log(number).await;
    assert_eq!(build["state"], "failed", "{build} {log}");
    format!("{}\n{log}", build["reason"].as_str().expect("a reason"))
}

#[tokio::test]
async fn a_command_makes_an_image_that_is_released_by_digest_and_runs() {
    let shop = Shop::start(&json!({})).await;
    shop.work.copy(&Path::new(WORKSPACE).join("layout.sh"), "web/layout.sh");
    shop.work.write("web/file", "first");
    shop.work.write("deploy/web.yaml", &manifests("web"));
    let file = "services:\n- name: web\n  context: web\n  command: [sh, layout.sh, out, file]\n  \
                output: web/out\n  manifests: [deploy/web.yaml]\n";
    shop.work.write("portcullis.yaml", file);
    let first = shop.push().await;
    let build = ended(&shop, 2).await;
    assert_eq!(build["state"], "succeeded", "{build} {}", shop.log(2).await);
    let digest = shop.registry.digest("web", &first).await.expect("it is pushed");
    let image = format!("{}/web@{digest}", shop.registry.host());
    assert_eq!(shop.releases("web").await[0]["image"], json!(image));
    shop.runs("web.1").await;
    let content = &shop.get("/api/v1/repositories/shop").await["content"]["targets"][0];
    assert_eq!((&content["builder"], &content["output"]), (&json!("command"), &json!("web/out")));
    // What is outside of its context changes nothing; another command does.
    shop.work.write("README.md", "read me");
    shop.push().await;
    assert_eq!(ended(&shop, 3).await["targets"][0]["unchangedSince"], "web.1");
    shop.work.write("portcullis.yaml", &file.replace("file]", "file, layout.sh]"));
    shop.push().await;
    assert_eq!(ended(&shop, 4).await["targets"][0]["release"], "web.2");
    // What a command leaves is checked like any other image.
    let hostile = "ln -s /etc out; cat /proc/1/environ; echo";
    shop.work.write("web/layout.sh", hostile);
    shop.push().await;
    let log = failed(&shop, 5).await;
    assert!(log.starts_with("web: the build failed: web/out is behind a symbolic link"), "{log}");
    assert!(!log.contains("CARGO_"), "{log}");
}

#[tokio::test]
async fn targets_of_bazel_are_found_built_and_deployed() {
    let bazel = Bazel::install();
    let shop = bazel.shop(&json!({})).await;
    write_target(&shop, "web");
    write_target(&shop, "cart");
    let of_a_macro = "load('//:image.bzl', 'go_http_server')\ngo_http_server('cart', ['file'])\n";
    shop.work.write("cart/BUILD", of_a_macro);
    // Neither without manifests, nor without the tag.
    shop.work.copy(&Path::new(WORKSPACE).join("web/BUILD"), "tools/BUILD");
    shop.work.write("tools/file", "");
    shop.work.write("lib/BUILD", "genrule(name = 'x', outs = ['y'], cmd = 'false')\n");
    shop.work.write("lib/k8s.yaml", &manifests("lib"));
    // What the repository configures decides nothing of what is read.
    shop.work.write(".bazelrc", "query --output=build\nbuild --symlink_prefix=/work/x-\n");
    let first = shop.push().await;
    let content = shop.get("/api/v1/repositories/shop").await["content"].clone();
    let warning = content["problems"][0]["message"].as_str().expect("a problem").to_owned();
    assert!(warning.contains("are found when it is built, by a query"), "{content}");
    let build = ended(&shop, 2).await;
    assert_eq!(build["state"], "succeeded", "{build} {}", shop.log(2).await);
    for service in ["web", "cart"] {
        let digest = shop.registry.digest(service, &first).await.expect("it is pushed");
        let image = format!("{}/{service}@{digest}", shop.registry.host());
        assert_eq!(shop.releases(service).await[0]["image"], json!(image));
        shop.runs(&format!("{service}.1")).await;
    }
    let content = shop.get("/api/v1/repositories/shop").await["content"].clone();
    assert_eq!(content["targets"][0]["builder"], "bazel");
    assert_eq!(content["targets"][0]["label"], "//cart:cart_image_publish");
    assert!(shop.log(2).await.contains("//tools:image: it is not built"));

    // The same files are not built again.
    shop.push().await;
    let build = ended(&shop, 3).await;
    assert_eq!(build["targets"][1]["unchangedSince"], "web.1", "{build}");
    assert_eq!(shop.releases("web").await.len(), 1);
}

#[tokio::test]
async fn a_hostile_workspace_gets_at_nothing() {
    let bazel = Bazel::install();
    let further = json!({ "maxMemory": 2048, "maxProcesses": 300 });
    let shop = bazel.shop(&further).await;
    let builder = shop.builder.folder().to_string_lossy().into_owned();
    let probe = PROBE.replace("$BUILDER", &builder);
    write_target(&shop, "web");
    let target = load_hostile(&shop);

    // In the query, and in the build.
    shop.work.write("hostile.sh", &probe);
    shop.work.write("layout.sh", &format!("{probe}\nexit 1\n"));
    shop.push().await;
    let log = failed(&shop, 2).await;
    let reason = "web: the build failed: Bazel failed to build //web:image\n";
    assert!(log.starts_with(reason), "{log}");
    assert!(log.matches("\nprobed").count() >= 2, "both were executed: {log}");
    for word in ["CARGO_", "root:$", "root:*", "PRIVATE KEY"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
    let is_found = |line: &str| {
        [
            "wrote it",
            "reached it",
            "unshared it",
            "mounted it",
            "limited it",
            "/root",
            "/var/lib",
            &builder,
        ]
        .contains(&line)
    };
    assert!(!log.lines().any(is_found), "{log}");

    // What the query returns is read as labels of single targets, and as a few of them.
    shop.work.write("hostile.sh", "true");
    let all = "stands for several targets";
    let many = "the query of Bazel returned more than 100 targets";
    let each =
        "[image(name = 'x%d' % it, files = [], tags = ['portcullis']) for it in range(20000)]";
    for (number, target, expected) in
        [(3, target.replace("\"image\",", "\"all\","), all), (4, format!("{target}{each}\n"), many)]
    {
        shop.work.write("web/BUILD", &target);
        shop.push().await;
        let log = failed(&shop, number).await;
        assert!(log.starts_with("the query of Bazel returned "), "{expected}: {log}");
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert!(shop.releases("web").await.is_empty());
}

#[tokio::test]
async fn a_query_that_hangs_ends_with_all_that_it_has_started() {
    let bazel = Bazel::install();
    let shop = bazel.shop(&json!({ "maxTime": "25s", "maxMemory": 2048 })).await;
    write_target(&shop, "web");
    load_hostile(&shop);
    let script = "for it in $(seq 100); do setsid sleep 34567 & done; exec sleep 34567\n";
    shop.work.write("hostile.sh", script);
    shop.push().await;
    let log = failed(&shop, 2).await;
    assert!(log.starts_with("the build took longer than 25 s, and was stopped"), "{log}");
    assert_eq!(processes_with("34567"), 0);
}

#[tokio::test]
async fn a_workspace_is_not_queried_without_bazel() {
    let shop = Shop::start(&json!({})).await;
    shop.work.write("MODULE.bazel", "");
    shop.push().await;
    let log = failed(&shop, 2).await;
    assert!(log.starts_with("the builder has no Bazel: ask the operator"), "{log}");
}
