//! Repositories that the builder follows: real git over `git http-backend`, webhooks by curl.

use std::fs;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::builder::Builder;
use super::git_server::{CREDENTIALS, GitServer};
use super::registry::Registry;
use super::ssh_server::SshServer;
use crate::harness::{Answer, Curl, eventually};

const SECRET: &str = "a-secret-of-the-webhook";

const MANIFESTS: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  \
                         template:\n    spec:\n      containers:\n      - {name: web, image: \
                         {{image}}}\n";

/// A repository of the configuration, polled once an hour.
fn repository(server: &GitServer, name: &str, services: &[&str]) -> Value {
    let file = |name: &str, text: &str| {
        fs::write(server.file(name), text).expect("a file of the configuration");
        server.file(name)
    };
    json!({
        "name": name, "url": server.url(name), "services": services, "pollEvery": "1h",
        "credentials": file("credentials", CREDENTIALS),
        "certificateAuthorities": server.file("ca.pem"),
        "webhookSecret": file("webhook-secret", SECRET),
    })
}

async fn follow(registry: &Registry, repositories: Value) -> Builder {
    let builds = json!({ "folder": "mirrors", "maxMirror": 4, "repositories": repositories });
    Builder::start_with(registry, None, &json!({ "builds": builds })).await
}

async fn details(builder: &Builder, name: &str) -> Value {
    builder.get("admin", &format!("/api/v1/repositories/{name}")).await.json()
}

/// Waits until the newest commit is known.
async fn is_at(builder: &Builder, name: &str, commit: &str) {
    eventually("the newest commit is known", || async {
        details(builder, name).await["commit"] == commit
    })
    .await;
}

/// Delivers a webhook as GitHub does.
async fn deliver(builder: &Builder, name: &str, secret: &str, body: &str) -> Answer {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hex::encode(hmac::sign(&key, body.as_bytes()));
    Curl::new(&format!("{}/webhooks/github/{name}", builder.url()))
        .args(["--cacert", &builder.folder().join("ca.pem").to_string_lossy()])
        .args(["--data-binary", body])
        .header("Content-Type: application/json")
        .header("X-GitHub-Event: push")
        .header(&format!("X-Hub-Signature-256: sha256={signature}"))
        .run()
        .await
}

fn push_of(commit: &str) -> String {
    json!({ "ref": "refs/heads/master", "after": commit }).to_string()
}

#[tokio::test]
async fn a_push_is_known_at_once_by_its_webhook() {
    let (registry, server) = (Registry::start().await, GitServer::start().await);
    let work = server.create("shop");
    work.write("web/Dockerfile", "FROM scratch\n");
    work.write("web/k8s.yaml", MANIFESTS);
    let first = work.push("master");
    let builder = follow(&registry, json!([repository(&server, "shop", &["web"])])).await;
    is_at(&builder, "shop", &first).await;
    let shown = details(&builder, "shop").await;
    assert_eq!(shown["content"]["targets"][0]["service"], "web");
    let key = shown["content"]["targets"][0]["key"].clone();
    assert_eq!((&shown["targets"], &shown["errors"]), (&json!(1), &json!(0)));
    let mirror = builder.folder().join("mirrors/shop.git");
    assert!(mirror.join("HEAD").exists() && !mirror.join("web").exists(), "it is bare");

    work.write("README.md", "changed\n");
    let second = work.push("master");
    let pushed = Instant::now();
    assert_eq!(deliver(&builder, "shop", SECRET, &push_of(&second)).await.status, 202);
    is_at(&builder, "shop", &second).await;
    assert!(pushed.elapsed() < Duration::from_secs(10), "{:?}", pushed.elapsed());
    let shown = details(&builder, "shop").await;
    assert_eq!(shown["content"]["targets"][0]["key"], key, "its inputs are the same");

    // A force-push to an older commit is one, too.
    work.git(&["push", "--quiet", "--force", "origin", &format!("{first}:refs/heads/master")]);
    assert_eq!(
        builder.cli("ci", &["repo", "sync", "shop"]).await.unwrap(),
        "shop: it will be fetched\n"
    );
    is_at(&builder, "shop", &first).await;
    let listed = builder.cli("reader", &["repo", "list"]).await.unwrap();
    assert!(listed.contains(&first[..12]), "{listed}");
    let shown = builder.cli("reader", &["repo", "show", "shop"]).await.unwrap();
    assert!(shown.contains("web/Dockerfile"), "{shown}");
}

#[tokio::test]
async fn a_bad_webhook_gets_what_an_unknown_path_gets_and_a_replay_too() {
    let (registry, server) = (Registry::start().await, GitServer::start().await);
    let work = server.create("shop");
    let commit = work.push("master");
    let builder = follow(&registry, json!([repository(&server, "shop", &["web"])])).await;
    is_at(&builder, "shop", &commit).await;
    let body = push_of(&commit);
    let unknown = deliver(&builder, "x/y", SECRET, &body).await;
    assert_eq!(unknown.status, 404);
    let before = server.fetches();
    assert_eq!(deliver(&builder, "shop", SECRET, &body).await.status, 202);
    eventually("it is fetched", || async { server.fetches() > before }).await;
    let after = server.fetches();
    let mut refused = vec![
        deliver(&builder, "shop", SECRET, &body).await,
        deliver(&builder, "shop", "another-secret-of-it", &body).await,
        deliver(&builder, "none", SECRET, &body).await,
        deliver(&builder, "%ff", SECRET, &body).await,
        deliver(&builder, "SHOP", SECRET, &body).await,
    ];
    let url = format!("{}/webhooks/github/shop", builder.url());
    let authority = builder.folder().join("ca.pem");
    let call = || Curl::new(&url).args(["--cacert", &authority.to_string_lossy()]);
    refused.push(call().run().await);
    refused.push(call().args(["--data-binary", &body]).run().await);
    let signature = "X-Hub-Signature-256: sha256=00";
    refused.push(call().args(["--data-binary", &body]).header(signature).run().await);
    let shape = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.retain(|(name, _)| name != "date");
        (answer.status, headers, answer.text())
    };
    for answer in &refused {
        assert_eq!(shape(answer), shape(&unknown));
    }
    // Of another branch: accepted, and nothing is fetched.
    let other = body.replace("master", "other");
    assert_eq!(deliver(&builder, "shop", SECRET, &other).await.status, 202);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(server.fetches(), after);
    // A hundred pushes at once are a few fetches, and none is lost.
    let mut last = String::new();
    for number in 0..20 {
        work.write("number", &number.to_string());
        last = work.push("master");
        assert_eq!(deliver(&builder, "shop", SECRET, &push_of(&last)).await.status, 202);
    }
    is_at(&builder, "shop", &last).await;
    assert!(server.fetches() - after <= 21, "{}", server.fetches() - after);
}

#[tokio::test]
async fn hostile_and_broken_repositories_are_reported_and_stop_no_other() {
    let (registry, server) = (Registry::start().await, GitServer::start().await);
    let branch = "$(touch${IFS}executed)";
    let odd = server.create("odd");
    odd.write("web/Dockerfile", "FROM scratch\n");
    odd.write("web/k8s.yaml", MANIFESTS);
    let newest = odd.push(branch);
    // Larger than 4 MiB, and not compressible.
    let large = server.create("large");
    let mut random = vec![0; 6 << 20];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    large.write("blob", &hex::encode(&random));
    large.push("master");
    server.create("empty");
    let foreign = server.create("foreign");
    foreign.write("web/Dockerfile", "FROM scratch\n");
    foreign.write("web/k8s.yaml", MANIFESTS);
    let stolen = foreign.push("master");
    let mut odd_settings = repository(&server, "odd", &["web"]);
    odd_settings["branch"] = json!(branch);
    let mut wrong = repository(&server, "wrong", &["web"]);
    wrong["credentials"] = json!(server.file("webhook-secret"));
    let repositories = json!([
        odd_settings,
        wrong,
        repository(&server, "large", &["web"]),
        repository(&server, "empty", &["web"]),
        repository(&server, "absent", &["web"]),
        repository(&server, "foreign", &["shop"]),
    ]);
    let builder = follow(&registry, repositories).await;
    is_at(&builder, "odd", &newest).await;
    is_at(&builder, "foreign", &stolen).await;
    let shown = details(&builder, "foreign").await;
    let problem = &shown["content"]["problems"][0];
    assert_eq!(problem["message"], "the repository may not build the service web");
    assert_eq!(shown["targets"], 0);
    for (name, expected) in [
        ("large", "the repository has more than 4 MiB"),
        ("empty", "the repository has no branch \"master\""),
        ("absent", "not found"),
        ("wrong", "it does not have the form USER:PASSWORD"),
    ] {
        eventually("the problem is reported", || async {
            details(&builder, name).await["problem"].is_string()
        })
        .await;
        let shown = details(&builder, name).await;
        let problem = shown["problem"].as_str().unwrap();
        assert!(problem.contains(expected), "{name}: {problem}");
        assert!(!problem.contains("git-secret"), "{problem}");
    }
    assert!(!builder.folder().join("mirrors/large.git").exists());
    let executed = walk(builder.folder()).into_iter().any(|path| path.ends_with("executed"));
    assert!(!executed, "a branch reached a shell");
}

#[tokio::test]
async fn a_repository_is_followed_over_ssh_with_a_known_host_key_alone() {
    let (registry, server) = (Registry::start().await, GitServer::start().await);
    let ssh = SshServer::start().await;
    let work = server.create("shop");
    let commit = work.push("master");
    let repository = |name: &str, hosts: &str, key: &str| {
        json!({
            "name": name, "url": ssh.url(&server.folder("shop")), "services": ["web"],
            "pollEvery": "1s", "sshKey": ssh.file(key), "sshKnownHosts": ssh.file(hosts),
        })
    };
    let repositories = json!([
        repository("good", "known_hosts", "client"),
        repository("unknown-host", "wrong_hosts", "client"),
        repository("unknown-key", "known_hosts", "other"),
    ]);
    let builder = follow(&registry, repositories).await;
    is_at(&builder, "good", &commit).await;
    let next = work.push("master");
    is_at(&builder, "good", &next).await;
    for (name, expected) in
        [("unknown-host", "Host key verification failed"), ("unknown-key", "Permission denied")]
    {
        eventually("the problem is reported", || async {
            details(&builder, name).await["problem"].is_string()
        })
        .await;
        let shown = details(&builder, name).await;
        assert!(shown["problem"].as_str().unwrap().contains(expected), "{shown}");
        assert!(shown["commit"].is_null());
    }
}

/// All paths below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(walk(&path));
        }
        paths.push(path);
    }
    paths
}

#[tokio::test]
async fn a_repository_that_a_caller_may_not_read_does_not_exist() {
    let (registry, server) = (Registry::start().await, GitServer::start().await);
    for name in ["shop", "all"] {
        server.create(name).push("master");
    }
    let repositories =
        json!([repository(&server, "shop", &["web"]), repository(&server, "all", &["*"])]);
    let builder = follow(&registry, repositories).await;
    let names = async |caller: &str| {
        let listed = builder.get(caller, "/api/v1/repositories").await.json();
        let items = listed["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("admin").await, ["all", "shop"]);
    assert_eq!(names("reader").await, ["shop"]);
    assert_eq!(names("stranger").await, [""; 0]);
    let none = builder.get("reader", "/api/v1/repositories/none").await;
    assert_eq!(none.status, 404);
    for (caller, path) in [("reader", "all"), ("stranger", "shop"), ("reader", "SHOP")] {
        let answer = builder.get(caller, &format!("/api/v1/repositories/{path}")).await;
        assert_eq!((answer.status, answer.text()), (404, none.text()), "{caller} {path}");
        let path = format!("/api/v1/repositories/{path}/fetches");
        assert_eq!(builder.post(caller, &path, &json!({})).await.status, 404);
    }
    let fetch = "/api/v1/repositories/shop/fetches";
    assert_eq!(builder.post("reader", fetch, &json!({})).await.status, 403);
    assert_eq!(builder.post("ci", fetch, &json!({})).await.status, 202);
    assert_eq!(builder.get("nobody", "/api/v1/repositories").await.status, 401);
}
