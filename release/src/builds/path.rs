//! Paths inside a repository.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest path, in bytes: that of Linux.
const MAX_PATH: usize = 4096;

/// The path of a file or a folder, relative to the root of its repository, such as `web/Dockerfile`.
///
/// It has no `..` and does not start with `/`, so that it cannot lead out of the repository. The
/// root itself is written `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryPath(String);

/// Why a text is not a path inside a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// It starts with `/`.
    #[error("{0:?} is an absolute path: write it relative to the root of the repository")]
    Absolute(String),
    /// It has a part `..`.
    #[error("{0:?} leads out of its folder by `..`: write it from the root of the repository")]
    Parent(String),
    /// It is in git's own folder.
    #[error("{0:?} is in a folder of git")]
    Git(String),
    /// It has control characters or a backslash, or is too long.
    #[error("{0:?} is not a path: it has control characters or a backslash, or is too long")]
    Characters(String),
}

// === impl RepositoryPath ===

impl RepositoryPath {
    /// The root of the repository.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as git writes it; empty for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The folder that it is in; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.name()?;
        Some(self.0.rsplit_once('/').map_or_else(Self::root, |(parent, _)| Self(parent.to_owned())))
    }

    /// The path of a file in this folder.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        if self.is_root() { Self(name.to_owned()) } else { Self(format!("{}/{name}", self.0)) }
    }

    /// Whether git's path of a file is this file, or one below this folder.
    #[must_use]
    pub fn contains(&self, path: &[u8]) -> bool {
        match path.strip_prefix(self.0.as_bytes()) {
            Some(rest) => self.is_root() || matches!(rest.first(), None | Some(b'/')),
            None => false,
        }
    }
}

impl TryFrom<String> for RepositoryPath {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, InvalidPath> {
        if text.len() > MAX_PATH || text.chars().any(|it| it.is_control() || it == '\\') {
            return Err(InvalidPath::Characters(text));
        }
        if text.starts_with('/') {
            return Err(InvalidPath::Absolute(text));
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Err(InvalidPath::Parent(text));
        }
        if parts.iter().any(|part| part.eq_ignore_ascii_case(".git")) {
            return Err(InvalidPath::Git(text));
        }
        Ok(Self(parts.join("/")))
    }
}

impl FromStr for RepositoryPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        Self::try_from(text.to_owned())
    }
}

impl From<RepositoryPath> for String {
    fn from(path: RepositoryPath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for RepositoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for (text, expected) in [
            ("web/Dockerfile", "web/Dockerfile"),
            ("./web//Dockerfile", "web/Dockerfile"),
            ("web/", "web"),
            (".", "."),
            ("", "."),
            ("a/.gitignore", "a/.gitignore"),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(text.parse::<RepositoryPath>().unwrap().to_string(), expected, "{text}");
        }
        for bad in ["/etc", "..", "a/../b", "a/..", ".git/config", "a/.GIT/x", "a\\b", "a\nb", "\0"]
        {
            assert!(bad.parse::<RepositoryPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_contains_what_is_below_it_alone() {
        let folder: RepositoryPath = "web".parse().unwrap();
        assert!(folder.contains(b"web") && folder.contains(b"web/a/b"));
        assert!(
            !folder.contains(b"website/a") && !folder.contains(b"a/web") && !folder.contains(b"we")
        );
        assert!(RepositoryPath::root().contains(b"anything"));
        assert_eq!(folder.parent(), Some(RepositoryPath::root()));
        assert_eq!(RepositoryPath::root().parent(), None);
        assert_eq!(folder.join("x").parent(), Some(folder));
    }

    proptest! {
        /// Joined to any folder, a path stays below it by the system's own rules.
        #[test]
        fn no_path_leads_out(text in "[a./\\\\~\u{e9}-]{0,12}") {
            if let Ok(path) = text.parse::<RepositoryPath>() {
                let joined = std::path::Path::new("/root").join(path.as_str());
                let stays = joined.starts_with("/root")
                    && !joined.components().any(|part| part == std::path::Component::ParentDir);
                prop_assert!(stays, "{text:?}");
                let again: RepositoryPath = path.to_string().parse().unwrap();
                prop_assert_eq!(again, path);
            }
        }
    }
}
