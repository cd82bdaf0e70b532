//! Weights in a folder of manifests: the text of the stable Service's file is changed, and the file
//! replaced atomically.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::{Change, Outcome, Selector, TrafficError, plan};
use crate::atomic_file;
use crate::model::NamespacedName;
use crate::resources::{self, Resources};
use crate::source::{Secrets, directory};
use crate::translate::{SplitView, split_view};
use crate::yaml::{NotEditable, ObjectName, annotate};

/// A folder of manifests.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

// === impl Folder ===

impl Folder {
    /// The folder at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The variants of a Service.
    ///
    /// # Errors
    /// There is no such Service, or more than one.
    pub fn view(&self, selector: &Selector) -> Result<(NamespacedName, SplitView), TrafficError> {
        let resources = self.read();
        let name = selector.find(&resources)?;
        let service = resources.service(&name).ok_or_else(|| unreadable(&self.path))?;
        Ok((name, split_view(service, &resources)))
    }

    /// Changes weights. `expected` is the generation that the split has to have; with `force`, the
    /// weights of missing variants are lost.
    ///
    /// # Errors
    /// The change is not possible, the file cannot be changed, or another process changes it.
    pub fn set(
        &self,
        selector: &Selector,
        change: &Change,
        expected: Option<u64>,
        force: bool,
    ) -> Result<Outcome, TrafficError> {
        let _lock = self.lock()?;
        let resources = self.read();
        let service = selector.find(&resources)?;
        let object = resources.service(&service).ok_or_else(|| unreadable(&self.path))?;
        let view = split_view(object, &resources);
        super::check_generation(&service, &view, expected)?;
        let plan = plan(&service, &view, change, force)?;
        if let Some(edit) = &plan.edit {
            let place = object.origin.place.as_ref().ok_or_else(|| unreadable(&self.path))?;
            write(&place.file, &service, &edit.annotations)?;
        }
        Ok(Outcome { service, plan })
    }

    /// Keeps other commands from changing the folder until it is dropped.
    fn lock(&self) -> Result<File, TrafficError> {
        let failed = |error: std::io::Error| {
            TrafficError::Manifest(format!("{}: {error}", self.path.display()))
        };
        let folder = File::open(&self.path).map_err(failed)?;
        match folder.try_lock() {
            Ok(()) => Ok(folder),
            Err(TryLockError::WouldBlock) => Err(TrafficError::Conflict(format!(
                "another command changes the manifests in {}: try again",
                self.path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    fn read(&self) -> Resources {
        let manifests = directory::read(vec![self.path.clone()], Secrets::default());
        let mut resources = Resources::default();
        for object in manifests.objects {
            resources.apply(resources::Change::Upsert(object));
        }
        resources
    }
}

fn unreadable(path: &Path) -> TrafficError {
    TrafficError::Manifest(format!("{} cannot be read", path.display()))
}

fn write(
    file: &Path,
    service: &NamespacedName,
    annotations: &[(String, String)],
) -> Result<(), TrafficError> {
    let failed =
        |error: std::io::Error| TrafficError::Manifest(format!("{}: {error}", file.display()));
    // A symbolic link stays one.
    let file = fs::canonicalize(file).map_err(failed)?;
    let text = fs::read_to_string(&file).map_err(failed)?;
    let NamespacedName { namespace, name } = service;
    let object = ObjectName { kind: "Service", namespace, name };
    let edited = annotate(&text, object, annotations).map_err(|NotEditable| {
        let lines = annotations.iter().map(|(key, value)| format!("\n  {key}: \"{value}\""));
        TrafficError::Manifest(format!(
            "{} cannot be changed safely; annotate Service {name} in it by hand:{}",
            file.display(),
            lines.collect::<String>()
        ))
    })?;
    atomic_file::rewrite(&file, edited.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SHOP: &str = "\
# Manifests of the shop.
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {portcullis.dev/environment: staging}}
---
apiVersion: v1
kind: Service
metadata:
  name: web # the stable one
  namespace: shop
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata:
  name: web-canary
  namespace: shop
  annotations: {portcullis.dev/canary-of: web}
spec: {ports: [{port: 80}]}
";

    fn web(namespace: Option<&str>, environment: Option<&str>) -> Selector {
        let [namespace, environment] = [namespace, environment].map(|name| name.map(str::to_owned));
        Selector { service: "web".to_owned(), namespace, environment }
    }

    fn canary(weight: &str) -> Change {
        Change::Weights(vec![("canary".to_owned(), weight.parse().unwrap())])
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.yaml");
        fs::write(&file, SHOP).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let path = folder.path().to_owned();
        (folder, Folder::new(path))
    }

    #[test]
    fn a_weight_is_written_into_the_file_of_the_service_and_nothing_else_changes() {
        let (path, folder) = folder();
        let outcome = folder.set(&web(None, None), &canary("5"), None, false).unwrap();
        assert_eq!(outcome.plan.after.generation.number(), 1);
        let file = path.path().join("shop.yaml");
        let added = "  namespace: shop\n  annotations:\n    portcullis.dev/split: \
                     \"web-canary=0-499\"\n    portcullis.dev/split-generation: \"1\"\n    \
                     portcullis.dev/split-previous: \"0: stable=0-9999\"\nspec";
        let expected = SHOP.replacen("  namespace: shop\nspec", added, 1);
        assert_eq!(fs::read_to_string(&file).unwrap(), expected);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        let again =
            folder.set(&web(Some("shop"), Some("staging")), &canary("5"), None, false).unwrap();
        assert_eq!(again.plan.edit, None);
        let before =
            folder.set(&web(None, Some("staging")), &Change::Previous, Some(1), false).unwrap();
        assert_eq!(before.plan.after.generation.number(), 2);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("split: \"stable=0-9999\""), "{text}");
        assert!(text.contains("split-previous: \"1: web-canary=0-499\""), "{text}");
    }

    #[test]
    fn a_change_by_someone_else_is_noticed() {
        let (_path, folder) = folder();
        let held = folder.lock().unwrap();
        let set = |expected| folder.set(&web(None, None), &canary("5"), expected, false);
        assert!(matches!(set(None), Err(TrafficError::Conflict(_))));
        drop(held);
        set(None).unwrap();
        let late = folder.set(&web(None, None), &canary("10"), Some(7), false);
        assert!(matches!(late, Err(TrafficError::Generation { found: 1, expected: 7, .. })));
    }

    #[test]
    fn the_service_is_found_by_namespace_or_environment() {
        let (path, folder) = folder();
        let other = SHOP.replace("shop", "other").replace("staging", "production");
        fs::write(path.path().join("other.yaml"), other).unwrap();
        let found = |selector: Selector| folder.view(&selector).map(|(name, _)| name.to_string());
        let text = |result: Result<String, TrafficError>| match result {
            Ok(name) => name,
            Err(error) => error.to_string(),
        };
        assert_eq!(text(found(web(Some("other"), None))), "other/web");
        assert_eq!(text(found(web(None, Some("staging")))), "shop/web");
        let several = "there are Services `web` in the Namespaces other, shop: name one";
        assert_eq!(text(found(web(None, None))), several);
        let missing = "there is no Service `web` in the environment `test`";
        assert_eq!(text(found(web(None, Some("test")))), missing);
        let variant = Selector { service: "web-canary".to_owned(), ..web(Some("shop"), None) };
        assert!(text(found(variant)).contains("is a variant of `web`"));
    }
}
