//! The inputs of `portcullis check`: sorts paths into configurations and manifests.

use std::fs;
use std::path::{Path, PathBuf};

use portcullis_config::problem::Problem;
use portcullis_config::settings::{Settings, SourceSettings};
use portcullis_config::source::directory;
use portcullis_config::source::file_kind::FileKind;

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
}

// === impl Inputs ===

impl Inputs {
    /// Reads the configurations among `paths` and in its folders.
    ///
    /// All manifest files are one set; each folder, and each folder that is a configuration's
    /// source, is a set of its own. A configuration among `paths` applies to all sets; else the one
    /// in a folder applies to that folder, and the defaults to the rest.
    pub(super) fn read(paths: Vec<PathBuf>) -> Result<Self, Failure> {
        let mut inputs = Self::default();
        let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
            paths.into_iter().partition(|path| path.is_dir());
        let (manifests, configurations): (Vec<PathBuf>, Vec<PathBuf>) =
            files.into_iter().partition(|path| {
                fs::read(path).is_ok_and(|bytes| FileKind::of(&bytes) == Some(FileKind::Manifests))
            });
        let mut base = None;
        for configuration in &configurations {
            let Some(settings) = inputs.configuration(configuration) else { continue };
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
                let Some(settings) = inputs.configuration(&configuration) else { continue };
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

    fn configuration(&mut self, path: &Path) -> Option<Settings> {
        match Settings::read(path) {
            Ok(settings) => {
                self.warnings.extend(settings.warnings());
                Some(settings)
            }
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    /// Adds the source folder of a configuration, unless it is inside `checked`.
    fn source(&mut self, settings: Settings, checked: Option<&Path>) {
        let SourceSettings::Directory(path) = &settings.source else { return };
        if checked.is_none_or(|folder| !canonical(path).starts_with(folder)) {
            self.manifests.push(Manifests { paths: vec![path.clone()], settings });
        }
    }
}

fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Default settings, for a placeholder zone.
fn defaults() -> Result<Settings, Failure> {
    Settings::parse(Path::new("defaults"), b"zone: apps.example.com\nsource: {directory: .}\n")
        .map_err(Failure::Problems)
}
