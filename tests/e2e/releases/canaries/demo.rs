//! `make demo-release`: pushes to one environment, one after the other, in a terminal; on the node, or
//! on a cluster that exists.

use std::time::Duration;

use super::door::Door;
use super::load::Protocol;
use super::{Registry, Stage};

/// Its environment, and the Namespace of it.
const ENVIRONMENT: &str = "portcullis-demo";

/// Where the images of a cluster that exists are pushed to, such as `registry.example.com/team`; absent
/// on the node.
const REGISTRY: &str = "PORTCULLIS_DEMO_REGISTRY";
/// `USER:PASSWORD` of that registry.
const CREDENTIALS: &str = "PORTCULLIS_DEMO_CREDENTIALS";
/// A PEM file of the authorities of its certificate.
const AUTHORITY: &str = "PORTCULLIS_DEMO_AUTHORITY";
/// Those of the system.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) async fn show() {
    let stage = match std::env::var(REGISTRY) {
        Ok(repository) => on_a_cluster(&repository).await,
        Err(_) => Stage::new(ENVIRONMENT).await,
    };
    let site = stage.pushed_site(ENVIRONMENT, true).await;
    let load = site.load(Protocol::Http1, 16, Duration::from_millis(50));
    load.passes(4_000).await;
    site.promotes(std::slice::from_ref(&load)).await;
    drop(load);
    for kind in ["failing", "slow"] {
        let load = site.load(Protocol::Http1, 16, Duration::from_millis(50));
        load.passes(2_000).await;
        site.takes_back(kind, &load).await;
    }
    let trail = stage.builder.cli("admin", &["audit", "list"]).await.expect("the audit log");
    println!("\n--- the audit log\n{trail}");
}

/// The gateway runs in pods, from the image that `tests/cluster/demo` has pushed.
async fn on_a_cluster(repository: &str) -> Stage {
    let credentials = std::env::var(CREDENTIALS).expect("the registry's credentials");
    let authority = std::env::var(AUTHORITY).unwrap_or_else(|_| AUTHORITIES.to_owned());
    let registry = Registry::elsewhere(repository, &credentials, authority.as_ref());
    let doors = Door::pods(&registry).await;
    Stage::with(ENVIRONMENT, doors, registry).await
}
