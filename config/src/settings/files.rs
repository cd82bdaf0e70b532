//! The files that a configuration names: where they are.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{AcmeSettings, CertificateSettings, Settings, SourceSettings};
use crate::problem::{Problem, Severity};

/// A folder that stands for the root of another machine's file system.
#[derive(Debug)]
pub(super) struct Root {
    root: PathBuf,
    /// The folder of the configuration, as seen from the root.
    folder: PathBuf,
}

// === impl Root ===

impl Root {
    /// `folder` is the configuration's; if it is not in `root`, relative paths are relative to
    /// `root` itself.
    pub(super) fn new(root: &Path, folder: &Path) -> Self {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let inside = fs::canonicalize(root).ok().zip(fs::canonicalize(folder).ok());
        let folder = inside.and_then(|(root, folder)| Some(folder.strip_prefix(root).ok()?.into()));
        Self { root: root.to_owned(), folder: folder.unwrap_or_default() }
    }

    /// Returns where `path` is here. It is below the root, whatever its `..`.
    fn resolve(&self, path: &Path) -> PathBuf {
        let path = if path.is_absolute() { path.to_owned() } else { self.folder.join(path) };
        let mut below = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => below.push(name),
                Component::ParentDir => {
                    below.pop();
                }
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            }
        }
        self.root.join(below)
    }
}

// === impl Settings ===

impl Settings {
    /// Replaces every path by the one to use here: below `root`, or relative to `folder`.
    pub(super) fn resolve(&mut self, folder: &Path, root: Option<&Root>) {
        let resolve = |path: &mut PathBuf| {
            *path = root.map_or_else(|| folder.join(&*path), |root| root.resolve(path));
        };
        match &mut self.source {
            SourceSettings::Directory(path) => resolve(path),
            SourceSettings::Kubernetes(kubernetes) => {
                kubernetes.kubeconfig.iter_mut().for_each(resolve)
            }
        }
        for certificate in &mut self.certificates {
            if let CertificateSettings::Files { certificate, key } = certificate {
                resolve(certificate);
                resolve(key);
            }
        }
        self.upstreams.certificate_authorities.iter_mut().for_each(resolve);
        self.telemetry.token_file.iter_mut().for_each(resolve);
        self.access_log.file.iter_mut().for_each(resolve);
        self.access.files().for_each(resolve);
        self.acme.iter_mut().flat_map(AcmeSettings::paths).for_each(resolve);
    }

    /// Whether its gateway probably runs in a pod, with other files than those here.
    #[must_use]
    pub fn is_for_a_pod(&self) -> bool {
        matches!(&self.source, SourceSettings::Kubernetes(cluster) if cluster.kubeconfig.is_none())
    }
}

/// Makes a problem with a file a warning: in the pod the file may be as it should be.
pub(super) fn downgrade(problem: &mut Problem) {
    problem.severity = Severity::Warning;
    problem.reason = "FileNotChecked";
    problem.help = "ignore this if the pod has the file; `--root DIR` names a folder with the \
                    pod's files, and is `/` in the pod"
        .to_owned();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_below_the_root() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path();
        fs::create_dir_all(root.join("etc/portcullis")).unwrap();
        let inside = Root::new(root, &root.join("etc/portcullis"));
        let outside = Root::new(root, Path::new(""));
        for (path, from_inside, from_outside) in [
            ("/etc/tls/tls.crt", "etc/tls/tls.crt", "etc/tls/tls.crt"),
            ("tls.crt", "etc/portcullis/tls.crt", "tls.crt"),
            ("./a/../tls.crt", "etc/portcullis/tls.crt", "tls.crt"),
            ("../tls/tls.crt", "etc/tls/tls.crt", "tls/tls.crt"),
            ("../../../../tls.crt", "tls.crt", "tls.crt"),
            ("/../../etc/passwd", "etc/passwd", "etc/passwd"),
        ] {
            assert_eq!(inside.resolve(Path::new(path)), root.join(from_inside), "{path}");
            assert_eq!(outside.resolve(Path::new(path)), root.join(from_outside), "{path}");
        }
    }

    #[test]
    fn files_of_a_pod_are_warnings_without_a_root_and_errors_with_one() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("gateway.yaml");
        let read = |source: &str, root: Option<&Path>| {
            let text = format!(
                "zone: a.example\nsource: {source}\ncertificates:\n- files: {{certificate: \
                 /tls/tls.crt, key: /tls/tls.key}}\n"
            );
            fs::write(&path, text).unwrap();
            Settings::read_for_elsewhere(&path, root)
        };
        let (_, warnings) = read("{kubernetes: {}}", None).unwrap();
        let lines = warnings.iter().filter_map(|warning| Some(warning.origin.place.as_ref()?.line));
        assert_eq!(lines.collect::<Vec<_>>(), [4, 4]);
        assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
        assert_eq!(read("{directory: .}", None).unwrap_err().len(), 2);
        let root = temporary.path().join("pod");
        assert_eq!(read("{kubernetes: {}}", Some(&root)).unwrap_err().len(), 2);
        fs::create_dir_all(root.join("tls")).unwrap();
        fs::write(root.join("tls/tls.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        fs::write(root.join("tls/tls.key"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
        let (settings, warnings) = read("{kubernetes: {}}", Some(&root)).unwrap();
        assert_eq!(warnings, []);
        let [CertificateSettings::Files { key, .. }] = &*settings.certificates else {
            unreachable!("one pair of files")
        };
        assert_eq!(*key, root.join("tls/tls.key"));
    }
}
