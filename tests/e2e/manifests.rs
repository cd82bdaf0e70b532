//! The manifests in `deploy`: which rights they grant, and what several installations share.

use std::path::{Path, PathBuf};
use std::process::Command;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a manifest")
}

/// The resources that a kustomization lists.
fn resources(kustomization: &Path) -> Vec<String> {
    let text = read(&kustomization.join("kustomization.yaml"));
    let list = text.split("resources:\n").nth(1).expect("resources");
    let lines = list.lines().map_while(|line| line.strip_prefix("  - "));
    lines.map(|name| read(&kustomization.join(name))).collect()
}

/// The rules for Secrets, each from its resources to its verbs.
fn rules_for_secrets(manifest: &str) -> Vec<&str> {
    manifest
        .split("apiGroups:")
        .skip(1)
        .filter(|rule| rule.contains("secrets"))
        .map(|rule| rule.split("---").next().unwrap_or_default())
        .collect()
}

#[test]
fn only_the_component_for_acme_grants_making_and_deleting_secrets() {
    let base = deploy().join("kubernetes");
    let manifests = resources(&base);
    assert!(manifests.len() >= 8, "{}", manifests.len());
    let rules: Vec<&str> =
        manifests.iter().flat_map(|manifest| rules_for_secrets(manifest)).collect();
    assert!(rules.len() >= 3, "{rules:?}");
    for rule in rules {
        assert!(["create", "update", "delete"].iter().all(|verb| !rule.contains(verb)), "{rule}");
        assert!(!rule.contains("patch") || rule.contains("resourceNames"), "{rule}");
    }
    let acme = resources(&base.join("components/acme"));
    assert!(rules_for_secrets(&acme[0])[0].contains("create"));
}

#[test]
fn two_installations_share_no_object_without_a_namespace() {
    let folder = tempfile::tempdir().expect("a folder");
    let copied = Command::new("cp").arg("-r").arg(deploy()).arg(folder.path()).status();
    assert!(copied.expect("cp runs").success());
    let overlay = folder.path().join("deploy/overlay");
    let render = |namespace: &str| {
        let path = overlay.join("kustomization.yaml");
        let text = read(&path).replace("namespace: portcullis", &format!("namespace: {namespace}"));
        let components = "components:\n  - ../kubernetes/components/verify-endpoints\n";
        let other = folder.path().join("deploy").join(namespace);
        std::fs::create_dir(&other).expect("a folder");
        std::fs::copy(overlay.join("gateway.yaml"), other.join("gateway.yaml")).expect("a copy");
        std::fs::write(other.join("kustomization.yaml"), text + components).expect("an overlay");
        Command::new("kubectl").arg("kustomize").arg(other).output()
    };
    let Ok(one) = render("one") else {
        println!("SKIPPED: there is no kubectl to render the overlay with");
        return;
    };
    let other = render("two").expect("kubectl runs");
    let cluster_wide = |output: &std::process::Output| -> Vec<String> {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let documents = text.split("---\n").filter(|text| text.contains("kind: ClusterRole"));
        let names = documents.map(|document| {
            let line = document.lines().find_map(|line| line.strip_prefix("  name: "));
            line.expect("a name").to_owned()
        });
        names.collect()
    };
    let (one, other) = (cluster_wide(&one), cluster_wide(&other));
    assert_eq!((one.len(), other.len()), (7, 7), "{one:?}");
    assert!(one.iter().all(|name| name.ends_with(":one")), "{one:?}");
    assert!(other.iter().all(|name| name.ends_with(":two")), "{other:?}");
}
