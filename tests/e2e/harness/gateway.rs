//! The running binary.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::{Authority, Curl, World, ZONE, eventually, soon};

/// A builder for a gateway.
pub(crate) struct Builder {
    settings: Value,
    world: World,
    environment: Vec<(String, OsString)>,
}

/// A running gateway with its folder. Killed on drop; its log is printed if the test
/// failed.
pub(crate) struct Gateway {
    child: Child,
    folder: TempDir,
    authority: Authority,
    addresses: Addresses,
    log: Log,
}

/// The addresses that it listens on.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
struct Addresses {
    http: SocketAddr,
    https: SocketAddr,
    probes: SocketAddr,
    telemetry: SocketAddr,
    admin: SocketAddr,
}

type Log = Arc<watch::Sender<String>>;

// === impl Builder ===

impl Builder {
    /// Changes settings: objects are merged, other values are replaced.
    pub(crate) fn settings(mut self, change: Value) -> Self {
        merge(&mut self.settings, change);
        self
    }

    /// Adds an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(self) -> Gateway {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new("Portcullis tests").expect("an authority");
        let manifests = folder.path().join("manifests");
        fs::create_dir(&manifests).expect("a folder for the manifests");
        self.world.write(&manifests);
        write_certificate(
            folder.path(),
            &authority,
            &[&format!("*.{ZONE}"), ZONE],
            Duration::from_secs(30 * 24 * 3600),
        );
        fs::write(folder.path().join("ca.pem"), authority.certificate())
            .expect("the authority's certificate");
        let configuration = folder.path().join("portcullis.yaml");
        fs::write(&configuration, self.settings.to_string()).expect("the configuration");

        let ready = folder.path().join("ready.json");
        let mut child = command(&configuration, &ready)
            .envs(self.environment)
            .spawn()
            .expect("the gateway starts");
        let log: Log = Arc::new(watch::Sender::new(String::new()));
        tokio::spawn(gather(child.stdout.take().expect("its standard output"), Arc::clone(&log)));
        tokio::spawn(gather(child.stderr.take().expect("its standard error"), Arc::clone(&log)));
        let addresses = addresses(&mut child, &ready, &log).await;
        Gateway { child, folder, authority, addresses, log }
    }
}

// === impl Gateway ===

impl Gateway {
    /// A gateway in front of `world`: one worker, plain HTTP served, and a wildcard certificate for
    /// the zone.
    pub(crate) fn of(world: World) -> Builder {
        let settings = json!({
            "zone": ZONE,
            "source": { "directory": "manifests" },
            "listeners": {
                "http": { "address": "127.0.0.1:0", "mode": "serve" },
                "https": { "address": "127.0.0.1:0" },
            },
            "probes": { "address": "127.0.0.1:0" },
            "telemetry": { "address": "127.0.0.1:0", "require": "none" },
            "admin": { "address": "127.0.0.1:0" },
            "certificates": [{ "files": { "certificate": "tls.crt", "key": "tls.key" } }],
            "drain": { "delay": "0s", "deadline": "10s" },
            "workers": 1,
        });
        Builder { settings, world, environment: Vec::new() }
    }

    /// Starts such a gateway.
    pub(crate) async fn start(world: World) -> Self {
        Self::of(world).start().await
    }

    /// The address of the HTTP listener.
    pub(crate) fn http(&self) -> SocketAddr {
        self.addresses.http
    }

    /// The address of the HTTPS listener.
    pub(crate) fn https(&self) -> SocketAddr {
        self.addresses.https
    }

    /// The address of the listener for probes.
    pub(crate) fn probes(&self) -> SocketAddr {
        self.addresses.probes
    }

    /// The address of the listener for metrics.
    pub(crate) fn telemetry(&self) -> SocketAddr {
        self.addresses.telemetry
    }

    /// The address of the admin listener.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.addresses.admin
    }

    /// Replaces the manifests with `world`. The gateway picks it up asynchronously.
    pub(crate) fn apply(&self, world: &World) {
        world.write(&self.folder.path().join("manifests"));
    }

    /// Issues another certificate for `names`, and replaces the configured files. The gateway
    /// picks it up asynchronously.
    pub(crate) fn renew(&self, names: &[&str], validity: Duration) {
        write_certificate(self.folder.path(), &self.authority, names, validity);
    }

    /// Its folder: `manifests`, `portcullis.yaml`, `tls.crt`, `tls.key`, `ca.pem`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate that clients trust.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A call by curl over HTTPS: `gateway.curl(WEB, "/")`.
    pub(crate) fn curl(&self, host: &str, path: &str) -> Curl {
        Curl::new(&format!("https://{host}:{}{path}", self.https().port()))
            .args(["--resolve", &format!("{host}:{}:127.0.0.1", self.https().port())])
            .args(["--cacert", &self.ca().to_string_lossy()])
    }

    /// A call by curl over plain HTTP.
    pub(crate) fn curl_plain(&self, host: &str, path: &str) -> Curl {
        Curl::new(&format!("http://{host}:{}{path}", self.http().port()))
            .args(["--resolve", &format!("{host}:{}:127.0.0.1", self.http().port())])
    }

    /// A page for operators: of the metrics listener, of the probes listener, else of the admin
    /// listener.
    pub(crate) async fn admin_page(&self, path: &str) -> super::Answer {
        let address = match path {
            "/metrics" => self.telemetry(),
            "/livez" | "/readyz" => self.probes(),
            _ => self.admin(),
        };
        Curl::new(&format!("http://{address}{path}")).run().await
    }

    /// The sum of all series of a counter or gauge whose line starts with `series`.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let page = self.admin_page("/metrics").await.text();
        let values = page
            .lines()
            .filter(|line| line.starts_with(series))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    /// Whether it reports that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        self.admin_page("/readyz").await.status == 200
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Memory in use now (`VmRSS`), in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let id = self.id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let id = self.id().to_string();
        let killed =
            std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(killed.success());
    }

    /// Waits until it has exited.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon("the gateway ends", self.child.wait()).await.expect("its exit status")
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Waits until the log contains `text`.
    pub(crate) async fn has_written(&self, text: &str) {
        soon(text, self.log.subscribe().wait_for(|log| log.contains(text)))
            .await
            .expect("the log's writer lives");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the gateway's log\n{}---", self.log.borrow().as_str());
        }
    }
}

fn command(configuration: &Path, ready: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .args(["gateway", "--log-format", "json", "--config"])
        .arg(configuration)
        .arg("--ready-file")
        .arg(ready);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Certificate and key are moved into place one after the other, as most tools do it.
fn write_certificate(folder: &Path, authority: &Authority, names: &[&str], validity: Duration) {
    let issued = authority.issue(names, validity).expect("a certificate");
    for (file, text) in [("tls.crt", issued.certificate), ("tls.key", issued.key)] {
        let scratch = folder.join(format!(".{file}.new"));
        fs::write(&scratch, text).expect("the certificate's files can be written");
        fs::rename(&scratch, folder.join(file)).expect("they can be moved into place");
    }
}

async fn gather(output: impl AsyncRead + Unpin, log: Log) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.send_modify(|log| {
            log.push_str(&line);
            log.push('\n');
        });
    }
}

/// The addresses that the gateway listens on, from the file that it writes once it is ready.
async fn addresses(child: &mut Child, file: &Path, log: &Log) -> Addresses {
    let written = eventually("the gateway is ready", || async { file.exists() });
    tokio::select! {
        () = written => {}
        status = child.wait() => panic!("the gateway ended at once: {status:?}\n{}", log.borrow().as_str()),
    }
    let text = fs::read(file).expect("the ready file can be read");
    serde_json::from_slice(&text).expect("it names the addresses")
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}
