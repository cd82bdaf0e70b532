//! Which images a commit has, and how they are built.
//!
//! [`find`] reads `portcullis.yaml` in the root of the repository, else it looks for each
//! `Dockerfile` or `Containerfile` with manifests beside it. If there is none of these, and the
//! repository is a workspace of Bazel, [`of_labels`] makes targets of what a query has found. All of
//! this is pure: the files of the commit, the text of that file and the labels come in.

mod discovery;
mod file;
mod key;
mod label;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use portcullis_config::model::{Origin, SourceLocation};
use portcullis_config::problem::{Problem, Severity};

use super::path::RepositoryPath;
use super::tree::{Entry, Kind, Tree};
use crate::model::ServiceName;

pub use self::discovery::of_labels;
pub use self::key::InputKey;
pub use self::label::{InvalidLabel, Label};

/// The file that names the targets of a repository.
pub const FILE: &str = "portcullis.yaml";
/// The most targets of a commit.
pub const MAX_TARGETS: usize = 100;
/// The most files of manifests of a target.
const MAX_MANIFESTS: usize = 50;
/// The most problems that are reported at once.
const MAX_PROBLEMS: usize = 100;

/// One image of a repository, and the manifests that run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The service whose image it is.
    pub service: ServiceName,
    /// How it is built.
    pub recipe: Recipe,
    /// The folder that the build gets.
    pub context: RepositoryPath,
    /// Files and folders outside of `context` that the image depends on.
    pub inputs: Vec<RepositoryPath>,
    /// The files of manifests, in their order.
    pub manifests: Vec<RepositoryPath>,
}

/// How an image is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipe {
    /// By a Dockerfile.
    Dockerfile(RepositoryPath),
    /// By a command, which leaves an OCI layout.
    Command {
        /// The program, and its arguments.
        command: Vec<String>,
        /// The layout, a folder or an archive.
        output: RepositoryPath,
    },
    /// By Bazel.
    Bazel(Label),
}

/// What a commit would build.
#[derive(Debug, Default)]
pub struct Found {
    /// The targets without an error.
    pub targets: Vec<Target>,
    /// All problems, with their place.
    pub problems: Vec<Problem>,
    /// The file that makes the commit a workspace of Bazel, whose targets are found by a query.
    pub workspace: Option<RepositoryPath>,
}

/// Finds the targets of a commit. `file` is the content of its [`FILE`], if it has one;
/// `repository` names the service of a Dockerfile in the root.
#[must_use]
pub fn find(tree: &Tree, file: Option<&[u8]>, repository: &str) -> Found {
    let found = match file {
        Some(text) => file::read(tree, text),
        None => discovery::search(tree, repository),
    };
    checked(found, tree)
}

/// Rejects targets that have files that are not there, or the service of another one.
fn checked(mut found: Found, tree: &Tree) -> Found {
    let mut problems = Vec::new();
    found.targets.retain(|target| {
        let submodule = target.files(tree).find(|entry| entry.kind == Kind::Submodule);
        if let Some(entry) = submodule {
            problems.push(error(
                &target.place(),
                format!(
                    "{:?} is a submodule, and submodules are not fetched",
                    String::from_utf8_lossy(&entry.path)
                ),
                "copy it into the repository, or leave it out of the context",
            ));
        }
        submodule.is_none()
    });
    found.problems.append(&mut problems);
    reject_repeated(&mut found);
    found.problems.truncate(MAX_PROBLEMS);
    found
}

/// Two targets of one service are two readings of what it runs: neither is built.
fn reject_repeated(found: &mut Found) {
    let mut places: BTreeMap<ServiceName, Vec<RepositoryPath>> = BTreeMap::new();
    for target in &found.targets {
        places.entry(target.service.clone()).or_default().push(target.place());
    }
    places.retain(|_, places| places.len() > 1);
    for (service, places) in &places {
        for (place, other) in places.iter().zip(places.iter().cycle().skip(1)) {
            found.problems.push(error(
                place,
                format!("the service {service} has another image, by {other}"),
                "name the services in portcullis.yaml, each once",
            ));
        }
    }
    found.targets.retain(|target| !places.contains_key(&target.service));
}

/// A problem that a target is not built for, in a file as a whole.
pub(super) fn error(path: &RepositoryPath, message: impl Into<String>, help: &str) -> Problem {
    problem(Severity::Error, path, 1, message.into(), help)
}

/// A problem at a line of a file.
pub(super) fn problem(
    severity: Severity,
    path: &RepositoryPath,
    line: u32,
    message: String,
    help: &str,
) -> Problem {
    let file = Arc::new(PathBuf::from(path.to_string()));
    let place = Some(SourceLocation { file, line, column: 1 });
    Problem {
        severity,
        reason: "InvalidTarget",
        origin: Origin { place, ..Origin::default() },
        message,
        help: help.to_owned(),
    }
}

// === impl Target ===

impl Target {
    /// The files that the image depends on, each once, ordered by path.
    pub fn files<'t>(&'t self, tree: &'t Tree) -> impl Iterator<Item = &'t Entry> {
        tree.entries().filter(move |entry| self.paths().any(|path| path.contains(&entry.path)))
    }

    /// The files and folders that the image depends on, and that its build gets.
    pub fn paths(&self) -> impl Iterator<Item = &RepositoryPath> {
        let dockerfile = match &self.recipe {
            Recipe::Dockerfile(dockerfile) => Some(dockerfile),
            Recipe::Command { .. } | Recipe::Bazel(_) => None,
        };
        [&self.context].into_iter().chain(dockerfile).chain(&self.inputs)
    }

    /// The key of the files that the image depends on: as long as it is the same, the image is.
    #[must_use]
    pub fn key(&self, tree: &Tree) -> InputKey {
        InputKey::new(self, tree)
    }

    /// The key of its files of manifests: as long as it is the same, its release runs the same way.
    #[must_use]
    pub fn manifests_key(&self, tree: &Tree) -> InputKey {
        InputKey::of_manifests(self, tree)
    }

    /// The file or the folder that its problems are reported for.
    #[must_use]
    pub fn place(&self) -> RepositoryPath {
        match &self.recipe {
            Recipe::Dockerfile(dockerfile) => dockerfile.clone(),
            Recipe::Command { .. } => RepositoryPath::root().join(FILE),
            Recipe::Bazel(label) => label.package().clone(),
        }
    }
}

/// Why a path is not a file that the builder reads; `None` if it is.
fn not_a_file(tree: &Tree, path: &RepositoryPath) -> Option<String> {
    match tree.get(path).map(|entry| entry.kind) {
        Some(Kind::File | Kind::Executable) => None,
        Some(Kind::Symlink) => {
            Some(format!("{path} is a symbolic link, and symbolic links are not followed"))
        }
        Some(Kind::Submodule) => Some(format!("{path} is a submodule")),
        None if tree.is_folder(path) => Some(format!("{path} is a folder, not a file")),
        None => Some(absent(tree, path)),
    }
}

/// Why there is nothing at a path: it does not exist, or is behind a symbolic link.
fn absent(tree: &Tree, path: &RepositoryPath) -> String {
    let mut folders = std::iter::successors(path.parent(), RepositoryPath::parent);
    let link =
        folders.find(|folder| tree.get(folder).is_some_and(|entry| entry.kind == Kind::Symlink));
    match link {
        Some(link) => format!(
            "{path} is behind {link}, which is a symbolic link, and symbolic links are not followed"
        ),
        None => format!("the commit has no {path}"),
    }
}

/// The files of manifests of a path: itself, or those directly in a folder, by name.
fn manifests(tree: &Tree, path: &RepositoryPath) -> Result<Vec<RepositoryPath>, String> {
    if !tree.is_folder(path) {
        return not_a_file(tree, path).map_or_else(|| Ok(vec![path.clone()]), Err);
    }
    let is_manifest = |file: &RepositoryPath| {
        let extension = file.name().and_then(|name| name.rsplit_once('.'));
        matches!(extension, Some((_, "yaml" | "yml" | "json")))
            && file.parent().as_ref() == Some(path)
    };
    let files: Vec<RepositoryPath> =
        tree.below(path).filter_map(Entry::repository_path).filter(is_manifest).collect();
    match files.iter().find_map(|file| not_a_file(tree, file)) {
        Some(problem) => Err(problem),
        None if files.is_empty() => Err(format!("{path} has no files .yaml, .yml or .json")),
        None if files.len() > MAX_MANIFESTS => {
            Err(format!("{path} has more than {MAX_MANIFESTS} files of manifests"))
        }
        None => Ok(files),
    }
}
