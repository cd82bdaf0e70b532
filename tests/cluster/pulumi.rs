//! The example of the Pulumi package with the real engine and its provider for Kubernetes: what
//! previews show, what `up` changes, and that `destroy` leaves nothing.
//!
//! They have a node of their own, since they install a gateway. `tests/pulumi/engine` builds the
//! engine once, in twenty minutes, so `make test` leaves them out where it is not built.

#[path = "../pulumi/package.rs"]
mod package;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::package::{Package, built_by};
use crate::node::{eventually, kubectl, name_image, node_address, output, report};

const ENVIRONMENT: &str = "dev";
/// What must be nowhere in plain text.
const SECRETS: [(&str, &str); 2] =
    [("DATABASE_URL", "postgres://shop:correct-horse@db/shop"), ("SESSION_KEY", "battery-staple")];
const PASSPHRASE: &str = "of the tests";
/// How long an environment may take until it responds.
const RESPONDS: Duration = Duration::from_secs(120);

/// A project of the package, whose stacks are stored in a folder.
struct Project<'p> {
    package: &'p Package,
    name: &'static str,
    folder: PathBuf,
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts, and tests/pulumi/engine"]
fn the_example_works_with_the_real_engine() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(walk());
}

async fn walk() {
    name_image("local/portcullis:test", "docker.io/library/portcullis:0.1.0");
    for tag in ["1", "2"] {
        let name = format!("docker.io/shop/web:{tag}");
        name_image("local/portcullis-echo:test", &name);
    }
    let package = Package::new();
    package.npm("build");
    let began = Instant::now();
    let shop = Project::new(&package, "shop", "examples/shop");
    let empty = cluster_objects();

    shop.pulumi(&["stack", "init", ENVIRONMENT]);
    shop.configure();
    an_incomplete_stack_applies_nothing(&shop, &empty);
    for (name, value) in SECRETS {
        shop.set(&["--secret", name, value]);
    }
    shop.pulumi(&["up", "--yes"]);
    let url = shop.pulumi(&["stack", "output", "url"]);
    let key = client_key();
    responds(url.trim(), &key).await;
    no_secret_is_in_plain_text(&shop);
    shop.changes_nothing();

    a_tag_changes_one_deployment(&shop, url.trim(), &key).await;
    the_builder_may_own_the_image(&shop).await;
    keys_rotate(&package);
    a_pull_request_has_an_environment(&shop, &key).await;

    shop.pulumi(&["destroy", "--yes"]);
    assert_eq!(shop.resources(), 0);
    assert_eq!(cluster_objects(), empty, "what destroy leaves");
    report(&format!("the example of Pulumi took {:?}", began.elapsed()));
}

/// A stack without its secrets, and one whose context leads to another cluster.
fn an_incomplete_stack_applies_nothing(shop: &Project<'_>, empty: &BTreeSet<String>) {
    let message = shop.fails(&["up", "--yes"]);
    assert!(message.contains("lacks DATABASE_URL, SESSION_KEY"), "{message}");
    assert!(message.contains("pulumi config set --secret shop:SESSION_KEY"), "{message}");
    for (name, value) in SECRETS {
        shop.set(&["--secret", name, value]);
    }
    shop.set(&["--path", "cluster.server", "https://production.kubernetes.example.com"]);
    let message = shop.fails(&["up", "--yes"]);
    assert!(message.contains("this stack belongs to https://production"), "{message}");
    shop.configure();
    for (name, _) in SECRETS {
        shop.pulumi(&["config", "rm", &format!("shop:{name}")]);
    }
    assert_eq!(cluster_objects(), *empty, "nothing is applied");
}

/// A new tag: the preview shows one change, and `up` makes it.
async fn a_tag_changes_one_deployment(shop: &Project<'_>, url: &str, key: &str) {
    let before = pods();
    shop.set(&["imageTag", "2"]);
    assert_eq!(shop.preview(), ["update kubernetes:apps/v1:Deployment::web"]);
    assert_eq!(pods(), before, "a preview changes nothing");
    shop.pulumi(&["up", "--yes"]);
    eventually("every pod is new", RESPONDS, async || match pods() {
        after if after.is_disjoint(&before) => Ok(()),
        after => Err(format!("{after:?}")),
    })
    .await;
    assert_eq!(image(), "docker.io/shop/web:2");
    responds(url, key).await;
    shop.changes_nothing();
}

/// With `imageOwner`, an image that another program sets stays, also while the stack changes
/// something else, and is no difference.
async fn the_builder_may_own_the_image(shop: &Project<'_>) {
    let before = pods();
    shop.set(&["imageOwner", "portcullis"]);
    shop.pulumi(&["up", "--yes"]);
    assert_eq!((image().as_str(), pods()), ("docker.io/shop/web:2", before), "it stays");
    shop.changes_nothing();
    let set_image = ["set", "image", "deployment/web", "app=docker.io/shop/web:1"];
    // By the builder's name: the provider takes over what belongs to `kubectl`.
    let builder = ["--namespace", ENVIRONMENT, "--field-manager", "portcullis-releases"];
    kubectl(&[&set_image[..], &builder].concat());
    shop.changes_nothing();
    shop.set(&["replicas", "2"]);
    assert_eq!(shop.preview(), ["update kubernetes:apps/v1:Deployment::web"]);
    shop.pulumi(&["up", "--yes"]);
    assert_eq!(image(), "docker.io/shop/web:1");
    eventually("two pods", RESPONDS, async || match pods().len() {
        2 => Ok(()),
        count => Err(format!("{count}")),
    })
    .await;
    shop.pulumi(&["refresh", "--yes"]);
    shop.changes_nothing();
}

/// The key rotator, a project of its own.
fn keys_rotate(package: &Package) {
    let rotator = Project::new(package, "key-rotator", "key-rotator");
    rotator.pulumi(&["stack", "init", ENVIRONMENT]);
    rotator.use_cluster();
    rotator.set(&["--path", "namespaces[0]", ENVIRONMENT]);
    rotator.pulumi(&["up", "--yes"]);
    rotator.changes_nothing();
    let secret = ["get", "secret", "signing-keys", "--namespace", ENVIRONMENT, "--output"];
    let template = r#"go-template={{index .data "signing.pem" | base64decode}}"#;
    let pem = kubectl(&[&secret[..], &[template]].concat());
    let line = pem.lines().nth(1).expect("a line of the key");
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    assert_eq!(rotator.files_with(line), Vec::<PathBuf>::new());
    rotator.pulumi(&["destroy", "--yes"]);
    rotator.pulumi(&["stack", "rm", "--yes"]);
}

/// A stack for a pull request, which shares the gateway, by the script of the package.
async fn a_pull_request_has_an_environment(shop: &Project<'_>, key: &str) {
    let script = shop.package.path.join("scripts/pull-request");
    let run = |action: &str| output(shop.engine(&script).args([action, "7"]));
    let before = cluster_objects();
    run("up");
    responds("https://web--pr-7.apps.example.com/", key).await;
    no_secret_is_in_plain_text(shop);
    run("destroy");
    assert_eq!(cluster_objects(), before);
    shop.pulumi(&["stack", "select", ENVIRONMENT]);
}

fn no_secret_is_in_plain_text(shop: &Project<'_>) {
    for (name, value) in SECRETS {
        assert_eq!(shop.files_with(value), Vec::<PathBuf>::new(), "{name}");
        let base64 = output(Command::new("bash").args(["-c", "printf %s \"$0\" | base64", value]));
        assert_eq!(shop.files_with(base64.trim()), Vec::<PathBuf>::new(), "{name}");
    }
    let state = shop.pulumi(&["stack", "export"]);
    assert!(state.contains("ciphertext"), "the state has them, encrypted");
}

/// Namespaces and what belongs to none, besides what the cluster itself makes.
fn cluster_objects() -> BTreeSet<String> {
    let kinds = "namespaces,clusterroles,clusterrolebindings";
    let all = kubectl(&["get", kinds, "--output=name"]);
    all.lines().map(str::to_owned).collect()
}

/// The pods of the service that are not ending.
fn pods() -> BTreeSet<String> {
    let template = "go-template={{range .items}}{{if not .metadata.deletionTimestamp}}\
                    {{.metadata.name}} {{end}}{{end}}";
    let pods = kubectl(&["get", "pods", "--namespace", ENVIRONMENT, "--output", template]);
    pods.split_whitespace().map(str::to_owned).collect()
}

fn image() -> String {
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    kubectl(&["get", "deployment/web", "--namespace", ENVIRONMENT, "--output", image])
}

/// A key of the application that the environment admits.
fn client_key() -> String {
    let mut portcullis = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    output(portcullis.args(["key", "create", "ci"])).trim().to_owned()
}

/// Waits until a URL responds to a client with a key, and is hidden from others.
async fn responds(url: &str, key: &str) {
    for (header, expected) in [(format!("X-Api-Key: {key}"), "200"), ("X-Other: ".into(), "404")] {
        eventually(&format!("{expected} of {url}"), RESPONDS, || async {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--insecure", "--max-time", "10", "--output", "/dev/null"]);
            curl.args(["--connect-to", &format!("::{}:30443", node_address())]);
            curl.args(["--write-out", "%{http_code}", "--header", &header, url]);
            let curl = curl.output().expect("curl runs");
            let status = String::from_utf8_lossy(&curl.stdout).into_owned();
            if status == expected { Ok(()) } else { Err(status) }
        })
        .await;
    }
}

// === impl Project ===

impl<'p> Project<'p> {
    fn new(package: &'p Package, name: &'static str, folder: &str) -> Self {
        let folder = package.path.join(folder);
        let project = Self { package, name, folder };
        // Without the stacks of the example, whose files are in the way of those of the test.
        for entry in fs::read_dir(&project.folder).expect("the project") {
            let path = entry.expect("a file").path();
            let file = path.file_name().expect("a name").to_string_lossy().into_owned();
            if file.starts_with("Pulumi.") && file != "Pulumi.yaml" {
                fs::remove_file(&path).expect("it is removed");
            }
        }
        fs::create_dir_all(project.backend()).expect("a folder");
        project
    }

    /// Where the state of the stacks is stored.
    fn backend(&self) -> PathBuf {
        self.package.path.join("state").join(self.name)
    }

    /// A program that finds the engine, in the folder of the project.
    fn engine(&self, program: impl AsRef<Path>) -> Command {
        let rest = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(&self.folder)
            .env("PATH", format!("{}:{rest}", built_by("engine").display()))
            .env("PULUMI_HOME", self.package.path.join("home"))
            .env("PULUMI_BACKEND_URL", format!("file://{}", self.backend().display()))
            .env("PULUMI_CONFIG_PASSPHRASE", PASSPHRASE)
            .env("PULUMI_SKIP_UPDATE_CHECK", "true")
            .env("PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION", "true");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut pulumi = self.engine("pulumi");
        let pulumi = pulumi.args(arguments).args(["--non-interactive", "--color=never"]).output();
        pulumi.expect("pulumi runs")
    }

    /// Runs a command that succeeds, and returns what it prints.
    fn pulumi(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, error) = (&output.stdout, &output.stderr);
        let (out, error) = (String::from_utf8_lossy(out), String::from_utf8_lossy(error));
        assert!(output.status.success(), "pulumi {arguments:?}: {out}{error}");
        out.into_owned()
    }

    /// Runs a command that fails, and returns what it prints.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, error) = (&output.stdout, &output.stderr);
        let text = String::from_utf8_lossy(out) + String::from_utf8_lossy(error);
        assert!(!output.status.success(), "pulumi {arguments:?}: {text}");
        text.into_owned()
    }

    /// Sets the configuration `NAME VALUE`, after options.
    fn set(&self, arguments: &[&str]) {
        let [options @ .., name, value] = arguments else { panic!("{arguments:?}") };
        let name = format!("{}:{name}", self.name);
        self.pulumi(&[&["config", "set"], options, &[&name, value]].concat());
    }

    /// Names the node as the cluster of the stack.
    fn use_cluster(&self) {
        let server = format!("https://{}:6443", node_address());
        self.set(&["--path", "cluster.context", "node"]);
        self.set(&["--path", "cluster.server", &server]);
        let guard = ["config", "set", "--path", "pulumi:disable-default-providers[0]"];
        self.pulumi(&[&guard[..], &["kubernetes"]].concat());
    }

    /// The configuration of the shop, but for its secrets.
    fn configure(&self) {
        self.use_cluster();
        for (name, value) in [
            ("zone", "apps.example.com"),
            ("exposure", "NodePort"),
            ("registry", "docker.io"),
            ("imageTag", "1"),
            ("replicas", "1"),
            ("migrate", "false"),
        ] {
            self.set(&[name, value]);
        }
    }

    /// The steps of a preview that change something: `OPERATION TYPE::NAME`.
    fn preview(&self) -> Vec<String> {
        let preview = self.pulumi(&["preview", "--json"]);
        let preview: Value = serde_json::from_str(&preview).expect("JSON");
        let steps = preview["steps"].as_array().expect("steps").iter();
        steps
            .filter(|step| step["op"] != "same")
            .map(|step| {
                let urn = step["urn"].as_str().expect("a name");
                let urn = urn.rsplit('$').next().unwrap_or(urn);
                format!("{} {urn}", step["op"].as_str().expect("an operation"))
            })
            .collect()
    }

    fn changes_nothing(&self) {
        self.pulumi(&["preview", "--expect-no-changes"]);
    }

    /// How many resources the stack has.
    fn resources(&self) -> usize {
        let state = self.pulumi(&["stack", "export"]);
        let state: Value = serde_json::from_str(&state).expect("JSON");
        let resources = state["deployment"]["resources"].as_array().map(Vec::as_slice);
        let resources = resources.unwrap_or_default().iter();
        resources.filter(|resource| resource["type"] != "pulumi:pulumi:Stack").count()
    }

    /// The files of the engine and of the project that have this text.
    fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let mut grep = Command::new("grep");
        grep.args(["--recursive", "--files-with-matches", "--text", "--fixed-strings", "--", text]);
        grep.args([&self.package.path.join("state"), &self.package.path.join("home")]);
        let files = grep.arg(&self.folder).output().expect("grep runs");
        assert!(files.status.code() < Some(2), "{files:?}");
        String::from_utf8_lossy(&files.stdout).lines().map(PathBuf::from).collect()
    }
}
