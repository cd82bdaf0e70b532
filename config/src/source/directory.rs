//! A folder of manifests: read in whole, and read anew when it changes.
//!
//! What changed is swapped in whole. A file that is broken keeps the last good meaning of what it defined
//! ([`scan`]), so that a slip in an editor takes nothing down.

mod scan;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use self::scan::Folder;
use self::watch::Watch;
use super::{Secrets, Source, SourceError, Stopped, Update, Updates};
use crate::problem::Problem;
use crate::resources::{Change, Kind, Object};

/// How often the folder is looked at without having been told of a change: what is behind a symbolic link, or on a
/// network's file system, changes without notice.
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
        let mut folder = Folder::new(self.path, self.secrets);
        loop {
            // Between what is read and what is watched there is no gap: the watch is older than the reading.
            let (update, kept) = tokio::task::spawn_blocking(move || (changes(&mut folder), folder))
                .await
                .map_err(|error| SourceError::Ended(error.to_string()))?;
            folder = kept;
            if let Err(Stopped) = updates.tell(update).await {
                return Ok(());
            }
            tokio::select! {
                () = watch.changed(INTERVAL) => {}
                () = updates.stopped() => return Ok(()),
            }
            watch.renew();
        }
    }
}

/// Reads a folder once: its objects, and what is wrong in it.
#[must_use]
pub fn read(path: PathBuf, secrets: Secrets) -> (Vec<Object>, Vec<Problem>) {
    let contents = Folder::new(path, secrets).scan(SystemTime::now()).unwrap_or_default();
    (contents.objects, contents.problems)
}

fn changes(folder: &mut Folder) -> Update {
    let now = SystemTime::now();
    let Some(contents) = folder.scan(now) else { return Update { heard: Some(now), ..Update::default() } };
    let mut kinds = [Kind::Namespace, Kind::Service, Kind::EndpointSlice, Kind::Credential].map(|kind| (kind, Vec::new()));
    // Certificates from files are another source's: those from Secrets are changed one by one.
    let mut changes: Vec<Change> = contents.gone.into_iter().map(Change::Delete).collect();
    for object in contents.objects {
        match object {
            Object::Certificate(..) => changes.push(Change::Upsert(object)),
            object => kinds.iter_mut().filter(|(kind, _)| *kind == object.id().kind()).for_each(|(_, list)| list.push(object.clone())),
        }
    }
    changes.extend(kinds.into_iter().map(|(kind, objects)| Change::Replace(kind, objects)));
    Update { changes, problems: Some(contents.problems), synced: contents.readable, heard: Some(now) }
}

#[cfg(test)]
mod tests;
