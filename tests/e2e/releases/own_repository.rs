//! This repository, released by its own builder: `portcullis.yaml`, and what it names.
//!
//! The compiler takes a quarter of an hour and an image that cannot be pulled here: a stand-in for
//! cargo is in the base image. Sandbox, buildah and registry are real.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::api_server::ApiServer;
use super::builder::Builder;
use super::git_server::{CREDENTIALS, GitServer};
use super::registry::Registry;
use crate::chart::{base, objects};
use crate::harness::eventually;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TEMPLATE: &str = "deploy/release/gateway.yaml";

/// "Builds" the program, if it is called as it has to be.
const CARGO: &str = r#"#!/bin/sh
set -e
echo "cargo $*, with $RUSTFLAGS"
[ "$*" = "build --locked --offline --release --target x86_64-unknown-linux-gnu --bin portcullis" ]
[ "$RUSTFLAGS" = "-C target-feature=+crt-static" ]
mkdir -p target/x86_64-unknown-linux-gnu/release
cp Cargo.lock target/x86_64-unknown-linux-gnu/release/portcullis
"#;

/// Its programs are one, which does what its name says.
const TOOLCHAIN: &str = "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/cp\n\
                         COPY busybox /bin/mkdir\nCOPY cargo /usr/local/bin/cargo\n\
                         ENV PATH=/usr/local/bin:/bin\n";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A layout of base images, as the documentation has one made. Each user can read it.
fn toolchain(busybox: &Path) -> TempDir {
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::create_dir(path("context")).expect("a folder");
    fs::copy(busybox, path("context/busybox")).expect("it is copied");
    fs::write(path("context/cargo"), CARGO).expect("it is written");
    fs::set_permissions(path("context/cargo"), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::write(path("context/Containerfile"), TOOLCHAIN).expect("it is written");
    let name = "portcullis.dev/toolchain:1";
    let layout = format!("oci:{}:{name}", path("base").display());
    let context = path("context").display().to_string();
    for arguments in [
        &["build", "--quiet", "--isolation", "chroot", "--tag", name, &context][..],
        &["push", "--quiet", name, &layout],
    ] {
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs", "--root"]).arg(path("store"));
        buildah.arg("--runroot").arg(path("run")).args(arguments);
        let output = buildah.output().expect("buildah runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    folder
}

#[tokio::test]
async fn a_commit_of_this_repository_becomes_a_release_of_the_gateway() {
    let (registry, server) = (Registry::start().await, GitServer::start().await);
    let cluster = ApiServer::start().await;
    let work = server.create("portcullis");
    for path in ["portcullis.yaml", "deploy/release/Containerfile", TEMPLATE, "Cargo.lock"] {
        work.write(path, &read(path));
    }
    let commit = work.push("master");
    // It is in no commit.
    work.copy_busybox();
    let base = toolchain(&Path::new(&work.git(&["rev-parse", "--show-toplevel"])).join("busybox"));
    fs::write(server.file("credentials"), CREDENTIALS).expect("the credentials");
    let further = json!({ "builds": {
        "folder": "builds", "images": format!("{}/{{service}}", registry.host()),
        "baseImages": base.path().join("base"),
        "repositories": [{
            "name": "portcullis", "url": server.url("portcullis"), "services": ["portcullis"],
            "pollEvery": "1h", "credentials": server.file("credentials"),
            "certificateAuthorities": server.file("ca.pem"), "autopush": "staging",
        }],
    }});
    let builder = Builder::start_with(&registry, Some(&cluster.kubeconfig()), &further).await;
    let get = async |path: &str| builder.get("admin", path).await.json();
    eventually("the build ends", || async {
        let state = get("/api/v1/builds/portcullis.1").await["state"].clone();
        state == "succeeded" || state == "failed"
    })
    .await;
    let log = get("/api/v1/builds/portcullis.1/log").await["text"].clone();
    let digest = registry.digest("portcullis", &commit).await;
    let digest = digest.unwrap_or_else(|| panic!("it is not built: {log}"));
    let release = get("/api/v1/releases/portcullis.1").await;
    assert_eq!(release["image"], format!("{}/portcullis@{digest}", registry.host()));
    assert_eq!(release["commit"], json!(commit));
    eventually("it is not deployed, because the zone has no default", || async {
        let target = get("/api/v1/builds/portcullis.1").await["targets"][0].clone();
        target["autopushed"] == "refused: the settings are not valid"
    })
    .await;
}

#[test]
fn the_release_has_the_deployment_and_the_service_of_the_base() {
    let template = read(TEMPLATE);
    let template = template.replace("{{image}}", "portcullis:0.1.0");
    let template = template.replace("\"{{settings.replicas}}\"", "2");
    let template = template.replace("{{settings.namespace}}", "portcullis");
    let template = template.replace("{{settings.zone}}", "apps.example.com");
    let of_release = objects(&template);
    let of_base = objects(&base());
    for name in [r#""Deployment" "portcullis""#, r#""Service" "portcullis""#] {
        let mut of_base = of_base[name].clone();
        // The builder writes labels of its own.
        let labels = of_base["metadata"].as_object_mut().expect("metadata").remove("labels");
        assert!(labels.is_some(), "{name}");
        assert_eq!(of_release[name], of_base, "{name}");
    }

    // The same configuration, and its own Namespace is no environment of it.
    let configuration = |objects: &BTreeMap<String, Value>| {
        objects[r#""ConfigMap" "portcullis""#]["data"]["gateway.yaml"].clone()
    };
    let mut of_release = configuration(&of_release);
    let own = json!({ "key": "kubernetes.io/metadata.name", "operator": "NotIn",
        "values": ["portcullis"] });
    let expected = json!({ "selector": { "matchExpressions": [own] } });
    let environments = of_release.as_object_mut().expect("settings").remove("environments");
    assert_eq!(environments, Some(expected));
    assert_eq!(of_release, configuration(&of_base));
}
