//! Which certificates are ordered, and how they are renewed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::Pebble;
use super::dns::Bind;
use super::{certificates, certs, is_served, served, start};
use crate::harness::{Gateway, Service, WEB, World, client, echo, eventually};

#[tokio::test]
async fn restricted_names_are_ordered_only_once_they_are_open() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let closed = || Service::new("secret").environment("closed").pod(&pod);
    let gateway =
        start(&pebble, World::web(&pod).with(closed()), &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    gateway.apply(&World::web(&pod).with(closed()).with(Service::new("later").pod(&pod)));
    is_served(&gateway, "later--staging.apps.test").await;
    assert_eq!(pebble.issued(), 2, "one more name is one more order");
    assert_eq!(pebble.count("secret--closed"), 0, "the authority never heard of it");
    let page = gateway.admin_page("/routes").await.text();
    assert!(page.contains("CertificateNotOrdered"), "{page}");
}

#[tokio::test]
async fn the_preferred_alternate_chain_is_served() {
    let dns = Bind::start().await;
    let pebble = Pebble::start_with(&dns, &[("PEBBLE_ALTERNATE_ROOTS", "2")], 90 * 24 * 3600).await;
    let pod = echo("pod-1").await;
    for number in [2, 0] {
        let root = pebble.root(number).await;
        let mut settings = pebble.settings("http-01");
        settings["acme"]["authorities"][0]["preferredChain"] = json!(common_name(&root));
        let mut gateway = Gateway::of(World::web(&pod)).settings(settings).start().await;
        std::fs::write(gateway.ca(), root).expect("the root can be written");
        is_served(&gateway, WEB).await;
        gateway.terminate();
        gateway.ended().await;
    }
}

fn common_name(pem: &str) -> String {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&certificate).expect("it can be read");
    certificate
        .subject()
        .iter_common_name()
        .next()
        .expect("it has a name")
        .as_str()
        .expect("text")
        .to_owned()
}

#[tokio::test]
async fn unknown_names_of_clients_cause_no_order_and_no_memory_growth() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    let config = client::tls_config(&gateway, &["h2", "http/1.1"]);
    let ask = |number: usize| {
        handshake(
            &gateway,
            &config,
            format!("{:x}--staging.apps.test", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        )
    };
    for number in 0..1000 {
        assert!(!ask(number).await);
    }
    let before = gateway.memory();
    for number in 1000..10_000 {
        assert!(!ask(number).await, "the placeholder is trusted by nobody");
    }
    let after = gateway.memory();
    assert!(after < before + 8 * 1024, "from {before} to {after} KiB");
    assert_eq!(pebble.issued(), 1);
    assert_eq!(certificates(&gateway).await.len(), 1);
}

/// Whether a handshake for a name succeeds.
async fn handshake(gateway: &Gateway, config: &Arc<ClientConfig>, name: String) -> bool {
    let stream = TcpStream::connect(gateway.https()).await.expect("a connection");
    let name = ServerName::try_from(name).expect("a name");
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await.is_ok()
}

#[tokio::test]
async fn a_hundred_renewals_under_load_fail_no_handshake() {
    let dns = Bind::start().await;
    let pebble = Pebble::start_with(
        &dns,
        &[("PEBBLE_AUTHZREUSE", "100"), ("PEBBLE_VA_NOSLEEP", "1")],
        90 * 24 * 3600,
    )
    .await;
    let pod = echo("pod-1").await;
    let gateway = Arc::new(start(&pebble, World::web(&pod), &[pebble.settings("http-01")]).await);
    is_served(&gateway, WEB).await;
    let (done, failed, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let config = client::tls_config(&gateway, &["http/1.1"]);
    let load = (0..4).map(|_| {
        let (gateway, config) = (Arc::clone(&gateway), Arc::clone(&config));
        let (done, failed, stop) = (Arc::clone(&done), Arc::clone(&failed), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let good = handshake(&gateway, &config, WEB.to_owned()).await;
                done.fetch_add(1, Ordering::Relaxed);
                failed.fetch_add(usize::from(!good), Ordering::Relaxed);
            }
        })
    });
    let load: Vec<_> = load.collect();
    let mut last = served(&gateway, WEB).await;
    for _ in 0..100 {
        certs(&gateway, &["renew", WEB]).await;
        eventually("the new one is served", || async {
            let now = served(&gateway, WEB).await;
            now.is_some() && now != last
        })
        .await;
        last = served(&gateway, WEB).await;
    }
    eventually("10,000 handshakes are made", || async { done.load(Ordering::Relaxed) >= 10_000 })
        .await;
    stop.store(true, Ordering::Relaxed);
    for load in load {
        load.await.expect("the load ends");
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {} handshakes", done.load(Ordering::Relaxed));
    assert!(pebble.issued() > 100);
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_expires() {
    let dns = Bind::start().await;
    let pebble = Pebble::start_with(&dns, &[], 40).await;
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    let first = served(&gateway, WEB).await;
    eventually("it is renewed", || async {
        let now = served(&gateway, WEB).await;
        assert!(now.is_some(), "there is a good one at any time");
        now != first
    })
    .await;
}

#[tokio::test]
async fn the_command_line_shows_certificates() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    eventually("the authority has said when to renew", || async {
        certs(&gateway, &[]).await.contains("renewed in")
    })
    .await;
    let text = certs(&gateway, &[]).await;
    assert!(
        text.contains(WEB) && text.contains(&pebble.directory()) && text.contains("89 d"),
        "{text}"
    );
}

#[tokio::test]
async fn unused_ordered_certificates_are_removed_and_users_certificates_are_not() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let place = tempfile::tempdir().expect("a folder");
    let files = || {
        let names = std::fs::read_dir(place.path())
            .expect("the folder")
            .map(|entry| entry.expect("its entries").file_name());
        let mut names: Vec<_> = names
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".pem"))
            .collect();
        names.sort();
        names
    };
    let store = json!({ "acme": { "keepUnwanted": "1s", "store": { "folder": place.path() } } });
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01"), store]).await;
    is_served(&gateway, WEB).await;
    let kept = files();
    let old = "old--staging.apps.test";
    gateway.apply(&World::web(&pod).with(Service::new("old").pod(&pod)));
    is_served(&gateway, old).await;
    let ordered = files().into_iter().find(|name| !kept.contains(name)).expect("one more");
    std::fs::copy(place.path().join(&ordered), place.path().join("brought.pem"))
        .expect("a certificate that somebody brings");
    gateway.apply(&World::web(&pod));
    eventually("it is removed", || async { !files().contains(&ordered) }).await;
    let mut expected = [kept, vec!["brought.pem".to_owned()]].concat();
    expected.sort();
    assert_eq!(files(), expected);
    is_served(&gateway, WEB).await;
    let page = gateway.admin_page("/routes").await.text();
    assert!(!page.contains("CertificateGone"), "{page}");
    assert_eq!(pebble.issued(), 2);
}

#[tokio::test]
async fn a_restart_orders_nothing_again() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let place = tempfile::tempdir().expect("a folder");
    let store = json!({ "acme": { "store": { "folder": place.path().join("acme") } } });
    let mut gateway =
        start(&pebble, World::web(&pod), &[pebble.settings("http-01"), store.clone()]).await;
    is_served(&gateway, WEB).await;
    let first = served(&gateway, WEB).await;
    gateway.terminate();
    gateway.ended().await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01"), store]).await;
    is_served(&gateway, WEB).await;
    assert_eq!(served(&gateway, WEB).await, first);
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn a_challenge_can_be_delegated_to_another_zone() {
    let dns = Bind::start_with("_acme-challenge CNAME apps.acme.test.").await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let gateway =
        start(&pebble, World::web(&pod), &[pebble.settings("dns-01"), dns.settings()]).await;
    is_served(&gateway, WEB).await;
}

#[tokio::test]
async fn a_webhook_can_create_the_dns_records() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let place = tempfile::tempdir().expect("a folder");
    let script = place.path().join("make");
    std::fs::write(&script, dns.script()).expect("the program");
    let exec = json!({ "acme": { "dns": { "provider": { "exec": { "command": ["/bin/sh", script] } }, "resolvers": [dns.server()], "nameservers": [dns.server()] } } });
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("dns-01"), exec]).await;
    is_served(&gateway, WEB).await;
}

#[tokio::test]
async fn the_challenge_path_reveals_nothing() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "listeners": { "http": { "mode": "redirect" } } }))
        .start()
        .await;
    let mut answers = Vec::new();
    for host in [WEB, "nothing--nowhere.apps.test"] {
        let answer = gateway.curl_plain(host, "/.well-known/acme-challenge/made-up").run().await;
        answers.push((
            answer.status,
            answer.header("location").map(|location| location.replace(host, "HOST")),
        ));
    }
    assert_eq!(answers[0].0, 308);
    assert_eq!(answers[0], answers[1]);
    // RFC 8737 §3: without a challenge there is nothing to agree on, for known names and for
    // others.
    for host in [WEB, "nothing--nowhere.apps.test"] {
        assert!(client::tls(&gateway, host, &["acme-tls/1"]).await.is_err(), "{host}");
    }
}
