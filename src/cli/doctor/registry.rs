//! The registry that the pods' images come from.

use std::collections::BTreeSet;

use futures::future::join_all;
use portcullis_identity::outbound::Client;
use serde_json::Value;
use tokio::time::timeout;

use super::Finding;
use super::facts::{MAX_TARGETS, TIMEOUT};
use crate::cli::kubectl::text_at;

/// A registry, and why it does not respond to this machine, if it does not.
pub(super) type Registry = (String, Option<String>);

/// Asks the registries of all containers whether they are there.
pub(super) async fn probe(pods: &[Value]) -> Vec<Registry> {
    let containers = pods.iter().filter_map(|pod| pod.pointer("/spec/containers")?.as_array());
    let images = containers.flatten().map(|container| text_at(container, "/image"));
    let hosts: BTreeSet<&str> = images.filter(|image| !image.is_empty()).map(host).collect();
    let probes = hosts.into_iter().take(MAX_TARGETS).map(|host| async move {
        let result = timeout(TIMEOUT, ask(host)).await;
        let why = result.unwrap_or_else(|_| Err(format!("no response in {TIMEOUT:?}"))).err();
        (host.to_owned(), why)
    });
    join_all(probes).await
}

/// The host of an image, with its port: what is before the first slash, if it is no part of a name
/// at Docker Hub.
fn host(image: &str) -> &str {
    const HUB: &str = "registry-1.docker.io";
    match image.split_once('/') {
        Some(("docker.io", _)) | None => HUB,
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        Some(_) => HUB,
    }
}

/// Requests the page that every registry has (the distribution specification, "Determining
/// Support"); one that requires credentials denies it.
async fn ask(host: &str) -> Result<(), String> {
    let client = Client::new(None).map_err(|error| error.to_string())?;
    let answer = client.get(&format!("https://{host}/v2/"), "application/json").await;
    match answer.map_err(|error| error.to_string())?.status.as_u16() {
        200 | 401 | 403 => Ok(()),
        status => Err(format!("https://{host}/v2/ has the status {status}")),
    }
}

/// A registry that this machine does not reach may be one that the nodes reach: if they do not, it
/// is the pods that wait.
pub(super) fn findings(registries: &[Registry]) -> Vec<Finding> {
    let finding = |(host, why): &Registry| match why {
        None => Finding::ok("registry", format!("{host} responds")),
        Some(why) => Finding::warning(
            "registry",
            format!("{host} does not respond to this machine: {why}"),
            "open the way to it, unless only nodes reach it; new pods wait with ErrImagePull where \
             nodes do not either",
        ),
    };
    match registries {
        [] => vec![Finding::skipped("registry", "there are no pods")],
        registries => registries.iter().map(finding).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_host_of_an_image_is_that_of_its_registry() {
        for (image, expected) in [
            ("portcullis", "registry-1.docker.io"),
            ("portcullis:0.1.0", "registry-1.docker.io"),
            ("acme/portcullis:0.1.0", "registry-1.docker.io"),
            ("docker.io/acme/portcullis", "registry-1.docker.io"),
            ("ghcr.io/acme/portcullis@sha256:0", "ghcr.io"),
            ("registry.example.com:5000/portcullis:0.1.0", "registry.example.com:5000"),
            ("localhost/portcullis", "localhost"),
        ] {
            assert_eq!(host(image), expected, "{image}");
        }
    }

    #[tokio::test]
    async fn each_registry_of_the_pods_is_asked_once() {
        // A port that was free a moment ago, where nothing listens.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let image = format!("{address}/portcullis:0.1.0");
        let pod = json!({ "spec": { "containers": [{ "image": image }, { "image": image }] } });
        let registries = probe(&[pod.clone(), pod]).await;
        assert_eq!(registries.len(), 1, "{registries:?}");
        assert_eq!(registries[0].0, address.to_string());
        assert!(registries[0].1.is_some(), "nothing listens there");
        assert!(probe(&[]).await.is_empty());
    }
}
