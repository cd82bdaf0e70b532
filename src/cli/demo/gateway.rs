//! The gateway of the demo: a child process of this program, with its own configuration.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::authority::Authority;
use super::provider::{AUDIENCE, BROWSER};
use super::{CREDENTIALS, ZONE};
use crate::cli::problems::Failure;

/// Timeout for the gateway to become ready, and to apply a change.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running gateway, which is killed on drop.
pub(super) struct Gateway {
    child: Child,
    folder: PathBuf,
    ports: Ports,
}

/// The ports that it listens on, on the loopback.
struct Ports {
    http: u16,
    https: u16,
    telemetry: u16,
    admin: u16,
}

// === impl Gateway ===

impl Gateway {
    /// Writes certificates and configuration to `folder`, starts the gateway, and waits until it is
    /// ready. `issuer` is the URL of the identity provider.
    pub(super) async fn start(folder: &Path, issuer: &str) -> Result<Self, Failure> {
        write_certificates(folder)?;
        // Another process may take a free port before the gateway does: then try other ports.
        match Self::start_on(folder, issuer, Ports::preferred()).await {
            Err(_) => Self::start_on(folder, issuer, Ports::any()).await,
            started => started,
        }
    }

    async fn start_on(
        folder: &Path,
        issuer: &str,
        ports: std::io::Result<Ports>,
    ) -> Result<Self, Failure> {
        let ports = ports.map_err(Failure::new)?;
        let configuration = folder.join("portcullis.yaml");
        fs::write(&configuration, ports.configuration(issuer)).map_err(Failure::new)?;
        let log = fs::File::create(folder.join("gateway.log")).map_err(Failure::new)?;
        let ready = folder.join("ready.json");
        remove_if_exists(&ready).map_err(Failure::new)?;
        let mut command = Command::new(std::env::current_exe().map_err(Failure::new)?);
        command.arg("gateway").arg("--config").arg(&configuration).arg("--ready-file").arg(&ready);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        // Ctrl-C signals all processes of a terminal's group; this one has to stop last.
        command.process_group(0);
        let mut gateway = Self {
            child: command.spawn().map_err(Failure::new)?,
            folder: folder.to_owned(),
            ports,
        };
        gateway.wait_until_ready(&ready).await?;
        Ok(gateway)
    }

    async fn wait_until_ready(&mut self, file: &Path) -> Result<(), Failure> {
        let ready = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reason = tokio::select! {
            () = ready => return Ok(()),
            exited = self.child.wait() => format!("it exited: {}", exited.map_err(Failure::new)?),
            () = tokio::time::sleep(TIMEOUT) => format!("it was not ready within {} s", TIMEOUT.as_secs()),
        };
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        Err(Failure::new(format!("the gateway failed to start: {reason}\n{log}")))
    }

    /// Waits until its routing table lists the endpoint at `address` if `ready`, else until it does
    /// not. Returns how long that took.
    pub(super) async fn wait_until_applied(
        &self,
        address: SocketAddr,
        ready: bool,
    ) -> Result<Duration, Failure> {
        let start = Instant::now();
        let endpoint = format!("\"{address}\"");
        while self.routes().await.map_err(Failure::new)?.contains(&endpoint) != ready {
            if start.elapsed() > TIMEOUT {
                return Err(Failure::new(format!(
                    "the gateway did not apply a change within {} s",
                    TIMEOUT.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(start.elapsed())
    }

    async fn routes(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.admin)).await?;
        stream.write_all(b"GET /routes HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    }

    /// Sends SIGTERM, and waits until it exits.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        if let Some(id) = self.child.id() {
            Command::new("kill").arg(id.to_string()).status().await.map_err(Failure::new)?;
        }
        self.child.wait().await.map_err(Failure::new)?;
        Ok(())
    }

    /// The path of the CA certificate that clients have to trust.
    pub(super) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The path of its log.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("gateway.log")
    }

    /// The path of its access log.
    pub(super) fn access_log(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    /// The port of HTTPS.
    pub(super) fn https(&self) -> u16 {
        self.ports.https
    }

    /// The port of plain HTTP.
    pub(super) fn http(&self) -> u16 {
        self.ports.http
    }

    /// The port of the listener for metrics.
    pub(super) fn telemetry(&self) -> u16 {
        self.ports.telemetry
    }

    /// The port of the admin listener.
    pub(super) fn admin(&self) -> u16 {
        self.ports.admin
    }
}

// === impl Ports ===

impl Ports {
    /// The default ports, each replaced by any free one if it is in use.
    fn preferred() -> std::io::Result<Self> {
        let (telemetry, admin) = (free(9903)?, free(9901)?);
        Ok(Self { http: free(8080)?, https: free(8443)?, telemetry, admin })
    }

    fn any() -> std::io::Result<Self> {
        Ok(Self { http: free(0)?, https: free(0)?, telemetry: free(0)?, admin: free(0)? })
    }

    /// The configuration file. HSTS is off: browsers would remember it long after the demo.
    fn configuration(&self, issuer: &str) -> String {
        let Self { http, https, telemetry, admin } = self;
        format!(
            "zone: {ZONE}\nsource: {{ directory: manifests }}\nlisteners:\n\x20 http: {{ address: \
             '127.0.0.1:{http}', mode: redirect, redirectPort: {https} }}\n\x20 https: {{ \
             address: '127.0.0.1:{https}', hsts: null }}\nprobes: {{ address: null }}\ntelemetry: {{ \
             address: '127.0.0.1:{telemetry}' }}\nadmin: {{ address: '127.0.0.1:{admin}' \
             }}\ncertificates:\n\x20 - files: {{ certificate: tls.crt, key: tls.key \
             }}\naccess:\n\x20 issuers:\n\x20   - {{ name: demo, issuer: '{issuer}', audiences: \
             [{AUDIENCE}], algorithms: [ES256] }}\n\x20 credentialsNamespace: {CREDENTIALS}\n\x20 \
             login: {{ issuer: demo, clientId: {BROWSER}, port: {https}, scopes: [openid, email, \
             profile] }}\naccessLog: {{ file: access.log }}\ndrain: {{ delay: 0s, deadline: 2s \
             }}\n"
        )
    }
}

/// Returns `preferred` if it is free, else any free port.
fn free(preferred: u16) -> std::io::Result<u16> {
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    bind(preferred).or_else(|_| bind(0))?.local_addr().map(|address| address.port())
}

/// Removes the file of an earlier run in the same folder.
fn remove_if_exists(file: &Path) -> std::io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_certificates(folder: &Path) -> Result<(), Failure> {
    let authority = Authority::new("Portcullis demo").map_err(Failure::new)?;
    let issued = authority
        .issue(&[&format!("*.{ZONE}"), ZONE], Duration::from_secs(30 * 24 * 3600))
        .map_err(Failure::new)?;
    for (name, text) in [
        ("ca.pem", authority.certificate()),
        ("tls.crt", issued.certificate),
        ("tls.key", issued.key),
    ] {
        fs::write(folder.join(name), text).map_err(Failure::new)?;
    }
    Ok(())
}
