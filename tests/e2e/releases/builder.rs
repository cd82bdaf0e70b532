//! The running builder, and calls of its API.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_config::client_key::{Key, write_hash};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::registry::Registry;
use crate::harness::{Answer, Authority, Curl, eventually, soon};

/// The callers, each with a number from which its key is made.
const CALLERS: [(&str, u8); 6] =
    [("ci", 1), ("reader", 2), ("stranger", 3), ("admin", 4), ("nobody", 5), ("narrow", 6)];

/// A running builder over TLS. Killed on drop.
pub(super) struct Builder {
    /// It, or what forwards to it.
    child: Child,
    folder: TempDir,
    host: String,
    url: String,
}

// === impl Builder ===

impl Builder {
    /// Starts a builder for images of `registry`, and for the cluster of a kubeconfig; without one,
    /// for a cluster that is away.
    pub(super) async fn start(registry: &Registry, kubeconfig: Option<&Path>) -> Self {
        Self::start_with(registry, kubeconfig, &json!({})).await
    }

    /// Starts one with further settings.
    pub(super) async fn start_with(
        registry: &Registry,
        kubeconfig: Option<&Path>,
        further: &Value,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new("Builder tests").expect("an authority");
        let hours = Duration::from_secs(2 * 3600);
        let issued = authority.issue(&["127.0.0.1"], hours).expect("a certificate");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("ca.pem"), authority.certificate()).expect("the authority");
        fs::write(path("tls.crt"), issued.certificate).expect("the certificate");
        fs::write(path("tls.key"), issued.key).expect("the key");
        // Nothing listens on port 1.
        let away = kubeconfig_of("http://127.0.0.1:1");
        fs::write(path("away.json"), away.to_string()).expect("a kubeconfig");
        let kubeconfig = kubeconfig.map_or_else(|| PathBuf::from("away.json"), Path::to_owned);
        let mut settings = json!({
            "address": "127.0.0.1:0",
            "tls": { "certificate": "tls.crt", "key": "tls.key" },
            "store": "releases.db",
            "kubernetes": { "kubeconfig": kubeconfig },
            "registries": [{
                "host": registry.host(),
                "credentials": "registry.json",
                "certificateAuthorities": registry.authority(),
            }],
            "callers": callers(),
        });
        for (key, value) in further.as_object().expect("settings") {
            settings[key] = value.clone();
        }
        fs::write(path("builder.yaml"), settings.to_string()).expect("the configuration");
        let host = registry.host();
        write_credentials(folder.path(), &host, registry.credentials());
        let (child, url) = run(folder.path()).await;
        Self { child, folder, host, url }
    }

    /// One that is not started here: a connection is forwarded to its URL. The folder has the authority
    /// of its certificate, `ca.pem`.
    pub(super) fn forwarded(child: Child, url: String, folder: TempDir) -> Self {
        Self { child, folder, host: String::new(), url }
    }

    /// Its folder, in which commands run.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of its API.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Replaces the password that it presents to the registry.
    pub(super) fn write_credentials(&self, password: &str) {
        write_credentials(self.folder.path(), &self.host, &format!("ci:{password}"));
    }

    /// Kills it by SIGKILL, and starts another one with the same store.
    pub(super) async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.restart().await;
    }

    /// Kills it by SIGKILL.
    pub(super) async fn kill(&mut self) {
        soon("the builder ends", self.child.kill()).await.expect("it is killed");
        fs::remove_file(self.folder.path().join("ready.json")).expect("the ready file");
    }

    /// Starts another one with the same store, after the last one was killed.
    pub(super) async fn restart(&mut self) {
        (self.child, self.url) = run(self.folder.path()).await;
    }

    /// Sends it a signal.
    pub(super) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await;
        assert!(sent.expect("kill runs").success());
    }

    /// Waits until it ends by itself.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        soon("the builder ends", self.child.wait()).await.expect("it ends")
    }

    /// Reads with this bearer credential.
    pub(super) async fn get_as(&self, bearer: &str, path: &str) -> Answer {
        self.anonymous(path).header(&format!("Authorization: Bearer {bearer}")).run().await
    }

    /// Posts with this bearer credential.
    pub(super) async fn post_as(&self, bearer: &str, path: &str, body: &Value) -> Answer {
        self.anonymous(path)
            .args(["--data-binary", &body.to_string()])
            .header("Content-Type: application/json")
            .header(&format!("Authorization: Bearer {bearer}"))
            .run()
            .await
    }

    fn call(&self, caller: &str, path: &str) -> Curl {
        self.anonymous(path).header(&format!("Authorization: Bearer {}", token(caller)))
    }

    fn anonymous(&self, path: &str) -> Curl {
        Curl::new(&format!("{}{path}", self.url))
            .args(["--cacert", &self.folder.path().join("ca.pem").to_string_lossy()])
    }

    pub(super) async fn get(&self, caller: &str, path: &str) -> Answer {
        self.call(caller, path).run().await
    }

    /// Continues a stream of events after the one with this `id`.
    pub(super) async fn get_after(&self, caller: &str, path: &str, id: &str) -> Answer {
        self.call(caller, path).header(&format!("Last-Event-ID: {id}")).run().await
    }

    /// Opens connections that send nothing.
    pub(super) async fn idle_connections(&self, count: usize) -> Vec<TcpStream> {
        let address = self.url.trim_start_matches("https://");
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(TcpStream::connect(address).await.expect("a connection"));
        }
        connections
    }

    /// Reads from another address of this machine; fails if it takes longer than a few seconds.
    pub(super) async fn get_from(&self, address: &str, caller: &str, path: &str) -> Answer {
        self.call(caller, path).args(["--interface", address, "--max-time", "5"]).run().await
    }

    /// Posts with an idempotency key.
    pub(super) async fn post_once(&self, caller: &str, path: &str, body: &Value) -> Answer {
        self.call(caller, path)
            .args(["--data-binary", &body.to_string()])
            .header("Content-Type: application/json")
            .header("Idempotency-Key: once")
            .run()
            .await
    }

    pub(super) async fn post(&self, caller: &str, path: &str, body: &Value) -> Answer {
        self.raw(caller, path, &body.to_string()).await
    }

    pub(super) async fn put(&self, caller: &str, path: &str, body: &Value) -> Answer {
        self.send("PUT", caller, path, &body.to_string()).await
    }

    /// Puts a body if the resource has this version.
    pub(super) async fn put_if(
        &self,
        caller: &str,
        path: &str,
        body: &Value,
        version: &str,
    ) -> Answer {
        self.call(caller, path)
            .args(["-X", "PUT", "--data-binary", &body.to_string()])
            .header("Content-Type: application/json")
            .header(&format!("If-Match: {version}"))
            .run()
            .await
    }

    /// Posts a body that need not be valid.
    pub(super) async fn raw(&self, caller: &str, path: &str, body: &str) -> Answer {
        self.send("POST", caller, path, body).await
    }

    async fn send(&self, method: &str, caller: &str, path: &str, body: &str) -> Answer {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), body).expect("the body");
        self.call(caller, path)
            .args(["-X", method, "--data-binary", &format!("@{}", file.path().display())])
            .header("Content-Type: application/json")
            .run()
            .await
    }

    fn command(&self, caller: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PORTCULLIS_SERVER", &self.url)
            .env("PORTCULLIS_TOKEN", token(caller))
            .env("PORTCULLIS_AUTHORITIES", "ca.pem")
            .env("NO_COLOR", "1")
            .env("COLUMNS", "200")
            .kill_on_drop(true);
        command
    }

    /// Starts a command that runs until it is dropped, and returns its lines.
    pub(super) fn follow(&self, caller: &str, arguments: &[&str]) -> (Child, Lines) {
        let mut child = self
            .command(caller, arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        (child, lines)
    }

    /// Runs a command; returns its standard output, or its error output if it fails.
    pub(super) async fn cli(&self, caller: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command(caller, arguments);
        let output = soon("the command ends", command.output()).await.expect("it runs");
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            // A failed deployment is reported on standard output. The lines of a failure are wrapped.
            let message = text(&output.stdout) + &text(&output.stderr).replace('│', "");
            Err(message.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    }
}

/// The lines of a command's standard output.
pub(super) type Lines = tokio::io::Lines<BufReader<tokio::process::ChildStdout>>;

async fn run(folder: &Path) -> (Child, String) {
    let ready = folder.join("ready.json");
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["builder", "--log-format", "json", "--config"])
        .arg(folder.join("builder.yaml"))
        .arg("--ready-file")
        .arg(&ready)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the builder starts");
    tokio::select! {
        () = eventually("the builder is ready", || async { ready.exists() }) => {}
        status = child.wait() => panic!("the builder ended at once: {status:?}"),
    }
    let text = fs::read(&ready).expect("the ready file can be read");
    let ready: Value = serde_json::from_slice(&text).expect("it names the address");
    (child, format!("https://{}", ready["api"].as_str().expect("an address")))
}

/// The callers, as in the settings.
pub(super) fn callers() -> Vec<Value> {
    let grant = |scope: &str, service: &str, environment: &str| json!({ "scope": scope, "services": [service], "environments": [environment] });
    let caller = |(name, number): (&str, u8)| {
        let grants = match name {
            "ci" => json!([grant("deploy", "web", "*")]),
            "narrow" => json!([grant("deploy", "web", "staging")]),
            "reader" => json!([grant("read", "web", "*")]),
            "stranger" => json!([grant("admin", "shop", "*")]),
            _ => json!([grant("admin", "*", "*")]),
        };
        let hash = write_hash(&key(number).hash());
        json!({ "name": name, "keys": [{ "hash": hash }], "grants": grants })
    };
    CALLERS.into_iter().filter(|(name, _)| *name != "nobody").map(caller).collect()
}

fn key(number: u8) -> Key {
    Key::new(&[number; 32])
}

/// The key of a caller.
pub(super) fn token(caller: &str) -> String {
    let (_, number) = CALLERS.into_iter().find(|(name, _)| *name == caller).expect("a caller");
    key(number).expose().to_owned()
}

fn write_credentials(folder: &Path, host: &str, credentials: &str) {
    let auth = STANDARD.encode(credentials);
    let config = json!({ "auths": { host: { "auth": auth } } });
    fs::write(folder.join("registry.json"), config.to_string()).expect("the credentials");
}

/// A kubeconfig of a cluster.
pub(super) fn kubeconfig_of(server: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "tests",
        "clusters": [{ "name": "tests", "cluster": { "server": server } }],
        "contexts": [{ "name": "tests", "context": { "cluster": "tests", "user": "tests" } }],
        "users": [{ "name": "tests", "user": {} }],
    })
}
