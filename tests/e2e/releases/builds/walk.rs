//! The commands of docs/builds.md as they are written, on the test node, after those of
//! docs/releases.md: what is pushed to a git server is what the gateway's URL answers with.

use std::fs;

use super::super::git_server::{CREDENTIALS, GitServer};
use super::super::ssh_server::SshServer;
use super::super::walk::{self, GIT_ADDRESS, GIT_HOST, Walk, file_of};
use super::base_image;
use crate::documentation::{BUILDS, blocks};
use crate::harness::eventually;

/// The repository, as the page's URL names it.
const REPOSITORY: &str = "team/shop";
/// The image that the page's Dockerfile starts from.
const BASE: &str = "docker.io/library/busybox:1.36";
const START: &str = "portcullis builder --config builder.yaml &";

#[tokio::test]
#[ignore = "needs the node of tests/cluster/run"]
async fn the_documented_commands_lead_to_releases_and_back_and_to_what_is_pushed() {
    let mut walk = walk::follow().await;
    follow(&mut walk).await;
    walk.end().await;
}

/// Runs the page's commands, and then what they leave open.
async fn follow(walk: &mut Walk) {
    let git = GitServer::named(GIT_HOST, GIT_ADDRESS).await;
    git.create(REPOSITORY);
    let path = |name: &str| walk.folder.path().join(name);
    let user = format!(
        "[user]\nname = Tests\nemail = tests@example.com\n[http]\nsslCAInfo = {}\n[credential]\nhelper \
         = store --file={}\n[init]\ndefaultBranch = master\n",
        git.file("ca.pem").display(),
        path("passwords").display(),
    );
    fs::write(path("gitconfig"), user).expect("the user's configuration");
    fs::write(path("passwords"), format!("https://{CREDENTIALS}@{GIT_HOST}\n"))
        .expect("a password");
    fs::write(path("git-credentials"), CREDENTIALS).expect("the builder's password");
    base_image(walk.folder.path(), BASE);
    let settings = fs::read_to_string(path("builder.yaml")).expect("the configuration");
    // The system trusts the server, on the page.
    let credentials = "    credentials: git-credentials\n";
    let trust = format!("    certificateAuthorities: {}\n", git.file("ca.pem").display());
    let builds = file_of(BUILDS, "builder.yaml, in addition")
        .replace(credentials, &format!("{credentials}{trust}"));
    fs::write(path("builder.yaml"), format!("{settings}{builds}")).expect("the configuration");

    let blocks: Vec<String> = blocks::of(BUILDS)
        .into_iter()
        .filter(|block| block.is_tested("builds"))
        .map(|block| block.text)
        .collect();
    let [files, first, second] = &blocks[..] else { panic!("{blocks:#?}") };
    walk.run(files).await;
    let dockerfile = walk.folder.path().join("shop/web/Dockerfile");
    fs::write(dockerfile, file_of(BUILDS, "shop/web/Dockerfile")).expect("the Dockerfile");
    stop(walk).await;
    let shown = walk.run(first).await.pop().expect("the last command");
    let is_deployed = shown.contains("succeeded") && shown.contains("deployed: web.staging.");
    assert!(is_deployed, "{shown}");
    answers_with(walk, "Welcome to the shop").await;
    walk.run(second).await;
    answers_with(walk, "Welcome back").await;

    // What changes no input is no new release; a build that fails changes nothing.
    commit(walk, "README.md", "read me").await;
    let same = state(walk, "shop.3", "succeeded").await;
    assert!(same.contains("unchanged since"), "{same}");
    commit(walk, "web/Dockerfile", "FROM docker.io/library/absent:1\n").await;
    state(walk, "shop.4", "failed").await;
    answers_with(walk, "Welcome back").await;

    // The same over SSH.
    let ssh = SshServer::start().await;
    let path = |name: &str| walk.folder.path().join(name);
    let settings = fs::read_to_string(path("builder.yaml")).expect("the configuration");
    let url = ssh.url(&git.folder(REPOSITORY));
    let keys = format!(
        "    sshKey: {}\n    sshKnownHosts: {}\n",
        ssh.file("client").display(),
        ssh.file("known_hosts").display()
    );
    let settings = settings
        .replace(&git.url(REPOSITORY), &url)
        .replace(&format!("{credentials}{trust}"), &keys);
    fs::write(path("builder.yaml"), settings).expect("the configuration");
    stop(walk).await;
    walk.run(START).await;
    walk.run(&format!("git -C shop remote set-url origin {url}")).await;
    let command = format!(
        "ssh -F none -o BatchMode=yes -o UserKnownHostsFile={} -i {}",
        ssh.file("known_hosts").display(),
        ssh.file("client").display()
    );
    walk.run(&format!("git -C shop config core.sshCommand '{command}'")).await;
    walk.run("git -C shop revert --no-edit HEAD").await;
    commit(walk, "web/www/index.html", "Welcome by SSH").await;
    state(walk, "shop.5", "succeeded").await;
    answers_with(walk, "Welcome by SSH").await;
}

/// Ends the builder.
async fn stop(walk: &mut Walk) {
    if let Some(mut builder) = walk.builder.take() {
        builder.kill().await.expect("it ends");
    }
}

/// Commits and pushes a file, and lets the builder fetch it.
async fn commit(walk: &mut Walk, path: &str, text: &str) {
    fs::write(walk.folder.path().join("shop").join(path), text).expect("it is written");
    walk.run(
        "git -C shop add --all\ngit -C shop commit --message change\ngit -C shop push\n\
         portcullis repo sync shop --wait",
    )
    .await;
}

/// Waits until a build has ended in this state; returns what is shown of it.
async fn state(walk: &Walk, build: &str, state: &str) -> String {
    let shown = async || walk.printed(&format!("portcullis build show {build}")).await;
    eventually(&format!("{build} is {state}"), || async { shown().await.contains(state) }).await;
    shown().await
}

/// Waits until the URL answers with a page.
async fn answers_with(walk: &Walk, text: &str) {
    eventually(&format!("the URL answers {text}"), || async {
        let answer = walk.gateway.curl("web--staging.apps.test", "/index.html").run().await;
        answer.status == 200 && answer.text().trim() == text
    })
    .await;
}
