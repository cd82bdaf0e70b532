//! A clock that is wrong by a quarter of a year (libfaketime): detected and reported, and the
//! existing certificates are still served.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::authority::Pebble;
use super::dns::Bind;
use super::{builder, is_served, served, trust};
use crate::harness::{Builder, Gateway, Service, WEB, World, echo, eventually};

const LATER: &str = "later--staging.apps.test";
const RIGHT: &str = "+0";
/// Longer than the lifetime of a certificate.
const AHEAD: &str = "+91d";
const BEHIND: &str = "-91d";

/// A clock that can be set, for wall time only.
struct Clock {
    folder: TempDir,
}

// === impl Clock ===

impl Clock {
    fn new() -> Self {
        let clock = Self { folder: tempfile::tempdir().expect("a folder") };
        clock.set(RIGHT);
        clock
    }

    fn set(&self, difference: &str) {
        let scratch = self.folder.path().join("new");
        fs::write(&scratch, difference).expect("the clock can be written");
        fs::rename(&scratch, self.file()).expect("the clock can be set");
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }

    /// Makes the gateway use this clock.
    fn of(&self, builder: Builder) -> Builder {
        builder
            .variable("LD_PRELOAD", library())
            .variable("FAKETIME_TIMESTAMP_FILE", self.file())
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .variable("NO_FAKE_STAT", "1")
    }
}

/// The path of libfaketime for multi-threaded programs.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib")
        .expect("libraries")
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    let mut found = folders
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .filter(|library| library.exists());
    found.next().expect("libfaketime is there: install it by tests/install")
}

/// The settings of a gateway that keeps its certificates across restarts.
fn stored(folder: &Path) -> Value {
    json!({ "acme": { "store": { "folder": folder } } })
}

async fn is_told(gateway: &Gateway, reason: &str) {
    eventually(&format!("{reason} is reported"), || async {
        gateway.admin_page("/routes").await.text().contains(reason)
    })
    .await;
    assert!(gateway.metric("portcullis_certificate_problems").await > 0.0);
}

/// The clock jumps while the gateway runs, and is corrected later.
async fn jumps(difference: &str) {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let clock = Clock::new();
    let gateway = clock.of(builder(World::web(&pod), &[pebble.settings("http-01")])).start().await;
    trust(&gateway, &pebble).await;
    is_served(&gateway, WEB).await;
    let good = served(&gateway, WEB).await;
    clock.set(difference);
    gateway.apply(&World::web(&pod).with(Service::new("later").pod(&pod)));
    is_told(&gateway, "ClockWrong").await;
    assert_eq!(served(&gateway, WEB).await, good);
    assert!(gateway.is_ready().await);
    clock.set(RIGHT);
    is_served(&gateway, LATER).await;
    eventually("what is over is not reported any more", || async {
        !gateway.admin_page("/routes").await.text().contains("ClockWrong")
    })
    .await;
    // While the clock is behind, an authority that a TLS session is resumed with may take an order
    // for what seems to be not valid yet.
    assert!(served(&gateway, WEB).await == good || difference == BEHIND, "it needed no other");
    is_served(&gateway, WEB).await;
}

/// The gateway starts while the clock is wrong.
async fn is_wrong_from_the_start(difference: &str, reason: &str) {
    let dns = Bind::start().await;
    let pebble = Pebble::start(&dns).await;
    let pod = echo("pod-1").await;
    let place = tempfile::tempdir().expect("a folder");
    let settings = [pebble.settings("http-01"), stored(&place.path().join("acme"))];
    let mut gateway = builder(World::web(&pod), &settings).start().await;
    trust(&gateway, &pebble).await;
    is_served(&gateway, WEB).await;
    let good = served(&gateway, WEB).await;
    gateway.terminate();
    gateway.ended().await;
    let clock = Clock::new();
    clock.set(difference);
    let gateway = clock.of(builder(World::web(&pod), &settings)).start().await;
    trust(&gateway, &pebble).await;
    is_served(&gateway, WEB).await;
    is_told(&gateway, reason).await;
    is_told(&gateway, "ClockWrong").await;
    assert_eq!(served(&gateway, WEB).await, good);
    assert_eq!(pebble.issued(), 1);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_removes_no_certificate() {
    jumps(AHEAD).await;
}

#[tokio::test]
async fn a_clock_that_jumps_back_removes_no_certificate() {
    jumps(BEHIND).await;
}

#[tokio::test]
async fn a_gateway_that_starts_with_its_clock_ahead_serves_stored_certificates() {
    is_wrong_from_the_start(AHEAD, "CertificateExpired").await;
}

#[tokio::test]
async fn a_gateway_that_starts_with_its_clock_behind_serves_stored_certificates() {
    is_wrong_from_the_start(BEHIND, "CertificateNotYetValid").await;
}
