//! Golden pairs: the canary of each `testdata/canary/NAME.in.yaml` is `NAME.out.yaml`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p portcullis-release canary` regenerates the outputs: then review
//! the difference.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::manifest::Template;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/canary")
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries
        .filter_map(|name| name.to_str().unwrap().strip_suffix(".in.yaml").map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn rendered(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder().join(format!("{name}.in.yaml"))).unwrap();
    assert!(text.starts_with("# "), "{name} begins with a comment");
    let template = Template::parse(&Value::String(text)).unwrap_or_else(|problems| {
        panic!("{name}: {problems:?}");
    });
    template.render(&"web.7".parse().unwrap(), "registry.example.com/web@sha256:0", &[], "shop")
}

#[test]
fn each_release_has_its_canary() {
    let names = names();
    assert!(names.len() >= 20, "only {} inputs", names.len());
    let mut wrong = Vec::new();
    for name in names {
        let output = match canary(&rendered(&name), "web", 2) {
            Ok(canary) => json!({ "manifests": canary.manifests, "claims": canary.claims }),
            Err(refusals) => {
                let refusals: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
                json!({ "refused": refusals })
            }
        };
        let output = serde_saphyr::to_string(&output).unwrap();
        let path = folder().join(format!("{name}.out.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &output).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if output != expected {
            wrong.push(format!("--- {name}: expected\n{expected}--- got\n{output}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The law, for every pair: no selector of the release has the canary's pods, and the canary's
/// Service has no others.
#[test]
fn nothing_selects_both() {
    for name in names() {
        let manifests = rendered(&name);
        let Ok(canary) = canary(&manifests, "web", 2) else { continue };
        let services = |objects: &[Value]| -> Vec<Value> {
            objects.iter().filter(|one| is(one, "", "Service")).cloned().collect()
        };
        for labels in &canary.labels {
            assert_eq!(selected_by(labels, &services(&manifests)), [], "{name}");
            assert_eq!(selected_by(labels, &services(&canary.manifests)).len(), 1, "{name}");
        }
        for object in &manifests {
            let Some(labels) = pod_labels(object) else { continue };
            assert_eq!(selected_by(&labels, &services(&canary.manifests)), [], "{name}");
        }
    }
}

#[test]
fn selectors_outside_of_the_release_are_found() {
    let labels = Labels::from([("app".to_owned(), "web-canary".to_owned())]);
    let service = |name: &str, selector: Value| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": selector } })
    };
    let budget = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "all" }, "spec": { "selector": {} } });
    let outside = [
        service("same", json!({ "app": "web-canary" })),
        service("other", json!({ "app": "web" })),
        service("none", json!({})),
        budget,
    ];
    let found = selected_by(&labels, &outside);
    let found: Vec<String> = found.iter().map(ObjectRef::to_string).collect();
    assert_eq!(found, ["Service same", "PodDisruptionBudget all"]);
}

#[test]
fn a_release_without_the_service_is_refused() {
    let refused = canary(&[], "web", 2).unwrap_err();
    assert_eq!(refused, [Refusal::NoService("web".to_owned())]);
}
