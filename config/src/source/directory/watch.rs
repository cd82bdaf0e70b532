//! Hears of changes in a folder, and waits until whoever makes them has paused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::source::SourceError;

/// How long nothing must happen before the folder is read.
const QUIET: Duration = Duration::from_millis(20);
/// How long a file that is being written is waited for, and changes that do not pause.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most events that wait; where there are more, the folder is read in any case.
const MAX_EVENTS: usize = 1024;

/// Hears of changes in one folder.
pub(super) struct Watch {
    path: PathBuf,
    /// The same from the root, as events name it.
    absolute: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// Which folder is watched: another one may have taken its place.
    identity: Option<(u64, u64)>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
}

// === impl Watch ===

impl Watch {
    /// # Errors
    /// The system has no inotify to give.
    pub(super) fn new(path: &Path) -> Result<Self, SourceError> {
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut watch =
            Self { path: path.to_owned(), absolute, watcher: None, identity: None, events, sender };
        watch
            .start()
            .map_err(|error| SourceError::Watch { path: path.display().to_string(), error })?;
        Ok(watch)
    }

    fn start(&mut self) -> Result<(), notify::Error> {
        self.identity = identity(&self.path);
        let (sender, folder) = (self.sender.clone(), self.absolute.clone());
        let mut watcher =
            notify::recommended_watcher(move |event: Result<Event, notify::Error>| {
                // A full channel wakes the reader too; an error means that something was missed, so
                // all is read.
                let event = event.unwrap_or_else(|_| Event::new(EventKind::Any));
                if matters(&event, &folder) {
                    let _ = sender.try_send(event);
                }
            })?;
        if self.identity.is_some() {
            watcher.watch(&self.path, RecursiveMode::Recursive)?;
        }
        // The folder itself may be replaced, by a link that is turned or a rename.
        if let Some(parent) = self.path.parent().filter(|parent| parent.is_dir()) {
            let _ = watcher.watch(parent, RecursiveMode::NonRecursive);
        }
        self.watcher = Some(watcher);
        Ok(())
    }

    /// Watches the folder that is there now, where that is another one than before; tells whether
    /// it is.
    pub(super) fn renew(&mut self) -> bool {
        let is_other = identity(&self.path) != self.identity;
        if is_other && let Err(error) = self.start() {
            tracing::warn!(path = %self.path.display(), %error, "the folder cannot be watched; it is looked at from time to time");
        }
        is_other
    }

    /// Waits for a change and for its end, and tells where there were any; or until `end`, and then
    /// it may be anywhere, which is `None`.
    pub(super) async fn changed(&mut self, end: Instant) -> Option<BTreeSet<PathBuf>> {
        let first = timeout_at(end, self.events.recv()).await.ok()??;
        let deadline = Instant::now() + PATIENCE;
        let mut burst = Burst::default();
        burst.note(first, &self.absolute);
        loop {
            let quiet = if burst.writing.is_empty() {
                deadline.min(Instant::now() + QUIET)
            } else {
                deadline
            };
            match timeout_at(quiet, self.events.recv()).await {
                Ok(Some(event)) => burst.note(event, &self.absolute),
                Ok(None) | Err(_) => break,
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        // Where the channel was full, events have been lost.
        let is_known = !burst.is_anywhere && burst.events < MAX_EVENTS;
        let places = burst
            .places
            .iter()
            .filter_map(|place| Some(self.path.join(place.strip_prefix(&self.absolute).ok()?)));
        is_known.then(|| places.collect())
    }
}

/// Changes that follow each other closely.
#[derive(Default)]
struct Burst {
    /// Files that are being written: from the first change to the end of writing.
    writing: BTreeSet<PathBuf>,
    places: BTreeSet<PathBuf>,
    is_anywhere: bool,
    events: usize,
}

// === impl Burst ===

impl Burst {
    fn note(&mut self, event: Event, folder: &Path) {
        self.events += 1;
        // Of the folder itself: another one may have taken its place.
        self.is_anywhere |= event.need_rescan()
            || event.paths.is_empty()
            || event.paths.iter().any(|path| path == folder);
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => {
                self.writing.extend(event.paths.iter().cloned())
            }
            EventKind::Access(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_)) => {
                event.paths.iter().for_each(|path| drop(self.writing.take(path)));
            }
            _ => {}
        }
        self.places.extend(event.paths);
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether something in the folder may be different after it; reading a file makes events too, and
/// what is beside the folder is of no interest.
fn matters(event: &Event, folder: &Path) -> bool {
    if !event.paths.is_empty() && !event.paths.iter().any(|path| path.starts_with(folder)) {
        return false;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}
