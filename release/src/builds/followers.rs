//! Follows repositories: by polling, and at once after a webhook or a request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::git::{GitError, Repository};
use super::mirror::{self, FetchError, Mirror};
use super::status::{CommitStatus, RepositoryDetails, RepositorySummary, RequestedFetch};
use super::survey::{Survey, survey, survey_labels};
use super::targets::{self, Label};
use super::webhook::{Deliveries, MIN_SECRET, Push, Signature};
use crate::causes::causes;
use crate::model::{CommitId, RepositoryName, Time};
use crate::settings::{BuildSettings, RepositorySettings};

/// How many repositories are fetched at the same time.
const FETCHES: usize = 4;
/// The shortest time between two fetches of a repository: what arrives meanwhile is one fetch.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// The longest time between two fetches of a repository that fail.
const MAX_PAUSE: Duration = Duration::from_secs(10 * 60);

/// All repositories that are followed.
#[derive(Debug, Default)]
pub struct Followers {
    followers: BTreeMap<RepositoryName, Arc<Follower>>,
    /// Notified when a branch has advanced.
    advanced: Arc<Notify>,
}

/// A repository that is followed.
#[derive(Debug)]
pub struct Follower {
    settings: RepositorySettings,
    mirror: Mirror,
    wake: Notify,
    advanced: Arc<Notify>,
    details: Mutex<RepositoryDetails>,
    /// How many fetches have begun, one after the other.
    begun: AtomicU64,
    /// Of its webhook; empty if there is none. In memory, so that deliveries for a repository and
    /// for none take equally long.
    secret: Mutex<Arc<str>>,
    deliveries: Mutex<Deliveries>,
}

// === impl Followers ===

impl Followers {
    /// Creates them. [`run`](Self::run) makes them work.
    #[must_use]
    pub fn new(settings: Option<&BuildSettings>) -> Self {
        let Some(builds) = settings else { return Self::default() };
        let advanced = Arc::new(Notify::new());
        let follower = |settings: &RepositorySettings| {
            let follower = Follower::new(builds, settings.clone(), Arc::clone(&advanced));
            (settings.name.clone(), Arc::new(follower))
        };
        Self { followers: builds.repositories.iter().map(follower).collect(), advanced }
    }

    /// A repository.
    #[must_use]
    pub fn get(&self, name: &RepositoryName) -> Option<&Follower> {
        self.followers.get(name).map(Arc::as_ref)
    }

    /// All repositories, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Follower> {
        self.followers.values().map(Arc::as_ref)
    }

    /// Returns when a branch has advanced.
    pub async fn advanced(&self) {
        self.advanced.notified().await;
    }

    /// Follows all repositories until it is dropped. Returns at once if there is none.
    pub async fn run(&self) {
        let permits = Arc::new(Semaphore::new(FETCHES));
        let mut tasks = JoinSet::new();
        for follower in self.followers.values() {
            tasks.spawn(Arc::clone(follower).run(Arc::clone(&permits)));
        }
        while tasks.join_next().await.is_some() {}
    }
}

// === impl Follower ===

impl Follower {
    fn new(builds: &BuildSettings, settings: RepositorySettings, advanced: Arc<Notify>) -> Self {
        let summary = RepositorySummary {
            name: settings.name.clone(),
            url: settings.url.clone(),
            branch: settings.branch.clone(),
            commit: None,
            since: None,
            fetched_at: None,
            fetches: 0,
            problem: None,
            targets: 0,
            errors: 0,
        };
        Self {
            mirror: Mirror::new(builds, settings.clone()),
            settings,
            wake: Notify::new(),
            advanced,
            details: Mutex::new(RepositoryDetails { summary, content: None }),
            begun: AtomicU64::new(0),
            secret: Mutex::new("".into()),
            deliveries: Mutex::default(),
        }
    }

    /// The configuration of the repository.
    #[must_use]
    pub fn settings(&self) -> &RepositorySettings {
        &self.settings
    }

    /// What is known of the repository.
    #[must_use]
    pub fn details(&self) -> RepositoryDetails {
        self.lock().clone()
    }

    /// The newest commit of the branch, once it is known.
    #[must_use]
    pub fn commit(&self) -> Option<CommitId> {
        self.lock().summary.commit.clone()
    }

    /// The repository, for reading.
    #[must_use]
    pub fn repository(&self) -> Repository {
        self.mirror.repository()
    }

    /// Whether a commit is one of the branch, as it was fetched last.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub async fn has(&self, commit: &CommitId) -> Result<bool, GitError> {
        self.mirror.has(commit).await
    }

    /// Reads what a commit would build, without what the repository may not build.
    ///
    /// # Errors
    /// The commit cannot be read.
    pub async fn survey(&self, commit: &CommitId) -> Result<Survey, GitError> {
        let mut found = survey(&self.mirror.repository(), commit).await?;
        reject_foreign(&mut found, &self.settings);
        Ok(found)
    }

    /// The same of a workspace of Bazel, of which a query has found these targets. If it is the
    /// newest commit, that is known of the repository from now on.
    ///
    /// # Errors
    /// The commit cannot be read.
    pub(super) async fn survey_labels(
        &self,
        commit: &CommitId,
        labels: &[Label],
    ) -> Result<Survey, GitError> {
        let mut found = survey_labels(&self.mirror.repository(), commit, labels).await?;
        reject_foreign(&mut found, &self.settings);
        let content = CommitStatus::from(&found);
        let mut details = self.lock();
        if details.summary.commit.as_ref() == Some(commit) {
            let summary = &mut details.summary;
            (summary.targets, summary.errors) = (content.targets.len(), content.errors());
            details.content = Some(content);
        }
        Ok(found)
    }

    /// Makes it fetch the repository now. Calls during a fetch lead to one further fetch. Returns the
    /// fetch that sees all that was pushed before.
    pub fn wake(&self) -> RequestedFetch {
        self.wake.notify_one();
        // One that has begun may have read the branch already.
        RequestedFetch { number: self.begun.load(Ordering::SeqCst).saturating_add(1) }
    }

    /// Verifies a delivery of a webhook, and fetches the repository if it is a push to its branch.
    /// Returns whether it was accepted: signed with the repository's secret, and not replayed.
    #[must_use]
    pub fn deliver(&self, body: &[u8], signature: &str) -> bool {
        let secret = Arc::clone(&self.secret.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(signature) = Signature::verify(secret.as_bytes(), body, signature) else {
            return false;
        };
        let is_new =
            self.deliveries.lock().unwrap_or_else(PoisonError::into_inner).accept(signature);
        if is_new && Push::is_to(body, &self.settings.branch) {
            let _ = self.wake();
        }
        is_new
    }

    async fn run(self: Arc<Self>, permits: Arc<Semaphore>) {
        let mut failures: u32 = 0;
        loop {
            let outcome = {
                let _permit = permits.acquire().await;
                self.check().await
            };
            failures = if outcome.is_ok() { 0 } else { failures.saturating_add(1) };
            sleep(MIN_PAUSE).await;
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(pause(self.settings.poll_every, failures)) => {}
            }
        }
    }

    /// Reads the secret of the webhook again: the kubelet replaces files of Secrets.
    fn read_secret(&self) {
        let Some(file) = &self.settings.webhook_secret else { return };
        let secret = mirror::secret(file).unwrap_or_else(|error| {
            tracing::error!(repository = %self.settings.name, %error,
                "failed to read the secret of a webhook");
            String::new()
        });
        if secret.len() < MIN_SECRET {
            tracing::error!(repository = %self.settings.name,
                "the secret of a webhook has less than {MIN_SECRET} bytes: no delivery is accepted");
        }
        *self.secret.lock().unwrap_or_else(PoisonError::into_inner) = secret.into();
    }

    /// Fetches the repository, and reads its newest commit if it is another one.
    async fn check(&self) -> Result<(), FetchError> {
        self.read_secret();
        let number = self.begun.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let outcome = self.look().await;
        let mut details = self.lock();
        details.summary.fetched_at = Some(Time::now());
        details.summary.fetches = number;
        let name = &self.settings.name;
        match outcome {
            Ok(None) => details.summary.problem = None,
            Ok(Some(content)) => {
                let summary = &mut details.summary;
                (summary.targets, summary.errors) = (content.targets.len(), content.errors());
                tracing::info!(repository = %name, commit = %content.commit,
                    targets = summary.targets, errors = summary.errors, "branch advanced");
                summary.commit = Some(content.commit.clone());
                summary.since = Some(Time::now());
                summary.problem = None;
                details.content = Some(content);
                self.advanced.notify_one();
            }
            Err(error) => {
                let problem = causes(&error);
                tracing::warn!(repository = %name, problem, "failed to fetch a repository");
                details.summary.problem = Some(problem);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The newest commit and what it would build, unless it is known already.
    async fn look(&self) -> Result<Option<CommitStatus>, FetchError> {
        let commit = self.mirror.fetch().await?;
        if self.is_known(&commit) {
            return Ok(None);
        }
        Ok(Some(CommitStatus::from(&self.survey(&commit).await?)))
    }

    fn is_known(&self, commit: &CommitId) -> bool {
        self.lock().content.as_ref().is_some_and(|content| content.commit == *commit)
    }

    fn lock(&self) -> MutexGuard<'_, RepositoryDetails> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rejects targets of services that the repository may not build: otherwise everyone who may push to
/// one repository could replace the services of all others.
fn reject_foreign(survey: &mut Survey, settings: &RepositorySettings) {
    let Survey { targets, problems, .. } = survey;
    targets.retain(|found| {
        let service = &found.target.service;
        let may_build = settings.may_build(service.as_str());
        if !may_build {
            problems.push(targets::error(
                &found.target.place(),
                format!("the repository may not build the service {service}"),
                "name another service, or ask the operator to add it to the repository's `services`",
            ));
        }
        may_build
    });
}

/// How long the next fetch waits after this many failures in a row, besides [`MIN_PAUSE`].
fn pause(every: Duration, failures: u32) -> Duration {
    let doubled = every.saturating_mul(2_u32.saturating_pow(failures));
    doubled.min(MAX_PAUSE.max(every)).saturating_sub(MIN_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_that_is_away_is_fetched_less_often() {
        let seconds: Vec<u64> =
            (0..6).map(|failures| pause(Duration::from_secs(60), failures).as_secs()).collect();
        assert_eq!(seconds, [59, 119, 239, 479, 599, 599]);
        assert_eq!(pause(Duration::from_secs(3600), 40).as_secs(), 3599);
        assert_eq!(pause(Duration::from_secs(1), 0), Duration::ZERO);
    }
}
