//! Calls from web pages of other origins.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use crate::harness::credentials::{client_key, client_key_secret};
use crate::harness::{Answer, Echo, Gateway, Service, World, echo, without_ids};

const APP: &str = "https://app.example.com";
const EVIL: &str = "https://evil.example";
/// Lists the origin; open.
const OPEN: &str = "open--staging.apps.test";
/// Open, without the annotation.
const WITHOUT: &str = "none--staging.apps.test";
/// Lists the origin; requires credentials.
const CLOSED: &str = "web--closed.apps.test";
const ABSENT: &str = "web--absent.apps.test";
/// Lists the origin; has no pod.
const DOWN: &str = "down--staging.apps.test";

async fn start() -> (Echo, Gateway) {
    let pod = echo("pod-1").await;
    let lists = |service: Service| service.annotation("cors-origins", APP);
    let world = World::empty()
        .with(lists(Service::new("open").pod(&pod)))
        .with(Service::new("none").pod(&pod))
        .with(lists(Service::new("down")))
        .with(lists(Service::new("web").environment("closed").pod(&pod)));
    let settings = json!({ "cors": { "origins": [APP, "https://*.dev.example.com"] } });
    let gateway = Gateway::of(world).settings(settings).start().await;
    (pod, gateway)
}

async fn preflight(gateway: &Gateway, host: &str, path: &str, origin: &str) -> Answer {
    gateway
        .curl(host, path)
        .args(["-X", "OPTIONS", "--path-as-is"])
        .header(&format!("Origin: {origin}"))
        .header("Access-Control-Request-Method: PUT")
        .header("Access-Control-Request-Headers: authorization,x-version")
        .run()
        .await
}

async fn get(gateway: &Gateway, host: &str, origin: &str) -> Answer {
    gateway.curl(host, "/").header(&format!("Origin: {origin}")).run().await
}

fn face(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().map(|(name, value)| {
        (name.clone(), if name == "date" { String::new() } else { without_ids(value) })
    });
    (answer.status, headers.collect(), without_ids(&answer.text()))
}

#[tokio::test]
async fn preflights_of_the_operator_s_origins_get_one_answer_on_every_host() {
    let (pod, gateway) = start().await;
    let expected = preflight(&gateway, OPEN, "/", APP).await;
    assert_eq!(expected.status, 204, "{expected:?}");
    for (name, value) in [
        ("access-control-allow-origin", APP),
        ("access-control-allow-headers", "Authorization, *"),
        ("vary", "Origin"),
    ] {
        assert_eq!(expected.header(name), Some(value), "{expected:?}");
    }
    let methods = expected.header("access-control-allow-methods").unwrap_or_default();
    assert!(methods.split(", ").any(|method| method == "PUT"), "{methods}");
    assert_eq!(expected.header("access-control-allow-credentials"), None);
    for host in [OPEN, WITHOUT, CLOSED, ABSENT, DOWN] {
        for path in ["/", "/a/b?c=d", "/.well-known/portcullis/jwks.json", "//a%2fb"] {
            let answer = preflight(&gateway, host, path, APP).await;
            assert_eq!(face(&answer), face(&expected), "{host}{path}");
        }
    }
    let subdomain = preflight(&gateway, ABSENT, "/", "https://ann.dev.example.com").await;
    assert_eq!(subdomain.status, 204);
    assert_eq!(pod.counts().borrow().started, 0, "no preflight reaches a pod");
}

#[tokio::test]
async fn preflights_of_other_origins_are_requests_like_all_others() {
    let (_pod, gateway) = start().await;
    let absent = face(&preflight(&gateway, ABSENT, "/", EVIL).await);
    assert_eq!(absent.0, 404);
    for origin in [EVIL, "null", "https://dev.example.com", "http://app.example.com"] {
        let answer = preflight(&gateway, CLOSED, "/", origin).await;
        assert_eq!(face(&answer), absent, "{origin}");
    }
    assert_eq!(preflight(&gateway, OPEN, "/", EVIL).await.status, 200, "the pod answers");
}

#[tokio::test]
async fn scripts_read_responses_to_admitted_requests_alone() {
    let (_pod, gateway) = start().await;
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    for (host, origin, status, expected) in [
        (OPEN, APP, 200, Some(APP)),
        (OPEN, EVIL, 200, None),
        (OPEN, "https://ann.dev.example.com", 200, None),
        (DOWN, APP, 503, Some(APP)),
        (WITHOUT, APP, 200, None),
        (CLOSED, APP, 404, None),
        (ABSENT, APP, 404, None),
    ] {
        let answer = get(&gateway, host, origin).await;
        assert_eq!((answer.status, allowed(&answer).as_deref()), (status, expected), "{host}");
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        let varies = answer.header("vary").is_some_and(|value| value.contains("Origin"));
        assert_eq!(varies, host == OPEN || host == DOWN, "{host}");
    }
    let (closed, absent) = (get(&gateway, CLOSED, APP).await, get(&gateway, ABSENT, APP).await);
    assert_eq!(face(&closed), face(&absent));
}

#[tokio::test]
async fn chromium_lets_a_listed_origin_call_with_a_bearer_token() {
    let pod = echo("pod-1").await;
    let key = client_key();
    let secret = client_key_secret("shop", "shop", &key);
    let service = Service::new("web").environment("closed").annotation("cors-origins", APP);
    let world = World::empty()
        .with(service.pod(&pod))
        .annotation("closed", "require", "app")
        .annotation("closed", "allow-apps", "shop")
        .with_file("key.json", &secret.to_string());
    let settings = json!({
        "cors": { "origins": [APP] },
        "access": { "credentialsNamespace": "portcullis" },
    });
    let gateway = Gateway::of(world).settings(settings).start().await;
    let mut command = Command::new("node");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openid/cors.mjs"))
        .arg(crate::login::modules().await)
        .args(["/usr/bin/chromium", &gateway.https().port().to_string(), key.expose()])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output())
        .await
        .expect("Chromium ends")
        .expect("node runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
