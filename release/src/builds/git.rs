//! A repository, read by the `git` command.
//!
//! Only commands that read objects are run: none checks out files, so that no filter, hook or
//! symbolic link of a repository has an effect. No configuration of the user or the system is read,
//! and no protocol is allowed, so that a repository's own configuration makes git contact nothing
//! and start nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::path::RepositoryPath;
use super::process::{self, Bounds, ProcessError};
use super::tree::{Entry, InvalidTree, Tree};
use crate::model::CommitId;

/// What one command may use: the listing of the most files that a commit may have.
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(60), output: 64 * 1024 * 1024 };
/// The largest file whose content is read, in bytes.
pub const MAX_BLOB: u64 = 1024 * 1024;
/// Settings that override those of the repository.
const SETTINGS: [&str; 7] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "safe.directory=*",
    "core.pager=cat",
    // A larger file is never in memory as a whole: whoever may push decides how large files are.
    "core.bigFileThreshold=8m",
    "core.deltaBaseCacheLimit=16m",
    "pack.threads=1",
];

/// A repository on this machine.
#[derive(Debug, Clone)]
pub struct Repository {
    git_folder: PathBuf,
    /// How much memory git may take, in bytes. A repository of the user is trusted.
    max_memory: Option<u64>,
}

/// Why a repository cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no repository.
    #[error("{0} is not in a git repository")]
    NoRepository(String),
    /// The commit does not exist.
    #[error("the repository has no commit {0:?}")]
    NoCommit(String),
    /// The commit cannot be used.
    #[error(transparent)]
    Tree(#[from] InvalidTree),
    /// A file is larger than [`MAX_BLOB`].
    #[error("{0} has more than {MAX_BLOB} bytes")]
    Large(String),
    /// Git failed.
    #[error("git failed: {0}")]
    Git(#[from] ProcessError),
    /// Git's output is not what was expected.
    #[error("git returned something else than {0}")]
    Output(&'static str),
}

// === impl Repository ===

impl Repository {
    /// Finds the repository that a folder belongs to, or that it is.
    ///
    /// # Errors
    /// There is none, or git is not installed.
    pub async fn discover(folder: &Path) -> Result<Self, GitError> {
        let mut command = command();
        command.arg("-C").arg(folder).args(["rev-parse", "--absolute-git-dir"]);
        let output = process::run(command, b"", BOUNDS).await.map_err(|error| match error {
            ProcessError::Failed(_) => GitError::NoRepository(folder.display().to_string()),
            error => error.into(),
        })?;
        let output = String::from_utf8(output).map_err(|_| GitError::Output("a path"))?;
        Ok(Self { git_folder: output.trim_end_matches('\n').into(), max_memory: None })
    }

    /// The repository in a folder of git, such as a mirror, for which git may take this much memory, in
    /// bytes. Nothing is read yet.
    pub(super) fn at(git_folder: &Path, max_memory: u64) -> Self {
        Self { git_folder: git_folder.to_owned(), max_memory: Some(max_memory) }
    }

    /// The name of its folder, without `.git`.
    #[must_use]
    pub fn name(&self) -> String {
        let folder = match self.git_folder.file_name() {
            Some(name) if name == ".git" => self.git_folder.parent().and_then(Path::file_name),
            name => name,
        };
        let name = folder.map(OsStr::to_string_lossy).unwrap_or_default();
        name.strip_suffix(".git").unwrap_or(&name).to_owned()
    }

    /// The commit that a revision names, such as `HEAD`, a branch or a tag.
    ///
    /// # Errors
    /// There is none.
    pub async fn resolve(&self, revision: &str) -> Result<CommitId, GitError> {
        let peeled = format!("{revision}^{{commit}}");
        let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &peeled];
        let output = self.run(&arguments, b"").await.map_err(|error| match error {
            GitError::Git(ProcessError::Failed(_)) => GitError::NoCommit(revision.to_owned()),
            error => error,
        })?;
        let text = String::from_utf8(output).map_err(|_| GitError::Output("a commit"))?;
        // Git prints `--end-of-options`, too, before 2.43.
        let last = text.lines().last().unwrap_or_default();
        last.parse().map_err(|_| GitError::Output("a commit"))
    }

    /// All files of a commit.
    ///
    /// # Errors
    /// The commit does not exist, or has too many files.
    pub async fn tree(&self, commit: &CommitId) -> Result<Tree, GitError> {
        let arguments = ["ls-tree", "-r", "-l", "-z", "--full-tree", commit.as_str()];
        match self.run(&arguments, b"").await {
            Ok(listing) => Ok(Tree::parse(&listing)?),
            Err(GitError::Git(ProcessError::Failed(_))) => {
                Err(GitError::NoCommit(commit.to_string()))
            }
            Err(GitError::Git(ProcessError::Output(_))) => Err(InvalidTree::TooManyFiles.into()),
            Err(error) => Err(error),
        }
    }

    /// The contents of files, in their order.
    ///
    /// # Errors
    /// One of them is larger than [`MAX_BLOB`], or all together than 64 MiB.
    pub async fn contents(&self, files: &[&Entry]) -> Result<Vec<Vec<u8>>, GitError> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(large) = files.iter().find(|file| file.size > MAX_BLOB) {
            return Err(GitError::Large(String::from_utf8_lossy(&large.path).into_owned()));
        }
        let names: String = files.iter().map(|file| format!("{}\n", file.object)).collect();
        let output = self.run(&["cat-file", "--batch"], names.as_bytes()).await?;
        let mut rest = output.as_slice();
        let mut contents = Vec::new();
        for _ in files {
            let (content, after) = blob(rest).ok_or(GitError::Output("files"))?;
            contents.push(content.to_vec());
            rest = after;
        }
        Ok(contents)
    }

    /// Whether a commit is one of those that a reference leads to.
    ///
    /// # Errors
    /// The reference does not exist.
    pub(super) async fn is_ancestor(
        &self,
        commit: &CommitId,
        reference: &str,
    ) -> Result<bool, GitError> {
        match self.run(&["cat-file", "-e", &format!("{commit}^{{commit}}")], b"").await {
            Ok(_) => {}
            Err(GitError::Git(ProcessError::Failed(_))) => return Ok(false),
            Err(error) => return Err(error),
        }
        let range = format!("{reference}..{commit}");
        let others = self.run(&["rev-list", "--max-count=1", &range, "--"], b"").await?;
        Ok(others.is_empty())
    }

    /// The command that writes an archive of files and folders of a commit to its output; of all, if
    /// the root is among them.
    pub(super) fn archive<'p>(
        &self,
        commit: &CommitId,
        paths: impl IntoIterator<Item = &'p RepositoryPath>,
    ) -> Command {
        let paths: Vec<_> = paths.into_iter().collect();
        let mut command = self.command();
        command.args(["archive", "--format=tar", commit.as_str(), "--"]);
        if !paths.iter().any(|path| path.is_root()) {
            command.args(paths.iter().map(|path| path.as_str()));
        }
        command
    }

    /// The command for this repository.
    pub(super) fn command(&self) -> Command {
        let mut command = match self.max_memory {
            Some(max) => bounded(max),
            None => command(),
        };
        command.arg("--git-dir").arg(&self.git_folder);
        command
    }

    async fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, GitError> {
        let mut command = self.command();
        command.args(arguments);
        Ok(process::run(command, input, BOUNDS).await?)
    }
}

/// Splits off the first file of the output of `git cat-file --batch`: `OBJECT blob SIZE`, a line
/// feed, the content, a line feed.
fn blob(output: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = output.iter().position(|octet| *octet == b'\n')?;
    let mut words = std::str::from_utf8(output.get(..end)?).ok()?.split(' ').skip(1);
    let size: usize =
        words.next().filter(|kind| *kind == "blob").and(words.next())?.parse().ok()?;
    let rest = output.get(end.checked_add(1)?..)?;
    Some((rest.get(..size)?, rest.get(size.checked_add(1)?..)?))
}

/// The command without anything that the environment could change.
pub(super) fn command() -> Command {
    let mut command = Command::new("git");
    command.env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.envs([
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_LITERAL_PATHSPECS", "1"),
        // A partial clone would fetch what is missing.
        ("GIT_ALLOW_PROTOCOL", "none"),
        ("LC_ALL", "C"),
    ]);
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command
}

/// The same, of which each process fails when it needs more memory. The kernel would end the builder
/// with it.
pub(super) fn bounded(max_memory: u64) -> Command {
    let git = command();
    let git = git.as_std();
    let mut bounded = Command::new("prlimit");
    bounded.env_clear().envs(git.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bounded.arg(format!("--data={max_memory}")).arg("--");
    bounded.arg(git.get_program()).args(git.get_args());
    bounded
}

#[cfg(test)]
pub(super) mod tests;
