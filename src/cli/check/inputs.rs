//! The inputs of `portcullis check`: sorts paths into configurations and manifests.

use std::fs;
use std::path::{Path, PathBuf};

use portcullis_config::problem::Problem;
use portcullis_config::settings::{CertificateSettings, Settings, SourceSettings};
use portcullis_config::source::directory;
use portcullis_config::source::file_kind::FileKind;

use super::unread::Unread;
use crate::cli::problems::Failure;

/// Manifests that are translated together, and the settings to translate them with.
pub(super) struct Manifests {
    pub(super) settings: Settings,
    /// Folders or files of manifests.
    pub(super) paths: Vec<PathBuf>,
}

/// Everything to check.
#[derive(Default)]
pub(super) struct Inputs {
    pub(super) manifests: Vec<Manifests>,
    /// Problems that make a configuration unusable.
    pub(super) problems: Vec<Problem>,
    /// Warnings about usable configurations.
    pub(super) warnings: Vec<Problem>,
    /// What is in clusters.
    pub(super) unread: Vec<Unread>,
}

// === impl Inputs ===

impl Inputs {
    /// Reads the configurations among `paths` and in its folders.
    ///
    /// All manifest files are one set; each folder, and each folder that is a configuration's
    /// source, is a set of its own. A configuration among `paths` applies to all sets; else the one
    /// in a folder applies to that folder, and the defaults to the rest.
    ///
    /// Files that a configuration names are below `root`, if given.
    pub(super) fn read(paths: Vec<PathBuf>, root: Option<&Path>) -> Result<Self, Failure> {
        if let Some(root) = root
            && let Err(error) = fs::read_dir(root)
        {
            let message = format!("the folder {} cannot be read: {error}", root.display());
            return Err(Failure::with_help(message, "set --root to a folder that can be read"));
        }
        let mut inputs = Self::default();
        let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
            paths.into_iter().partition(|path| path.is_dir());
        let (manifests, configurations): (Vec<PathBuf>, Vec<PathBuf>) =
            files.into_iter().partition(|path| {
                fs::read(path).is_ok_and(|bytes| FileKind::of(&bytes) == Some(FileKind::Manifests))
            });
        let mut base = None;
        for configuration in &configurations {
            let Some(settings) = inputs.configuration(configuration, root) else { continue };
            base.get_or_insert_with(|| settings.clone());
            inputs.source(settings, None);
        }
        for folder in folders {
            let folder = canonical(&folder);
            let mut own = None;
            for configuration in directory::configurations(&folder) {
                if configurations.iter().any(|path| canonical(path) == canonical(&configuration)) {
                    continue;
                }
                let Some(settings) = inputs.configuration(&configuration, root) else { continue };
                own.get_or_insert_with(|| settings.clone());
                inputs.source(settings, Some(&folder));
            }
            let settings = base.clone().or(own).map_or_else(defaults, Ok)?;
            inputs.manifests.push(Manifests { settings, paths: vec![folder] });
        }
        if !manifests.is_empty() {
            let settings = base.map_or_else(defaults, Ok)?;
            inputs.manifests.push(Manifests { settings, paths: manifests });
        }
        Ok(inputs)
    }

    fn configuration(&mut self, path: &Path, root: Option<&Path>) -> Option<Settings> {
        match Settings::read_for_elsewhere(path, root) {
            Ok((mut settings, warnings)) => {
                self.warnings.extend(settings.warnings().into_iter().chain(warnings));
                if let SourceSettings::Kubernetes(_) = settings.source {
                    self.unread.push(Unread::new(path.to_owned(), &settings));
                }
                if root.is_none() && settings.is_for_a_pod() {
                    settings.certificates.retain(is_secret);
                }
                Some(settings)
            }
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    /// Adds what a configuration's gateway reads and this command can: the source folder, unless it
    /// is inside `checked`; of a cluster's, the certificates in files.
    fn source(&mut self, mut settings: Settings, checked: Option<&Path>) {
        match &settings.source {
            SourceSettings::Directory(path) => {
                if checked.is_none_or(|folder| !canonical(path).starts_with(folder)) {
                    self.manifests.push(Manifests { paths: vec![path.clone()], settings });
                }
            }
            SourceSettings::Kubernetes(_) => {
                settings.certificates.retain(|certificate| !is_secret(certificate));
                // Which names it would order depends on the cluster's resources and Secrets.
                settings.acme = None;
                self.manifests.push(Manifests { paths: Vec::new(), settings });
            }
        }
    }
}

fn is_secret(certificate: &CertificateSettings) -> bool {
    matches!(certificate, CertificateSettings::Secret { .. })
}

fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Default settings, for a placeholder zone.
fn defaults() -> Result<Settings, Failure> {
    Settings::parse(Path::new("defaults"), b"zone: apps.example.com\nsource: {directory: .}\n")
        .map_err(Failure::Problems)
}
