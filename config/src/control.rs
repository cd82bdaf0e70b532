//! The control plane: from what sources tell to what workers read.

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
use crate::settings::{Settings, SourceSettings};
use crate::snapshot::Snapshot;
use crate::snapshot::endpoints::EndpointCells;
use crate::source::certificates::CertificateFiles;
use crate::source::directory::Directory;
use crate::source::kubernetes::Kubernetes;
use crate::source::{Secrets, Source, SourceError, Update, Updates};
use crate::status::{Reporter, events};
use crate::translate::{Dirty, Translation, credentials, endpoint_set, translate_apart};

/// How long more changes are waited for after one, so that a burst costs one translation.
const GATHER: Duration = Duration::from_millis(2);
/// How long changes are gathered at most, before those of endpoints are put into effect.
const GATHER_AT_MOST: Duration = Duration::from_millis(10);
/// The longest pause between two translations. It is as long as the last translation took, so that
/// they take half of a CPU at most.
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// The most problems that are kept to be shown.
pub const MAX_PROBLEMS: usize = 10_000;

/// Keeps `live` up to date with what `settings` name as the source, until `shutdown`. Belongs on
/// the control plane's runtime.
///
/// # Errors
/// The source cannot even be tried. Whatever comes and goes is no error: `live` stays as it is
/// then, and [`Live::age`] grows.
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
    let mut installation = Installation::of_this_process();
    match &settings.source {
        SourceSettings::Directory(path) => {
            drop(sources.spawn(Directory::new(path.clone(), Secrets::of(&settings)).run(main)))
        }
        SourceSettings::Kubernetes(kubernetes) => {
            let source = Kubernetes::new(kubernetes, Secrets::of(&settings)).await?;
            installation.api_server.extend(source.address());
            if kubernetes.events {
                let (sender, mut notices) = mpsc::channel(events::MAX_WAITING);
                reporter = Reporter::with_events(sender);
                let client = source.client().clone();
                helpers.spawn(async move { events::write(client, &mut notices).await });
            }
            sources.spawn(source.run(main));
        }
    }
    let mut control = Control::new(settings, live, reporter, 2, installation);
    tokio::select! {
        () = control.follow(updates) => Ok(()),
        () = shutdown => Ok(()),
        Some(ended) = sources.join_next() => ended.map_err(|error| SourceError::Ended(error.to_string()))?,
    }
}

/// What is known, and what of it is not in effect yet.
struct Control {
    settings: Arc<Settings>,
    live: Arc<Live>,
    resources: Resources,
    cells: EndpointCells,
    /// What each source finds wrong.
    found: BTreeMap<usize, Vec<Problem>>,
    /// What the last translation found wrong, but for credentials.
    translated: Vec<Problem>,
    /// What is wrong with credentials.
    credentials: Vec<Problem>,
    /// Sources that have not told all of their resources yet.
    unsynced: BTreeSet<usize>,
    reporter: Reporter,
    /// What is to be put into effect.
    dirty: Dirty,
    /// Whether sources have found other problems.
    other_problems: bool,
    /// Before this time there is no further translation.
    not_before: Instant,
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
            settings,
            live,
            resources: Resources::new(installation),
            cells: EndpointCells::default(),
            found: BTreeMap::new(),
            translated: Vec::new(),
            credentials: Vec::new(),
            unsynced: (0..sources).collect(),
            reporter,
            dirty: Dirty::everything(),
            other_problems: false,
            not_before: Instant::now(),
        }
    }

    /// Puts into effect what sources tell, until there is none left.
    async fn follow(&mut self, mut updates: mpsc::Receiver<(usize, Update)>) {
        loop {
            let waits = self.unsynced.is_empty() && self.dirty.routes;
            tokio::select! {
                update = updates.recv() => match update {
                    Some((source, update)) => self.take(source, update),
                    None => return,
                },
                () = sleep_until(self.not_before), if waits => {}
            }
            self.gather(&mut updates).await;
            self.put_into_effect();
        }
    }

    /// Takes what comes in a burst.
    async fn gather(&mut self, updates: &mut mpsc::Receiver<(usize, Update)>) {
        let end = Instant::now() + GATHER_AT_MOST;
        while let Ok(Some((source, update))) =
            timeout_at(end.min(Instant::now() + GATHER), updates.recv()).await
        {
            self.take(source, update);
            if Instant::now() >= end {
                return;
            }
        }
    }

    fn take(&mut self, source: usize, update: Update) {
        for change in update.changes {
            let changed = self.resources.apply(change);
            self.dirty.note(changed, &self.resources);
        }
        if let Some(problems) = update.problems {
            self.other_problems |=
                self.found.insert(source, problems.clone()).as_ref() != Some(&problems);
        }
        if update.synced {
            self.unsynced.remove(&source);
        }
        if let Some(now) = update.heard {
            self.live.heard(now);
        }
    }

    /// Nothing is in effect before all is known: a part of the routes would be a wrong answer for
    /// the others.
    fn put_into_effect(&mut self) {
        if !self.unsynced.is_empty() {
            // What is wrong may be why not all is known.
            return self.publish_problems();
        }
        for service in std::mem::take(&mut self.dirty.endpoints) {
            for cell in self.cells.of_service(&service.namespace, &service.name) {
                cell.update(endpoint_set(&self.resources, cell.key()));
            }
        }
        let start = Instant::now();
        if self.dirty.routes && start >= self.not_before {
            self.translate();
            self.not_before = Instant::now() + start.elapsed().min(MAX_PAUSE);
        } else if self.dirty.credentials {
            self.swap_credentials();
        } else {
            self.publish_problems();
        }
    }

    fn publish_problems(&mut self) {
        if self.other_problems {
            self.live.problems.store(Arc::new(self.problems()));
            self.report();
        }
    }

    fn translate(&mut self) {
        let (Translation { snapshot, problems }, wrong) =
            translate_apart(&self.settings, &self.resources, &mut self.cells);
        (self.translated, self.credentials) = (problems, wrong);
        self.dirty.translated(&self.resources);
        self.live.publish(Arc::new(snapshot), self.problems());
        self.cells.commit();
        self.live.set_synced();
        self.report();
    }

    /// Every sign-out changes credentials, and no route: those of 10,000 Services are not
    /// translated for it.
    fn swap_credentials(&mut self) {
        let (credentials, problems) = credentials(&self.resources);
        self.credentials = problems;
        self.dirty.credentials = false;
        let snapshot = Snapshot { credentials, ..Snapshot::clone(&self.live.snapshot.load()) };
        self.live.publish(Arc::new(snapshot), self.problems());
        self.report();
    }

    fn problems(&self) -> Vec<Problem> {
        let all: BTreeSet<&Problem> = self
            .found
            .values()
            .flatten()
            .chain(&self.translated)
            .chain(&self.credentials)
            .collect();
        all.into_iter().take(MAX_PROBLEMS).cloned().collect()
    }

    fn report(&mut self) {
        self.other_problems = false;
        self.reporter.tell(&self.live.problems.load());
    }
}

#[cfg(test)]
mod tests;
