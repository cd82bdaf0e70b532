//! step-ca, another authority than Pebble: nothing depends on the behaviour of only one.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::authority::{HTTP_PORT, HTTPS_PORT, ordering};
use super::dns::Bind;
use super::{call, certificates, is_served, served};
use crate::harness::{Curl, Gateway, Service, WEB, World, echo, eventually, tool};

const PORT: u16 = 9000;

/// A running step-ca.
struct StepCa {
    _child: Child,
    folder: TempDir,
    address: Ipv4Addr,
}

// === impl StepCa ===

impl StepCa {
    /// Starts it on the address of `dns`, its resolver. Its certificates are valid for a day.
    async fn start(dns: &Bind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = dns.address();
        write_authority(&folder);
        let file = |name: &str| folder.path().join(name);
        let configuration = json!({
            "root": file("root.pem"),
            "crt": file("intermediate.pem"),
            "key": file("intermediate.key"),
            "address": format!("{address}:{PORT}"),
            "dnsNames": [address],
            "db": { "type": "bbolt", "dataSource": file("db") },
            "authority": { "provisioners": [{ "type": "ACME", "name": "acme" }] },
        });
        std::fs::write(file("ca.json"), configuration.to_string())
            .expect("step-ca's configuration");
        let mut command = Command::new(tool("step-ca"));
        command.arg("--insecure").args([
            "--acme-http-port",
            &HTTP_PORT.to_string(),
            "--acme-tls-port",
            &HTTPS_PORT.to_string(),
        ]);
        command.args(["--resolver", &dns.server().to_string()]).arg(file("ca.json"));
        let log = std::fs::File::create(file("log")).expect("its log");
        command
            .env("STEPPATH", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log);
        let child = command.kill_on_drop(true).spawn().expect("step-ca starts");
        let authority = Self { _child: child, folder, address };
        eventually("step-ca answers", || async { authority.is_up().await }).await;
        authority
    }

    fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    fn directory(&self) -> String {
        format!("https://{}:{PORT}/acme/acme/directory", self.address)
    }

    fn settings(&self, challenge: &str) -> Value {
        ordering(
            self.address,
            &json!({ "directory": self.directory(), "rootFile": self.root_file() }),
            challenge,
        )
    }

    async fn is_up(&self) -> bool {
        Curl::new(&self.directory())
            .args(["--cacert", &self.root_file().to_string_lossy()])
            .run()
            .await
            .status
            == 200
    }
}

impl Drop for StepCa {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "--- step-ca's log\n{}---",
                std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
        }
    }
}

/// A root, and an intermediate authority with its key.
fn write_authority(folder: &TempDir) {
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(30 * 24 * 3600)).into();
        params
    };
    let root =
        CertifiedIssuer::self_signed(params("step-ca's root"), KeyPair::generate().expect("a key"))
            .expect("a root");
    let key = KeyPair::generate().expect("a key");
    let intermediate =
        params("step-ca's intermediate").signed_by(&key, &root).expect("an intermediate");
    for (name, text) in [
        ("root.pem", root.pem()),
        ("intermediate.pem", intermediate.pem()),
        ("intermediate.key", key.serialize_pem()),
    ] {
        std::fs::write(folder.path().join(name), text).expect("step-ca's files");
    }
}

/// A gateway that orders at step-ca, and renews on request.
async fn issues(challenge: &str, further: Option<Value>, dns: &Bind) {
    let authority = StepCa::start(dns).await;
    let pod = echo("pod-1").await;
    let world = World::web(&pod).with(Service::new("shop").pod(&pod));
    let mut builder = Gateway::of(world).settings(authority.settings(challenge));
    if let Some(further) = further {
        builder = builder.settings(further);
    }
    let gateway = builder.start().await;
    std::fs::copy(authority.root_file(), gateway.ca()).expect("the root can be written");
    is_served(&gateway, WEB).await;
    assert_eq!(call(&gateway, WEB).await, 200);
    let list = certificates(&gateway).await;
    assert_eq!(list.len(), 1, "all names share one");
    assert_eq!(list[0]["issuer"], authority.directory());
    let first = served(&gateway, WEB).await;
    super::certs(&gateway, &["renew", list[0]["name"].as_str().expect("its name")]).await;
    eventually("another one is served", || async {
        let now = served(&gateway, WEB).await;
        now.is_some() && now != first
    })
    .await;
}

#[tokio::test]
async fn another_authority_issues_by_http_01() {
    issues("http-01", None, &Bind::start().await).await;
}

#[tokio::test]
async fn another_authority_issues_by_tls_alpn_01() {
    issues("tls-alpn-01", None, &Bind::start().await).await;
}

#[tokio::test]
async fn another_authority_issues_the_zones_wildcard_by_dns_01() {
    let dns = Bind::start().await;
    issues("dns-01", Some(dns.settings()), &dns).await;
}
