//! What was given to be checked: which files are configurations, and which manifests.

use std::fs;
use std::path::{Path, PathBuf};

use portcullis_config::problem::Problem;
use portcullis_config::settings::{Settings, SourceSettings};
use portcullis_config::source::directory;
use portcullis_config::source::file_kind::FileKind;

use crate::cli::problems::Failure;

/// Manifests that are translated together, and the settings that they are translated by.
pub(super) struct Manifests {
    pub(super) settings: Settings,
    /// Folders and files.
    pub(super) paths: Vec<PathBuf>,
}

/// All that is to be checked.
#[derive(Default)]
pub(super) struct Given {
    pub(super) manifests: Vec<Manifests>,
    /// What is wrong with configurations.
    pub(super) problems: Vec<Problem>,
    /// What is doubtful about configurations that can be used.
    pub(super) warnings: Vec<Problem>,
}

// === impl Given ===

impl Given {
    /// Reads the configurations among `paths` and in its folders.
    ///
    /// Files of manifests are one set, each folder is another, and so is the folder that a
    /// configuration names. A configuration that is given is that of all files and folders; else
    /// the one in a folder is that folder's, and what has none is translated by the defaults.
    pub(super) fn read(paths: Vec<PathBuf>) -> Result<Self, Failure> {
        let mut given = Self::default();
        let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
            paths.into_iter().partition(|path| path.is_dir());
        let (manifests, configurations): (Vec<PathBuf>, Vec<PathBuf>) =
            files.into_iter().partition(|path| {
                fs::read(path).is_ok_and(|bytes| FileKind::of(&bytes) == Some(FileKind::Manifests))
            });
        let mut base = None;
        for configuration in &configurations {
            let Some(settings) = given.configuration(configuration) else { continue };
            base.get_or_insert_with(|| settings.clone());
            given.source(settings, None);
        }
        for folder in folders {
            let folder = canonical(&folder);
            let mut own = None;
            for configuration in directory::configurations(&folder) {
                if configurations.iter().any(|given| canonical(given) == canonical(&configuration))
                {
                    continue;
                }
                let Some(settings) = given.configuration(&configuration) else { continue };
                own.get_or_insert_with(|| settings.clone());
                given.source(settings, Some(&folder));
            }
            let settings = base.clone().or(own).map_or_else(defaults, Ok)?;
            given.manifests.push(Manifests { settings, paths: vec![folder] });
        }
        if !manifests.is_empty() {
            let settings = base.map_or_else(defaults, Ok)?;
            given.manifests.push(Manifests { settings, paths: manifests });
        }
        Ok(given)
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

    /// The folder that a configuration names, unless it is in one that is checked anyway.
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

/// For a zone of no importance.
fn defaults() -> Result<Settings, Failure> {
    Settings::parse(Path::new("defaults"), b"zone: apps.example.com\nsource: {directory: .}\n")
        .map_err(Failure::Problems)
}
