//! A gateway on free ports with a folder of manifests, and clients for it.
//!
//! [`World`] is what is in the cluster, [`Gateway`] the running binary; [`Curl`], [`Raw`] and the
//! functions of [`client`] call it. The pods are [`portcullis_echo::Echo`] or
//! [`portcullis_echo::Recording`].

#[path = "../../src/cli/demo/authority.rs"]
mod authority;
pub(crate) mod client;
pub(crate) mod credentials;
mod curl;
mod gateway;
pub(crate) mod node;
pub(crate) mod postgres;
mod raw;
mod world;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use authority::Authority;
pub(crate) use curl::{Answer, Curl};
pub(crate) use gateway::{Builder, Gateway};
pub(crate) use portcullis_echo::{Echo, Options, Recording, Step};
pub(crate) use raw::{Raw, Response};
pub(crate) use world::{Service, World};

/// The DNS domain of all tests.
pub(crate) const ZONE: &str = "apps.test";
/// The hostname of the service of most tests: [`World::web`].
pub(crate) const WEB: &str = "web--staging.apps.test";
/// The longest wait for an asynchronous effect. Never reached in a test that passes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An echo pod on a free port.
pub(crate) async fn echo(name: &str) -> Echo {
    Echo::start(Options::loopback(name)).await.expect("a free port on the loopback")
}

/// A program that `tests/tools/build` built.
pub(crate) fn tool(name: &str) -> PathBuf {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/build");
    let output = std::process::Command::new(build).arg("--print-dir").output();
    let output = output.expect("tests/tools/build runs").stdout;
    let path = PathBuf::from(String::from_utf8(output).expect("a path").trim()).join(name);
    assert!(path.exists(), "{name} is not there: run tests/tools/build");
    path
}

/// Polls until the condition holds, for asynchronous effects without a notification.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !ask().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The output of `future`; fails the test if it takes too long.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Whether `count` of 40 requests can be the share of `percent`, wherever the sequence of the gateway's
/// dealer begins. Of all beginnings, 1 in 40 gives a half of them 18 or 22.
pub(crate) fn is_share(count: impl Into<u64>, percent: u64) -> bool {
    count.into().abs_diff(40 * percent / 100) <= 2
}

/// `text` with each request id (a UUID) replaced, so that two answers can be compared.
pub(crate) fn without_ids(text: &str) -> String {
    let is_id = |window: &[u8]| {
        let hyphen = |place: usize| matches!(place, 8 | 13 | 18 | 23);
        window.iter().enumerate().all(|(place, octet)| {
            if hyphen(place) { *octet == b'-' } else { octet.is_ascii_hexdigit() }
        })
    };
    let found = text.as_bytes().windows(36).position(is_id);
    found.map_or_else(
        || text.to_owned(),
        |start| format!("{}ID{}", &text[..start], without_ids(&text[start + 36..])),
    )
}
