//! Images of Dockerfiles, by buildah in a sandbox: see [`super::sandbox`].
//!
//! A sandbox has no network, so that the images that a Dockerfile starts from are those of a layout
//! that the operator provides. It is on this machine, or in the pod of a [Job](super::jobs).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures::future::BoxFuture;
use tokio::io::AsyncRead;

use super::base::Layout;
use super::git::{GitError, Repository};
use super::jobs::{Jobs, Work};
use super::log::Log;
use super::oci::{Files, InvalidLayout};
use super::path::RepositoryPath;
use super::process::Group;
use super::sandbox::{self, Job, Limits, SandboxError};
use super::targets::{Recipe, Target};
use crate::model::CommitId;
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

    /// Removes what an earlier builder has left outside of its folders.
    fn start(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Builds images in sandboxes.
pub struct Buildah {
    /// What a build may use.
    pub limits: Limits,
    /// The layout of base images.
    pub base: Option<PathBuf>,
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
        let Target { recipe: Recipe::Dockerfile(dockerfile), context, inputs, .. } = source.target;
        let layout = self.base.as_deref().map(Layout::read).transpose().map_err(interrupted)?;
        let layout = match layout {
            Some(mut layout) => {
                layout.keep_named_in(&dockerfile_of(source, dockerfile).await?);
                Some(layout)
            }
            None => None,
        };
        let mut arguments = Vec::new();
        for name in layout.iter().flat_map(Layout::names) {
            arguments.push(format!("--build-context={name}=container-image://oci:/base:{name}"));
        }
        arguments.push(format!("--file=/work/{}", dockerfile.as_str()));
        arguments.push(format!("/work/{}", context.as_str()));
        let paths = [context, dockerfile].into_iter().chain(inputs);
        let mut archive = source.repository.archive(source.commit, paths);
        archive.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut archive = archive
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| interrupted(format!("git cannot be started: {error}")))?;
        let mut group = Group::of(&archive);
        let files = archive.stdout.take().ok_or_else(|| interrupted("git has no output"))?;
        let ended = self.run(source, layout, arguments, files, folder, log).await;
        let (received, is_success) = ended.map_err(|error| match error {
            // Not a note of the builder's own.
            SandboxError::Setup(reason) if !log.last().starts_with("--- ") => {
                SandboxError::Setup(format!("{reason}: {}", log.last()))
            }
            error => error,
        })?;
        let status = archive.wait().await;
        group.disarm();
        match received {
            Ok(files) if is_success => {
                if !status.is_ok_and(|status| status.success()) {
                    return Err(interrupted("git failed to read the commit"));
                }
                Ok(files.image(source.url, source.commit.as_str()).await?)
            }
            Ok(_) | Err(InvalidLayout::Nothing) => {
                Err(BuildError::Failed(format!("the build failed: {}", log.last())))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Runs buildah in a sandbox. Returns the image that it left, and whether it reported success.
    async fn run(
        &self,
        source: &Source<'_>,
        layout: Option<Layout>,
        arguments: Vec<String>,
        files: impl AsyncRead + Unpin,
        folder: &Path,
        log: &mut Log,
    ) -> Result<(Result<Files, InvalidLayout>, bool), SandboxError> {
        let max = self.limits.disk;
        let Some(jobs) = &self.jobs else {
            let job = Job { base: self.base.clone(), arguments, limits: self.limits.clone() };
            let receive = async move |output| Files::receive(output, folder, max).await;
            return sandbox::run(&job, files, log, receive).await;
        };
        let base = layout.map(|layout| layout.archive(max)).transpose();
        let base = base.map_err(SandboxError::Setup)?.flatten();
        let annotations = BTreeMap::from([
            ("portcullis.dev/repository".to_owned(), source.url.to_owned()),
            ("portcullis.dev/commit".to_owned(), source.commit.to_string()),
            ("portcullis.dev/service".to_owned(), source.target.service.to_string()),
        ]);
        let limits = &self.limits;
        let work = Work { annotations, arguments: &arguments, limits, base, files };
        let receive = async move |output| Files::receive(output, folder, max).await;
        jobs.run(work, log, receive).await
    }
}

/// The text of a Dockerfile.
async fn dockerfile_of(source: &Source<'_>, path: &RepositoryPath) -> Result<Vec<u8>, BuildError> {
    let failed = |error: GitError| interrupted(error.to_string());
    let tree = source.repository.tree(source.commit).await.map_err(failed)?;
    let entry = tree.get(path).ok_or_else(|| interrupted("the commit has no such Dockerfile"))?;
    let contents = source.repository.contents(&[entry]).await.map_err(failed)?;
    Ok(contents.into_iter().next().unwrap_or_default())
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
            error => Self::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
