//! A folder of manifests: read in whole, and read anew when it changes.
//!
//! What changed is swapped in whole. A file that is broken keeps the last good meaning of what it
//! defined ([`scan`]), so that a slip in an editor takes nothing down.

mod scan;
mod watch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use self::scan::{Folder, News};
use self::watch::Watch;
use super::file_kind::FileKind;
use super::manifest::Manifests;
use super::{Secrets, Source, SourceError, Stopped, Update, Updates};
use crate::resources::Change;

/// How often the whole folder is looked at, without having been told of a change: what is behind a
/// symbolic link, or on a network's file system, changes without notice.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// A folder of manifests.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    secrets: Secrets,
}

// === impl Directory ===

impl Directory {
    /// The folder at `path`, and of its Secrets only these.
    #[must_use]
    pub fn new(path: PathBuf, secrets: Secrets) -> Self {
        Self { path, secrets }
    }
}

impl Source for Directory {
    async fn run(self, updates: Updates) -> Result<(), SourceError> {
        let mut watch = Watch::new(&self.path)?;
        let mut folder = Folder::new(vec![self.path], self.secrets);
        let mut places = None;
        let mut next_whole = Instant::now();
        loop {
            if places.is_none() {
                next_whole = Instant::now() + INTERVAL;
            }
            // Between what is read and what is watched there is no gap: the watch is older than the
            // reading.
            let (update, kept) =
                tokio::task::spawn_blocking(move || (look(&mut folder, places.as_ref()), folder))
                    .await
                    .map_err(|error| SourceError::Ended(error.to_string()))?;
            folder = kept;
            if let Err(Stopped) = updates.tell(update).await {
                return Ok(());
            }
            tokio::select! {
                changed = watch.changed(next_whole) => places = changed,
                () = updates.stopped() => return Ok(()),
            }
            if watch.renew() {
                places = None;
            }
        }
    }
}

/// Reads folders and files once, as one: their objects, and what is wrong in them.
#[must_use]
pub fn read(paths: Vec<PathBuf>, secrets: Secrets) -> Manifests {
    let mut folder = Folder::new(paths, secrets);
    let news = folder.scan(None, SystemTime::now()).unwrap_or_default();
    let objects = news.changes.into_iter().filter_map(|change| match change {
        Change::Upsert(object) => Some(object),
        Change::Delete(_) | Change::Replace(..) => None,
    });
    Manifests {
        objects: objects.collect(),
        partial: folder.partial().cloned().collect(),
        problems: news.problems,
    }
}

/// The files of a folder that are configurations of a gateway, in their order.
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

fn look(folder: &mut Folder, places: Option<&BTreeSet<PathBuf>>) -> Update {
    let now = SystemTime::now();
    match folder.scan(places, now) {
        Some(News { changes, problems, readable }) => {
            Update { changes, problems: Some(problems), synced: readable, heard: Some(now) }
        }
        None => Update { heard: Some(now), ..Update::default() },
    }
}

#[cfg(test)]
mod tests;
