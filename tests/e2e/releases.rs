//! The release builder: the built binary, a real registry with TLS and basic authentication, curl
//! and the command line. On the test node also a real Kubernetes.

mod api_server;
mod builder;
mod builds;
mod callers;
mod canaries;
mod git_server;
mod in_memory;
mod killed;
mod node;
mod npm;
mod own_repository;
mod postgres;
mod registry;
mod repositories;
mod rollouts;
mod schema;
mod ssh_server;
mod tags;
mod walk;

use serde_json::{Value, json};

use self::builder::Builder;
use self::registry::Registry;
use crate::harness::soon;

/// Manifests of a service in YAML, with the placeholder as kubernaut's users write it.
fn manifests(service: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\nspec:\n  selector: {{app: \
         {service}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n---\napiVersion: apps/v1\nkind: \
         Deployment\nmetadata: {{name: {service}}}\nspec:\n  selector: {{matchLabels: {{app: \
         {service}}}}}\n  template:\n    metadata: {{labels: {{app: {service}}}}}\n    spec:\n      \
         containers:\n      - name: {service}\n        image: {{{{image}}}}\n"
    )
}

#[tokio::test]
async fn a_release_has_the_verified_digest_of_its_tag() {
    let registry = Registry::start().await;
    let digest = registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let image = registry.image("web", "1");
    let yaml = json!({ "template": manifests("web"), "image": image });
    let created = builder.post("ci", "/api/releases", &yaml).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let by_digest = format!("{}/web@{digest}", registry.host());
    assert_eq!(
        (&created.json()["id"], &created.json()["image"]),
        (&json!("web.1"), &json!(by_digest))
    );
    // The tag moves on, and the release does not.
    let later = registry.push("web", "1").await;
    assert_ne!(later, digest);
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "image": "{{image}}" },
    });
    let request = json!({ "service": "web", "template": [object], "image": image });
    let second = builder.post("ci", "/api/v1/releases", &request).await.json();
    assert_eq!(second["image"], format!("{}/web@{later}", registry.host()));
    let shown = builder.get("ci", "/api/v1/releases/web.1").await.json();
    assert_eq!(shown["image"], by_digest);
    assert_eq!(shown["template"][1]["kind"], "Deployment");
    let pinned = format!("{}/web@{digest}", registry.host());
    let request = json!({ "service": "web", "template": [object], "image": pinned });
    assert_eq!(builder.post("ci", "/api/v1/releases", &request).await.json()["image"], by_digest);
}

#[tokio::test]
async fn bad_requests_are_refused_with_every_problem_and_make_no_release() {
    let registry = Registry::start().await;
    let digest = registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let image = registry.image("web", "1");
    let post = |body: Value| {
        let builder = &builder;
        async move {
            let answer = builder.post("ci", "/api/v1/releases", &body).await;
            (answer.status, answer.json())
        }
    };
    let template =
        json!([{ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "web" } }]);
    let (status, problem) =
        post(json!({ "service": "web", "image": image, "template": template })).await;
    assert_eq!(status, 422);
    assert_eq!(problem["problems"][0]["pointer"], "/template/0/kind");
    assert_eq!(problem["problems"][1]["message"], "the placeholder `{{image}}` is missing");
    let (status, problem) = post(json!({ "image": image, "template": "a: b\nc: ]\n" })).await;
    assert_eq!((status, &problem["problems"][0]["line"]), (422, &json!(2)));
    let elsewhere = digest.replace(|digit: char| digit.is_ascii_digit(), "0");
    for (image, expected) in [
        (registry.image("web", "2"), 422),
        (format!("{}/web@{elsewhere}", registry.host()), 422),
        ("127.0.0.1:1/web:1".to_owned(), 422),
        ("docker.io/library/web:1".to_owned(), 422),
        ("\u{0}".to_owned(), 422),
    ] {
        let (status, problem) = post(json!({ "image": image, "template": manifests("web") })).await;
        assert_eq!(status, expected, "{image}: {problem}");
    }
    let (status, _) = post(json!({ "unknown": 1, "image": image, "template": "" })).await;
    assert_eq!(status, 422);
    let large = json!({ "image": image, "template": "x".repeat(10 << 20) });
    assert_eq!(post(large).await.0, 413);
    for (depth, expected) in [(10_000, 400), (100_000, 413)] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let deep = format!("{{\"image\": \"{image}\", \"template\": {open}{close}}}");
        let raw = builder.raw("ci", "/api/v1/releases", &deep).await;
        assert_eq!(raw.status, expected, "{}", raw.text());
    }
    let keys: serde_json::Map<String, Value> =
        (0..10_000).map(|key| (format!("key-{key}"), json!("x"))).collect();
    let many = json!({ "service": "web", "image": image, "template": keys });
    assert_eq!(post(many).await.0, 422);
    assert_eq!(builder.get("ci", "/api/v1/releases").await.json()["items"], json!([]));
}

#[tokio::test]
async fn what_a_caller_may_not_read_does_not_exist() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    builder.post("ci", "/api/v1/releases", &request).await;
    let deploy = json!({ "release": "web.1", "environment": "staging" });
    assert_eq!(builder.post("ci", "/api/v1/deployments", &deploy).await.status, 202);

    // The stranger has a grant for another service only.
    let unknown = builder.get("stranger", "/api/v1/releases/none.1").await;
    assert_eq!(unknown.status, 404);
    for path in ["/api/v1/releases/web.1", "/api/v1/deployments/web.staging.1", "/api/v1/none"] {
        let answer = builder.get("stranger", path).await;
        assert_eq!((answer.status, answer.text()), (404, unknown.text()), "{path}");
    }
    for path in [
        "/api/v1/releases",
        "/api/v1/releases?service=web",
        "/api/v1/deployments?service=web&environment=staging",
        "/api/v1/environments",
    ] {
        let answer = builder.get("stranger", path).await.json();
        assert_eq!(answer, json!({ "items": [] }), "{path}");
    }
    assert_eq!(builder.post("stranger", "/api/v1/deployments", &deploy).await.status, 404);
    assert_eq!(builder.post("stranger", "/api/v1/releases", &request).await.status, 403);
    // A reader sees, and may not change.
    assert_eq!(builder.get("reader", "/api/v1/releases/web.1").await.status, 200);
    assert_eq!(builder.post("reader", "/api/v1/deployments", &deploy).await.status, 403);
    let frozen = json!({ "frozen": true });
    assert_eq!(builder.put("ci", "/api/v1/environments/staging", &frozen).await.status, 403);
    assert_eq!(builder.get("ci", "/api/v1/audit").await.status, 403);
    for path in ["/api/v1/releases", "/api/v1/openapi.json", "/api/v1/audit"] {
        let answer = builder.get("nobody", path).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
    }
    let description = builder.get("reader", "/api/v1/openapi.json").await.json();
    assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    assert!(description["paths"]["/api/v1/rollbacks"]["post"].is_object());
}

#[tokio::test]
async fn a_caller_with_a_grant_for_one_environment_learns_of_no_other() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    assert_eq!(builder.post("narrow", "/api/v1/releases", &request).await.status, 201);
    for environment in ["staging", "production"] {
        let deploy = json!({ "release": "web.1", "environment": environment });
        assert_eq!(builder.post("ci", "/api/v1/deployments", &deploy).await.status, 202);
    }
    let frozen = json!({ "frozen": true, "reason": "secret" });
    for environment in ["production", "other"] {
        builder.put("admin", &format!("/api/v1/environments/{environment}"), &frozen).await;
    }

    // What is there is the same as what is not, in every spelling.
    let get = async |path: String| {
        let answer = builder.get("narrow", &path).await;
        (answer.status, answer.text())
    };
    let missing = get("/api/v1/deployments/web.nowhere.1".to_owned()).await;
    assert_eq!(missing.0, 404);
    for path in [
        "deployments/web.production.1",
        "deployments/web.production%2e1",
        "deployments/web%2Eproduction.1",
        "deployments/WEB.production.1",
        "deployments/web.production.01",
        "deployments/web.production.1%00",
        "deployments/shop.staging.1",
        "environments/production",
        "environments/other",
        "environments/*",
        "releases/shop.1",
        "releases/*.1",
        "releases/web.1%20",
        "releases/..%2fweb.1",
    ] {
        assert_eq!(get(format!("/api/v1/{path}")).await, missing, "{path}");
    }
    let post = async |path: &str, body: Value| {
        let answer = builder.post("narrow", &format!("/api/v1/{path}"), &body).await;
        (answer.status, answer.text())
    };
    for environment in ["production", "nowhere"] {
        let release = json!({ "release": "web.1", "environment": environment });
        let here = json!({ "service": "web", "environment": environment });
        let pin = json!({ "service": "web", "environment": environment, "pinned": true });
        let promote = json!({ "service": "web", "from": environment, "to": "staging" });
        for (path, body) in [
            ("deployments", release.clone()),
            ("dry-runs", release),
            ("rollbacks", here),
            ("pins", pin),
            ("promotions", promote),
        ] {
            assert_eq!(post(path, body).await, missing, "{path} {environment}");
        }
        let path = format!("/api/v1/environments/{environment}");
        let answer = builder.put("narrow", &path, &frozen).await;
        assert_eq!((answer.status, answer.text()), missing, "{environment}");
        let path = format!("/api/v1/deployments?service=web&environment={environment}");
        assert_eq!(get(path).await, (200, r#"{"items":[]}"#.to_owned()), "{environment}");
    }
    let (_, environments) = get("/api/v1/environments".to_owned()).await;
    assert!(environments.contains("staging"), "{environments}");
    for hidden in ["production", "other", "secret"] {
        assert!(!environments.contains(hidden), "{environments}");
    }
    assert_eq!(get("/api/v1/audit".to_owned()).await.0, 403);
    let pin = json!({ "service": "web", "environment": "staging", "pinned": true });
    assert_eq!(post("pins", pin).await.0, 403, "it may know of it, and not do it");
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_and_waits_for_the_cluster() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let mut builder = Builder::start(&registry, None).await;
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    let created = builder.post("ci", "/api/v1/releases", &request).await.json();
    let deploy = json!({ "release": "web.1", "environment": "staging", "reason": "first" });
    let deployment = builder.post("ci", "/api/v1/deployments", &deploy).await.json();
    assert_eq!(
        (&deployment["id"], &deployment["state"]),
        (&json!("web.staging.1"), &json!("recorded"))
    );
    for _ in 0..3 {
        builder.kill_and_restart().await;
    }
    let listed = builder.get("ci", "/api/v1/releases").await.json();
    assert_eq!(listed["items"], json!([created]));
    let shown = builder.get("ci", "/api/v1/deployments/web.staging.1").await.json();
    assert_eq!(
        (&shown["state"], &shown["steps"][0]["state"]),
        (&json!("recorded"), &json!("recorded"))
    );
    let audit = builder.get("admin", "/api/v1/audit").await.json();
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().filter_map(|e| e["action"].as_str()).collect();
    assert_eq!(actions, ["deployment.deploy", "release.create"]);
}

#[tokio::test]
async fn the_progress_of_a_deployment_is_followed_and_continued() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    assert_eq!(builder.post("ci", "/api/v1/releases", &request).await.status, 201);
    let order = json!({ "release": "web.1", "environment": "staging" });
    assert_eq!(builder.post("ci", "/api/v1/deployments", &order).await.status, 202);
    let path = "/api/v1/deployments/web.staging.1/events";
    assert_eq!(builder.get("stranger", path).await.status, 404);
    // The cluster is away: the second deployment ends the first one.
    let following = builder.get("reader", path);
    let superseding = async {
        let accepted = builder.post("ci", "/api/v1/deployments", &order).await;
        assert_eq!(accepted.status, 202);
    };
    let (followed, ()) =
        soon("the stream ends", async { tokio::join!(following, superseding) }).await;
    assert_eq!(followed.header("content-type"), Some("text/event-stream"));
    let events = followed.text();
    for (id, state) in [(1, "recorded"), (2, "superseded")] {
        let event = format!("id: {id}\nevent: step\ndata: {{\"state\":\"{state}\"");
        assert!(events.contains(&event), "{event} in {events}");
    }
    let continued = builder.get_after("reader", path, "1").await.text();
    assert!(!continued.contains("recorded") && continued.contains("id: 2\n"), "{continued}");
    assert_eq!(builder.get_after("reader", path, "2").await.status, 204);
    assert_eq!(builder.get_after("reader", path, "x").await.status, 400);
}

#[tokio::test]
async fn the_command_line_creates_lists_and_freezes() {
    let registry = Registry::start().await;
    let digest = registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let image = registry.image("web", "1");
    std::fs::write(builder.folder().join("web.yaml"), manifests("web")).unwrap();
    let run = async |caller: &str, arguments: &[&str]| builder.cli(caller, arguments).await;
    let create = ["release", "create", "--manifest", "web.yaml", "--image", &image];
    assert_eq!(run("ci", &create).await, Ok("web.1\n".to_owned()));
    let listed = run("reader", &["release", "list", "web"]).await.unwrap();
    assert!(listed.starts_with("RELEASE  IMAGE"), "{listed}");
    assert!(listed.contains(&digest), "{listed}");
    let deployed = run("ci", &["deploy", "web.1", "--to", "staging"]).await;
    assert_eq!(deployed, Ok("web.staging.1: web.1\n".to_owned()));
    run("admin", &["env", "freeze", "staging", "--reason", "audit"]).await.unwrap();
    let refused = run("ci", &["deploy", "web.1", "--to", "staging"]).await.unwrap_err();
    assert!(refused.contains("the environment is frozen"), "{refused}");
    let environments = run("ci", &["env", "list"]).await.unwrap();
    assert!(environments.contains("staging      frozen  web"), "{environments}");
    run("admin", &["env", "thaw", "staging"]).await.unwrap();
    let refused = run("ci", &["promote", "web", "--from", "staging", "--to", "dev"]).await;
    assert!(refused.unwrap_err().contains("no release of web runs in staging"));
    let refused = run("ci", &["rollback", "web", "--in", "staging"]).await.unwrap_err();
    assert!(refused.contains("no earlier release has been ready"), "{refused}");
    let audit = run("admin", &["audit", "list"]).await.unwrap();
    assert!(audit.contains("environment.freeze"), "{audit}");
    let refused = run("nobody", &["release", "list"]).await.unwrap_err();
    assert!(refused.contains("no valid key"), "{refused}");
}

#[tokio::test]
async fn a_registry_that_is_away_or_rejects_the_builder_makes_no_release() {
    let mut registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    builder.write_credentials("another");
    let rejected = builder.post("ci", "/api/v1/releases", &request).await;
    assert_eq!(rejected.status, 503, "{}", rejected.text());
    assert!(!rejected.text().contains("another"), "{}", rejected.text());
    builder.write_credentials(registry::PASSWORD);
    assert_eq!(builder.post("ci", "/api/v1/releases", &request).await.status, 201);
    let first = builder.post_once("ci", "/api/v1/releases", &request).await;
    assert_eq!(first.status, 201);
    registry.stop().await;
    let again = builder.post_once("ci", "/api/v1/releases", &request).await;
    assert_eq!((again.status, again.text()), (201, first.text()), "it needs no registry");
    assert_eq!(builder.post("ci", "/api/v1/releases", &request).await.status, 503);
    let listed = builder.get("ci", "/api/v1/releases").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn what_a_release_changes_is_shown_before_it_is_deployed() {
    let registry = Registry::start().await;
    let first = registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let image = registry.image("web", "1");
    let run = async |caller: &str, arguments: &[&str]| builder.cli(caller, arguments).await;
    let create = ["release", "create", "--manifest", "web.yaml", "--image", &image, "-o", "name"];
    std::fs::write(builder.folder().join("web.yaml"), manifests("web")).unwrap();
    assert_eq!(run("ci", &create).await, Ok("web.1\n".to_owned()));
    let later = manifests("web").replace("port: 80", "port: 81");
    std::fs::write(builder.folder().join("web.yaml"), later).unwrap();
    let second = registry.push("web", "1").await;
    run("ci", &create).await.unwrap();
    let diff = run("reader", &["release", "diff", "web.1", "web.2"]).await.unwrap();
    let host = registry.host();
    assert_eq!(
        diff,
        format!(
            "web.1 → web.2\n~ Service web\n    spec.ports[0].port: 80 → 81\n~ Deployment web\n    \
             spec.template.spec.containers[web].image: \"{host}/web@{first}\" → \
             \"{host}/web@{second}\"\n"
        )
    );
    let yaml = run("reader", &["release", "diff", "web.1", "web.2", "-o", "yaml"]).await.unwrap();
    let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml["objects"][0]["fields"][0]["after"], 81);
    let unseen = run("stranger", &["release", "diff", "web.1", "web.2"]).await.unwrap_err();
    let none = run("stranger", &["release", "diff", "none.1", "none.2"]).await.unwrap_err();
    assert_eq!(unseen, none);

    // The cluster is away, and says so; nothing is recorded.
    let dry = ["deploy", "web.2", "--to", "staging", "--dry-run"];
    let refused = run("ci", &dry).await.unwrap_err();
    assert!(refused.contains("nothing → web.2 + Service web + Deployment web"), "{refused}");
    assert!(refused.contains("the cluster cannot be reached"), "{refused}");
    assert!(run("reader", &dry).await.unwrap_err().contains("does not have the scope deploy"));
    let listed = builder.get("ci", "/api/v1/deployments?service=web&environment=staging").await;
    assert_eq!(listed.json()["items"], json!([]));

    // The tag has moved since web.1, and moves on.
    let images = run("reader", &["image", "list", "web"]).await.unwrap();
    assert!(images.contains("web.2    ") && images.contains("the same"), "{images}");
    let third = registry.push("web", "1").await;
    let images = run("reader", &["image", "list", "web"]).await.unwrap();
    let moved = format!("moved to {}", &third["sha256:".len()..][..12]);
    assert!(images.contains(&moved), "{images}");
    assert_eq!(run("stranger", &["image", "list", "web", "-o", "name"]).await, Ok(String::new()));
}

#[tokio::test]
async fn an_environment_is_shown_followed_and_changed_at_its_version() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let (_child, mut lines) = builder.follow("ci", &["env", "list", "-o", "name", "--watch"]);
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    builder.post("ci", "/api/v1/releases", &request).await;
    let deploy = json!({ "release": "web.1", "environment": "staging" });
    builder.post("ci", "/api/v1/deployments", &deploy).await;
    let line = crate::harness::soon("the change is printed", lines.next_line()).await;
    assert_eq!(line.unwrap().as_deref(), Some("staging"));
    let shown = builder.cli("ci", &["env", "show", "staging"]).await.unwrap();
    assert!(shown.contains("web.staging.1 (web.1)  recorded  ci"), "{shown}");
    let path = "/api/v1/environments/staging";
    let version = |answer: crate::harness::Answer| answer.header("etag").unwrap().to_owned();
    let open = version(builder.get("admin", path).await);
    let freeze = json!({ "frozen": true, "reason": "audit" });
    let frozen = builder.put_if("admin", path, &freeze, &open).await;
    assert_eq!(frozen.status, 204, "{}", frozen.text());
    assert_eq!(builder.put_if("admin", path, &freeze, &open).await.status, 412);
    let shown = builder.cli("ci", &["env", "show", "staging"]).await.unwrap();
    assert!(shown.starts_with("frozen by admin"), "{shown}");
    let current = version(builder.get("admin", path).await);
    let thaw = json!({ "frozen": false });
    assert_eq!(builder.put_if("admin", path, &thaw, &current).await.status, 204);
    assert_eq!(builder.put_if("admin", path, &thaw, "unquoted").await.status, 400);
    for name in ["staging", "none"] {
        let answer = builder.get("stranger", &format!("/api/v1/environments/{name}")).await;
        assert_eq!((answer.status, answer.header("etag")), (404, None), "{name}");
    }
}

#[tokio::test]
async fn idle_connections_of_one_peer_keep_no_one_out() {
    let registry = Registry::start().await;
    let builder = Builder::start(&registry, None).await;
    let idle = builder.idle_connections(300).await;
    for address in ["127.0.0.2", "127.0.0.1"] {
        let answer = builder.get_from(address, "ci", "/api/v1/releases").await;
        assert_eq!(answer.status, 200, "{address}");
    }
    drop(idle);
}

#[tokio::test]
async fn settings_are_layered_typed_and_shown_with_their_source() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let run = async |caller: &str, arguments: &[&str]| builder.cli(caller, arguments).await;
    let declared = "---\napiVersion: releases.portcullis.dev/v1\nkind: Settings\nmetadata: {name: \
                    web}\nsettings:\n  replicas: {type: integer, default: 2}\n  host: {type: string}\n";
    let template = manifests("web").replace(
        "  selector: {matchLabels",
        "  replicas: {{settings.replicas}}\n  paused: {{settings.host}}\n  selector: {matchLabels",
    );
    let file = builder.folder().join("web.yaml");
    let image = registry.image("web", "1");
    let create = ["release", "create", "--manifest", "web.yaml", "--image", &image];
    std::fs::write(&file, &template).unwrap();
    let refused = run("ci", &create).await.unwrap_err();
    assert!(refused.contains("/template/1/spec/replicas"), "{refused}");
    std::fs::write(&file, format!("{template}{declared}")).unwrap();
    run("ci", &create).await.unwrap();
    let shown = run("reader", &["release", "show", "web.1", "-o", "text"]).await.unwrap();
    assert!(shown.contains("replicas  integer  2"), "{shown}");

    // Without a value, there is no deployment; with one, it has its layer.
    let deploy = ["deploy", "web.1", "--to", "staging"];
    let refused = run("ci", &deploy).await.unwrap_err();
    assert!(refused.contains("/settings/host"), "{refused}");
    let set = |more: &[&'static str]| [&["env", "set", "staging"], more].concat();
    run("admin", &set(&["host=all.test"])).await.unwrap();
    run("ci", &set(&["--service", "web", "replicas=4"])).await.unwrap();
    for (caller, arguments, expected) in [
        ("ci", set(&["host=all.test"]), "the scope admin for all services"),
        ("reader", set(&["--service", "web", "replicas=4"]), "the scope deploy"),
        ("stranger", set(&["--service", "web", "replicas=4"]), "nothing here"),
        ("ci", set(&["--service", "web", "--string", "replicas=4"]), "/values/replicas"),
        ("ci", set(&["--service", "web", "relicas=4"]), "does not declare it"),
    ] {
        let refused = run(caller, &arguments).await.unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
    let listed = run("reader", &["env", "settings", "staging", "--service", "web"]).await.unwrap();
    for line in ["host      string   all.test  environment", "replicas  integer  4         service"]
    {
        assert!(listed.contains(line), "{listed}");
    }
    let environment = run("admin", &["env", "show", "staging"]).await;
    assert!(environment.is_err(), "nothing was deployed there");
    run("ci", &deploy).await.unwrap();
    let shown = builder.get("reader", "/api/v1/deployments/web.staging.1").await.json();
    assert_eq!(
        shown["settings"][1],
        json!({ "name": "replicas", "value": 4, "source": "service" })
    );
    let environment = run("admin", &["env", "show", "staging"]).await.unwrap();
    assert!(environment.starts_with("setting host: all.test\n"), "{environment}");
    let dry = ["deploy", "web.1", "--to", "staging", "--dry-run"];
    let dry = run("ci", &dry).await.unwrap_err();
    assert!(dry.contains("+ Deployment web"), "{dry}");
    run("ci", &["env", "unset", "staging", "--service", "web", "replicas"]).await.unwrap();
    let listed = run("reader", &["env", "settings", "staging", "--service", "web"]).await.unwrap();
    assert!(listed.contains("replicas  integer  2         default"), "{listed}");
}

#[tokio::test]
async fn a_hundred_releases_at_once_are_all_there_on_whole_pages() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let request =
        |name: &str| json!({ "template": manifests(name), "image": registry.image("web", "1") });
    let requests: Vec<_> = (0..100)
        .map(|number| ("admin", if number % 2 == 0 { "web" } else { "shop" }))
        .map(|(caller, name)| (caller, request(name)))
        .collect();
    let posts =
        requests.iter().map(|(caller, body)| builder.post(caller, "/api/v1/releases", body));
    for created in futures::future::join_all(posts).await {
        assert_eq!(created.status, 201, "{}", created.text());
    }
    // Releases of the other service leave no gaps in the pages of those who may not see them.
    for (caller, limit, expected) in [("reader", 7, 50), ("stranger", 50, 50), ("admin", 50, 100)] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/releases?limit={limit}{after}");
            let page = builder.get(caller, &path).await.json();
            let items = page["items"].as_array().unwrap();
            seen.extend(items.iter().map(|release| release["id"].to_string()));
            let Some(next) = page["next"].as_str() else { break };
            assert_eq!(items.len(), limit, "only the last page is shorter");
            after = format!("&after={next}");
        }
        assert_eq!(seen.len(), expected, "{caller}");
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), expected, "{caller}: none is there twice");
    }
    for bad in ["limit=0", "limit=51", "limit=1&limit=2", "after=x", "after=1.web.0"] {
        let answer = builder.get("admin", &format!("/api/v1/releases?{bad}")).await;
        assert_eq!(answer.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn each_list_has_every_format() {
    let registry = Registry::start().await;
    registry.push("web", "1").await;
    let builder = Builder::start(&registry, None).await;
    let request = json!({ "template": manifests("web"), "image": registry.image("web", "1") });
    assert_eq!(builder.post("ci", "/api/v1/releases", &request).await.status, 201);
    let order = json!({ "release": "web.1", "environment": "staging" });
    assert_eq!(builder.post("ci", "/api/v1/deployments", &order).await.status, 202);
    let image = registry.image("web", "1");
    for (list, name, header) in [
        (&["release", "list"][..], "web.1", "RELEASE"),
        (&["env", "list"], "staging", "ENVIRONMENT"),
        (&["env", "show", "staging"], "staging", "SERVICE"),
        (&["image", "list", "web"], &image, "IMAGE"),
        (&["audit", "keys"], "", "CALLER"),
        (&["audit", "list"], "web.staging.1\nweb.1", ""),
    ] {
        let run = async |format: &str| {
            builder.cli("admin", &[list, &["-o", format]].concat()).await.unwrap()
        };
        let json: Value = serde_json::from_str(&run("json").await).unwrap();
        let yaml: Value = serde_saphyr::from_str(&run("yaml").await).unwrap();
        assert_eq!(json, yaml, "{list:?}");
        assert!(run("name").await.starts_with(name), "{list:?}");
        assert!(run("text").await.starts_with(header), "{list:?}");
    }
    // A repeated request returns what the first one made, and another one with its key is refused.
    let again = builder.post_once("ci", "/api/v1/deployments", &order).await.text();
    assert_eq!(builder.post_once("ci", "/api/v1/deployments", &order).await.text(), again);
    let other = json!({ "release": "web.1", "environment": "dev" });
    assert_eq!(builder.post_once("ci", "/api/v1/deployments", &other).await.status, 422);
}
