//! Public paths without credentials, and credentials that are forwarded to a Service's
//! pods.

use portcullis_config::client_key::{Key, secret};
use serde_json::{Value, json};

use crate::harness::{Answer, Echo, Gateway, Service, World, echo, without_ids};

const HOST: &str = "web--team.apps.test";

/// A key of the application `billing`, and a gateway to services of an environment that allows it;
/// each requires an application.
async fn start(pod: &Echo, services: impl IntoIterator<Item = Service>) -> (Key, Gateway) {
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).expect("randomness");
    let key = Key::new(&random);
    let kept = secret::new("portcullis", "billing", key.hash(), None, [0; 4])
        .expect("a name of an application");
    let world = World::empty()
        .annotation("team", "allow-apps", "billing")
        .with_file("key.yaml", &secret::manifest(&kept));
    let service =
        |service: Service| service.environment("team").annotation("require", "app").pod(pod);
    let world = services.into_iter().fold(world, |world, one| world.with(service(one)));
    let gateway = Gateway::of(world)
        .settings(json!({"access": {"credentialsNamespace": "portcullis"}}))
        .start()
        .await;
    (key, gateway)
}

async fn without(gateway: &Gateway, path: &str) -> Answer {
    gateway.curl(HOST, path).arg("--path-as-is").run().await
}

async fn with(key: &Key, gateway: &Gateway, host: &str, path: &str) -> Answer {
    gateway.curl(host, path).header(&format!("Authorization: Bearer {}", key.expose())).run().await
}

/// What a client sees, without the request's id and the date.
fn comparable(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    (answer.status, headers, without_ids(&answer.text()))
}

#[tokio::test]
async fn a_public_path_needs_no_credentials_and_opens_no_other_path() {
    let pod = echo("pod-1").await;
    let (key, gateway) =
        start(&pod, [Service::new("web").annotation("public-paths", "/status, /echo/public")])
            .await;
    for (path, status) in [
        ("/status/204", 204),
        ("/status/299?x=/../echo", 299),
        ("/echo", 404),
        ("/statuses/204", 404),
        ("/", 404),
    ] {
        assert_eq!(without(&gateway, path).await.status, status, "{path}");
    }
    let before = pod.counts().borrow().started;
    for path in [
        "/status/../echo",
        "/status/%2e%2e/echo",
        "/status/..;/echo",
        "/status/..%2fecho",
        "/status%2f..%2fecho",
        "/status/..%5cecho",
        "/status\\..\\echo",
        "/status;/../echo",
        "//status/204",
        "/status//204",
        "/%73tatus/204",
        "/STATUS/204",
        "/status.",
        "/status/%c0%ae%c0%ae/echo",
        "/status/..%c0%afecho",
        "/status/%e0%80%ae%e0%80%ae/echo",
        "/status/%ff",
        "/status/204%ff",
        "/status/204%20",
        "/status/..%20/echo",
        "/status/.%20./echo",
        "/status/204%09",
        "/status/.../echo",
        "/status/%252e%252e/echo",
        "/status/..%252fecho",
        "/status/..%255cecho",
        "/status/%25%32%65%25%32%65/echo",
        "/status/%25u002e%25u002e/echo",
        "/status/%u002e%u002e/echo",
        "/status/204%3f",
        "/status/204%23",
        "/status/204%00",
        "/status/204%5c",
        "/status/%ef%bc%8e%ef%bc%8e/echo",
        "/status/..%ef%bc%8fecho",
        "/status/..%ef%bc%bcecho",
        "/status/%e2%80%a5/echo",
        "/status/..%e2%88%95echo",
        "/status/..;/echo",
        "/status/204;x",
        "/status/..%3b/echo",
        "/status/204%3bx",
    ] {
        let answer = without(&gateway, path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        // What is refused for the host's path rules looks as for a host that does not exist.
        let unknown = gateway.curl("nothing--team.apps.test", path).arg("--path-as-is").run().await;
        assert_eq!(comparable(&answer), comparable(&unknown), "{path}");
    }
    assert_eq!(pod.counts().borrow().started, before, "none of them reaches the pod");
    assert_eq!(with(&key, &gateway, HOST, "/echo").await.status, 200);
    assert_eq!(with(&key, &gateway, HOST, "/status/204").await.status, 204);
}

#[tokio::test]
async fn client_keys_are_removed_whatever_the_service_asks_for() {
    let pod = echo("pod-1").await;
    let services = [
        Service::new("web"),
        Service::new("passing").annotation("pass-credentials", "true"),
        Service::new("open").annotation("public-paths", "/echo"),
    ];
    let (key, gateway) = start(&pod, services).await;
    for host in [HOST, "passing--team.apps.test", "open--team.apps.test"] {
        let answer = with(&key, &gateway, host, "/echo").await;
        assert_eq!(answer.status, 200, "{host}");
        let received: Value = serde_json::from_slice(&answer.body).expect("what the pod received");
        assert!(!received.to_string().contains(key.expose()), "{host}");
    }
}
