//! Two replicas that share Secrets and a Lease of a real API server, with no more rights than
//! `deploy/kubernetes` gives, with the component `acme`.
//!
//! They run as processes beside the node, so that each can be inspected; as pods they run in
//! [`super::pods`].

use std::net::Ipv4Addr;

use serde_json::json;

use super::authority::{HTTP_PORT, HTTPS_PORT, Pebble};
use super::cluster::{certificate_secrets, expose, get, no_environments};
use super::dns::{self, Bind};
use super::interposer::{Fault, Interposer};
use super::{certs, is_served, served, start};
use crate::harness::node::{NAMESPACE, control, kubectl, rights};
use crate::harness::{Gateway, WEB, World, eventually};

const LATER: &str = "later--staging.apps.test";

#[tokio::test]
#[ignore = "needs the node that tests/cluster/test starts"]
async fn the_leader_orders_all_replicas_serve_challenges_and_a_new_leader_continues() {
    no_environments().await;
    let follower = dns::address();
    let dns = Bind::start_with(&format!(
        "web--staging A {follower}\nthird--staging A {follower}\nlost--staging A 127.0.0.1"
    ))
    .await;
    let pebble = Pebble::start(&dns).await;
    let interposer = Interposer::start(&pebble, dns.address(), Fault::None).await;
    let place = tempfile::tempdir().expect("a folder");
    let kubeconfig = rights(place.path(), &["access.yaml", "components/acme/access.yaml"]).await;
    let cluster = json!({
        "source": { "kubernetes": { "kubeconfig": kubeconfig } },
        "acme": {
            "authorities": [{ "directory": interposer.directory(), "rootFile": interposer.root_file() }],
            "store": { "kubernetes": { "namespace": NAMESPACE } },
            "keepUnwanted": "1s",
        },
    });
    let none = json!({ "source": null, "acme": { "store": null } });
    let elsewhere = json!({ "listeners": {
        "http": { "address": format!("{follower}:{HTTP_PORT}") },
        "https": { "address": format!("{follower}:{HTTPS_PORT}") },
    }});
    let first = start(
        &pebble,
        World::empty(),
        &[pebble.settings("http-01"), none.clone(), cluster.clone()],
    )
    .await;
    first.has_written("\"leader\":true").await;
    let second =
        start(&pebble, World::empty(), &[pebble.settings("http-01"), none, cluster, elsewhere])
            .await;

    // The name resolves to the replica that is not the leader.
    expose("staging", &["web"]).await;
    is_served(&second, WEB).await;
    is_served(&first, WEB).await;
    assert_eq!(pebble.issued(), 1);
    assert!(!second.log().contains("\"leader\":true"));
    let secrets = certificate_secrets(NAMESPACE).await;
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0]["type"], "kubernetes.io/tls");
    assert_eq!(secrets[0]["metadata"]["annotations"]["portcullis.dev/alt-names"], WEB);

    garbled_and_deleted(&second, &pebble, secrets[0]["metadata"]["name"].as_str().unwrap()).await;

    // The leader is killed after validation, before the certificate is issued.
    let before = pebble.issued();
    interposer.set(Fault::Stall("/finalize-order/"));
    expose("staging", &["later"]).await;
    interposer.has_stalled().await;
    drop(first);
    interposer.set(Fault::None);
    second.has_written("resuming the pending order").await;
    is_served(&second, LATER).await;
    assert_eq!(pebble.issued(), before + 1, "one order, one certificate");
    assert_eq!(certificate_secrets(NAMESPACE).await.len(), 2);

    api_server_away(&second, &pebble, &interposer).await;
    told_on_the_service(&second, &dns, follower).await;
    let issued = pebble.issued();
    let good = served(&second, WEB).await;
    certs(&second, &["renew", WEB]).await;
    renewed(&second, &pebble, issued + 1, good).await;

    let before = certificate_secrets(NAMESPACE).await.len();
    kubectl(&["delete", "service", "later", "--namespace", "staging"], "").await;
    eventually("what nobody needs any more is removed", || async {
        certificate_secrets(NAMESPACE).await.len() == before - 1
    })
    .await;
    is_served(&second, WEB).await;
}

/// A failed order and a later successful one are Events on the Service.
async fn told_on_the_service(gateway: &Gateway, dns: &Bind, address: Ipv4Addr) {
    let reported = |kind: &'static str, reason: &'static str| async move {
        let events = get(&["events.events.k8s.io", "--namespace", "staging"]).await;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events.iter().any(|event| {
            event["regarding"]["name"] == "lost"
                && event["type"] == kind
                && event["reason"] == reason
        })
    };
    expose("staging", &["lost"]).await;
    eventually("the failure is reported", || reported("Warning", "CertificateOrderFailed")).await;
    dns.point("lost--staging.apps.test", &address.to_string()).await;
    is_served(gateway, "lost--staging.apps.test").await;
    eventually("the success is reported", || reported("Normal", "CertificateIssued")).await;
}

/// The API server fails during an order: certificates stay served, and the same order is
/// completed after it recovers.
async fn api_server_away(gateway: &Gateway, pebble: &Pebble, interposer: &Interposer) {
    let issued = pebble.issued();
    let good = served(gateway, WEB).await;
    interposer.set(Fault::Stall("/finalize-order/"));
    expose("staging", &["third"]).await;
    interposer.has_stalled().await;
    control(&["stop-apiserver"]).await;
    gateway.has_written("\"leader\":false").await;
    interposer.set(Fault::None);
    assert_eq!(served(gateway, WEB).await, good);
    assert!(gateway.is_ready().await);
    control(&["start-apiserver"]).await;
    is_served(gateway, "third--staging.apps.test").await;
    assert_eq!(served(gateway, WEB).await, good);
    assert_eq!(pebble.issued(), issued + 1, "one order, one certificate");
}

/// An invalid Secret, then a deleted one: the certificate stays served, and a new one is issued.
async fn garbled_and_deleted(gateway: &Gateway, pebble: &Pebble, secret: &str) {
    let good = served(gateway, WEB).await;
    let issued = pebble.issued();
    let garbled = json!({ "data": { "tls.crt": "Z2FyYmxlZA==" } }).to_string();
    kubectl(&["patch", "secret", secret, "--namespace", NAMESPACE, "--patch", &garbled], "").await;
    renewed(gateway, pebble, issued + 1, good).await;
    let good = served(gateway, WEB).await;
    kubectl(&["delete", "secret", secret, "--namespace", NAMESPACE], "").await;
    renewed(gateway, pebble, issued + 2, good).await;
}

async fn renewed(
    gateway: &Gateway,
    pebble: &Pebble,
    issued: usize,
    before: Option<rustls::pki_types::CertificateDer<'static>>,
) {
    eventually("another one is served", || async {
        let now = served(gateway, WEB).await;
        assert!(now.is_some(), "there is a good one at any time");
        now != before
    })
    .await;
    assert_eq!(pebble.issued(), issued);
}
