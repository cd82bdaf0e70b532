//! Mirrors of repositories: their branch, fetched by the `git` command over HTTPS or SSH.
//!
//! A mirror is bare: nothing is checked out. The server is not trusted, and neither is what it
//! sends: objects are checked, redirects are not followed, no other protocol is allowed, the mirror
//! is bounded in size and the fetch in time, and credentials are sent to the configured host alone.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::git::{self, GitError, Repository};
use super::process::{self, Bounds, ProcessError};
use crate::model::{CommitId, Transport};
use crate::settings::{BuildSettings, RepositorySettings};

/// What a fetch may use; it writes nothing to its standard output.
const FETCH: Bounds = Bounds { time: Duration::from_secs(10 * 60), output: 64 * 1024 };
/// How often the size of a mirror is measured during a fetch.
const MEASURED_EVERY: Duration = Duration::from_millis(250);
/// The reference of the branch in the mirror: one name, whatever the branch is called.
const FETCHED: &str = "refs/portcullis/branch";
/// The most files of packs, of which each fetch adds a few.
const MAX_PACK_FILES: usize = 100;
/// The largest file of credentials, in bytes.
const MAX_CREDENTIALS: u64 = 4096;
/// Settings of every fetch.
const SETTINGS: [&str; 13] = [
    "fetch.fsckObjects=true",
    // What old versions of git wrote, and is harmless.
    "fetch.fsck.zeroPaddedFilemode=ignore",
    "fetch.fsck.missingSpaceBeforeDate=ignore",
    "fetch.fsck.badTimezone=ignore",
    // One pack, which can be measured and removed, rather than many files.
    "fetch.unpackLimit=1",
    "http.followRedirects=false",
    "http.sslVerify=true",
    // A server that sends less than 1,000 octets a second for 30 s is away.
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
    "credential.helper=",
    "gc.auto=0",
    "transfer.bundleURI=false",
    "advice.fetchShowForcedUpdates=false",
];
/// Overrides the attributes of commits: a build gets the files that its key is made of, as they are.
const ATTRIBUTES: &str =
    "* -text -ident -export-ignore -export-subst !eol !filter !working-tree-encoding\n";
/// The environment's proxies.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"];

/// A mirror of a repository.
#[derive(Debug)]
pub struct Mirror {
    folder: PathBuf,
    settings: RepositorySettings,
    /// In bytes.
    max: u64,
    /// How much memory git may take, in bytes.
    max_memory: u64,
}

/// Why a repository cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The repository has no such branch.
    #[error("the repository has no branch {0:?}")]
    NoBranch(String),
    /// The mirror would be too large.
    #[error("the repository has more than {0} MiB")]
    TooLarge(u64),
    /// A file of credentials cannot be used.
    #[error("{0}: {1}")]
    Credentials(String, String),
    /// The mirror cannot be written.
    #[error("the mirror cannot be written: {0}")]
    Folder(#[from] std::io::Error),
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
}

// === impl Mirror ===

impl Mirror {
    /// A mirror in a folder of its own. [`fetch`](Self::fetch) creates it.
    #[must_use]
    pub fn new(builds: &BuildSettings, settings: RepositorySettings) -> Self {
        let folder = builds.folder.join(format!("{}.git", settings.name));
        let [max, max_memory] =
            [builds.max_mirror, builds.max_git_memory].map(|it| it.saturating_mul(1024 * 1024));
        Self { folder, settings, max, max_memory }
    }

    /// The repository, for reading.
    #[must_use]
    pub fn repository(&self) -> Repository {
        Repository::at(&self.folder, self.max_memory)
    }

    /// Whether a commit is one of the branch, rather than what a force-push has left.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn has(&self, commit: &CommitId) -> Result<bool, GitError> {
        self.repository().is_ancestor(commit, FETCHED).await
    }

    /// Fetches the branch, and returns its newest commit.
    ///
    /// # Errors
    /// The server cannot be reached, has no such branch, or sends something that is not valid or is
    /// too large.
    pub async fn fetch(&self) -> Result<CommitId, FetchError> {
        self.prepare().await?;
        let command = self.command()?;
        let too_large = || FetchError::TooLarge(self.max / (1024 * 1024));
        let fetched = tokio::select! {
            fetched = process::run(command, b"", FETCH) => fetched,
            () = self.exceeds() => {
                // What is there is of no use: no later fetch would be smaller.
                self.remove().await?;
                return Err(too_large());
            }
        };
        fetched.map_err(|error| self.failure(error))?;
        if self.size().await? > self.max {
            self.remove().await?;
            return Err(too_large());
        }
        self.repack().await?;
        Ok(self.repository().resolve(FETCHED).await?)
    }

    /// Makes one pack of many, without what no commit of the branch needs any more.
    async fn repack(&self) -> Result<(), FetchError> {
        if fs::read_dir(self.folder.join("objects/pack"))?.count() <= MAX_PACK_FILES {
            return Ok(());
        }
        let mut command = git::bounded(self.max_memory);
        command.args(["-c", "pack.windowMemory=64m", "--git-dir"]);
        command.arg(&self.folder).args(["repack", "-a", "-d", "--quiet"]);
        process::run(command, b"", FETCH).await.map_err(GitError::from)?;
        Ok(())
    }

    /// Creates the mirror, or removes what a fetch that was killed has left of its pack.
    async fn prepare(&self) -> Result<(), FetchError> {
        fs::create_dir_all(&self.folder)?;
        let mut command = git::command();
        command.args(["init", "--quiet", "--bare", "--template=", "--initial-branch=master", "--"]);
        command.arg(&self.folder);
        process::run(command, b"", FETCH).await.map_err(GitError::from)?;
        fs::create_dir_all(self.folder.join("info"))?;
        fs::write(self.folder.join("info/attributes"), ATTRIBUTES)?;
        let Ok(packs) = fs::read_dir(self.folder.join("objects/pack")) else { return Ok(()) };
        for pack in packs {
            let pack = pack?;
            if pack.file_name().as_encoded_bytes().starts_with(b"tmp_") {
                fs::remove_file(pack.path())?;
            }
        }
        Ok(())
    }

    fn command(&self) -> Result<Command, FetchError> {
        let RepositorySettings { url, branch, .. } = &self.settings;
        let mut command = git::bounded(self.max_memory);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        if let Some(file) = &self.settings.certificate_authorities {
            command.arg("-c").arg(format!("http.sslCAInfo={}", file.display()));
        }
        command.env("GIT_ALLOW_PROTOCOL", url.transport().scheme());
        command.envs(PROXIES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        match (url.transport(), &self.settings.credentials) {
            (Transport::Https, Some(file)) => {
                // In the environment, which other users cannot read, rather than in an argument.
                command
                    .env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", format!("http.{}.extraHeader", url.origin()))
                    .env("GIT_CONFIG_VALUE_0", authorization(file)?);
            }
            (Transport::Https, None) => {}
            (Transport::Ssh, _) => {
                command.env("GIT_SSH_COMMAND", self.ssh());
            }
        }
        command.arg("--git-dir").arg(&self.folder);
        command.args(["fetch", "--quiet", "--force", "--no-tags", "--no-recurse-submodules"]);
        command.args(["--no-write-fetch-head", "--no-show-forced-updates", "--"]);
        command.arg(url.to_string()).arg(format!("+{}:{FETCHED}", branch.reference()));
        Ok(command)
    }

    /// The command of SSH, which git passes to a shell. The settings allow no path in which a shell
    /// or SSH finds something special.
    fn ssh(&self) -> String {
        let path = |file: &Option<PathBuf>| {
            file.as_deref().unwrap_or(Path::new("none")).display().to_string()
        };
        format!(
            "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile={} -o \
             GlobalKnownHostsFile=none -o IdentitiesOnly=yes -o IdentityAgent=none -o \
             ForwardAgent=no -o ClearAllForwardings=yes -o ConnectTimeout=10 -i {}",
            path(&self.settings.ssh_known_hosts),
            path(&self.settings.ssh_key),
        )
    }

    fn failure(&self, error: ProcessError) -> FetchError {
        match error {
            ProcessError::Failed(text) if text.contains("couldn't find remote ref") => {
                FetchError::NoBranch(self.settings.branch.to_string())
            }
            error => GitError::from(error).into(),
        }
    }

    /// Returns when the mirror is too large.
    async fn exceeds(&self) {
        loop {
            sleep(MEASURED_EVERY).await;
            // A file that is just being renamed is measured the next time.
            if self.size().await.is_ok_and(|size| size > self.max) {
                return;
            }
        }
    }

    async fn size(&self) -> Result<u64, FetchError> {
        let folder = self.folder.clone();
        let size = spawn_blocking(move || size(&folder)).await;
        Ok(size.map_err(std::io::Error::other)??)
    }

    async fn remove(&self) -> Result<(), FetchError> {
        let folder = self.folder.clone();
        let removed = spawn_blocking(move || fs::remove_dir_all(folder)).await;
        Ok(removed.map_err(std::io::Error::other)??)
    }
}

/// The size of all files below a folder, in bytes.
fn size(folder: &Path) -> std::io::Result<u64> {
    let mut sum: u64 = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let size = if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
        sum = sum.saturating_add(size);
    }
    Ok(sum)
}

/// The header that presents the credentials of a file (RFC 7617).
fn authorization(path: &Path) -> Result<String, FetchError> {
    let failed = |reason: String| FetchError::Credentials(path.display().to_string(), reason);
    let text = secret(path).map_err(|error| failed(error.to_string()))?;
    if !text.contains(':') || text.chars().any(char::is_control) {
        return Err(failed("it does not have the form USER:PASSWORD".to_owned()));
    }
    Ok(format!("Authorization: Basic {}", STANDARD.encode(text)))
}

/// The text of a file of a secret, without the line feed at its end.
///
/// # Errors
/// It cannot be read, has more than 4,096 bytes, or is not a text.
pub fn secret(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_CREDENTIALS + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_CREDENTIALS {
        return Err(std::io::Error::other(format!("it has more than {MAX_CREDENTIALS} bytes")));
    }
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
