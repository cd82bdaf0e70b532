//! Images of Dockerfiles, by buildah in a sandbox: see [`super::sandbox`].
//!
//! A sandbox has no network, so that the images that a Dockerfile starts from are those of a layout
//! that the operator provides.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures::future::BoxFuture;
use serde::Deserialize;

use super::git::Repository;
use super::log::Log;
use super::oci::{Files, InvalidLayout};
use super::process::Group;
use super::sandbox::{self, Job, Limits, SandboxError};
use super::targets::{Recipe, Target};
use crate::model::CommitId;
use crate::registry::Upload;

/// The annotation that names an image in a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

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
}

/// Builds images in sandboxes.
#[derive(Debug)]
pub struct Buildah {
    /// What a build may use.
    pub limits: Limits,
    /// The layout of base images.
    pub base: Option<PathBuf>,
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

#[derive(Deserialize)]
struct BaseIndex {
    manifests: Vec<BaseImage>,
}

#[derive(Deserialize)]
struct BaseImage {
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
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
        let mut arguments = Vec::new();
        for name in self.base_images()? {
            arguments.push(format!("--build-context={name}=container-image://oci:/base:{name}"));
        }
        arguments.push(format!("--file=/work/{}", dockerfile.as_str()));
        arguments.push(format!("/work/{}", context.as_str()));
        let limits = self.limits.clone();
        let job = Job { base: self.base.clone(), arguments, limits };
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
        let max = self.limits.disk;
        let receive = async move |output| Files::receive(output, folder, max).await;
        let (received, is_success) =
            sandbox::run(&job, files, log, receive).await.map_err(BuildError::from)?;
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

    /// The names of the base images. Only names that are one argument are taken.
    fn base_images(&self) -> Result<Vec<String>, BuildError> {
        let Some(folder) = &self.base else { return Ok(Vec::new()) };
        let path = folder.join("index.json");
        let failed = |reason: String| interrupted(format!("{}: {reason}", path.display()));
        let text = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
        let index: BaseIndex =
            serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        let is_name = |name: &String| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte))
        };
        let names = index.manifests.into_iter().filter_map(|mut it| it.annotations.remove(NAME));
        Ok(names.filter(is_name).collect())
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
