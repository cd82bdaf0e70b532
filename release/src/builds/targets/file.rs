//! `portcullis.yaml`: the targets that a repository names itself.

use std::path::Path;

use portcullis_config::yaml;
use serde::Deserialize;

use super::{
    FILE, Found, MAX_MANIFESTS, MAX_TARGETS, Recipe, Target, absent, error, manifests, not_a_file,
};
use crate::builds::path::RepositoryPath;
use crate::builds::tree::Tree;
use crate::model::ServiceName;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TargetsFile {
    services: Vec<ServiceEntry>,
}

/// A service. All paths are relative to the root of the repository.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceEntry {
    /// Its name.
    name: ServiceName,
    /// The Dockerfile; by default that of the context.
    #[serde(default)]
    dockerfile: Option<RepositoryPath>,
    /// The folder that the build gets; by default that of the Dockerfile.
    #[serde(default)]
    context: Option<RepositoryPath>,
    /// What else the image depends on.
    #[serde(default)]
    inputs: Vec<RepositoryPath>,
    /// Files of manifests, or folders of them.
    manifests: Vec<RepositoryPath>,
}

/// Reads the file, and checks each path in it.
pub(super) fn read(tree: &Tree, text: &[u8]) -> Found {
    let mut found = Found::default();
    let path = RepositoryPath::root().join(FILE);
    let services = match yaml::read_text::<TargetsFile>(Path::new(FILE), text) {
        Ok(file) => file.services,
        Err(problems) => {
            found.problems = problems;
            return found;
        }
    };
    if services.is_empty() || services.len() > MAX_TARGETS {
        let message = format!("`services`: it has {} entries", services.len());
        found.problems.push(error(&path, message, "name between 1 and 100 services"));
        return found;
    }
    for (index, entry) in services.into_iter().enumerate() {
        let mut problems = Vec::new();
        let target = entry.check(tree, &mut |key: &str, message: String| {
            let message = format!("`services[{index}].{key}`: {message}");
            problems.push(error(&path, message, "name a file or folder of this commit"));
        });
        if problems.is_empty() {
            found.targets.extend(target);
        }
        found.problems.append(&mut problems);
    }
    found
}

// === impl ServiceEntry ===

impl ServiceEntry {
    /// The target, and all problems of its paths.
    fn check(self, tree: &Tree, report: &mut impl FnMut(&str, String)) -> Option<Target> {
        let Some(dockerfile) = self.dockerfile(tree) else {
            let message = "it is missing, and so is `context`, or the context has no Dockerfile or \
                           Containerfile, or both";
            report("dockerfile", message.to_owned());
            return None;
        };
        let problem = not_a_file(tree, &dockerfile);
        // The folder of a file that is not there is no second problem.
        let is_context_known = self.context.is_some() || problem.is_none();
        if let Some(message) = problem {
            report("dockerfile", message);
        }
        let context = self.context.or_else(|| dockerfile.parent()).unwrap_or_default();
        if is_context_known && !tree.is_folder(&context) {
            let message = match tree.get(&context) {
                Some(_) => format!("{context} is not a folder"),
                None => absent(tree, &context),
            };
            report("context", message);
        }
        for input in &self.inputs {
            if tree.get(input).is_none() && !tree.is_folder(input) {
                report("inputs", absent(tree, input));
            }
        }
        let mut files = Vec::new();
        for path in &self.manifests {
            match manifests(tree, path) {
                Ok(found) => files.extend(found),
                Err(message) => report("manifests", message),
            }
        }
        if self.manifests.is_empty() || files.len() > MAX_MANIFESTS {
            report(
                "manifests",
                format!("it names {} files, not 1 to {MAX_MANIFESTS}", files.len()),
            );
        }
        let recipe = Recipe::Dockerfile(dockerfile);
        Some(Target { service: self.name, recipe, context, inputs: self.inputs, manifests: files })
    }

    /// The Dockerfile that is named, or the only one of the context.
    fn dockerfile(&self, tree: &Tree) -> Option<RepositoryPath> {
        if let Some(named) = &self.dockerfile {
            return Some(named.clone());
        }
        let context = self.context.as_ref()?;
        let names = ["Dockerfile", "Containerfile"].map(|name| context.join(name));
        let mut present = names.into_iter().filter(|path| tree.get(path).is_some());
        let first = present.next()?;
        present.next().is_none().then_some(first)
    }
}
