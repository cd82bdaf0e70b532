//! The registry `docker-registry`, with TLS and basic authentication.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{Authority, Curl, soon};

/// The password of the only user, `ci`.
pub(super) const PASSWORD: &str = "registry-secret";
/// Its bcrypt hash, as in a file of htpasswd.
const HASHED: &str = "$2b$05$abcdefghijklmnopqrstuubNCCgMNqYiQA5BMGxm7McAPft53drSm";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A running registry. One that was started here is killed on drop.
pub(super) struct Registry {
    child: Option<Child>,
    folder: TempDir,
    host: String,
    /// Where images are in it: its host, and a path if there is one.
    repository: String,
    /// `USER:PASSWORD`.
    credentials: String,
}

// === impl Registry ===

impl Registry {
    /// Starts one on a free port.
    pub(super) async fn start() -> Self {
        Self::at(Ipv4Addr::LOCALHOST).await
    }

    /// Starts one on a free port of an address, by which it is known.
    pub(super) async fn at(address: Ipv4Addr) -> Self {
        let (mut registry, address) =
            Self::listen(&format!("{address}:0"), &address.to_string()).await;
        registry.host = address.to_string();
        registry.repository.clone_from(&registry.host);
        registry
    }

    /// One that is not started here, such as `registry.example.com/team`. `authority` is the PEM file
    /// of the authorities that it is trusted by.
    pub(super) fn elsewhere(repository: &str, credentials: &str, authority: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::copy(authority, folder.path().join("ca.pem")).expect("the authority");
        let host = repository.split('/').next().unwrap_or_default().to_owned();
        let (repository, credentials) = (repository.to_owned(), credentials.to_owned());
        Self { child: None, folder, host, repository, credentials }
    }

    /// Starts one with a name, on the default port of an address; only where no one else has it.
    pub(super) async fn named(name: &str, address: &str) -> Self {
        Self::listen(&format!("{address}:443"), name).await.0
    }

    async fn listen(address: &str, name: &str) -> (Self, SocketAddr) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new("Registry tests").expect("an authority");
        let hour = Duration::from_secs(2 * 3600);
        let issued = authority.issue(&[name], hour).expect("a certificate");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("ca.pem"), authority.certificate()).expect("the authority");
        fs::write(path("tls.crt"), issued.certificate).expect("the certificate");
        fs::write(path("tls.key"), issued.key).expect("the key");
        fs::write(path("htpasswd"), format!("ci:{HASHED}\n")).expect("the password's hash");
        let configuration = json!({
            "version": 0.1,
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": path("data") } },
            "http": {
                "addr": address,
                "tls": { "certificate": path("tls.crt"), "key": path("tls.key") },
            },
            "auth": { "htpasswd": { "realm": "tests", "path": path("htpasswd") } },
        });
        fs::write(path("config.json"), configuration.to_string()).expect("the configuration");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.json"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("docker-registry is installed");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let address = soon("the registry listens", async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((_, rest)) = line.split_once("listening on ") {
                    let end = rest.find([',', '"']).unwrap_or(rest.len());
                    return rest[..end].parse().expect("an address");
                }
            }
            panic!("the registry ended at once");
        })
        .await;
        // Its log must not block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let [host, repository] = [(); 2].map(|()| name.to_owned());
        let (child, credentials) = (Some(child), format!("ci:{PASSWORD}"));
        (Self { child, folder, host, repository, credentials }, address)
    }

    /// Its host, as in the names of images.
    pub(super) fn host(&self) -> String {
        self.host.clone()
    }

    /// Where images are in it, as in their names.
    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// `USER:PASSWORD` of its only user.
    pub(super) fn credentials(&self) -> &str {
        &self.credentials
    }

    /// The name of an image.
    pub(super) fn image(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.host)
    }

    /// The file of the authority of its certificate.
    pub(super) fn authority(&self) -> std::path::PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Pushes an image that differs from all others, and returns its digest.
    pub(super) async fn push(&self, name: &str, tag: &str) -> String {
        let file = self.folder.path().join("blob");
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).expect("randomness");
        let config =
            json!({ "architecture": "amd64", "os": "linux", "author": format!("{random:?}"),
            "rootfs": { "type": "layers", "diff_ids": [] } })
            .to_string();
        let blob = sha256(config.as_bytes());
        let start = self.call(&format!("/v2/{name}/blobs/uploads/")).args(["-X", "POST"]);
        let location = start.run().await.header("location").expect("an upload").to_owned();
        let join = if location.contains('?') { '&' } else { '?' };
        fs::write(&file, &config).expect("the blob");
        let data = format!("@{}", file.display());
        let put = Curl::new(&format!("{location}{join}digest={blob}"))
            .args(["--cacert", &self.authority().to_string_lossy()])
            .args(["--user", &format!("ci:{PASSWORD}"), "-X", "PUT", "--data-binary", &data])
            .header("Content-Type: application/octet-stream");
        assert_eq!(put.run().await.status, 201);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": blob, "size": config.len(),
            },
        })
        .to_string();
        fs::write(&file, &manifest).expect("the manifest");
        let put = self
            .call(&format!("/v2/{name}/manifests/{tag}"))
            .args(["-X", "PUT", "--data-binary", &data])
            .header(&format!("Content-Type: {MANIFEST}"));
        let answer = put.run().await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        sha256(manifest.as_bytes())
    }

    fn call(&self, path: &str) -> Curl {
        Curl::new(&format!("https://{}{path}", self.host))
            .args(["--cacert", &self.authority().to_string_lossy()])
            .args(["--user", &format!("ci:{PASSWORD}")])
    }

    /// Lets it answer nothing until [`resume`](Self::resume).
    pub(super) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it answer again.
    pub(super) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let process = self.child.as_ref().and_then(Child::id).expect("it runs").to_string();
        let kill = std::process::Command::new("kill").args(["-s", name, &process]).status();
        assert!(kill.expect("kill runs").success());
    }

    /// The digest that a tag names; `None` if there is no such tag.
    pub(super) async fn digest(&self, name: &str, tag: &str) -> Option<String> {
        let head = self.call(&format!("/v2/{name}/manifests/{tag}")).arg("--head");
        let answer = head.header(&format!("Accept: {MANIFEST}")).run().await;
        (answer.status == 200).then(|| answer.header("docker-content-digest").unwrap().to_owned())
    }

    /// Stops it.
    pub(super) async fn stop(&mut self) {
        self.child.as_mut().expect("it was started here").kill().await.expect("it ends");
    }
}

fn sha256(octets: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, octets)))
}
