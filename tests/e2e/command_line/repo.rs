//! `repo check`: what commits of repositories would build.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{output_of, run, temporary_folder};

const MANIFESTS: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  \
                         template:\n    spec:\n      containers:\n      - {name: web, image: \
                         {{image}}}\n";

fn git(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(["-c", "user.name=Tests", "-c", "user.email=t@example.com"]);
    let output = command.args(arguments).output().expect("git runs");
    assert!(output.status.success(), "{output:?}");
}

fn commit(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it is created");
        fs::write(path, text).expect("it is written");
    }
    git(folder, &["add", "--all"]);
    git(folder, &["commit", "--quiet", "--message", "change"]);
}

#[test]
fn repo_check_lists_what_a_commit_would_build_and_every_problem() {
    let folder = temporary_folder();
    let path = folder.path();
    git(path, &["init", "--quiet", "--initial-branch", "$(touch${IFS}executed)"]);
    commit(
        path,
        &[
            ("web/Dockerfile", "FROM scratch\n"),
            ("web/k8s.yaml", MANIFESTS),
            ("tools/Dockerfile", "FROM scratch\n"),
        ],
    );
    let warned = output_of(path, &["repo", "check"]);
    assert!(warned.starts_with("exit code 0\n"), "{warned}");
    assert!(warned.contains("web      web/Dockerfile  web      web/k8s.yaml"), "{warned}");
    assert!(warned.contains("tools/Dockerfile:1:1") && warned.contains("not built"), "{warned}");
    let branch = output_of(path, &["repo", "check", "web", "--commit", "$(touch${IFS}executed)"]);
    assert_eq!(branch, warned, "a branch is one argument of git");

    commit(path, &[("shop/Dockerfile", "FROM scratch\n"), ("shop/k8s.yaml", "kind: [\n")]);
    let wrong = run(path, &["repo", "check", "-o", "json"]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let survey: serde_json::Value = serde_json::from_slice(&wrong.stdout).expect("JSON");
    assert_eq!(survey["targets"][0]["service"], "web");
    assert_eq!(survey["targets"][0]["dockerfile"], "web/Dockerfile");
    let place = survey["problems"][0]["place"].as_str().expect("a place");
    assert!(place.starts_with("shop/k8s.yaml:"), "{place}");
    let earlier = output_of(path, &["repo", "check", "--commit", "HEAD^", "-o", "name"]);
    assert!(earlier.starts_with("exit code 0\n") && earlier.contains("web\n"), "{earlier}");

    commit(path, &[("portcullis.yaml", "services:\n- {name: web, dockerfile: ../x}\n")]);
    let outside = output_of(path, &["repo", "check"]);
    assert!(
        outside.starts_with("exit code 1\n") && outside.contains("portcullis.yaml:2"),
        "{outside}"
    );
    assert!(!path.join("executed").exists());
    let absent = output_of(path, &["repo", "check", "--commit", "none"]);
    assert!(absent.contains("no commit"), "{absent}");
}
