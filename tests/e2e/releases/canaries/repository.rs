//! A repository of the service: a push is built, released, and deployed to one environment. The node
//! pulls the image from the registry.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::super::builder::Builder;
use super::super::git_server::{CREDENTIALS, GitServer, WorkTree};
use super::super::registry::Registry;
use super::Kind;
use crate::harness::eventually;
use crate::harness::node::kubectl;

/// The program of the echo server.
pub(in super::super) const PROGRAM: &str = "portcullis-echo";
/// The Secret with the credentials of the registry.
pub(in super::super) const PULL_SECRET: &str = "registry";

/// A git server with the repository `shop`, and the work tree of its only user.
pub(super) struct Repository {
    server: GitServer,
    work: WorkTree,
}

// === impl Repository ===

impl Repository {
    /// Creates the repository, with the echo server of the node's images.
    pub(super) async fn create() -> Self {
        let server = GitServer::start().await;
        let work = server.create("shop");
        std::fs::write(server.file("credentials"), CREDENTIALS).expect("the credentials");
        work.copy(&unpack(server.file("program").as_path()), &format!("web/{PROGRAM}"));
        let new = Self { server, work };
        new.write(&Kind::all()[0]);
        new.work.push("master");
        new
    }

    /// The settings of a builder that builds it, and deploys what is pushed to an environment.
    pub(super) fn settings(&self, registry: &Registry, environment: &str) -> Value {
        json!({
            "folder": "builds", "images": format!("{}/{{service}}", registry.repository()),
            "repositories": [{
                "name": "shop", "url": self.server.url("shop"), "services": ["web"],
                "pollEvery": "1h", "credentials": self.server.file("credentials"),
                "certificateAuthorities": self.server.file("ca.pem"), "autopush": environment,
            }],
        })
    }

    /// Pushes a release; returns the identifier of its deployment.
    pub(super) async fn push(&self, builder: &Builder, kind: &Kind) -> String {
        self.write(kind);
        let commit = self.work.push("master");
        builder.cli("admin", &["repo", "sync", "shop"]).await.expect("it is fetched");
        self.deployed(builder, &commit).await
    }

    /// Waits until the first commit is deployed; returns the identifier of its deployment.
    pub(super) async fn first(&self, builder: &Builder) -> String {
        self.deployed(builder, &self.work.git(&["rev-parse", "HEAD"])).await
    }

    async fn deployed(&self, builder: &Builder, commit: &str) -> String {
        let found = async || {
            let page = builder.get("admin", "/api/v1/builds?repository=shop").await.json();
            let builds = page["items"].as_array().cloned().unwrap_or_default();
            let id = builds.into_iter().find(|build| build["commit"] == commit)?["id"].clone();
            let path = format!("/api/v1/builds/{}", id.as_str()?);
            Some(builder.get("admin", &path).await.json())
        };
        eventually("the commit is built and deployed", || async {
            let found = found().await.unwrap_or_default();
            assert_ne!(found["state"], "failed", "{found}");
            found["targets"][0]["autopushed"].is_string()
        })
        .await;
        let build = found().await.expect("the build");
        let id = build["id"].as_str().expect("an identifier");
        let shown = builder.cli("admin", &["build", "show", id]).await.expect("the build");
        println!("--- a push of {commit}\n{shown}");
        build["targets"][0]["autopushed"].as_str().expect("a deployment").to_owned()
    }

    /// The image has the variables, and each release another one.
    fn write(&self, kind: &Kind) {
        let variables = kind.variables.as_array().expect("variables");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let lines = variables
            .iter()
            .map(|one| format!("ENV {}={}\n", text(&one["name"]), text(&one["value"])));
        let lines = lines.collect::<String>();
        self.work.write(
            "web/Dockerfile",
            &format!(
                "FROM scratch\nCOPY {PROGRAM} /{PROGRAM}\nUSER 65532:65532\n{lines}ENTRYPOINT \
                 [\"/{PROGRAM}\"]\n"
            ),
        );
        let objects = Kind { variables: json!([]), ..kind.clone() }.template();
        let objects = objects.as_array().expect("objects");
        // JSON is YAML, too.
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        self.work.write("web/k8s.yaml", &documents.join("\n---\n"));
    }
}

/// Takes the program out of the archive of its image, into a folder.
pub(in super::super) fn unpack(folder: &Path) -> std::path::PathBuf {
    let images = std::env::var("PORTCULLIS_CLUSTER_IMAGES").expect("the node's images");
    std::fs::create_dir(folder).expect("a folder");
    let extract = |archive: &Path| {
        let tar = Command::new("tar").arg("-C").arg(folder).arg("-xf").arg(archive).status();
        assert!(tar.expect("tar runs").success(), "{}", archive.display());
    };
    extract(&Path::new(&images).join(format!("{PROGRAM}.tar")));
    let manifest = std::fs::read(folder.join("manifest.json")).expect("the manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    for layer in manifest[0]["Layers"].as_array().expect("layers") {
        extract(&folder.join(layer.as_str().expect("a name")));
    }
    folder.join(PROGRAM)
}

/// Lets the node pull from the registry: it knows its authority, and the environment its credentials.
/// Another cluster's nodes know it already.
pub(in super::super) async fn trust(registry: &Registry, environment: &str) {
    let host = registry.host();
    if let Some(state) = std::env::var_os("PORTCULLIS_CLUSTER_STATE") {
        trust_authority(registry, Path::new(&state));
    }
    let (user, password) = registry.credentials().split_once(':').expect("USER:PASSWORD");
    let create = ["create", "secret", "docker-registry", PULL_SECRET, "--namespace", environment];
    let credentials = [
        format!("--docker-server={host}"),
        format!("--docker-username={user}"),
        format!("--docker-password={password}"),
    ];
    kubectl(&[&create[..], &credentials.each_ref().map(String::as_str)].concat(), "").await;
}

fn trust_authority(registry: &Registry, state: &Path) {
    let host = registry.host();
    let folder = state.join("certs.d").join(&host);
    std::fs::create_dir_all(&folder).expect("a folder");
    let authority = registry.authority();
    let text = format!(
        "server = \"https://{host}\"\n[host.\"https://{host}\"]\n  ca = \"{}\"\n",
        authority.display()
    );
    std::fs::write(folder.join("hosts.toml"), text).expect("the registry's host");
}
