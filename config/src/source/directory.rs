//! A folder of manifests: read at start, and again when it changes.
//!
//! A change takes effect as a whole. The objects of an invalid file keep their last valid state
//! ([`scan`]), so that a typing error in an editor takes nothing down.

mod scan;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use self::scan::{Diff, Folder};
use self::watch::Watch;
use super::file_kind::FileKind;
use super::manifest::Manifests;
use super::{Closed, Secrets, Source, SourceError, Update, Updates};
use crate::resources::Change;

/// The interval between scans of the whole folder without a notification: changes behind a symbolic
/// link or on a network file system do not cause one.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// A folder of manifests.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    secrets: Secrets,
}

// === impl Directory ===

impl Directory {
    /// Creates a source of the folder at `path` that reads only these `secrets`.
    #[must_use]
    pub fn new(path: PathBuf, secrets: Secrets) -> Self {
        Self { path, secrets }
    }
}

impl Source for Directory {
    async fn run(self, updates: Updates) -> Result<(), SourceError> {
        let mut watch = Watch::new(&self.path)?;
        let mut folder = Folder::new(vec![self.path], self.secrets);
        let mut changed_paths = None;
        let mut next_whole = Instant::now();
        loop {
            if changed_paths.is_none() {
                next_whole = Instant::now() + INTERVAL;
            }
            // No change is missed between the scan and the watch: the watch began before the scan.
            let (update, scanned) = tokio::task::spawn_blocking(move || {
                (rescan(&mut folder, changed_paths.as_ref()), folder)
            })
            .await
            .map_err(|error| SourceError::Terminated(error.to_string()))?;
            folder = scanned;
            if let Err(Closed) = updates.send(update).await {
                return Ok(());
            }
            tokio::select! {
                changed = watch.changed(next_whole) => changed_paths = changed,
                () = updates.closed() => return Ok(()),
            }
            if watch.restart_if_replaced() {
                changed_paths = None;
            }
        }
    }
}

/// Reads folders and files once, and returns all their objects and problems.
#[must_use]
pub fn read(paths: Vec<PathBuf>, secrets: Secrets) -> Manifests {
    let mut folder = Folder::new(paths, secrets);
    let diff = folder.scan(None, SystemTime::now()).unwrap_or_default();
    let objects = diff.changes.into_iter().filter_map(|change| match change {
        Change::Upsert(object) => Some(object),
        Change::Delete(_) | Change::Replace(..) => None,
    });
    Manifests {
        objects: objects.collect(),
        partial: folder.partial().cloned().collect(),
        problems: diff.problems,
    }
}

/// The files of a folder that are gateway configurations, sorted by path.
#[must_use]
pub fn configurations(path: &Path) -> Vec<PathBuf> {
    scan::files(path)
        .into_iter()
        .filter(|file| {
            scan::read_bounded(file)
                .is_ok_and(|bytes| FileKind::of(&bytes) == Some(FileKind::Configuration))
        })
        .collect()
}

fn rescan(folder: &mut Folder, changed_paths: Option<&BTreeSet<PathBuf>>) -> Update {
    let now = SystemTime::now();
    match folder.scan(changed_paths, now) {
        Some(Diff { changes, problems, readable }) => {
            Update { changes, problems: Some(problems), synced: readable, as_of: Some(now) }
        }
        None => Update { as_of: Some(now), ..Update::default() },
    }
}

#[cfg(test)]
mod tests;
