//! Two replicas that share Secrets and a Lease of a real API server, with no more rights than
//! `deploy/kubernetes/access.yaml` gives.
//!
//! They run as processes beside the node, so that each can be looked at; as pods they run in
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
async fn one_of_two_replicas_orders_both_answer_and_a_new_leader_goes_on_with_the_order() {
    no_environments().await;
    let follower = dns::address();
    let dns = Bind::start_with(&format!(
        "web--staging A {follower}\nthird--staging A {follower}\nlost--staging A 127.0.0.1"
    ))
    .await;
    let pebble = Pebble::start(&dns).await;
    let interposer = Interposer::start(&pebble, dns.address(), Fault::None).await;
    let place = tempfile::tempdir().expect("a folder");
    let kubeconfig = rights(place.path(), &["access.yaml"]).await;
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
    first.has_written("\"leads\":true").await;
    let second =
        start(&pebble, World::empty(), &[pebble.settings("http-01"), none, cluster, elsewhere])
            .await;

    // The name leads to the replica that does not lead.
    expose("staging", &["web"]).await;
    is_served(&second, WEB).await;
    is_served(&first, WEB).await;
    assert_eq!(pebble.issued(), 1);
    assert!(!second.log().contains("\"leads\":true"));
    let secrets = certificate_secrets(NAMESPACE).await;
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0]["type"], "kubernetes.io/tls");
    assert_eq!(secrets[0]["metadata"]["annotations"]["portcullis.dev/alt-names"], WEB);

    garbled_and_deleted(&second, &pebble, secrets[0]["metadata"]["name"].as_str().unwrap()).await;

    // The leader dies when all is proven but the certificate is not made.
    let before = pebble.issued();
    interposer.set(Fault::Stall("/finalize-order/"));
    expose("staging", &["later"]).await;
    interposer.has_stalled().await;
    drop(first);
    interposer.set(Fault::None);
    second.has_written("going on with the order that is under way").await;
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

/// An order that fails, and one that succeeds after that, are Events on the Service.
async fn told_on_the_service(gateway: &Gateway, dns: &Bind, address: Ipv4Addr) {
    let told = |kind: &'static str, reason: &'static str| async move {
        let events = get(&["events.events.k8s.io", "--namespace", "staging"]).await;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events.iter().any(|event| {
            event["regarding"]["name"] == "lost"
                && event["type"] == kind
                && event["reason"] == reason
        })
    };
    expose("staging", &["lost"]).await;
    eventually("the failure is told", || told("Warning", "CertificateOrderFailed")).await;
    dns.point("lost--staging.apps.test", &address.to_string()).await;
    is_served(gateway, "lost--staging.apps.test").await;
    eventually("the success is told", || told("Normal", "CertificateIssued")).await;
}

/// The API server goes away in the middle of an order: what is served stays, and the same order is
/// finished when it is back.
async fn api_server_away(gateway: &Gateway, pebble: &Pebble, interposer: &Interposer) {
    let issued = pebble.issued();
    let good = served(gateway, WEB).await;
    interposer.set(Fault::Stall("/finalize-order/"));
    expose("staging", &["third"]).await;
    interposer.has_stalled().await;
    control(&["stop-apiserver"]).await;
    gateway.has_written("\"leads\":false").await;
    interposer.set(Fault::None);
    assert_eq!(served(gateway, WEB).await, good);
    assert!(gateway.is_ready().await);
    control(&["start-apiserver"]).await;
    is_served(gateway, "third--staging.apps.test").await;
    assert_eq!(served(gateway, WEB).await, good);
    assert_eq!(pebble.issued(), issued + 1, "one order, one certificate");
}

/// A Secret that is garbled, then one that is gone: what is served stays, and a new one comes.
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
