//! How commits reach the builder: over SSH, and many at once.

use serde_json::{Value, json};

use super::super::ssh_server::SshServer;
use super::Shop;
use crate::harness::eventually;

#[tokio::test]
async fn a_push_over_ssh_becomes_a_release_and_runs() {
    let ssh = SshServer::start().await;
    let shop = Shop::following(
        |server| {
            json!({ "url": ssh.url(&server.folder("shop")), "sshKey": ssh.file("client"),
                "sshKnownHosts": ssh.file("known_hosts") })
        },
        &json!({}),
    )
    .await;
    shop.write_file("web", "first");
    shop.work.git(&["add", "--all"]);
    shop.work.git(&["commit", "--quiet", "--message", "change"]);
    let commit = shop.work.git(&["rev-parse", "HEAD"]);
    let command = format!(
        "core.sshCommand=ssh -F none -o BatchMode=yes -o UserKnownHostsFile={} -i {}",
        ssh.file("known_hosts").display(),
        ssh.file("client").display()
    );
    let url = ssh.url(&shop.server.folder("shop"));
    shop.work.git(&["-c", &command, "push", "--quiet", &url, "HEAD:refs/heads/master"]);
    shop.builder.cli("admin", &["repo", "sync", "shop"]).await.expect("it is fetched");
    shop.state_is(2, "succeeded").await;
    let released = &shop.releases("web").await[0];
    assert_eq!(released["commit"], json!(commit));
    let digest = shop.registry.digest("web", &commit).await.expect("it is pushed");
    assert_eq!(released["image"], json!(format!("{}/web@{digest}", shop.registry.host())));
    shop.runs("web.1").await;
}

#[tokio::test]
async fn of_a_hundred_pushes_at_once_none_is_lost_and_two_are_built_at_most() {
    const PUSHES: usize = 100;
    let shop = Shop::start(&json!({})).await;
    // Longer than all pushes take.
    shop.write_script("sleep 40");
    shop.push().await;
    let mut commits = Vec::new();
    for number in 0..PUSHES {
        shop.write_file("web", &number.to_string());
        shop.work.git(&["add", "--all"]);
        shop.work.git(&["commit", "--quiet", "--message", "change"]);
        commits.push(shop.work.git(&["rev-parse", "HEAD"]));
    }
    shop.state_is(2, "running").await;
    for commit in &commits {
        shop.work.git(&["push", "--quiet", "origin", &format!("{commit}:refs/heads/master")]);
        // Each is reported, as by a webhook.
        let fetch = "/api/v1/repositories/shop/fetches";
        assert_eq!(shop.builder.post("admin", fetch, &json!({})).await.status, 202);
    }
    assert_eq!(shop.build(2).await["state"], "running", "all pushes were at once");
    let last = commits.pop().expect("a commit");
    let ended = async || {
        let mut all = Vec::new();
        let mut path = "/api/v1/builds?repository=shop&limit=50".to_owned();
        loop {
            let page = shop.get(&path).await;
            all.extend(page["items"].as_array().expect("a page").clone());
            let Some(next) = page["next"].as_str() else { return all };
            path = format!("/api/v1/builds?repository=shop&limit=50&after={next}");
        }
    };
    eventually("the newest commit is built", || async {
        let builds = ended().await;
        let is_open = |build: &Value| build["state"] == "waiting" || build["state"] == "running";
        builds[0]["commit"] == last && !builds.iter().any(is_open)
    })
    .await;
    let builds = ended().await;
    let of = |state: &str| builds.iter().filter(|build| build["state"] == state).count();
    // Beside the commit without an image, that of the script, and the newest one.
    assert_eq!((of("succeeded"), of("failed")), (2, 1), "{builds:?}");
    assert_eq!(of("superseded"), builds.len() - 3, "whatever was seen is recorded");
    let started = builds.iter().filter(|build| build["attempts"].as_u64() > Some(0)).count();
    assert_eq!(started, 3, "no other one was started");
    assert_eq!(shop.releases("web").await[0]["commit"], json!(last), "nothing is lost");
    shop.runs("web.2").await;
}
