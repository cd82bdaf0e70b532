//! Faults of authorities, DNS and stores: reported and retried, while traffic is
//! unaffected.

use std::time::Duration;

use serde_json::{Value, json};

use super::authority::Pebble;
use super::dns::Bind;
use super::interposer::{Fault, Interposer};
use super::{call, certificates, is_served, served, start};
use crate::harness::{Authority, Gateway, Service, WEB, World, echo, eventually};

/// The settings of a gateway that orders at `pebble` by way of `interposer`.
fn by_way_of(interposer: &Interposer) -> Value {
    json!({ "acme": { "authorities": [{ "directory": interposer.directory(), "rootFile": interposer.root_file() }] } })
}

/// Waits until an order has failed, and returns the reported problem.
async fn failure(gateway: &Gateway) -> String {
    eventually("an order fails", || async {
        certificates(gateway).await.iter().any(|one| one["last_error"].is_string())
    })
    .await;
    let list = certificates(gateway).await;
    list.iter().find_map(|one| one["last_error"].as_str()).unwrap_or_default().to_owned()
}

/// A gateway whose first order hits `fault`; the failure is reported, and after the fault a
/// certificate is issued without intervention.
async fn mends_itself(fault: Fault, reported: &str) {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let interposer = Interposer::start(&pebble, dns.address(), fault).await;
    let pod = echo("pod-1").await;
    let gateway =
        start(&pebble, World::web(&pod), &[pebble.settings("http-01"), by_way_of(&interposer)])
            .await;
    let error = failure(&gateway).await;
    assert!(error.contains(reported), "{error}");
    assert!(gateway.is_ready().await, "readiness does not depend on authorities");
    assert!(served(&gateway, WEB).await.is_none(), "what is bad is not served");
    let page = gateway.admin_page("/routes").await.text();
    assert!(page.contains("CertificateOrderFailed"), "{page}");
    interposer.set(Fault::None);
    is_served(&gateway, WEB).await;
    eventually("what is over is not reported any more", || async {
        certificates(&gateway).await.iter().all(|one| one["last_error"].is_null())
    })
    .await;
}

#[tokio::test]
async fn a_failed_order_is_retried() {
    mends_itself(Fault::Refuse(500, None), "not now").await;
}

#[tokio::test]
async fn a_certificate_for_another_key_is_not_used() {
    let other = Authority::new("another")
        .unwrap()
        .issue(&[WEB], Duration::from_secs(7 * 24 * 3600))
        .unwrap();
    mends_itself(Fault::Chain(other.certificate), "private key does not match its certificate")
        .await;
}

#[tokio::test]
async fn an_invalid_chain_is_not_used() {
    mends_itself(
        Fault::Chain("-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n".to_owned()),
        "not usable",
    )
    .await;
}

#[tokio::test]
async fn retry_after_is_obeyed_and_the_next_authority_is_used() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let interposer =
        Interposer::start(&pebble, dns.address(), Fault::Refuse(429, Some("3600"))).await;
    let pod = echo("pod-1").await;
    let mut gateway =
        start(&pebble, World::web(&pod), &[pebble.settings("http-01"), by_way_of(&interposer)])
            .await;
    let error = failure(&gateway).await;
    assert!(error.contains("not now"), "{error}");
    let list = certificates(&gateway).await;
    let wait = list[0]["next_try"].as_u64().unwrap() - now();
    assert!((3500..=3600).contains(&wait), "{wait}");
    let orders = interposer.orders();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(interposer.orders(), orders, "not asked again before the time");
    gateway.terminate();
    gateway.ended().await;

    let second = json!({ "directory": pebble.directory(), "rootFile": pebble.root_file() });
    let first = by_way_of(&interposer)["acme"]["authorities"][0].clone();
    let both = json!({ "acme": { "authorities": [first, second] } });
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01"), both]).await;
    is_served(&gateway, WEB).await;
    assert_eq!(certificates(&gateway).await[0]["issuer"], pebble.directory());
}

#[tokio::test]
async fn a_long_outage_of_the_authority_delays_only_new_certificates() {
    let dns = Bind::start().await;
    let mut pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    let first = served(&gateway, WEB).await;
    pebble.stop().await;
    gateway.apply(&World::web(&pod).with(Service::new("later").pod(&pod)));
    let error = failure(&gateway).await;
    assert!(error.contains("cannot be reached"), "{error}");
    assert_eq!(served(&gateway, WEB).await, first);
    assert_eq!(call(&gateway, WEB).await, 200);
    assert!(gateway.metric("portcullis_certificate_problems").await > 0.0);
    // It restarts without its state: the account is unknown, and is created again.
    pebble.restart(&dns).await;
    super::trust(&gateway, &pebble).await;
    is_served(&gateway, "later--staging.apps.test").await;
}

#[tokio::test]
async fn orders_succeed_although_most_nonces_are_rejected() {
    let dns = Bind::start().await;
    let pebble =
        Pebble::start_with(&dns, &[("PEBBLE_WFE_NONCEREJECT", "60")], 90 * 24 * 3600).await;
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn a_name_that_cannot_be_validated_does_not_delay_others() {
    let dns = Bind::start_with("lost--staging A 127.0.0.1").await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let world =
        World::web(&pod).with(Service::new("lost").pod(&pod)).with(Service::new("shop").pod(&pod));
    let gateway = start(&pebble, world, &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    is_served(&gateway, "shop--staging.apps.test").await;
    assert!(served(&gateway, "lost--staging.apps.test").await.is_none());
    let error = failure(&gateway).await;
    assert!(error.contains("lost--staging.apps.test"), "{error}");
}

#[tokio::test]
async fn names_of_a_namespace_that_cannot_be_validated_cost_others_nothing() {
    let dns = Bind::start_with("lost--other A 127.0.0.1").await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let lost = Service::new("lost").environment("other").pod(&pod);
    let world = World::web(&pod).with(lost).with(Service::new("shop").pod(&pod));
    let limited = json!({ "acme": { "failedOrdersPerHour": 2 } });
    let gateway = start(&pebble, world.clone(), &[pebble.settings("http-01"), limited]).await;
    is_served(&gateway, WEB).await;
    is_served(&gateway, "shop--staging.apps.test").await;
    assert_eq!(pebble.issued(), 1, "one certificate of the Namespace, which never failed");
    let error = failure(&gateway).await;
    assert!(error.contains("lost--other") && !error.contains("staging"), "{error}");
    let failures = || async {
        let list = certificates(&gateway).await;
        list.iter().filter_map(|one| one["failures"].as_u64()).max().unwrap_or_default()
    };
    eventually("it is retried", || async { failures().await == 2 }).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(failures().await, 2, "no further order of the Namespace within the hour");
    gateway.apply(&world.with(Service::new("later").pod(&pod)));
    is_served(&gateway, "later--staging.apps.test").await;
}

#[tokio::test]
async fn a_dns_server_that_refuses_updates_is_reported() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let wrong =
        json!({ "acme": { "dns": { "provider": { "rfc2136": { "keyName": "another" } } } } });
    let gateway =
        start(&pebble, World::web(&pod), &[pebble.settings("dns-01"), dns.settings(), wrong]).await;
    let error = failure(&gateway).await;
    assert!(error.contains("refused") || error.contains("signature"), "{error}");
    assert_eq!(pebble.issued(), 0);
}

#[tokio::test]
async fn a_wrong_clock_is_reported() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let interposer =
        Interposer::start(&pebble, dns.address(), Fault::Date("Tue, 01 Jan 2030 00:00:00 GMT"))
            .await;
    let pod = echo("pod-1").await;
    let gateway =
        start(&pebble, World::web(&pod), &[pebble.settings("http-01"), by_way_of(&interposer)])
            .await;
    is_served(&gateway, WEB).await;
    let page = gateway.admin_page("/routes").await.text();
    assert!(page.contains("ClockWrong"), "{page}");
}

#[tokio::test]
async fn an_unresponsive_authority_is_reported_and_blocks_nothing() {
    mends_itself(Fault::Silence, "did not respond within").await;
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
