//! The control loop: applies updates of sources, and publishes what workers read.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::installation::Installation;
use crate::live::Live;
use crate::problem::Problem;
use crate::resources::Resources;
use crate::settings::endpoints::EndpointVerification;
use crate::settings::{Settings, SourceSettings};
use crate::snapshot::Snapshot;
use crate::snapshot::endpoints::EndpointCells;
use crate::source::certificates::CertificateFiles;
use crate::source::directory::Directory;
use crate::source::kubernetes::Kubernetes;
use crate::source::{Secrets, Source, SourceError, Update, Updates};
use crate::status::notice_queue::NoticeQueue;
use crate::status::{Reporter, events, fair_share};
use crate::translate::{Dirty, Translation, credentials, endpoint_set, translate_apart};

/// How long to wait for further updates after one, so that a burst costs one translation.
const BATCH_IDLE: Duration = Duration::from_millis(2);
/// The longest time to collect updates before changes of endpoints are published.
const BATCH_MAX: Duration = Duration::from_millis(10);
/// The longest pause between two translations. A pause lasts as long as the last translation, so
/// that they use at most half of a CPU.
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// The most problems that are exposed.
pub const MAX_PROBLEMS: usize = 10_000;

/// Keeps `live` up to date with the source in `settings` until `shutdown`.
///
/// Blocks its thread while it translates, so it has one of its own in the gateway. What it spawns needs another.
///
/// # Errors
/// The source cannot be started, or has terminated. An outage of the source is not an error: `live`
/// stays as it is, and [`Live::age`] grows.
pub async fn run(
    settings: Arc<Settings>,
    live: Arc<Live>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), SourceError> {
    let (mut ends, updates) = Updates::channel(2);
    let mut sources = JoinSet::new();
    let (Some(files), Some(main)) = (ends.pop(), ends.pop()) else { return Ok(()) };
    sources.spawn(CertificateFiles::new(&settings.certificates).run(files));
    let mut helpers = JoinSet::new();
    let mut reporter = Reporter::default();
    let mut installation = Installation::from_environment();
    match &settings.source {
        SourceSettings::Directory(path) => {
            drop(sources.spawn(Directory::new(path.clone(), Secrets::of(&settings)).run(main)))
        }
        SourceSettings::Kubernetes(kubernetes) => {
            let pods = settings.endpoints.verify == EndpointVerification::Pods;
            let source = Kubernetes::new(kubernetes, Secrets::of(&settings), pods).await?;
            installation.api_server.extend(source.address());
            if kubernetes.events {
                let notices = NoticeQueue::default();
                reporter = Reporter::with_events(notices.clone());
                let client = source.client().clone();
                helpers.spawn(async move { events::write(client, &notices).await });
            }
            sources.spawn(source.run(main));
        }
    }
    let mut control = Control::new(settings, live, reporter, 2, installation);
    tokio::select! {
        () = control.process(updates) => Ok(()),
        () = shutdown => Ok(()),
        Some(result) = sources.join_next() => result.map_err(|error| SourceError::Terminated(error.to_string()))?,
    }
}

/// The state of the control loop: resources, and changes that are not published yet.
struct Control {
    settings: Arc<Settings>,
    live: Arc<Live>,
    resources: Resources,
    cells: EndpointCells,
    /// Problems by source.
    source_problems: BTreeMap<usize, Vec<Problem>>,
    /// Problems of the last translation, without those of credentials.
    translation_problems: Vec<Problem>,
    /// Problems of credentials.
    credential_problems: Vec<Problem>,
    /// Sources that have not sent all of their resources yet.
    unsynced: BTreeSet<usize>,
    reporter: Reporter,
    /// Changes that are not published yet.
    dirty: Dirty,
    /// Whether problems of sources have changed since the last report.
    problems_changed: bool,
    /// The earliest time of the next translation.
    next_translation: Instant,
}

// === impl Control ===

impl Control {
    fn new(
        settings: Arc<Settings>,
        live: Arc<Live>,
        reporter: Reporter,
        sources: usize,
        installation: Installation,
    ) -> Self {
        Self {
            resources: Resources::new(installation, &settings),
            settings,
            live,
            cells: EndpointCells::default(),
            source_problems: BTreeMap::new(),
            translation_problems: Vec::new(),
            credential_problems: Vec::new(),
            unsynced: (0..sources).collect(),
            reporter,
            dirty: Dirty::everything(),
            problems_changed: false,
            next_translation: Instant::now(),
        }
    }

    /// Applies and publishes updates until all sources have terminated.
    async fn process(&mut self, mut updates: mpsc::Receiver<(usize, Update)>) {
        loop {
            let is_translation_due = self.unsynced.is_empty() && self.dirty.routes;
            tokio::select! {
                update = updates.recv() => match update {
                    Some((source, update)) => self.apply(source, update),
                    None => return,
                },
                () = sleep_until(self.next_translation), if is_translation_due => {}
            }
            self.collect_batch(&mut updates).await;
            self.publish_changes();
        }
    }

    /// Applies further updates of a burst.
    async fn collect_batch(&mut self, updates: &mut mpsc::Receiver<(usize, Update)>) {
        let end = Instant::now() + BATCH_MAX;
        while let Ok(Some((source, update))) =
            timeout_at(end.min(Instant::now() + BATCH_IDLE), updates.recv()).await
        {
            self.apply(source, update);
            if Instant::now() >= end {
                return;
            }
        }
    }

    fn apply(&mut self, source: usize, update: Update) {
        for change in update.changes {
            let changed = self.resources.apply(change);
            self.dirty.record(changed, &self.resources);
        }
        if let Some(problems) = update.problems {
            self.problems_changed |=
                self.source_problems.insert(source, problems.clone()).as_ref() != Some(&problems);
        }
        if update.synced {
            self.unsynced.remove(&source);
        }
        if let Some(now) = update.as_of {
            self.live.set_as_of(now);
        }
    }

    /// Publishes changes. Before all sources are synced only problems are published: with some of
    /// the routes missing, requests for them would be answered wrongly.
    fn publish_changes(&mut self) {
        if !self.unsynced.is_empty() {
            // A problem may be the reason why a source is not synced.
            return self.publish_problems();
        }
        self.live.set_replicas(self.resources.replicas());
        for service in std::mem::take(&mut self.dirty.endpoints) {
            for cell in self.cells.of_service(&service.namespace, &service.name) {
                cell.update(endpoint_set(&self.resources, cell.key()));
            }
        }
        let start = Instant::now();
        if self.dirty.routes && start >= self.next_translation {
            self.translate();
            self.next_translation = Instant::now() + start.elapsed().min(MAX_PAUSE);
        } else if self.dirty.credentials {
            self.swap_credentials();
        } else {
            self.publish_problems();
        }
    }

    fn publish_problems(&mut self) {
        if self.problems_changed {
            self.live.problems.store(Arc::new(self.problems()));
            self.report();
        }
    }

    fn translate(&mut self) {
        let (Translation { snapshot, problems }, credential_problems) =
            translate_apart(&self.settings, &self.resources, &mut self.cells);
        (self.translation_problems, self.credential_problems) = (problems, credential_problems);
        self.dirty.translated(&self.resources);
        self.live.publish(Arc::new(snapshot), self.problems());
        self.cells.commit();
        self.live.set_synced();
        self.report();
    }

    /// Replaces only the credentials. Every sign-out changes them, and must not cost a translation
    /// of 10,000 Services.
    fn swap_credentials(&mut self) {
        let (credentials, problems) = credentials(&self.resources);
        self.credential_problems = problems;
        self.dirty.credentials = false;
        let snapshot = Snapshot { credentials, ..Snapshot::clone(&self.live.snapshot.load()) };
        self.live.publish(Arc::new(snapshot), self.problems());
        self.report();
    }

    fn problems(&self) -> Vec<Problem> {
        let all: BTreeSet<&Problem> = self
            .source_problems
            .values()
            .flatten()
            .chain(&self.translation_problems)
            .chain(&self.credential_problems)
            .collect();
        fair_share(all, MAX_PROBLEMS)
    }

    fn report(&mut self) {
        self.problems_changed = false;
        self.reporter.report(&self.live.problems.load(), Instant::now());
    }
}

#[cfg(test)]
mod tests;
