//! Names of commits and branches.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name of a branch.
const MAX_BRANCH: usize = 200;

/// The full name of a commit: 40 hexadecimal digits (SHA-1) or 64 (SHA-256), in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(String);

/// The name of a branch, by the rules of `git check-ref-format`.
///
/// Such a name may still be `$(x)`: it is passed to programs as one argument, never to a shell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Branch(String);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not a commit.
    #[error("{0:?} is not a commit: write all 40 or 64 hexadecimal digits")]
    Commit(String),
    /// Not a branch.
    #[error("{0:?} is not the name of a branch")]
    Branch(String),
}

// === impl CommitId ===

impl CommitId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CommitId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if matches!(text.len(), 40 | 64) && text.bytes().all(is_digit) {
            Ok(Self(text))
        } else {
            Err(InvalidName::Commit(text))
        }
    }
}

impl FromStr for CommitId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text.to_owned())
    }
}

impl From<CommitId> for String {
    fn from(commit: CommitId) -> Self {
        commit.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Branch ===

impl Branch {
    /// The branch `master`.
    #[must_use]
    pub fn master() -> Self {
        Self("master".to_owned())
    }

    /// The name as text, without `refs/heads/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its reference.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("refs/heads/{}", self.0)
    }
}

impl TryFrom<String> for Branch {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let is_forbidden = |character: char| {
            character.is_control()
                || matches!(character, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')
        };
        let is_part =
            |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
        let is_valid = (1..=MAX_BRANCH).contains(&text.len())
            && text.split('/').all(is_part)
            && !text.contains(is_forbidden)
            && !text.contains("..")
            && !text.contains("@{")
            && !text.starts_with('-')
            && !text.ends_with('.')
            && text != "@"
            && text != "HEAD";
        if is_valid { Ok(Self(text)) } else { Err(InvalidName::Branch(text)) }
    }
}

impl FromStr for Branch {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text.to_owned())
    }
}

impl From<Branch> for String {
    fn from(branch: Branch) -> Self {
        branch.0
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_named_by_all_its_digits() {
        for good in ["0".repeat(40), "abcdef0123456789".repeat(4)] {
            assert_eq!(good.parse::<CommitId>().unwrap().as_str(), good);
        }
        for bad in ["", "HEAD", "abc123", &"A".repeat(40), &"0".repeat(41), "--upload-pack=x"] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn branches_are_those_that_git_accepts() {
        // `git check-ref-format --branch` is the judge.
        let accepted = |name: &str| {
            let git = std::process::Command::new("git")
                .args(["check-ref-format", "--branch", name])
                .output();
            git.unwrap().status.success()
        };
        for good in ["master", "feature/x", "$(x)", "a;b|c&d", "ü", "release-1.2", "a@b", "'x'"] {
            assert!(good.parse::<Branch>().is_ok() && accepted(good), "{good}");
        }
        for bad in [
            "", "-x", "a b", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "/a", "a/",
            "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a.", "a@{1}", "a\tb", "HEAD", "a\u{7f}",
        ] {
            assert!(bad.parse::<Branch>().is_err() && !accepted(bad), "{bad}");
        }
        assert!("x".repeat(MAX_BRANCH + 1).parse::<Branch>().is_err());
    }
}
