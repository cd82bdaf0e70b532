//! Accounts with authorities, and new keys for them.

use serde_json::json;

use super::authority::Pebble;
use super::dns::Bind;
use super::interposer::{Fault, Interposer};
use super::{certs, is_served, served, start};
use crate::harness::{Service, WEB, World, echo, eventually};

/// Pebble's path for new keys.
const KEY_CHANGE: &str = "/rollover-account-key";
const LATER: &str = "later--staging.apps.test";

#[tokio::test]
async fn an_account_gets_a_new_key_and_stays_the_same_account() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01")]).await;
    is_served(&gateway, WEB).await;
    certs(&gateway, &["rollover"]).await;
    gateway.has_written("the account has a new key").await;
    assert!(pebble.count(KEY_CHANGE) > 0);
    gateway.apply(&World::web(&pod).with(Service::new("later").pod(&pod)));
    is_served(&gateway, LATER).await;
    assert_eq!(gateway.log().matches("created an account with the authority").count(), 1);
    assert_eq!(
        gateway.log().matches("the account has a new key").count(),
        1,
        "once for each time that it is asked for"
    );
}

#[tokio::test]
async fn external_account_binding_and_profiles_are_supported() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let dns = Bind::start().await;
    let pebble = Pebble::start_demanding(&dns, "customer-1", KEY).await;
    let pod = echo("pod-1").await;
    let mut settings = pebble.settings("http-01");
    let mut gateway = start(&pebble, World::web(&pod), &[settings.clone()]).await;
    gateway.has_written("externalAccountRequired").await;
    assert_eq!(pebble.issued(), 0);
    gateway.terminate();
    gateway.ended().await;

    let folder = tempfile::tempdir().expect("a folder");
    let key_file = folder.path().join("key");
    std::fs::write(&key_file, format!("{KEY}\n")).expect("the key");
    let authority = &mut settings["acme"]["authorities"][0];
    authority["externalAccount"] = json!({ "keyId": "customer-1", "keyFile": key_file });
    authority["profile"] = json!("short");
    let gateway = start(&pebble, World::web(&pod), &[settings]).await;
    is_served(&gateway, WEB).await;
    let served = served(&gateway, WEB).await.expect("a certificate");
    let (_, served) = x509_parser::parse_x509_certificate(&served).expect("it can be read");
    let lasts = served.validity().not_after.timestamp() - served.validity().not_before.timestamp();
    assert!(lasts <= 25 * 3600, "{lasts} s");
}

#[tokio::test]
async fn an_account_whose_new_key_was_lost_is_replaced() {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let interposer = Interposer::start(&pebble, dns.address(), Fault::Lose(KEY_CHANGE)).await;
    let by_way = json!({ "acme": { "authorities": [{ "directory": interposer.directory(), "rootFile": interposer.root_file() }] } });
    let pod = echo("pod-1").await;
    let gateway = start(&pebble, World::web(&pod), &[pebble.settings("http-01"), by_way]).await;
    is_served(&gateway, WEB).await;
    certs(&gateway, &["rollover"]).await;
    interposer.has_stalled().await;
    eventually("it is reported", || async {
        gateway.admin_page("/routes").await.text().contains("AccountKeyNotReplaced")
    })
    .await;
    interposer.set(Fault::None);
    gateway.apply(&World::web(&pod).with(Service::new("later").pod(&pod)));
    is_served(&gateway, LATER).await;
    assert_eq!(gateway.log().matches("created an account with the authority").count(), 2);
}
