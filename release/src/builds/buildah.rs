//! Images, by buildah, by a command or by Bazel in a sandbox: see [`super::sandbox`].
//!
//! The images that a Dockerfile starts from are those of a layout that the operator provides, or of
//! registries that are among the mirrors; a sandbox has no other network. It is on this machine, or in
//! the pod of a [Job](super::jobs).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, BufReader, DuplexStream, ReadBuf};
use tokio::process::{ChildStdout, Command};

use super::base::Layout;
use super::bazel::{self, Bazel, InvalidLabels};
use super::git::{GitError, Repository};
use super::jobs::{Jobs, Work};
use super::log::{Log, as_reason};
use super::oci::{Files, InvalidLayout};
use super::path::RepositoryPath;
use super::process::Group;
use super::sandbox::{self, Job, Limits, SandboxError};
use super::targets::{Label, Recipe, Target};
use crate::model::{CommitId, MirrorHost};
use crate::registry::Upload;

/// Makes the images of targets.
pub trait Images: Send + Sync {
    /// Builds an image into an empty folder.
    ///
    /// # Errors
    /// The build failed or was stopped, or its image is not valid.
    fn build<'a>(
        &'a self,
        source: &'a Source<'a>,
        folder: &'a Path,
        log: &'a mut Log,
    ) -> BoxFuture<'a, Result<Upload, BuildError>>;

    /// The targets of a workspace of Bazel that a query finds.
    ///
    /// # Errors
    /// The query failed or was stopped, or returned something else.
    fn query<'a>(
        &'a self,
        query: &'a Query<'a>,
        log: &'a mut Log,
    ) -> BoxFuture<'a, Result<Vec<Label>, BuildError>>;

    /// Removes what an earlier builder has left outside of its folders.
    fn start(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Builds images in sandboxes.
pub struct Buildah {
    /// What a build may use.
    pub limits: Limits,
    /// What a build may reach.
    pub mirrors: Vec<MirrorHost>,
    /// The layout of base images.
    pub base: Option<PathBuf>,
    /// The program of Bazel.
    pub bazel: Option<PathBuf>,
    /// Where sandboxes are; without it, on this machine.
    pub jobs: Option<Jobs>,
}

/// What is built.
#[derive(Debug)]
pub struct Source<'s> {
    /// The repository.
    pub repository: &'s Repository,
    /// Its URL, as the image names it.
    pub url: &'s str,
    /// The commit.
    pub commit: &'s CommitId,
    /// The target.
    pub target: &'s Target,
}

/// What is looked for.
#[derive(Debug)]
pub struct Query<'q> {
    /// The repository.
    pub repository: &'q Repository,
    /// Its URL.
    pub url: &'q str,
    /// The commit.
    pub commit: &'q CommitId,
    /// An expression of Bazel's query language.
    pub expression: &'q str,
}

/// What a sandbox does.
struct Task {
    /// What it is for.
    annotations: BTreeMap<String, String>,
    /// Writes the files of the commit.
    archive: Command,
    /// The base images.
    layout: Option<Layout>,
    /// A builder, and its arguments.
    arguments: Vec<String>,
}

/// What a sandbox leaves.
enum Output {
    /// On this machine.
    Process(BufReader<ChildStdout>),
    /// In a pod.
    Pod(DuplexStream),
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The fault is that of what is built: another attempt would fail, too.
    #[error("{0}")]
    Failed(String),
    /// Another attempt may succeed.
    #[error("{0}")]
    Interrupted(String),
}

// === impl Buildah ===

impl Buildah {
    async fn build_image(
        &self,
        source: &Source<'_>,
        folder: &Path,
        log: &mut Log,
    ) -> Result<Upload, BuildError> {
        let Source { repository, url, commit, target } = *source;
        let (arguments, layout) = self.recipe(source).await?;
        let archive = repository.archive(commit, target.paths());
        let mut annotations = annotations(url, commit);
        annotations.insert("portcullis.dev/service".to_owned(), target.service.to_string());
        let task = Task { annotations, archive, layout, arguments };
        let max = self.limits.disk;
        let receive = async move |output| Files::receive(output, folder, max).await;
        match self.run(task, log, receive).await? {
            (Ok(files), true) => Ok(files.image(url, commit.as_str()).await?),
            (Ok(_) | Err(InvalidLayout::Nothing), _) => {
                Err(BuildError::Failed(format!("the build failed: {}", log.last())))
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    async fn find_labels(
        &self,
        query: &Query<'_>,
        log: &mut Log,
    ) -> Result<Vec<Label>, BuildError> {
        let Query { repository, url, commit, expression } = *query;
        let arguments = self.bazel()?.query(expression);
        let archive = repository.archive(commit, [&RepositoryPath::root()]);
        let annotations = annotations(url, commit);
        let task = Task { annotations, archive, layout: None, arguments };
        match self.run(task, log, bazel::read).await? {
            (Ok(labels), true) => Ok(labels),
            (Ok(_), false) => Err(InvalidLabels::Failed.into()),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// The builder of an image with its arguments, and the base images that it may start from.
    async fn recipe(
        &self,
        source: &Source<'_>,
    ) -> Result<(Vec<String>, Option<Layout>), BuildError> {
        let Target { recipe, context, .. } = source.target;
        match recipe {
            Recipe::Dockerfile(dockerfile) => {
                let layout = self.base.as_deref().map(Layout::read);
                let mut layout = layout.transpose().map_err(interrupted)?;
                if let Some(layout) = &mut layout {
                    layout.keep_named_in(&dockerfile_of(source, dockerfile).await?);
                }
                let mut arguments = vec!["dockerfile".to_owned()];
                for name in layout.iter().flat_map(Layout::names) {
                    let image = format!("container-image://oci:/base:{name}");
                    arguments.push(format!("--build-context={name}={image}"));
                }
                arguments.push(format!("--file=/work/{}", dockerfile.as_str()));
                arguments.push(format!("/work/{}", context.as_str()));
                Ok((arguments, layout))
            }
            Recipe::Command { command, output } => {
                let head = ["command", context.as_str(), output.as_str()].map(str::to_owned);
                Ok((head.into_iter().chain(command.iter().cloned()).collect(), None))
            }
            Recipe::Bazel(label) => Ok((self.bazel()?.build(label), None)),
        }
    }

    fn bazel(&self) -> Result<Bazel<'_>, BuildError> {
        let absent = "the builder has no Bazel: ask the operator to set `builds.bazel`";
        let program = self.bazel.as_deref();
        let program = program.ok_or_else(|| BuildError::Failed(absent.to_owned()))?;
        Ok(Bazel::new(program, self.limits.memory))
    }

    /// Does it in a sandbox. Returns what `receive` made of what the sandbox left, and whether it
    /// reported success.
    async fn run<T>(
        &self,
        mut task: Task,
        log: &mut Log,
        receive: impl AsyncFnOnce(Output) -> T,
    ) -> Result<(T, bool), BuildError> {
        task.archive.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut archive = task
            .archive
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| interrupted(format!("git cannot be started: {error}")))?;
        let mut group = Group::of(&archive);
        let files = archive.stdout.take().ok_or_else(|| interrupted("git has no output"))?;
        let ended = self.run_with(task, files, log, receive).await;
        let (received, is_success) = ended.map_err(|error| match error {
            // Not a note of the builder's own.
            SandboxError::Setup(reason) if !log.last().starts_with("--- ") => {
                SandboxError::Setup(format!("{reason}: {}", log.last()))
            }
            error => error,
        })?;
        let status = archive.wait().await;
        group.disarm();
        if is_success && !status.is_ok_and(|status| status.success()) {
            return Err(interrupted("git failed to read the commit"));
        }
        Ok((received, is_success))
    }

    /// Does it with these files, in a Job or on this machine.
    async fn run_with<T>(
        &self,
        task: Task,
        files: impl AsyncRead + Unpin,
        log: &mut Log,
        receive: impl AsyncFnOnce(Output) -> T,
    ) -> Result<(T, bool), SandboxError> {
        let Task { annotations, layout, arguments, .. } = task;
        let Some(jobs) = &self.jobs else {
            let base = self.base.clone().filter(|_| layout.is_some());
            let (limits, mirrors) = (self.limits.clone(), self.mirrors.clone());
            let job = Job { base, arguments, limits, mirrors };
            let receive = async move |output| receive(Output::Process(output)).await;
            return sandbox::run(&job, files, log, receive).await;
        };
        let base = layout.map(|layout| layout.archive(self.limits.disk)).transpose();
        let base = base.map_err(SandboxError::Setup)?.flatten();
        let (limits, mirrors) = (&self.limits, self.mirrors.as_slice());
        let work = Work { annotations, arguments: &arguments, limits, mirrors, base, files };
        jobs.run(work, log, async move |output| receive(Output::Pod(output)).await).await
    }
}

/// What a Job says of what it is for.
fn annotations(url: &str, commit: &CommitId) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("portcullis.dev/repository".to_owned(), url.to_owned()),
        ("portcullis.dev/commit".to_owned(), commit.to_string()),
    ])
}

/// The text of a Dockerfile.
async fn dockerfile_of(source: &Source<'_>, path: &RepositoryPath) -> Result<Vec<u8>, BuildError> {
    let failed = |error: GitError| interrupted(error.to_string());
    let tree = source.repository.tree(source.commit).await.map_err(failed)?;
    let entry = tree.get(path).ok_or_else(|| interrupted("the commit has no such Dockerfile"))?;
    let contents = source.repository.contents(&[entry]).await.map_err(failed)?;
    Ok(contents.into_iter().next().unwrap_or_default())
}

impl AsyncRead for Output {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Process(output) => Pin::new(output).poll_read(context, buffer),
            Self::Pod(output) => Pin::new(output).poll_read(context, buffer),
        }
    }
}

impl Images for Buildah {
    fn build<'a>(
        &'a self,
        source: &'a Source<'a>,
        folder: &'a Path,
        log: &'a mut Log,
    ) -> BoxFuture<'a, Result<Upload, BuildError>> {
        Box::pin(self.build_image(source, folder, log))
    }

    fn query<'a>(
        &'a self,
        query: &'a Query<'a>,
        log: &'a mut Log,
    ) -> BoxFuture<'a, Result<Vec<Label>, BuildError>> {
        Box::pin(self.find_labels(query, log))
    }

    fn start(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(jobs) = &self.jobs
                && let Err(error) = jobs.remove_left_over().await
            {
                // The first build tries it again.
                tracing::warn!(%error, "failed to remove the builds of an earlier builder");
            }
        })
    }
}

fn interrupted(reason: impl Into<String>) -> BuildError {
    BuildError::Interrupted(reason.into())
}

impl From<SandboxError> for BuildError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Setup(_) => Self::Interrupted(error.to_string()),
            SandboxError::Late(_) | SandboxError::Memory(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<InvalidLayout> for BuildError {
    fn from(error: InvalidLayout) -> Self {
        match error {
            InvalidLayout::Store(_) => Self::Interrupted(error.to_string()),
            // It quotes what the build left.
            error => Self::Failed(as_reason(error.to_string().as_bytes())),
        }
    }
}

impl From<InvalidLabels> for BuildError {
    fn from(error: InvalidLabels) -> Self {
        match error {
            InvalidLabels::Read(_) => Self::Interrupted(error.to_string()),
            error => Self::Failed(as_reason(error.to_string().as_bytes())),
        }
    }
}

#[cfg(test)]
mod command_tests;
#[cfg(test)]
mod tests;
