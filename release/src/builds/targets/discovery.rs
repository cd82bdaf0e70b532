//! Targets of a repository without `portcullis.yaml`: each Dockerfile with manifests beside it.

use portcullis_config::problem::Severity;

use super::{FILE, Found, MAX_TARGETS, Recipe, Target, error, manifests, not_a_file, problem};
use crate::builds::path::RepositoryPath;
use crate::builds::tree::{Entry, Tree};

/// The names of what describes an image.
const DOCKERFILES: [&str; 2] = ["Dockerfile", "Containerfile"];
/// Where the manifests beside a Dockerfile are: exactly one of these.
const MANIFESTS: [&str; 6] =
    ["manifests.yaml", "kubernetes.yaml", "k8s.yaml", "manifests", "kubernetes", "k8s"];
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
    if found.targets.is_empty() && found.problems.is_empty() {
        found.problems.push(error(
            &RepositoryPath::root(),
            format!("the commit has neither {FILE} nor a Dockerfile or Containerfile"),
            "add a Dockerfile with manifests.yaml beside it, or portcullis.yaml",
        ));
    }
    found
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
    let name = context.name().unwrap_or(repository);
    let service = name.parse().map_err(|_| {
        Rejected::error(
            format!("the folder's name {name:?} cannot be the name of a service"),
            "name the service in portcullis.yaml",
        )
    })?;
    let recipe = Recipe::Dockerfile(dockerfile.clone());
    Ok(Target { service, recipe, context, inputs: Vec::new(), manifests })
}

/// The manifests beside a Dockerfile.
fn beside(tree: &Tree, context: &RepositoryPath) -> Result<Vec<RepositoryPath>, Rejected> {
    let exists = |path: &RepositoryPath| tree.get(path).is_some() || tree.is_folder(path);
    let places: Vec<RepositoryPath> =
        MANIFESTS.iter().map(|name| context.join(name)).filter(exists).collect();
    match places.as_slice() {
        // It may be there for something else, such as tests.
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
