//! BIND, a DNS server: authoritative for the tests' zones, and accepts signed updates.
//!
//! The names of each resolve to a separate address in 127.0.0.0/8, so that authorities can use
//! fixed ports.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::harness::{ZONE, eventually};

/// The key that updates are signed by, in base64.
const KEY: &str = "cG9ydGN1bGxpcyB0ZXN0cyBzaWduIHVwZGF0ZXMgd2l0aCB0aGlz";

/// A running BIND.
pub(super) struct Bind {
    _child: Child,
    folder: TempDir,
    server: SocketAddr,
    address: Ipv4Addr,
}

// === impl Bind ===

impl Bind {
    /// With the zone of all tests, whose names resolve to one address; and with `acme.test`, to
    /// which challenges can be delegated.
    pub(super) async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same, with additional records of the zone.
    pub(super) async fn start_with(records: &str) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, address(), records).await
    }

    /// The same, listening on one address, with names that resolve to another.
    pub(super) async fn start_at(listen: Ipv4Addr, address: Ipv4Addr, records: &str) -> Self {
        let server = free_port(listen);
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (zone, further) in [(ZONE, records), ("acme.test", "")] {
            let text = format!(
                "$TTL 1\n@ SOA ns.{zone}. ops.{zone}. 1 60 60 60 1\n@ NS ns.{zone}.\n@ A \
                 {address}\nns A {address}\n* A {address}\n{further}\n"
            );
            fs::write(folder.path().join(zone), text).expect("a zone");
        }
        fs::write(folder.path().join("named.conf"), configuration(&folder, server))
            .expect("BIND's configuration");
        fs::write(folder.path().join("tsig.key"), KEY).expect("the key");
        let mut command = Command::new("named");
        command.args(["-g", "-4", "-n", "1", "-c"]).arg(folder.path().join("named.conf"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).expect("its log"));
        let child =
            command.kill_on_drop(true).spawn().expect("BIND starts: install it by tests/install");
        let bind = Self { _child: child, folder, server, address };
        eventually("BIND answers", || async {
            bind.look_up(&format!("ns.{ZONE}"), "A").await == [address.to_string()]
        })
        .await;
        bind
    }

    /// The address that it listens on.
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// The address of its names: the gateway and the authority listen on it.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The records that it returns.
    pub(super) async fn look_up(&self, name: &str, kind: &str) -> Vec<String> {
        let (server, port) = (format!("@{}", self.server.ip()), self.server.port().to_string());
        let mut dig = Command::new("dig");
        dig.args([&*server, "-p", &port, "+short", "+tcp", "+tries=1", "+time=2", name, kind]);
        let output = dig.output().await.expect("dig runs").stdout;
        // Other lines are comments.
        String::from_utf8_lossy(&output)
            .lines()
            .filter(|line| !line.starts_with(';'))
            .map(str::to_owned)
            .collect()
    }

    /// Changes the address of a name of the zone.
    pub(super) async fn point(&self, name: &str, address: &str) {
        let (ip, port) = (self.server.ip(), self.server.port());
        let update = format!(
            "server {ip} {port}\nupdate delete {name} A\nupdate add {name} 1 A {address}\nsend\n"
        );
        let mut command = Command::new("nsupdate");
        command.args(["-v", "-y", &format!("hmac-sha256:portcullis:{KEY}")]).stdin(Stdio::piped());
        let mut child = command.spawn().expect("nsupdate runs: install it by tests/install");
        child
            .stdin
            .take()
            .expect("its input")
            .write_all(update.as_bytes())
            .await
            .expect("it reads");
        assert!(child.wait().await.expect("nsupdate ends").success(), "{update}");
    }

    /// The file with the key that updates are signed by.
    pub(super) fn key_file(&self) -> PathBuf {
        self.folder.path().join("tsig.key")
    }

    /// The settings of a gateway that creates records here.
    pub(super) fn settings(&self) -> Value {
        let provider = json!({ "rfc2136": {
            "server": self.server,
            "keyName": "portcullis",
            "keyFile": self.key_file(),
        }});
        json!({ "acme": { "dns": { "provider": provider, "resolvers": [self.server], "nameservers": [self.server] } } })
    }

    /// A webhook that creates records here with nsupdate.
    pub(super) fn script(&self) -> String {
        let (address, port) = (self.server.ip(), self.server.port());
        format!(
            "case $1 in present) action=\"add $2 1 TXT $3\" ;; cleanup) action=\"delete $2 TXT \
             $3\" ;; esac\nprintf 'server {address} {port}\\n%s\\nsend\\n' \"update $action\" | \
             nsupdate -v -y hmac-sha256:portcullis:{KEY}\n"
        )
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "--- BIND's log\n{}---",
                fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
        }
    }
}

/// A unique address: by the process id, and a counter.
pub(super) fn address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id() & 0x7fff;
    Ipv4Addr::from(0x7f00_0000 | (0x80_0000 + (process << 7)) | (number % 120 + 2))
}

/// A free port for both UDP and TCP. BIND cannot choose one itself and
/// report it.
fn free_port(listen: Ipv4Addr) -> SocketAddr {
    loop {
        let listener = TcpListener::bind((listen, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

fn configuration(folder: &TempDir, server: SocketAddr) -> String {
    let (address, port) = (server.ip(), server.port());
    let folder = folder.path().display();
    let zone = |zone: &str| {
        format!(
            "zone \"{zone}\" {{ type primary; file \"{folder}/{zone}\"; allow-update {{ key \
             portcullis; }}; }};\n"
        )
    };
    format!(
        "key portcullis {{ algorithm hmac-sha256; secret \"{KEY}\"; }};\ncontrols {{ }};\noptions \
         {{ directory \"{folder}\"; listen-on port {port} {{ {address}; }}; listen-on-v6 {{ none; \
         }}; recursion yes; allow-recursion {{ any; }}; pid-file none;\nsession-keyfile none; \
         dnssec-validation no; empty-zones-enable no; allow-transfer {{ none; }}; notify no; \
         }};\n{}{}",
        zone(ZONE),
        zone("acme.test"),
    )
}
