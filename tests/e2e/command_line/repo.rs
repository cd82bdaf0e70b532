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
    let row = "web      dockerfile  web/Dockerfile  web      web/k8s.yaml";
    assert!(warned.contains(row), "{warned}");
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

#[test]
fn repo_check_says_which_builder_makes_each_image_and_runs_none() {
    let folder = temporary_folder();
    let path = folder.path();
    git(path, &["init", "--quiet"]);
    let file = "services:\n- {name: web, dockerfile: web/Dockerfile, manifests: [k8s.yaml]}\n\
                - name: api\n  command: [sh, -c, \"touch executed\\e[31m; make a long image\", x]\n  \
                context: api\n  output: api/out\n  manifests: [k8s.yaml]\n\
                - {name: cart, bazel: '//cart:image', manifests: [k8s.yaml]}\n";
    let files = [
        ("portcullis.yaml", file),
        ("k8s.yaml", MANIFESTS),
        ("web/Dockerfile", "FROM scratch\n"),
        ("api/Makefile", ""),
        ("cart/BUILD", "fail('it was executed')\n"),
    ];
    commit(path, &files);
    insta::assert_snapshot!(output_of(path, &["repo", "check"]));
    let json = run(path, &["repo", "check", "-o", "json"]);
    let survey: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let builders: Vec<_> = ["builder", "dockerfile", "output", "label"]
        .iter()
        .flat_map(|key| {
            survey["targets"].as_array().expect("targets").iter().map(move |it| &it[key])
        })
        .filter_map(serde_json::Value::as_str)
        .collect();
    let expected = ["dockerfile", "command", "bazel", "web/Dockerfile", "api/out", "//cart:image"];
    assert_eq!(builders, expected);

    // What only a query would find is not listed.
    git(path, &["rm", "--quiet", "portcullis.yaml", "web/Dockerfile"]);
    commit(path, &[("WORKSPACE", "fail('it was executed')\n"), ("cart/k8s.yaml", MANIFESTS)]);
    insta::assert_snapshot!(output_of(path, &["repo", "check"]));
}
