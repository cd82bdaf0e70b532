//! `portcullis.yaml`: the targets that a repository names itself.

use std::path::Path;

use portcullis_config::yaml;
use serde::Deserialize;

use super::{
    FILE, Found, Label, MAX_MANIFESTS, MAX_TARGETS, Recipe, Target, absent, error, manifests,
    not_a_file,
};
use crate::builds::path::RepositoryPath;
use crate::builds::tree::Tree;
use crate::model::ServiceName;

/// The most arguments of a command, and the largest of them, in bytes.
const MAX_ARGUMENTS: usize = 100;
const MAX_ARGUMENT: usize = 4096;
/// The most of a command in all, in bytes: it is in one message to the pod of a build.
const MAX_COMMAND: usize = 32 * 1024;
/// The most `inputs` of a target: each is compared with each file.
const MAX_INPUTS: usize = 100;

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
    /// The command that makes the image in place of a Dockerfile: a program and its arguments.
    #[serde(default)]
    command: Option<Vec<String>>,
    /// The OCI layout that the command leaves in the context.
    #[serde(default)]
    output: Option<RepositoryPath>,
    /// The target of Bazel that makes the image in place of a Dockerfile.
    #[serde(default)]
    bazel: Option<Label>,
    /// The folder that the build gets; by default that of the Dockerfile, or the root.
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
            let help = match key {
                "command" | "output" | "bazel" => {
                    "name a `dockerfile`, a `command` with its `output` in the context, or a \
                     target of `bazel`"
                }
                _ => "name a file or folder of this commit",
            };
            problems.push(error(&path, message, help));
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
        let recipe = self.recipe(tree, report)?;
        let (default, is_default_known) = match &recipe {
            // The folder of a file that is not there is no second problem.
            Recipe::Dockerfile(dockerfile) => {
                (dockerfile.parent().unwrap_or_default(), not_a_file(tree, dockerfile).is_none())
            }
            Recipe::Command { .. } | Recipe::Bazel(_) => (RepositoryPath::root(), true),
        };
        let is_context_known = self.context.is_some() || is_default_known;
        let context = self.context.unwrap_or(default);
        if is_context_known && !tree.is_folder(&context) {
            let message = match tree.get(&context) {
                Some(_) => format!("{context} is not a folder"),
                None => absent(tree, &context),
            };
            report("context", message);
        }
        match &recipe {
            Recipe::Command { output, .. }
                if *output == context || !context.contains(output.as_str().as_bytes()) =>
            {
                report("output", format!("{output} is not in the context {context}"));
            }
            Recipe::Bazel(_) if !context.is_root() => {
                report("context", "Bazel gets the whole repository: remove it".to_owned());
            }
            _ => {}
        }
        if self.inputs.len() > MAX_INPUTS {
            let count = self.inputs.len();
            report("inputs", format!("it names {count}, and at most {MAX_INPUTS} are allowed"));
            return None;
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
        Some(Target { service: self.name, recipe, context, inputs: self.inputs, manifests: files })
    }

    /// How the image is built, by exactly one of `dockerfile`, `command` and `bazel`.
    fn recipe(&self, tree: &Tree, report: &mut impl FnMut(&str, String)) -> Option<Recipe> {
        match (&self.dockerfile, &self.command, &self.bazel, &self.output) {
            (None, Some(command), None, Some(output)) => {
                let is_valid = (1..=MAX_ARGUMENTS).contains(&command.len())
                    && command.iter().map(String::len).sum::<usize>() <= MAX_COMMAND
                    && command.first().is_some_and(|program| !program.is_empty())
                    // An argument of a process ends at its first NUL.
                    && command.iter().all(|it| it.len() <= MAX_ARGUMENT && !it.contains('\0'));
                if !is_valid {
                    let message = format!(
                        "it is not a program and its arguments, at most {MAX_ARGUMENTS} of at \
                         most {MAX_ARGUMENT} bytes, {MAX_COMMAND} together, without NUL"
                    );
                    report("command", message);
                }
                Some(Recipe::Command { command: command.clone(), output: output.clone() })
            }
            (None, Some(_), None, None) => {
                report("output", "it is missing: name what the command leaves".to_owned());
                None
            }
            (None, None, Some(label), None) => Some(Recipe::Bazel(label.clone())),
            (_, None, None, None) => {
                let Some(dockerfile) = self.dockerfile(tree) else {
                    let message = "it is missing, and so is `context`, or the context has no \
                                   Dockerfile or Containerfile, or both";
                    report("dockerfile", message.to_owned());
                    return None;
                };
                if let Some(message) = not_a_file(tree, &dockerfile) {
                    report("dockerfile", message);
                }
                Some(Recipe::Dockerfile(dockerfile))
            }
            (_, None, _, Some(_)) => {
                report("output", "it belongs to a `command`, which is missing".to_owned());
                None
            }
            _ => {
                let message = "there is another of `dockerfile`, `command` and `bazel`: keep one";
                report(
                    if self.command.is_some() { "command" } else { "bazel" },
                    message.to_owned(),
                );
                None
            }
        }
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
