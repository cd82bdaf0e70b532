//! The commands of docs/releases.md as they are written, on the test node: the kubelet pulls by
//! digest from a registry with TLS and passwords, and the gateway's URLs answer from the pods.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::registry::{PASSWORD, Registry};
use crate::documentation::{RELEASES, blocks};
use crate::harness::node::{kubectl, rights};
use crate::harness::{Curl, Gateway, World, eventually, soon};

const HOST: &str = "registry.example.com";
/// An address of the node that nothing else listens at.
const ADDRESS: &str = "127.0.0.2";
pub(super) const GIT_HOST: &str = "git.example.com";
/// Another one.
pub(super) const GIT_ADDRESS: &str = "127.0.0.3";
const ENVIRONMENTS: [&str; 2] = ["staging", "production"];
/// Where the commands expect the builder.
const API: &str = "http://127.0.0.1:8470";

/// What the page expects: a registry with images, environments, and the user's folder.
pub(super) struct Walk {
    registry: Registry,
    pub(super) folder: TempDir,
    pub(super) gateway: Gateway,
    /// The builder, once it runs.
    pub(super) builder: Option<Child>,
    token: String,
    _named: Named,
}

/// The names of the servers in the node's list of hosts. Taken out again on drop.
struct Named {
    _list: TempDir,
}

// === impl Named ===

impl Named {
    /// The node has a mount namespace of its own: the machine's list stays as it is.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let list = folder.path().join("hosts");
        let hosts = fs::read_to_string("/etc/hosts").expect("the list of hosts");
        let names = format!("{ADDRESS} {HOST}\n{GIT_ADDRESS} {GIT_HOST}\n");
        fs::write(&list, format!("{hosts}\n{names}")).expect("a list of hosts");
        let mount = ["--bind", &list.to_string_lossy(), "/etc/hosts"];
        let mounted = std::process::Command::new("mount").args(mount).status();
        assert!(mounted.expect("mount runs").success());
        Self { _list: folder }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("/etc/hosts").status();
    }
}

// === impl Walk ===

impl Walk {
    async fn start(state: &Path) -> Self {
        let named = Named::new();
        // With base images, which the users of sandboxes read.
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), readable).expect("it is readable");
        let registry = Registry::named(HOST, ADDRESS).await;
        let trusted = state.join("certs.d").join(HOST);
        fs::create_dir_all(&trusted).expect("containerd's folder");
        fs::copy(registry.authority(), trusted.join("ca.crt")).expect("the authority");
        for (tag, release) in [("1.4", "first"), ("1.5", "second")] {
            push(folder.path(), &trusted, tag, release).await;
        }
        let credentials = folder.path().join("config.json");
        fs::write(&credentials, docker_config()).expect("the credentials");
        for name in ENVIRONMENTS {
            environment(name, &credentials).await;
        }
        let kubeconfig = rights(folder.path(), &["access.yaml"]).await;
        let gateway = Gateway::of(World::empty())
            .settings(json!({ "source": null }))
            .settings(json!({ "source": { "kubernetes": { "kubeconfig": kubeconfig } } }))
            .start()
            .await;
        let token = String::new();
        Self { registry, folder, gateway, builder: None, token, _named: named }
    }

    /// Runs the lines of a block: one that ends in `&` in the background, and what is exported is
    /// there for the next ones.
    pub(super) async fn run(&mut self, block: &str) -> Vec<String> {
        let mut printed = Vec::new();
        for line in block.lines() {
            if let Some(command) = line.strip_suffix('&') {
                self.builder = Some(self.bash(command).kill_on_drop(true).spawn().expect("bash"));
                let health = format!("{API}/healthz");
                eventually("the builder answers", || async {
                    Curl::new(&health).arg("--insecure").run().await.status == 200
                })
                .await;
            } else if !line.starts_with("export ") {
                let output = soon(line, self.bash(line).output()).await.expect("bash runs");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{line}: {text}{errors}");
                printed.push(text + &errors);
            }
        }
        printed
    }

    /// What a command prints, whether it succeeds or not.
    pub(super) async fn printed(&self, command: &str) -> String {
        let output = soon(command, self.bash(command).output()).await.expect("bash runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Removes the environments.
    pub(super) async fn end(self) {
        for environment in ENVIRONMENTS {
            kubectl(&["delete", "namespace", environment, "--wait=false"], "").await;
        }
    }

    fn bash(&self, command: &str) -> Command {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_portcullis"));
        let programs = program.parent().expect("a folder").display().to_string();
        let rest = std::env::var("PATH").unwrap_or_default();
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &format!("exec {command}")])
            .current_dir(self.folder.path())
            .env("PATH", format!("{programs}:{rest}"))
            .env("PORTCULLIS_TOKEN", &self.token)
            .env("GIT_CONFIG_GLOBAL", self.folder.path().join("gitconfig"))
            // It has the authority of the server.
            .env_remove("GIT_SSL_CAINFO")
            // The registry's certificate is one that the system trusts, on the page.
            .env("SSL_CERT_FILE", self.registry.authority())
            .stdin(Stdio::null());
        bash
    }

    /// Writes a file of the page, with the hash of the caller's key.
    fn write(&self, name: &str, hash: &str) {
        let text = file_of(RELEASES, name).replace("sha256:…", hash);
        fs::write(self.folder.path().join(name), text).expect("a file");
    }

    /// Waits until the URL of an environment answers from a pod of this image.
    async fn answers_from(&self, environment: &str, image: &str) {
        let host = format!("web--{environment}.apps.test");
        let pods = running(environment, image).await;
        assert!(!pods.is_empty(), "{environment} runs {image}");
        eventually("the URL answers from the release's pods alone", || async {
            let answer = self.gateway.curl(&host, "/whoami").run().await;
            answer.status == 200 && pods.contains(&answer.text().trim().to_owned())
        })
        .await;
    }

    /// The image of a release, by its digest.
    async fn image(&self, release: &str) -> String {
        let image = self.call(&format!("/api/v1/releases/{release}")).run().await.json();
        let image = image["image"].as_str().expect("an image").to_owned();
        assert!(image.starts_with(&format!("{HOST}/web@sha256:")), "{image}");
        image
    }

    fn call(&self, path: &str) -> Curl {
        Curl::new(&format!("{API}{path}"))
            .header(&format!("Authorization: Bearer {}", self.token))
            .header("Content-Type: application/json")
    }

    /// Posts as kubernaut's users do, and returns what was created.
    async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.call(path).args(["--data-binary", &body.to_string()]).run().await;
        assert!(matches!(answer.status, 201 | 202), "{path}: {}", answer.text());
        answer.json()
    }
}

/// A file that a page has, whose first line is its title.
pub(super) fn file_of(page: &str, title: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(path).expect("the page");
    let (_, rest) = text
        .split_once(&format!("\n# {title}\n"))
        .unwrap_or_else(|| panic!("{title} is on the page"));
    rest.split_once("```").expect("its end").0.to_owned()
}

fn docker_config() -> String {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("ci:{PASSWORD}"));
    json!({ "auths": { HOST: { "auth": auth } } }).to_string()
}

/// Creates an environment, anew, whose pods may pull from the registry.
async fn environment(name: &str, credentials: &Path) {
    kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait"], "").await;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": { "portcullis.dev/environment": name },
            "annotations": { "portcullis.dev/expose": "all", "portcullis.dev/require": "none" },
        },
    });
    kubectl(&["apply", "-f", "-"], &namespace.to_string()).await;
    let file = format!("--from-file=.dockerconfigjson={}", credentials.display());
    let kind = "--type=kubernetes.io/dockerconfigjson";
    kubectl(&["create", "secret", "generic", "registry", kind, &file, "-n", name], "").await;
}

/// Pushes the echo server's image as one of its own.
async fn push(folder: &Path, trusted: &Path, tag: &str, release: &str) {
    let images = PathBuf::from(std::env::var_os("PORTCULLIS_CLUSTER_IMAGES").expect("the images"));
    let store = folder.join("images");
    let buildah = async |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(&store);
        command.arg("--runroot").arg(folder.join("run")).args(arguments);
        let output = soon("buildah ends", command.output()).await.expect("buildah runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "buildah {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let archive = images.join("portcullis-echo.tar");
    let from = buildah(&["from", &format!("docker-archive:{}", archive.display())]).await;
    buildah(&["config", "--label", &format!("release={release}"), &from]).await;
    let image = buildah(&["commit", "--quiet", "--rm", &from]).await;
    let user = format!("--creds=ci:{PASSWORD}");
    let certificates = format!("--cert-dir={}", trusted.display());
    let target = format!("docker://{HOST}/web:{tag}");
    buildah(&["push", "--quiet", &user, &certificates, &image, &target]).await;
}

/// The names of the pods of an environment, once all of them run an image.
async fn running(environment: &str, image: &str) -> Vec<String> {
    let is_of = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["imageID"] == image
            && pod["spec"]["containers"][0]["image"] == image
    };
    eventually("the pods of other releases are gone", || async {
        pods(environment).await.iter().all(is_of)
    })
    .await;
    let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned);
    pods(environment).await.iter().filter_map(name).collect()
}

async fn pods(environment: &str) -> Vec<Value> {
    let selection = ["get", "pods", "-n", environment, "-l", "app=web", "-o", "json"];
    let list: Value = serde_json::from_str(&kubectl(&selection, "").await).expect("JSON");
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Follows the page, and returns what it leads to.
pub(super) async fn follow() -> Walk {
    let state = PathBuf::from(std::env::var_os("PORTCULLIS_CLUSTER_STATE").expect("the node"));
    let mut walk = Walk::start(&state).await;
    let blocks: Vec<String> = blocks::of(RELEASES)
        .into_iter()
        .filter(|block| block.is_tested("releases"))
        .map(|block| block.text)
        .collect();
    let [key, first, second] = &blocks[..] else { panic!("{blocks:#?}") };
    let printed = walk.run(key).await.concat();
    let word = |prefix: &str| {
        let found = printed.split_whitespace().find(|word| word.starts_with(prefix));
        found.unwrap_or_else(|| panic!("{prefix} in {printed}")).to_owned()
    };
    walk.token = word("pck_");
    walk.write("builder.yaml", &word("sha256:"));
    walk.write("web.yaml", "");

    let printed = walk.run(first).await;
    assert!(printed[0].contains("web.1"), "{printed:?}");
    let old = walk.image("web.1").await;
    for environment in ENVIRONMENTS {
        walk.answers_from(environment, &old).await;
    }
    let printed = walk.run(second).await;
    assert!(printed[0].contains("web.2"), "{printed:?}");
    walk.answers_from("production", &old).await;

    // As kubernaut's users do it: the manifests in YAML, and as JSON.
    let yaml = fs::read_to_string(walk.folder.path().join("web.yaml")).expect("the template");
    let image = format!("{HOST}/web:1.5");
    let created = walk.post("/api/releases", &json!({ "template": yaml, "image": image })).await;
    assert_eq!(created["id"], "web.3");
    let objects = walk.call("/api/v1/releases/web.3").run().await.json()["template"].clone();
    let request = json!({ "template": objects, "image": image });
    assert_eq!(walk.post("/api/releases", &request).await["id"], "web.4");
    walk.post("/api/v1/deployments", &json!({ "release": "web.4", "environment": "staging" }))
        .await;
    let new = walk.image("web.4").await;
    assert_ne!(new, old);
    eventually("the second release runs in staging", || async {
        let shown = walk.call("/api/v1/environments/staging").run().await.json();
        shown["services"][0]["running"] == "web.4"
    })
    .await;
    walk.answers_from("staging", &new).await;
    walk
}
