//! Builds commits: one at a time for each repository, always the newest.
//!
//! All decisions are those of [`schedule`](super::schedule). What it decides is recorded, with what
//! becomes of the builds, before it is done; a queue that starts continues with what was recorded.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::autopush;
use super::changes::{End, changes};
use super::followers::{Follower, Followers};
use super::git::GitError;
use super::jobs::Jobs;
use super::schedule::{Action, Event, Limits, Outcome, Schedule, choose, step};
use super::worker::{Verdict, Worker};
use crate::model::{BuildId, CommitId, RepositoryName, Time};
use crate::registry::Registries;
use crate::settings::BuildSettings;
use crate::store::{Build, BuildChange, BuildState, BuildStore, By, StoreError};

/// Who builds what was pushed, in the audit log.
pub(super) const ACTOR: &str = "portcullis:build";
/// How often it is looked for what is due.
const TICK: Duration = Duration::from_secs(1);

/// Builds commits.
pub struct Queue {
    store: Arc<dyn BuildStore>,
    followers: Arc<Followers>,
    /// `None` if nothing is built.
    worker: Option<Worker>,
    limits: Limits,
    concurrency: usize,
    /// As they were recorded last.
    schedules: Mutex<BTreeMap<RepositoryName, Schedule>>,
    /// Stops the build that runs.
    stops: SyncMutex<BTreeMap<RepositoryName, Arc<Notify>>>,
    wake: Notify,
}

/// Why a queue cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The folders of builds cannot be created.
    #[error("the folder of builds cannot be used: {0}")]
    Folder(#[from] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a build is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Nothing is built.
    #[error("this builder builds nothing: its configuration has no `builds.images`")]
    Disabled,
    /// There is no commit.
    #[error("the newest commit of the branch is not known yet")]
    NotFetched,
    /// The branch has no such commit.
    #[error("the branch has no commit {0}; after a push, fetch it by `portcullis repo sync`")]
    NoCommit(CommitId),
    /// Too many requested builds wait.
    #[error("too many requested builds of the repository wait")]
    TooMany,
    /// The build has ended.
    #[error("the build has ended")]
    Ended,
    /// The mirror cannot be read.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

// === impl Queue ===

impl Queue {
    /// Creates a queue that continues with what was recorded: no request may replace that. It builds
    /// in `jobs`; without them, on this machine.
    /// [`run`](Self::run) makes it work.
    ///
    /// # Errors
    /// The folders of builds cannot be created, or the store failed.
    pub async fn new(
        store: Arc<dyn BuildStore>,
        registries: Arc<Registries>,
        followers: Arc<Followers>,
        settings: Option<&BuildSettings>,
        jobs: Option<Jobs>,
    ) -> Result<Arc<Self>, SetupError> {
        if let Some(settings) = settings {
            create_private(&settings.folder)?;
        }
        let worker = match settings.filter(|settings| settings.images.is_some()) {
            Some(settings) => {
                Some(Worker::new(Arc::clone(&store), registries, settings.clone(), jobs)?)
            }
            None => None,
        };
        Self::with(store, followers, settings, worker).await
    }

    /// The same, with a worker; without one, nothing is built.
    async fn with(
        store: Arc<dyn BuildStore>,
        followers: Arc<Followers>,
        settings: Option<&BuildSettings>,
        worker: Option<Worker>,
    ) -> Result<Arc<Self>, SetupError> {
        let limits = Limits {
            per_hour: settings.map_or(0, |settings| settings.max_per_hour),
            per_day: settings.map_or(0, |settings| settings.max_per_day),
        };
        let queue = Self {
            store,
            followers,
            worker,
            limits,
            concurrency: settings.map_or(0, |settings| settings.concurrency),
            schedules: Mutex::default(),
            stops: SyncMutex::default(),
            wake: Notify::new(),
        };
        if queue.worker.is_some() {
            queue.resume().await?;
        }
        Ok(Arc::new(queue))
    }

    /// The log of a build; it may not exist.
    #[must_use]
    pub fn log(&self, id: &BuildId) -> Option<PathBuf> {
        Some(self.worker.as_ref()?.log(id))
    }

    /// A build with what it waits for now, if it runs and waits for something.
    #[must_use]
    pub fn explain(&self, mut build: Build) -> Build {
        if build.state == BuildState::Running && build.reason.is_none() {
            build.reason = self.worker.as_ref().and_then(|worker| worker.obstacle(&build.id));
        }
        build
    }

    /// Requests a build of a commit of the branch; by default of the newest one.
    ///
    /// # Errors
    /// Nothing is built, there is no such commit, or too many builds wait.
    pub async fn request(
        &self,
        follower: &Follower,
        commit: Option<CommitId>,
        by: By,
    ) -> Result<Build, QueueError> {
        if self.worker.is_none() {
            return Err(QueueError::Disabled);
        }
        if let Some(made) = self.store.made_build(&by).await? {
            return Ok(made);
        }
        let commit = commit.or_else(|| follower.commit()).ok_or(QueueError::NotFetched)?;
        if !follower.has(&commit).await? {
            return Err(QueueError::NoCommit(commit));
        }
        let name = &follower.settings().name;
        let builds = self.apply(name, Event::Requested(commit.clone()), None, by).await?;
        self.wake.notify_one();
        match builds.into_iter().next() {
            Some(build) => Ok(build),
            // The same commit was requested before, and waits.
            None => {
                let open = self.store.open_builds(name).await?;
                let is_same = |build: &Build| {
                    build.is_requested
                        && build.commit == commit
                        && build.state == BuildState::Waiting
                };
                open.into_iter().find(is_same).ok_or(QueueError::TooMany)
            }
        }
    }

    /// Cancels the builds of the commit of a build: those that wait, and the one that runs.
    ///
    /// # Errors
    /// It has ended.
    pub async fn cancel(&self, build: &Build, by: By) -> Result<(), QueueError> {
        if !build.state.is_open() || self.worker.is_none() {
            return Err(QueueError::Ended);
        }
        let event = Event::Cancelled(build.commit.clone());
        self.apply(&build.id.repository, event, None, by).await?;
        Ok(())
    }

    /// Builds until it is dropped. What runs then is built again by the next one.
    pub async fn run(self: Arc<Self>) {
        let Some(worker) = &self.worker else { return };
        worker.start().await;
        let mut tasks = JoinSet::new();
        loop {
            self.tick(&mut tasks).await;
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.followers.advanced() => {}
                () = sleep(TICK) => {}
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a build ended without a result");
                    }
                }
            }
        }
    }

    /// Reads what was recorded. What ran was killed with the last builder.
    async fn resume(&self) -> Result<(), StoreError> {
        let recorded = self.store.schedules().await?;
        for (repository, schedule) in recorded {
            // That of a repository that is not followed any more stays as it is.
            if self.followers.get(&repository).is_none() {
                continue;
            }
            let schedule: Schedule = match serde_json::from_value(schedule) {
                Ok(schedule) => schedule,
                Err(error) => {
                    tracing::error!(%error, %repository, "failed to read the builds that wait");
                    self.discard(&repository).await?;
                    continue;
                }
            };
            let runs = schedule.running().is_some();
            self.schedules.lock().await.insert(repository.clone(), schedule);
            if runs {
                let end = End::interrupted("the builder was restarted");
                self.apply(&repository, Event::Resumed, Some(end), by()).await?;
            }
        }
        Ok(())
    }

    /// Ends the builds of a repository whose schedule cannot be read. Its newest commit is built once
    /// more.
    async fn discard(&self, repository: &RepositoryName) -> Result<(), StoreError> {
        let fail = |build| BuildChange::Advance {
            build,
            state: BuildState::Failed,
            reason: Some("the record of what waits cannot be read".to_owned()),
        };
        let open = self.store.open_builds(repository).await?;
        let changes = open.into_iter().map(fail).collect();
        let schedule = recorded(&Schedule::default())?;
        self.store.record_schedule(repository, schedule, changes, by()).await?;
        Ok(())
    }

    async fn tick(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        for follower in self.followers.iter() {
            if let Some(commit) = follower.commit() {
                let repository = &follower.settings().name;
                // What is wrong with one repository stops no other one.
                if let Err(error) = self.apply(repository, Event::Pushed(commit), None, by()).await
                {
                    tracing::error!(%error, %repository, "failed to record a push");
                }
            }
        }
        if let Err(error) = autopush::perform(&*self.store).await {
            tracing::error!(%error, "failed to read the releases that are to be deployed");
        }
        let due = {
            let schedules = self.schedules.lock().await;
            let schedules = schedules.iter().map(|(name, schedule)| (name.clone(), schedule));
            choose(schedules, self.limits, self.concurrency, Time::now())
        };
        for repository in due {
            let stop = Arc::new(Notify::new());
            self.stops().insert(repository.clone(), Arc::clone(&stop));
            match self.apply(&repository, Event::Admitted, None, by()).await {
                Ok(started) => {
                    for build in started {
                        tasks.spawn(Arc::clone(self).work(build, Arc::clone(&stop)));
                    }
                }
                Err(error) => {
                    tracing::error!(%error, %repository, "failed to record the start of a build");
                }
            }
        }
    }

    /// Builds a commit, and records how that ended.
    async fn work(self: Arc<Self>, build: Build, stop: Arc<Notify>) {
        let repository = build.id.repository.clone();
        let verdict = tokio::select! {
            verdict = self.build(&build) => verdict,
            () = stop.notified() => Verdict::Interrupted("it was cancelled".to_owned()),
        };
        let (outcome, end) = match verdict {
            Verdict::Succeeded(reason) => {
                (Outcome::Finished, End { state: BuildState::Succeeded, reason })
            }
            Verdict::Failed(reason) => {
                (Outcome::Finished, End { state: BuildState::Failed, reason: Some(reason) })
            }
            Verdict::Interrupted(reason) => (Outcome::Interrupted, End::interrupted(&reason)),
        };
        tracing::info!(build = %build.id, commit = %build.commit, state = ?end.state,
            reason = end.reason, "build ended");
        let event = Event::Ended(outcome);
        while let Err(error) = self.apply(&repository, event.clone(), Some(end.clone()), by()).await
        {
            tracing::error!(%error, build = %build.id, "failed to record the end of a build");
            sleep(TICK).await;
        }
        self.wake.notify_one();
    }

    async fn build(&self, build: &Build) -> Verdict {
        let follower = self.followers.get(&build.id.repository);
        let (Some(worker), Some(follower)) = (&self.worker, follower) else {
            return Verdict::Failed("the repository is not followed any more".to_owned());
        };
        worker.build(build, follower).await
    }

    /// Records what follows from an event, then lets the build that runs stop if it was cancelled.
    /// Returns the builds that changed.
    async fn apply(
        &self,
        repository: &RepositoryName,
        event: Event,
        end: Option<End>,
        by: By,
    ) -> Result<Vec<Build>, StoreError> {
        let mut schedules = self.schedules.lock().await;
        let before = schedules.get(repository).cloned().unwrap_or_default();
        let (after, actions) = step(before.clone(), event.clone(), self.limits, by.at);
        let mut changed = Vec::new();
        if after != before {
            let open = self.store.open_builds(repository).await?;
            let changes = changes(&event, &before, &after, &actions, open, end);
            let schedule = recorded(&after)?;
            changed = self.store.record_schedule(repository, schedule, changes, by).await?;
            schedules.insert(repository.clone(), after);
        }
        if actions.iter().any(|action| matches!(action, Action::Stop(_)))
            && let Some(stop) = self.stops().get(repository)
        {
            stop.notify_one();
        }
        Ok(changed)
    }

    fn stops(&self) -> MutexGuard<'_, BTreeMap<RepositoryName, Arc<Notify>>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates a folder that no other user of the machine reads, or makes it one.
fn create_private(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut permissions = std::fs::metadata(folder)?.permissions();
    if permissions.mode() & 0o077 == 0 {
        return Ok(());
    }
    permissions.set_mode(0o700);
    std::fs::set_permissions(folder, permissions).map_err(|error| {
        let path = folder.display();
        std::io::Error::new(
            error.kind(),
            format!("{path} is open to other users; name a folder of the builder's own: {error}"),
        )
    })
}

/// A schedule as it is recorded.
fn recorded(schedule: &Schedule) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(schedule).map_err(|error| StoreError::Invalid(error.to_string()))
}

/// The queue itself, now.
fn by() -> By {
    By { actor: ACTOR.to_owned(), reason: String::new(), at: Time::now(), idempotency: None }
}

#[cfg(test)]
mod killed_tests;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::sql::SqlStore;

    #[test]
    fn the_folder_of_builds_is_for_the_builder_alone() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("builds");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        for path in [open, folder.path().join("further/builds")] {
            create_private(&path).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn a_queue_continues_with_what_was_recorded_and_one_record_stops_no_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqlStore::open_file(&folder.path().join("releases.db")).await.unwrap();
        let store: Arc<dyn BuildStore> = Arc::new(store);
        let commit: CommitId = "1".repeat(40).parse().unwrap();
        let limits = Limits { per_hour: 9, per_day: 9 };
        let event = Event::Pushed(commit.clone());
        let (schedule, _) = step(Schedule::default(), event, limits, Time(1));
        let [broken, shop] = ["broken", "shop"].map(|name| name.parse().unwrap());
        for (name, schedule) in [(&broken, json!({})), (&shop, recorded(&schedule).unwrap())] {
            let change = BuildChange::Create { commit: commit.clone(), is_requested: false };
            store.record_schedule(name, schedule, vec![change], by()).await.unwrap();
        }
        let repository =
            |name| json!({ "name": name, "url": "https://r.test/x", "services": ["web"] });
        let settings: BuildSettings = serde_json::from_value(json!({
            "folder": folder.path().join("builds"),
            "images": "r.test/{service}",
            "repositories": [repository("broken"), repository("shop")],
        }))
        .unwrap();
        let followers = Arc::new(Followers::new(Some(&settings)));
        let registries = Arc::new(Registries::new(&[]).unwrap());
        let queue =
            Queue::new(Arc::clone(&store), registries, followers, Some(&settings), None).await;
        let queue = queue.unwrap();
        // Before it runs: a request comes when it may.
        let mut other = by();
        other.actor = "ci".to_owned();
        queue.apply(&shop, Event::Requested(commit.clone()), None, other).await.unwrap();
        let waiting = store.schedules().await.unwrap().remove(&shop).unwrap();
        assert_eq!(waiting["head"]["commit"], commit.as_str(), "{waiting}");
        assert_eq!(store.open_builds(&shop).await.unwrap().len(), 2);
        assert!(store.open_builds(&broken).await.unwrap().is_empty());
        let failed = store.builds(&broken, None, 9).await.unwrap().remove(0);
        assert_eq!(failed.state, BuildState::Failed);
    }
}
