//! The key of what an image depends on.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

use super::{Recipe, Target};
use crate::builds::tree::{Entry, Kind, Tree};

/// A hash of how an image is built and of all files that it depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InputKey(String);

// === impl InputKey ===

impl InputKey {
    /// The key of a target in a commit. Neither the commit nor a file outside of the target has an
    /// influence on it.
    pub(super) fn new(target: &Target, tree: &Tree) -> Self {
        let label;
        let mut fields: Vec<&[u8]> = match &target.recipe {
            Recipe::Dockerfile(dockerfile) => vec![b"dockerfile", dockerfile.as_str().as_bytes()],
            Recipe::Command { command, output } => {
                let head = [&b"command"[..], output.as_str().as_bytes()];
                head.into_iter().chain(command.iter().map(String::as_bytes)).collect()
            }
            Recipe::Bazel(target) => {
                label = target.to_string();
                vec![b"bazel", label.as_bytes()]
            }
        };
        fields.push(target.context.as_str().as_bytes());
        // An argument of a command cannot pass for the path of a file.
        let count = (fields.len() as u64).to_be_bytes();
        if let Recipe::Command { .. } = target.recipe {
            fields.insert(1, &count);
        }
        Self::hash(fields.into_iter(), target.files(tree))
    }

    /// The key of the manifests of a target, in their order.
    pub(super) fn of_manifests(target: &Target, tree: &Tree) -> Self {
        let files = target.manifests.iter().filter_map(|path| tree.get(path));
        Self::hash([&b"manifests"[..]].into_iter(), files)
    }

    fn hash<'t>(
        fields: impl Iterator<Item = &'t [u8]>,
        files: impl Iterator<Item = &'t Entry>,
    ) -> Self {
        let mut hash = Context::new(&SHA256);
        let mut add = |field: &[u8]| {
            // With its length, so that two lists of fields never have the same octets.
            hash.update(&(field.len() as u64).to_be_bytes());
            hash.update(field);
        };
        fields.for_each(&mut add);
        for entry in files {
            add(&entry.path);
            add(entry.object.as_bytes());
            add(match entry.kind {
                Kind::File => b"file",
                Kind::Executable => b"executable",
                Kind::Symlink => b"symlink",
                Kind::Submodule => b"submodule",
            });
        }
        Self(hex::encode(hash.finish()))
    }
}

impl fmt::Display for InputKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
