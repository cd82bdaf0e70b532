//! Builds one commit: its images, then their releases.
//!
//! Each step is recorded before the next one, so that a builder that was killed neither builds nor
//! releases anything twice.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::time::timeout;

use super::bazel::QUERY;
use super::buildah::{BuildError, Buildah, Images, Query, Source};
use super::followers::Follower;
use super::git::GitError;
use super::jobs::{self, Jobs};
use super::log::{Log, Mask, Obstacle, as_reason};
use super::mirror;
use super::queue::ACTOR;
use super::sandbox::{Limits, NEEDS_ROOT};
use super::survey::{Survey, Surveyed};
use crate::model::{BuildId, EnvironmentName, ReleaseId, Time};
use crate::registry::{ImageError, Registries};
use crate::releases::{self, ReleaseError, RequestedRelease};
use crate::settings::{BuildSettings, RepositorySettings};
use crate::store::{Build, BuildStore, BuildTarget, By, Idempotency, StoreError, TargetState};

/// The bytes of a MiB.
const MEBIBYTE: u64 = 1024 * 1024;
/// How long a build may take, with all of its images and their upload, by the time of one image and of
/// its pod.
const WHOLE_BUILD: u32 = 4;
/// How many logs of a repository are kept.
const KEPT_LOGS: u32 = 200;

/// Builds commits.
pub(super) struct Worker {
    store: Arc<dyn BuildStore>,
    registries: Arc<Registries>,
    settings: BuildSettings,
    images: Box<dyn Images>,
    /// What the builds that run wait for.
    obstacles: Mutex<BTreeMap<BuildId, Weak<Obstacle>>>,
}

/// How a build ended.
#[derive(Debug)]
pub(super) enum Verdict {
    /// All of its targets are released or unchanged.
    Succeeded(Option<String>),
    /// What is built is at fault.
    Failed(String),
    /// It is tried again.
    Interrupted(String),
}

/// Why a target has no release.
#[derive(Debug)]
enum Stop {
    /// Another attempt would fail, too.
    Failed(String),
    /// Another attempt may succeed.
    Interrupted(String),
}

/// A target of a build that runs.
struct Job<'j> {
    build: &'j Build,
    follower: &'j Follower,
    surveyed: &'j Surveyed,
    /// What was recorded before.
    recorded: Option<BuildTarget>,
    registry: &'j Waits,
}

/// Whether a build waits for the registry: what that delays is no fault of the repository.
#[derive(Default)]
struct Waits(AtomicBool);

// === impl Worker ===

impl Worker {
    /// One that builds in sandboxes, in Jobs or on this machine. Creates the folders, and removes what
    /// a builder that was killed has left.
    pub(super) fn new(
        store: Arc<dyn BuildStore>,
        registries: Arc<Registries>,
        settings: BuildSettings,
        jobs: Option<Jobs>,
    ) -> io::Result<Self> {
        let limits = Limits {
            time: settings.max_time,
            memory: settings.max_memory.saturating_mul(MEBIBYTE),
            disk: settings.max_disk.saturating_mul(MEBIBYTE),
            processes: settings.max_processes,
        };
        let mirrors = settings.mirrors.clone();
        if !mirrors.is_empty() && jobs.is_none() && !geteuid().is_root() {
            return Err(io::Error::other(NEEDS_ROOT));
        }
        let (base, bazel) = (settings.base_images.clone(), settings.bazel.clone());
        let images = Buildah { limits, mirrors, base, bazel, jobs };
        Self::with(store, registries, settings, Box::new(images))
    }

    /// The same, with images that are made in another way.
    pub(super) fn with(
        store: Arc<dyn BuildStore>,
        registries: Arc<Registries>,
        settings: BuildSettings,
        images: Box<dyn Images>,
    ) -> io::Result<Self> {
        let work = settings.folder.join("work");
        match std::fs::remove_dir_all(&work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&work)?;
        std::fs::create_dir_all(settings.folder.join("logs"))?;
        Ok(Self { store, registries, images, settings, obstacles: Mutex::default() })
    }

    /// Removes what an earlier builder has left in the cluster.
    pub(super) async fn start(&self) {
        self.images.start().await;
    }

    /// The log of a build.
    pub(super) fn log(&self, id: &BuildId) -> PathBuf {
        self.settings.folder.join("logs").join(format!("{id}.log"))
    }

    /// What a build that runs waits for, such as a node with room for its pod.
    pub(super) fn obstacle(&self, id: &BuildId) -> Option<String> {
        let obstacles = self.obstacles.lock().unwrap_or_else(PoisonError::into_inner);
        obstacles.get(id)?.upgrade()?.get()
    }

    /// Knows what a build waits for until its log is closed.
    fn watch(&self, id: &BuildId, log: &Log) {
        let mut obstacles = self.obstacles.lock().unwrap_or_else(PoisonError::into_inner);
        obstacles.retain(|_, obstacle| obstacle.strong_count() > 0);
        obstacles.insert(id.clone(), log.obstacle());
    }

    /// Builds a commit.
    pub(super) async fn build(&self, build: &Build, follower: &Follower) -> Verdict {
        let max = self.settings.max_log.saturating_mul(MEBIBYTE);
        let mask = self.mask(follower.settings());
        self.forget_logs(&build.id);
        let mut log = match Log::open(&self.log(&build.id), max, mask).await {
            Ok(log) => log,
            Err(error) => {
                return Verdict::Interrupted(format!("the log cannot be written: {error}"));
            }
        };
        self.watch(&build.id, &log);
        log.note(&format!("commit {}, attempt {}", build.commit, build.attempts)).await;
        // What a cluster needs for a pod is no fault of the repository.
        let pod = if self.settings.jobs.is_some() { jobs::START } else { Duration::ZERO };
        let time = self.settings.max_time.saturating_add(pod).saturating_mul(WHOLE_BUILD);
        let registry = Waits::default();
        let built = timeout(time, self.build_all(build, follower, &registry, &mut log)).await;
        let verdict = built.unwrap_or_else(|_| {
            let seconds = time.as_secs();
            let reason = format!("the build took longer than {seconds} s in all, and was stopped");
            if registry.is_waiting() {
                Verdict::Interrupted(format!("{reason}, while it waited for the registry"))
            } else {
                Verdict::Failed(reason)
            }
        });
        let end = match &verdict {
            Verdict::Succeeded(reason) => reason.clone().unwrap_or_else(|| "succeeded".to_owned()),
            Verdict::Failed(reason) => format!("failed: {reason}"),
            Verdict::Interrupted(reason) => format!("interrupted, and tried again: {reason}"),
        };
        log.note(&end).await;
        log.close().await;
        verdict
    }

    async fn build_all(
        &self,
        build: &Build,
        follower: &Follower,
        registry: &Waits,
        log: &mut Log,
    ) -> Verdict {
        let survey = match self.survey(build, follower, log).await {
            Ok(survey) => survey,
            Err(Stop::Failed(reason)) => return Verdict::Failed(reason),
            Err(Stop::Interrupted(reason)) => return Verdict::Interrupted(reason),
        };
        let recorded = match self.store.build_targets(&build.id).await {
            Ok(recorded) => recorded,
            Err(error) => return Verdict::Interrupted(error.to_string()),
        };
        let (mut failures, mut interrupted) = (Vec::new(), None);
        for problem in &survey.problems {
            log.note(&problem.to_string()).await;
            if problem.severity == portcullis_config::problem::Severity::Error {
                // It quotes the repository.
                failures.push(as_reason(problem.message.as_bytes()));
            }
        }
        for surveyed in &survey.targets {
            let service = &surveyed.target.service;
            let recorded = recorded.iter().find(|target| target.service == *service).cloned();
            let job = Job { build, follower, surveyed, recorded, registry };
            match self.target(job, log).await {
                Ok(()) => {}
                // The others do not wait for it.
                Err(Stop::Interrupted(reason)) => {
                    log.note(&format!("{service}: interrupted: {reason}")).await;
                    interrupted.get_or_insert(reason);
                }
                Err(Stop::Failed(reason)) => failures.push(format!("{service}: {reason}")),
            }
        }
        if let Some(reason) = interrupted {
            return Verdict::Interrupted(reason);
        }
        match failures.into_iter().next() {
            Some(first) => Verdict::Failed(first),
            None if survey.targets.is_empty() => {
                Verdict::Succeeded(Some("the commit has no image to build".to_owned()))
            }
            None => Verdict::Succeeded(None),
        }
    }

    /// What the commit has, by a query if it is a workspace of Bazel.
    async fn survey(
        &self,
        build: &Build,
        follower: &Follower,
        log: &mut Log,
    ) -> Result<Survey, Stop> {
        let survey = follower.survey(&build.commit).await?;
        if !survey.is_workspace {
            return Ok(survey);
        }
        let query = follower.settings().bazel_query.as_deref().unwrap_or(QUERY);
        log.note(&format!("looking for targets of Bazel: {query}")).await;
        let query = Query {
            repository: &follower.repository(),
            url: &follower.settings().url.to_string(),
            commit: &build.commit,
            expression: query,
        };
        let labels = self.images.query(&query, log).await?;
        Ok(follower.survey_labels(&build.commit, &labels).await?)
    }

    /// Builds and releases a target, unless it is unchanged.
    async fn target(&self, job: Job<'_>, log: &mut Log) -> Result<(), Stop> {
        let Job { build, surveyed, recorded, .. } = &job;
        let service = &surveyed.target.service;
        let mut target = BuildTarget {
            service: service.clone(),
            key: surveyed.key.to_string(),
            manifests: surveyed.manifests.to_string(),
            state: TargetState::Building,
            image: None,
            release: None,
            unchanged_since: None,
            problem: None,
            autopush: None,
            autopushed: None,
        };
        match recorded {
            // By an earlier attempt: it has its own key.
            Some(done) if matches!(done.state, TargetState::Released | TargetState::Unchanged) => {
                log.note(&format!("{service}: done by an earlier attempt")).await;
                return Ok(());
            }
            // A query of Bazel may find something else at each attempt.
            Some(failed) if failed.state == TargetState::Failed && failed.is_same(&target) => {
                return Err(Stop::Failed(failed.problem.clone().unwrap_or_default()));
            }
            Some(pushed) if pushed.state == TargetState::Pushed && pushed.is_same(&target) => {
                target = pushed.clone();
            }
            _ => {}
        }
        let repository = &build.id.repository;
        let last = self.store.released_target(repository, service, None).await?;
        let last = last.filter(|last| last.is_same(&target));
        let is_there = match last.as_ref().and_then(|last| last.image.as_deref()) {
            Some(image) => self.find(&job, image).await?.is_some(),
            None => false,
        };
        if let Some(last) = last.filter(|_| is_there) {
            let since = last.release.as_ref().map(ToString::to_string).unwrap_or_default();
            log.note(&format!("{service}: unchanged since release {since}")).await;
            target.state = TargetState::Unchanged;
            target.unchanged_since = last.release.clone();
            target.autopush = match (&last.autopush, &last.autopushed) {
                // That of a requested build was deployed nowhere.
                (None, None) => job.autopush(),
                _ => last.autopush,
            };
            (target.image, target.release) = (last.image, last.release);
            target.autopushed = last.autopushed;
            return self.record(build, &target).await;
        }
        let outcome = self.release(&job, &mut target, log).await;
        if let Err(Stop::Failed(reason)) = &outcome {
            log.note(&format!("{service}: {reason}")).await;
            target.state = TargetState::Failed;
            target.problem = Some(reason.clone());
            self.record(build, &target).await?;
        }
        outcome
    }

    /// Makes the image, unless it is there, and the release.
    async fn release(
        &self,
        job: &Job<'_>,
        target: &mut BuildTarget,
        log: &mut Log,
    ) -> Result<(), Stop> {
        let Job { build, surveyed, .. } = job;
        if target.state != TargetState::Pushed {
            self.record(build, target).await?;
            let (image, since) = match self.earlier_image(job, target).await? {
                Some((image, since)) => {
                    let note =
                        format!("{}: the image is unchanged since release {since}", target.service);
                    log.note(&note).await;
                    (image, Some(since))
                }
                None => (self.image(job, log).await?, None),
            };
            target.state = TargetState::Pushed;
            (target.image, target.unchanged_since) = (Some(image), since);
            self.record(build, target).await?;
        }
        let BuildTarget { service, key, manifests, .. } = &*target;
        let key = format!("build {} {service} {key} {manifests}", build.id);
        let request = RequestedRelease {
            service: target.service.clone(),
            commit: Some(build.commit.to_string()),
            image: target.image.clone().unwrap_or_default(),
            template: surveyed.template.clone(),
            irreversible: None,
        };
        let by = By {
            actor: ACTOR.to_owned(),
            reason: format!("build {}", build.id),
            at: Time::now(),
            idempotency: Some(Idempotency { fingerprint: key.clone(), key }),
        };
        let recording = releases::record(&*self.store, &self.registries, request, by);
        let made = match job.registry.during(recording).await {
            Err(ReleaseError::Image(error @ ImageError::NotFound(_))) => {
                // The next attempt builds it again.
                target.state = TargetState::Building;
                (target.image, target.unchanged_since) = (None, None);
                self.record(build, target).await?;
                return Err(Stop::Interrupted(error.to_string()));
            }
            made => made?,
        };
        log.note(&format!("release {} is {}", made.id, made.image)).await;
        target.state = TargetState::Released;
        (target.image, target.release) = (Some(made.image), Some(made.id));
        target.autopush = job.autopush();
        self.record(build, target).await
    }

    /// The image of the last release with the same inputs, if the registry still has it.
    async fn earlier_image(
        &self,
        job: &Job<'_>,
        target: &BuildTarget,
    ) -> Result<Option<(String, ReleaseId)>, Stop> {
        let (repository, BuildTarget { service, key, .. }) = (&job.build.id.repository, target);
        let earlier = self.store.released_target(repository, service, Some(key)).await?;
        let Some((image, release)) = earlier.and_then(|it| it.image.zip(it.release)) else {
            return Ok(None);
        };
        Ok(self.find(job, &image).await?.map(|image| (image, release)))
    }

    /// An image of the target's service by digest, if it is where its images are now.
    async fn find(&self, job: &Job<'_>, image: &str) -> Result<Option<String>, Stop> {
        let service = job.surveyed.target.service.as_str();
        let repository = self.settings.image_of(service).unwrap_or_default();
        if !image.starts_with(&format!("{repository}@")) {
            return Ok(None);
        }
        match job.registry.during(self.registries.resolve(image)).await {
            Ok(image) => Ok(Some(image)),
            Err(ImageError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Builds an image, and pushes it. Returns it by digest.
    async fn image(&self, job: &Job<'_>, log: &mut Log) -> Result<String, Stop> {
        let Job { build, follower, surveyed, .. } = job;
        let service = &surveyed.target.service;
        let folder = self.settings.folder.join("work").join(format!("{}.{service}", build.id));
        let folder = Folder::create(folder)
            .map_err(|error| Stop::Interrupted(format!("the image cannot be stored: {error}")))?;
        log.note(&format!("{service}: building")).await;
        let source = Source {
            repository: &follower.repository(),
            url: &follower.settings().url.to_string(),
            commit: &build.commit,
            target: &surveyed.target,
        };
        let upload = self.images.build(&source, &folder.0, log).await?;
        let repository = self.settings.image_of(service.as_str()).unwrap_or_default();
        let image = format!("{repository}:{}", build.commit);
        log.note(&format!("{service}: pushing {image}")).await;
        Ok(job.registry.during(self.registries.push(&image, &upload)).await?)
    }

    async fn record(&self, build: &Build, target: &BuildTarget) -> Result<(), Stop> {
        let recorded = self.store.record_target(build, target, Time::now()).await?;
        let outdated = || Stop::Interrupted("the build was changed by another builder".to_owned());
        recorded.then_some(()).ok_or_else(outdated)
    }

    /// All secrets that the builder has for a repository and for registries. None of them is ever
    /// in a build, but a repository may have one of them.
    fn mask(&self, repository: &RepositorySettings) -> Mask {
        let files = [&repository.credentials, &repository.webhook_secret, &repository.ssh_key];
        let files = files.into_iter().flatten().filter_map(|path| mirror::secret(path).ok());
        Mask::new(files.chain(self.registries.secrets()))
    }

    fn forget_logs(&self, id: &BuildId) {
        if let Some(number) = id.number.checked_sub(KEPT_LOGS) {
            // It may never have been built.
            let _ = std::fs::remove_file(self.log(&BuildId { number, ..id.clone() }));
        }
    }
}

// === impl Job ===

impl Job<'_> {
    /// Where its release is deployed. A build that was requested by a person, who may not deploy
    /// everywhere, deploys nowhere.
    fn autopush(&self) -> Option<EnvironmentName> {
        let autopush = self.follower.settings().autopush.clone();
        autopush.filter(|_| !self.build.is_requested)
    }
}

// === impl Waits ===

impl Waits {
    /// Waits for a call to the registry.
    async fn during<T>(&self, call: impl Future<Output = T>) -> T {
        self.0.store(true, Ordering::Relaxed);
        // Boxed: calls of several kilobytes would make that of a whole build larger.
        let response = Box::pin(call).await;
        self.0.store(false, Ordering::Relaxed);
        response
    }

    /// Whether it waits for one, or did when it was stopped.
    fn is_waiting(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn create(path: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "failed to remove the files of a build");
        }
    }
}

impl From<BuildError> for Stop {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Failed(reason) => Self::Failed(reason),
            BuildError::Interrupted(reason) => Self::Interrupted(reason),
        }
    }
}

impl From<GitError> for Stop {
    fn from(error: GitError) -> Self {
        match error {
            // After a force-push, what was pushed before may be gone.
            GitError::NoCommit(_) | GitError::Tree(_) | GitError::Large(_) => {
                Self::Failed(error.to_string())
            }
            error => Self::Interrupted(error.to_string()),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Interrupted(error.to_string())
    }
}

impl From<ReleaseError> for Stop {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Template(_) => Self::Failed(error.to_string()),
            ReleaseError::Image(error) => error.into(),
            ReleaseError::Store(error) => error.into(),
        }
    }
}

impl From<ImageError> for Stop {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Invalid(_)
            | ImageError::UnknownRegistry(_)
            | ImageError::NotFound(_)
            | ImageError::Rejected(..) => Self::Failed(error.to_string()),
            ImageError::Unauthorized(_) | ImageError::Unavailable(..) => {
                Self::Interrupted(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests;
