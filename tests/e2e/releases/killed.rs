//! Builders that are killed by SIGKILL at a chosen call to the API server or the registry: the next
//! one resumes, nothing acknowledged is lost, nothing is done twice, and the call does no harm when it
//! arrives late.

use futures::StreamExt;
use serde_json::{Value, json};

use super::api_server::{ApiServer, Kind, Trap, When};
use super::builder::Builder;
use super::registry::Registry;
use crate::harness::eventually;

/// Builders that run at the same time.
const AT_ONCE: usize = 4;

/// What a caller does when releases 1 and 2 ran in staging and 2 runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Deploy,
    Promote,
    Rollback,
}

// === impl Operation ===

impl Operation {
    fn request(self) -> (&'static str, Value) {
        match self {
            Self::Deploy => {
                ("/api/v1/deployments", json!({ "release": "web.3", "environment": "staging" }))
            }
            Self::Promote => (
                "/api/v1/promotions",
                json!({ "service": "web", "from": "staging", "to": "production" }),
            ),
            Self::Rollback => {
                ("/api/v1/rollbacks", json!({ "service": "web", "environment": "staging" }))
            }
        }
    }

    /// The deployment that it makes, the release, and the changes in the cluster, each once.
    fn expected(self) -> (&'static str, usize, &'static [&'static str]) {
        match self {
            Self::Deploy => {
                ("web.staging.3", 3, &["PATCH web", "PATCH object-3", "DELETE object-2"])
            }
            Self::Promote => ("web.production.1", 2, &["PATCH web", "PATCH object-2"]),
            Self::Rollback => {
                ("web.staging.3", 1, &["PATCH web", "PATCH object-1", "DELETE object-2"])
            }
        }
    }

    /// The calls at which the builder is killed: those that follow a recorded step.
    fn traps(self) -> Vec<Trap> {
        let (namespaces, dry, apply, delete) =
            (Kind::Namespaces, Kind::DryRun, Kind::Apply, Kind::Delete);
        let calls: &[(Kind, usize)] = match self {
            Self::Deploy => {
                &[(namespaces, 0), (dry, 0), (dry, 1), (apply, 0), (apply, 1), (delete, 0)]
            }
            Self::Promote => &[(dry, 1), (apply, 0), (apply, 1)],
            Self::Rollback => &[(apply, 0), (apply, 1), (delete, 0)],
        };
        let whens = [When::Before, When::After];
        let all = calls.iter().flat_map(|call| whens.map(|when| (*call, when)));
        all.map(|((kind, skipped), when)| Trap { kind, skipped, when }).collect()
    }
}

/// A template of two ConfigMaps: one with the image, and one that no other release has.
fn template(number: usize) -> Value {
    let object = |name: &str, data: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
            "data": { "image": data } })
    };
    json!([object("web", "{{image}}"), object(&format!("object-{number}"), "none")])
}

/// A release of each tag from 1 to 3; returns the images by digest.
async fn releases(builder: &Builder, registry: &Registry) -> Vec<String> {
    let mut images = Vec::new();
    for number in 1..=3 {
        let image = registry.image("web", &number.to_string());
        let request = json!({ "service": "web", "template": template(number), "image": image });
        let created = builder.post("ci", "/api/v1/releases", &request).await;
        assert_eq!(created.status, 201, "{}", created.text());
        images.push(created.json()["image"].as_str().expect("an image").to_owned());
    }
    images
}

async fn is_ready(builder: &Builder, id: &str) {
    eventually("the deployment is ready", || async {
        let shown = builder.get("ci", &format!("/api/v1/deployments/{id}")).await;
        assert_eq!(shown.status, 200, "{id} was acknowledged");
        shown.json()["state"] == "ready"
    })
    .await;
}

/// Kills a builder with these further settings at one call, and lets the next one finish.
pub(super) async fn kill_at(
    registry: &Registry,
    operation: Operation,
    trap: Trap,
    settings: &Value,
) {
    let server = ApiServer::start().await;
    let mut builder = Builder::start_with(registry, Some(&server.kubeconfig()), settings).await;
    let images = releases(&builder, registry).await;
    for number in 1..=2 {
        let order = json!({ "release": format!("web.{number}"), "environment": "staging" });
        assert_eq!(builder.post("ci", "/api/v1/deployments", &order).await.status, 202);
        is_ready(&builder, &format!("web.staging.{number}")).await;
    }
    server.hold(trap);
    let (path, request) = operation.request();
    let (id, release, changes) = operation.expected();
    let accepted = builder.post_once("ci", path, &request).await;
    assert_eq!((accepted.status, &accepted.json()["id"]), (202, &json!(id)), "{trap:?}");
    server.held().await;
    builder.kill_and_restart().await;
    // A caller that did not see the response repeats the request.
    let again = builder.post_once("ci", path, &request).await;
    assert_eq!((again.status, &again.json()["id"]), (202, &json!(id)), "{trap:?}");
    is_ready(&builder, id).await;

    let namespace = id.split('.').nth(1).expect("an environment");
    let at = format!("{operation:?} killed at {trap:?}");
    let expected = [
        (format!("object-{release}"), json!({ "image": "none" })),
        ("web".to_owned(), json!({ "image": images[release - 1] })),
    ];
    assert_eq!(server.objects(namespace), expected, "{at}");
    assert_eq!(server.changes(), changes, "{at}: each change once");
    let shown = builder.get("ci", &format!("/api/v1/environments/{namespace}")).await.json();
    assert_eq!(shown["services"][0]["running"], format!("web.{release}"), "{at}");
    let audit = builder.get("admin", "/api/v1/audit").await.json();
    let made = audit["items"].as_array().expect("entries").iter();
    assert_eq!(made.filter(|entry| entry["subject"] == id).count(), 1, "{at}");
    // The call of the killed builder arrives.
    if let Some(status) = server.deliver() {
        let is_harmless = status >= 400 || !matches!(trap.kind, Kind::Apply | Kind::Delete);
        assert!(is_harmless, "{at}: {status}");
    }
    assert_eq!(server.objects(namespace), expected, "{at}: the late call did nothing");
}

#[tokio::test]
async fn a_builder_killed_at_any_call_resumes_and_does_nothing_twice() {
    let registry = Registry::start().await;
    for tag in ["1", "2", "3"] {
        registry.push("web", tag).await;
    }
    let operations = [Operation::Deploy, Operation::Promote, Operation::Rollback];
    let points: Vec<_> = operations
        .into_iter()
        .flat_map(|operation| operation.traps().into_iter().map(move |trap| (operation, trap)))
        .collect();
    println!("killed at {} points", points.len());
    assert!(points.len() >= 15);
    let settings = json!({});
    let killed =
        points.into_iter().map(|(operation, trap)| kill_at(&registry, operation, trap, &settings));
    futures::stream::iter(killed).for_each_concurrent(AT_ONCE, |killed| killed).await;
}

#[tokio::test]
async fn a_release_exists_once_or_not_at_all_when_the_builder_is_killed() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let mut builder = Builder::start(&registry, None).await;
    let request = json!({
        "service": "web", "template": template(1), "image": registry.image("web", "1"),
    });
    let path = "/api/v1/releases";
    let count = async |builder: &Builder| {
        builder.get("ci", path).await.json()["items"].as_array().expect("a page").len()
    };
    // Killed while it waits for the registry.
    registry.pause();
    let posting = builder.post_once("ci", path, &request);
    let unanswered = tokio::time::timeout(std::time::Duration::from_millis(500), posting).await;
    assert!(unanswered.is_err(), "it waits for the registry");
    builder.kill_and_restart().await;
    registry.resume();
    assert_eq!(count(&builder).await, 0);
    // Killed as soon as it has recorded the release, whether or not the caller has the response.
    tokio::select! {
        _ = builder.post_once("ci", path, &request) => {}
        () = eventually("it is recorded", || async { count(&builder).await == 1 }) => {}
    }
    builder.kill_and_restart().await;
    let again = builder.post_once("ci", path, &request).await;
    assert_eq!((again.status, &again.json()["id"]), (201, &json!("web.1")));
    // Killed after it was acknowledged.
    builder.kill_and_restart().await;
    assert_eq!(count(&builder).await, 1, "nothing is lost, and nothing is there twice");
}
