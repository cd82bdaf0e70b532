//! Targets of a repository without `portcullis.yaml`: each Dockerfile with manifests beside it, or
//! what a query of Bazel has found.

use portcullis_config::problem::{Problem, Severity};

use super::{
    FILE, Found, Label, MAX_TARGETS, Recipe, Target, checked, error, manifests, not_a_file, problem,
};
use crate::builds::path::RepositoryPath;
use crate::builds::tree::{Entry, Tree};
use crate::model::ServiceName;

/// The names of what describes an image.
const DOCKERFILES: [&str; 2] = ["Dockerfile", "Containerfile"];
/// Where the manifests beside a Dockerfile are: exactly one of these.
const MANIFESTS: [&str; 6] =
    ["manifests.yaml", "kubernetes.yaml", "k8s.yaml", "manifests", "kubernetes", "k8s"];
/// The files that make a folder a workspace of Bazel.
const WORKSPACES: [&str; 3] = ["MODULE.bazel", "WORKSPACE.bazel", "WORKSPACE"];
/// The files that make a folder a package of Bazel.
const PACKAGES: [&str; 2] = ["BUILD.bazel", "BUILD"];
/// Folders of others' code and of data for tests.
const IGNORED: [&str; 4] = ["node_modules", "vendor", "third_party", "testdata"];

/// Looks for targets in all folders.
pub(super) fn search(tree: &Tree, repository: &str) -> Found {
    let mut found = Found::default();
    let is_dockerfile =
        |path: &RepositoryPath| path.name().is_some_and(|name| DOCKERFILES.contains(&name));
    let dockerfiles = tree.entries().filter_map(Entry::repository_path).filter(is_dockerfile);
    for dockerfile in dockerfiles.filter(|path| !is_ignored(path)) {
        if found.targets.len() == MAX_TARGETS {
            found.problems.push(error(
                &dockerfile,
                format!("the commit has more than {MAX_TARGETS} images"),
                "name those to build in portcullis.yaml",
            ));
            break;
        }
        match target(tree, &dockerfile, repository) {
            Ok(target) => found.targets.push(target),
            Err(Rejected { severity, message, help }) => {
                found.problems.push(problem(severity, &dockerfile, 1, message, help));
            }
        }
    }
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    if found.targets.is_empty() && !found.problems.iter().any(is_error) {
        found.workspace = file_of(tree, &RepositoryPath::root(), &WORKSPACES);
    }
    if let Some(workspace) = &found.workspace {
        found.problems.push(problem(
            Severity::Warning,
            workspace,
            1,
            "the targets of a workspace of Bazel are found when it is built, by a query".to_owned(),
            "name them in portcullis.yaml to have them listed without Bazel",
        ));
    } else if found.targets.is_empty() && found.problems.is_empty() {
        found.problems.push(error(
            &RepositoryPath::root(),
            format!(
                "the commit has neither {FILE} nor a Dockerfile or Containerfile, and is no \
                 workspace of Bazel"
            ),
            "add a Dockerfile with manifests.yaml beside it, or portcullis.yaml",
        ));
    }
    found
}

/// The targets of labels that a query has found; `repository` names the service of the root.
#[must_use]
pub fn of_labels(tree: &Tree, labels: &[Label], repository: &str) -> Found {
    let mut found = Found::default();
    for label in labels {
        match labelled(tree, label, repository) {
            Ok(target) => found.targets.push(target),
            Err(Rejected { severity, message, help }) => {
                let message = format!("{label}: {message}");
                found.problems.push(problem(severity, label.package(), 1, message, help));
            }
        }
    }
    if labels.is_empty() {
        found.problems.push(error(
            &RepositoryPath::root(),
            "the query of Bazel has found no targets",
            "give the targets of images the tag `portcullis`, or ask the operator to set \
             `bazelQuery`",
        ));
    }
    checked(found, tree)
}

fn labelled(tree: &Tree, label: &Label, repository: &str) -> Result<Target, Rejected> {
    let package = label.package();
    if is_ignored(package) {
        return Err(Rejected {
            severity: Severity::Warning,
            message: "it is not built: its folder is one of other people's code".to_owned(),
            help: "name the target in portcullis.yaml, or move it",
        });
    }
    if file_of(tree, package, &PACKAGES).is_none() {
        return Err(Rejected::error(
            format!("{package} has no regular file BUILD.bazel or BUILD"),
            "write the package of the target as a file of the commit",
        ));
    }
    let manifests = beside(tree, package)?;
    let service = service(package, repository)?;
    let (recipe, context) = (Recipe::Bazel(label.clone()), RepositoryPath::root());
    Ok(Target { service, recipe, context, inputs: Vec::new(), manifests })
}

/// The first regular file of these names in a folder.
fn file_of(tree: &Tree, folder: &RepositoryPath, names: &[&str]) -> Option<RepositoryPath> {
    let mut files = names.iter().map(|name| folder.join(name));
    files.find(|file| tree.get(file).is_some_and(Entry::is_file))
}

/// Why a Dockerfile is not a target.
struct Rejected {
    severity: Severity,
    message: String,
    help: &'static str,
}

impl Rejected {
    fn error(message: String, help: &'static str) -> Self {
        Self { severity: Severity::Error, message, help }
    }
}

fn target(tree: &Tree, dockerfile: &RepositoryPath, repository: &str) -> Result<Target, Rejected> {
    if let Some(message) = not_a_file(tree, dockerfile) {
        return Err(Rejected::error(message, "write a regular file"));
    }
    let context = dockerfile.parent().unwrap_or_default();
    if DOCKERFILES.iter().all(|name| tree.get(&context.join(name)).is_some()) {
        return Err(Rejected::error(
            format!("{context} has both a Dockerfile and a Containerfile"),
            "keep one of them, or name it in portcullis.yaml",
        ));
    }
    let manifests = beside(tree, &context)?;
    let service = service(&context, repository)?;
    let recipe = Recipe::Dockerfile(dockerfile.clone());
    Ok(Target { service, recipe, context, inputs: Vec::new(), manifests })
}

/// The service that is named after a folder.
fn service(folder: &RepositoryPath, repository: &str) -> Result<ServiceName, Rejected> {
    let name = folder.name().unwrap_or(repository);
    name.parse().map_err(|_| {
        Rejected::error(
            format!("the folder's name {name:?} cannot be the name of a service"),
            "name the service in portcullis.yaml",
        )
    })
}

/// The manifests beside a Dockerfile, or in a package of Bazel.
fn beside(tree: &Tree, context: &RepositoryPath) -> Result<Vec<RepositoryPath>, Rejected> {
    let exists = |path: &RepositoryPath| tree.get(path).is_some() || tree.is_folder(path);
    let places: Vec<RepositoryPath> =
        MANIFESTS.iter().map(|name| context.join(name)).filter(exists).collect();
    match places.as_slice() {
        // The image may be there for something else, such as tests.
        [] => Err(Rejected {
            severity: Severity::Warning,
            message: "it is not built, since there are no manifests beside it".to_owned(),
            help: "add manifests.yaml beside it, or name its manifests in portcullis.yaml",
        }),
        [place] => manifests(tree, place)
            .map_err(|message| Rejected::error(message, "write the manifests as regular files")),
        several => {
            let names: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Rejected::error(
                format!("its manifests may be in any of these: {}", names.join(", ")),
                "keep one of them, or name it in portcullis.yaml",
            ))
        }
    }
}

fn is_ignored(path: &RepositoryPath) -> bool {
    path.as_str().split('/').any(|part| part.starts_with('.') || IGNORED.contains(&part))
}
