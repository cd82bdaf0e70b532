//! Translates manifests without a gateway, and reports all problems in one run.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::installation::Installation;
use crate::model::Origin;
use crate::resources::{Change, Resources};
use crate::settings::Settings;
use crate::source::certificates::CertificateFiles;
use crate::source::manifest::Manifests;
use crate::source::{Secrets, directory};
use crate::translate::annotations::is_about_annotations;
use crate::translate::{Translation, translate};

/// Reads the manifests in the folders and files `paths` and the certificates in `settings`, and
/// translates them once. The source in `settings` is not read.
///
/// The valid part of an invalid object is checked too, so this reports more problems than a
/// gateway, which ignores such an object.
#[must_use]
pub fn preview(settings: &Settings, paths: Vec<PathBuf>, now: SystemTime) -> Translation {
    let Manifests { objects, partial, mut problems } =
        directory::read(paths, Secrets::of(settings));
    let certificates = CertificateFiles::read(&settings.certificates, now);
    problems.extend(certificates.problems.into_iter().flatten());
    let mut resources = Resources::new(Installation::default(), settings);
    let partial_origins: BTreeSet<Origin> =
        partial.iter().map(|object| object.origin().clone()).collect();
    // Where an object is defined twice, the valid definition wins.
    let manifests = partial.into_iter().chain(objects).map(Change::Upsert);
    for change in manifests.chain(certificates.changes) {
        resources.apply(change);
    }
    let translation = translate(settings, &resources);
    problems.extend(
        translation.problems.into_iter().filter(|found| {
            !partial_origins.contains(&found.origin) || is_about_annotations(found)
        }),
    );
    problems.sort();
    problems.dedup();
    Translation { snapshot: translation.snapshot, problems }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn settings() -> Settings {
        let text = b"zone: apps.example.com\nsource: {directory: .}\n";
        Settings::parse(Path::new("defaults"), text).unwrap()
    }

    /// Line, reason and message of all problems.
    fn wrong(files: &[(&str, &str)], paths: &[&str]) -> Vec<(u32, &'static str, String)> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let paths = paths.iter().map(|path| folder.path().join(path)).collect();
        let problems = preview(&settings(), paths, SystemTime::now()).problems;
        let mut wrong: Vec<_> = problems
            .into_iter()
            .map(|problem| {
                let line = problem.origin.place.map_or(0, |place| place.line);
                (line, problem.reason, problem.message)
            })
            .collect();
        wrong.sort();
        wrong
    }

    const NAMESPACE: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {portcullis.dev/environment: staging}
  annotations: {portcullis.dev/expose: all, portcullis.dev/require: none}
";

    #[test]
    fn all_problems_of_an_object_are_reported_at_once() {
        let service = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations:
    portcullis.dev/expose: true
    portcullis.dev/timout: 5s
    portcullis.dev/retries: 11
spec:
  ports:
    - {name: http, port: http}
    - {name: grpc, port: 81, appProtocol: [grpc]}
";
        let files = [("namespace.yaml", NAMESPACE), ("service.yaml", service)];
        let found = wrong(&files, &["namespace.yaml", "service.yaml"]);
        let lines: Vec<_> = found.iter().map(|(line, reason, _)| (*line, *reason)).collect();
        assert_eq!(
            lines,
            [
                (1, "InvalidAnnotation"),
                (1, "UnknownAnnotation"),
                (7, "Unreadable"),
                (9, "Unreadable"),
                (12, "Unreadable"),
                (13, "Unreadable"),
            ],
            "{found:#?}"
        );
        assert_eq!(wrong(&files, &["."]), found, "a folder gives the same result as its files");
    }

    #[test]
    fn a_partly_invalid_namespace_does_not_hide_problems_of_its_services() {
        let namespace = NAMESPACE.replace("require: none", "require: none, other: [1]");
        let service = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {portcullis.dev/timeout: soon}}
spec: {ports: [{port: 80}]}
";
        let found = wrong(&[("a.yaml", &format!("{namespace}---\n{service}"))], &["a.yaml"]);
        let reasons: Vec<_> = found.iter().map(|(_, reason, _)| *reason).collect();
        assert!(reasons.contains(&"Unreadable"), "{found:?}");
        assert!(reasons.contains(&"InvalidAnnotation"), "{found:?}");
        assert!(!reasons.contains(&"NoEnvironment"), "{found:?}");
    }

    #[test]
    fn a_configuration_file_beside_manifests_is_not_a_manifest() {
        let configuration = "zone: apps.example.com\nsource: {directory: .}\n";
        let files = [("portcullis.yaml", configuration), ("namespace.yaml", NAMESPACE)];
        assert_eq!(wrong(&files, &["."]), []);
    }

    #[test]
    fn a_missing_path_is_reported() {
        let found = wrong(&[], &["nothing"]);
        assert!(matches!(found.as_slice(), [(_, "Unreadable", _)]), "{found:?}");
    }
}
