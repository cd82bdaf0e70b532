//! The kustomize base of this version, as it is in the repository, and its rendering.

use serde_json::Value;
use tempfile::TempDir;

use super::plan::Plan;
use crate::cli::kubectl::{Kubectl, text_at};
use crate::cli::problems::Failure;

/// Files of `deploy/kubernetes`, by their path there.
macro_rules! base {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../deploy/kubernetes/", $path)))),*]
    };
}

/// The base, and the components that an installation may have.
const BASE: &[(&str, &str)] = base![
    "access.yaml",
    "components/acme/access.yaml",
    "components/acme/kustomization.yaml",
    "components/host-ports/kustomization.yaml",
    "components/load-balancer/kustomization.yaml",
    "components/node-port/kustomization.yaml",
    "components/verify-endpoints/access.yaml",
    "components/verify-endpoints/kustomization.yaml",
    "deployment.yaml",
    "disruption.yaml",
    "gateway.yaml",
    "instance/kustomization.yaml",
    "instance/names.yaml",
    "kustomization.yaml",
    "namespace.yaml",
    "network-policy.yaml",
    "service.yaml",
    "sessions.yaml",
    "telemetry.yaml",
];
/// The configuration of the base.
pub(super) const CONFIGURATION: &str = include_str!("../../../deploy/kubernetes/gateway.yaml");

/// Renders the base with the overlay of a plan, by `kubectl kustomize`.
///
/// # Errors
/// The files cannot be written, or there is no kubectl.
pub(super) async fn render(kubectl: &Kubectl, plan: &Plan) -> Result<String, Failure> {
    let folder = write(plan).map_err(|error| {
        Failure::new(format!("failed to write the manifests to a temporary folder: {error}"))
    })?;
    let overlay = folder.path().join("overlay").display().to_string();
    let rendered = kubectl.text(&["kustomize", &overlay]).await;
    rendered.map_err(|error| {
        let help = "install kubectl 1.27 or later";
        Failure::with_help(format!("kubectl failed to render the manifests: {error}"), help)
    })
}

fn write(plan: &Plan) -> std::io::Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for (path, text) in BASE {
        let path = folder.path().join("kubernetes").join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    let overlay = folder.path().join("overlay");
    std::fs::create_dir(&overlay)?;
    std::fs::write(overlay.join("kustomization.yaml"), &plan.kustomization)?;
    std::fs::write(overlay.join("gateway.yaml"), &plan.configuration)?;
    Ok(folder)
}

/// The rules of the base and of `components` that its manifests bind to the gateway's account, by
/// the name of their role; `true` for those of the gateway's Namespace alone.
pub(in crate::cli) fn of_account(components: &[&str]) -> Vec<(String, bool, Value)> {
    let is_wanted = |path: &str| match path.strip_prefix("components/") {
        Some(path) => components.iter().any(|name| path == format!("{name}/access.yaml")),
        None => ["access.yaml", "sessions.yaml", "telemetry.yaml"].contains(&path),
    };
    let files = BASE.iter().filter(|(path, _)| is_wanted(path));
    let objects: Vec<Value> =
        files.flat_map(|(_, text)| serde_saphyr::from_multiple(text).unwrap_or_default()).collect();
    let kind = |object: &Value| text_at(object, "/kind").to_owned();
    let name = |object: &Value| text_at(object, "/metadata/name").to_owned();
    let bound = |role: &&Value| {
        objects.iter().any(|object| {
            kind(object) == format!("{}Binding", kind(role))
                && text_at(object, "/roleRef/name") == name(role)
        })
    };
    let roles = objects.iter().filter(|object| kind(object).ends_with("Role")).filter(bound);
    let rules = roles.flat_map(|role| {
        let rules = role.get("rules").and_then(Value::as_array).into_iter().flatten();
        rules.map(move |rule| (name(role), kind(role) == "Role", rule.clone()))
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The files below a folder of the repository's base, by their path in it.
    fn files(folder: &Path, prefix: &str) -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let entries = entries.map(|entry| entry.expect("an entry"));
        let names = entries.flat_map(|entry| {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true => files(&entry.path(), &format!("{name}/")),
                false => [name].into(),
            }
        });
        names.collect()
    }

    #[test]
    fn every_file_of_the_base_is_in_the_program() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
        let is_builders = |path: &String| path.contains("builder");
        let expected: BTreeSet<String> =
            files(&base, "").into_iter().filter(|path| !is_builders(path)).collect();
        let embedded: BTreeSet<String> = BASE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(embedded, expected);
    }

    #[test]
    fn the_rights_of_the_account_are_those_that_are_bound_to_it() {
        let names = |components: &[&str]| -> BTreeSet<String> {
            of_account(components).into_iter().map(|(name, ..)| name).collect()
        };
        let base = names(&[]);
        assert!(base.contains("portcullis") && base.contains("portcullis-sessions"), "{base:?}");
        assert!(!base.contains("portcullis-metrics-reader"), "that is for readers of metrics");
        assert!(!base.contains("portcullis-acme"));
        assert!(names(&["acme"]).contains("portcullis-acme"));
        let cluster_wide = of_account(&[]).into_iter().filter(|(_, is_own, _)| !is_own);
        assert!(cluster_wide.count() >= 4);
    }
}
