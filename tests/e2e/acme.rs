//! Certificates by ACME, with Pebble as the authority and BIND as the DNS server.

mod accounts;
mod authority;
mod clock;
mod cluster;
mod dns;
mod faults;
mod interposer;
mod names;
mod pods;
mod replicas;
mod second;

use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::process::Command;

use self::authority::Pebble;
use self::dns::Bind;
use crate::harness::{Builder, Curl, Gateway, Service, WEB, World, client, echo, eventually};

/// A gateway that orders at `pebble`, whose issuing root its clients trust.
async fn start(pebble: &Pebble, world: World, settings: &[Value]) -> Gateway {
    let gateway = builder(world, settings).start().await;
    trust(&gateway, pebble).await;
    gateway
}

/// Merges settings in order, on top of those of every test.
fn builder(world: World, settings: &[Value]) -> Builder {
    settings.iter().fold(Gateway::of(world), |builder, settings| builder.settings(settings.clone()))
}

async fn trust(gateway: &Gateway, pebble: &Pebble) {
    std::fs::write(gateway.ca(), pebble.issuing_root().await).expect("the root can be written");
}

/// The certificate that is served for `host`, if it is valid by the authority's root.
async fn served(gateway: &Gateway, host: &str) -> Option<CertificateDer<'static>> {
    let stream = client::tls(gateway, host, &["h2", "http/1.1"]).await.ok()?;
    stream
        .get_ref()
        .1
        .peer_certificates()?
        .first()
        .map(|certificate| certificate.clone().into_owned())
}

async fn is_served(gateway: &Gateway, host: &str) {
    eventually(&format!("a good certificate is served for {host}"), || async {
        served(gateway, host).await.is_some()
    })
    .await;
}

/// Calls a URL with curl over HTTPS, as a user does.
async fn call(gateway: &Gateway, host: &str) -> u16 {
    let address = gateway.https();
    let curl = Curl::new(&format!("https://{host}:{}/whoami", address.port()))
        .args(["--resolve", &format!("{host}:{}:{}", address.port(), address.ip())])
        .args(["--cacert", &gateway.ca().to_string_lossy()]);
    curl.run().await.status
}

/// The certificates as listed by the admin listener.
async fn certificates(gateway: &Gateway) -> Vec<Value> {
    gateway.admin_page("/certificates").await.json().as_array().cloned().unwrap_or_default()
}

/// Runs `portcullis certs` with these arguments.
async fn certs(gateway: &Gateway, arguments: &[&str]) -> String {
    let admin = gateway.admin().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["certs", "--admin", &admin])
        .args(arguments)
        .output()
        .await;
    let output = output.expect("portcullis runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn an_exposed_service_gets_a_certificate_by_http_01() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    assert_eq!(call(&gateway, WEB).await, 200);
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn an_exposed_service_gets_a_certificate_by_tls_alpn_01() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("tls-alpn-01")]).await;
    is_served(&gateway, WEB).await;
    assert_eq!(call(&gateway, WEB).await, 200);
}

#[tokio::test]
async fn the_zone_gets_a_wildcard_by_dns_01_that_reveals_no_environment() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let world = World::web(&pod).with(Service::new("secret").environment("closed").pod(&pod));
    let gateway = start(&pebble, world, &[pebble.settings("dns-01"), dns.settings()]).await;
    is_served(&gateway, WEB).await;
    assert_eq!(call(&gateway, WEB).await, 200);
    assert!(
        served(&gateway, "secret--closed.apps.test").await
            == served(&gateway, "nothing--nowhere.apps.test").await
    );
    let list = certificates(&gateway).await;
    assert_eq!(
        list.iter().map(|certificate| certificate["names"].to_string()).collect::<Vec<_>>(),
        [r#"["*.apps.test"]"#]
    );
    eventually("the record is removed", || async {
        dns.look_up("_acme-challenge.apps.test", "TXT").await.is_empty()
    })
    .await;
}
