//! Pebble, an ACME test authority: it rejects nonces at random and validates
//! challenges, on a separate address for each test.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::dns::Bind;
use crate::harness::{Authority, Curl, PATIENCE, tool};

/// The ports for challenge validation: the gateway's listeners.
pub(super) const HTTP_PORT: u16 = 5002;
pub(super) const HTTPS_PORT: u16 = 5001;
const PORT: u16 = 14000;
const MANAGEMENT_PORT: u16 = 15000;

/// A running Pebble.
pub(super) struct Pebble {
    child: Child,
    folder: TempDir,
    address: Ipv4Addr,
    log: Arc<watch::Sender<String>>,
    environment: Vec<(String, String)>,
}

// === impl Pebble ===

impl Pebble {
    /// Starts it on the address of `dns`, its resolver. It rejects one nonce in ten.
    pub(super) async fn start(dns: &Bind) -> Self {
        Self::start_with(dns, &[], 90 * 24 * 3600).await
    }

    /// The same, with environment variables, and certificates that are valid for these seconds.
    pub(super) async fn start_with(dns: &Bind, changed: &[(&str, &str)], validity: u64) -> Self {
        Self::start_for(dns, (HTTP_PORT, HTTPS_PORT), changed, validity).await
    }

    /// The same, with other ports for `http-01` and `tls-alpn-01`.
    pub(super) async fn start_for(
        dns: &Bind,
        ports: (u16, u16),
        changed: &[(&str, &str)],
        validity: u64,
    ) -> Self {
        let profiles =
            json!({ "default": { "description": "for tests", "validityPeriod": validity } });
        Self::start_as(
            dns,
            ports,
            changed,
            json!({ "externalAccountBindingRequired": false, "profiles": profiles }),
        )
        .await
    }

    /// One that requires external account binding with this key (RFC 8555 §7.3.4). Its
    /// certificates are valid for a month, and for a day with the profile `short`; without a
    /// profile it chooses at random among ten.
    pub(super) async fn start_demanding(dns: &Bind, key_id: &str, key: &str) -> Self {
        const DAY: u64 = 24 * 3600;
        let month = |number| {
            (
                format!("month-{number}"),
                json!({ "description": "a month", "validityPeriod": 30 * DAY }),
            )
        };
        let mut profiles: serde_json::Map<String, Value> = (1..10).map(month).collect();
        profiles
            .insert("short".to_owned(), json!({ "description": "a day", "validityPeriod": DAY }));
        let demands = json!({ "externalAccountBindingRequired": true, "externalAccountMACKeys": { key_id: key }, "profiles": profiles });
        Self::start_as(dns, (HTTP_PORT, HTTPS_PORT), &[], demands).await
    }

    async fn start_as(
        dns: &Bind,
        ports: (u16, u16),
        changed: &[(&str, &str)],
        further: Value,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = dns.address();
        let own = Authority::new("Pebble's own").expect("an authority");
        let issued = own
            .issue(&[&address.to_string()], Duration::from_secs(24 * 3600))
            .expect("a certificate");
        for (name, text) in [
            ("root.pem", own.certificate()),
            ("cert.pem", issued.certificate),
            ("key.pem", issued.key),
        ] {
            std::fs::write(folder.path().join(name), text).expect("Pebble's files");
        }
        let mut configuration = json!({ "pebble": {
            "listenAddress": format!("{address}:{PORT}"),
            "managementListenAddress": format!("{address}:{MANAGEMENT_PORT}"),
            "certificate": folder.path().join("cert.pem"),
            "privateKey": folder.path().join("key.pem"),
            "httpPort": ports.0,
            "tlsPort": ports.1,
            "retryAfter": { "authz": 0, "order": 0 },
            "keyAlgorithm": "ecdsa",
        }});
        for (name, value) in further.as_object().expect("fields") {
            configuration["pebble"][name] = value.clone();
        }
        std::fs::write(folder.path().join("pebble.json"), configuration.to_string())
            .expect("Pebble's configuration");
        let environment = [
            ("PEBBLE_WFE_NONCEREJECT", "10"),
            ("PEBBLE_VA_SLEEPTIME", "1"),
            ("PEBBLE_AUTHZREUSE", "0"),
        ];
        let environment: Vec<_> = environment
            .iter()
            .chain(changed)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let log = Arc::new(watch::Sender::new(String::new()));
        let child = spawn(&folder, dns, &environment, &log).await;
        let pebble = Self { child, folder, address, log, environment };
        pebble.is_up().await;
        pebble
    }

    /// The URL of its directory.
    pub(super) fn directory(&self) -> String {
        format!("https://{}:{PORT}/dir", self.address)
    }

    /// The root of its own HTTPS certificate.
    pub(super) fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// The root of the certificates that it issues, in PEM.
    pub(super) async fn issuing_root(&self) -> String {
        self.root(0).await
    }

    /// The root of one of its alternate chains, whose names differ; their number is
    /// `PEBBLE_ALTERNATE_ROOTS`.
    pub(super) async fn root(&self, number: usize) -> String {
        let answer =
            Curl::new(&format!("https://{}:{MANAGEMENT_PORT}/roots/{number}", self.address))
                .arg("--insecure")
                .run()
                .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text()
    }

    /// How often its log contains a text.
    pub(super) fn count(&self, text: &str) -> usize {
        self.log.borrow().matches(text).count()
    }

    /// Orders that were finalized.
    pub(super) fn issued(&self) -> usize {
        self.count("Issued certificate serial")
    }

    /// Stops it.
    pub(super) async fn stop(&mut self) {
        self.child.kill().await.expect("Pebble can be ended");
    }

    /// Starts it again, without its state, which is only in memory.
    pub(super) async fn restart(&mut self, dns: &Bind) {
        self.child = spawn(&self.folder, dns, &self.environment, &self.log).await;
        self.is_up().await;
    }

    /// The settings of a gateway that orders here.
    pub(super) fn settings(&self, challenge: &str) -> Value {
        let authority = json!({ "directory": self.directory(), "rootFile": self.root_file(), "contact": ["mailto:ops@apps.test"] });
        ordering(self.address, &authority, challenge)
    }

    async fn is_up(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while Curl::new(&self.directory()).arg("--insecure").run().await.status != 200 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "Pebble does not start: {}",
                self.log.borrow().as_str()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- Pebble's log\n{}---", self.log.borrow().as_str());
        }
    }
}

/// The settings of a gateway at `address` that orders at one authority.
pub(super) fn ordering(address: Ipv4Addr, authority: &Value, challenge: &str) -> Value {
    json!({
        "certificates": [],
        "listeners": {
            "http": { "address": format!("{address}:{HTTP_PORT}") },
            "https": { "address": format!("{address}:{HTTPS_PORT}") },
        },
        "acme": { "authorities": [authority], "challenge": challenge, "retryAfter": "1s", "store": { "folder": "acme" } },
    })
}

async fn spawn(
    folder: &TempDir,
    dns: &Bind,
    environment: &[(String, String)],
    log: &Arc<watch::Sender<String>>,
) -> Child {
    let mut command = Command::new(tool("pebble"));
    command
        .arg("-config")
        .arg(folder.path().join("pebble.json"))
        .args(["-dnsserver", &dns.server().to_string()]);
    command.envs(environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().expect("Pebble starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let log = Arc::clone(log);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            log.send_modify(|log| {
                log.push_str(&line);
                log.push('\n');
            });
        }
    });
    child
}
