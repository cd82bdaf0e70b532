//! Watches a folder for changes, and waits until a burst of them has settled.

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

/// The quiet period after which a burst of changes counts as settled.
const QUIET: Duration = Duration::from_millis(20);
/// The longest wait for a file that is being written, and for a burst that does not settle.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// The capacity of the event queue; when it is full, the whole folder is read.
const MAX_EVENTS: usize = 1024;

/// The watch of one folder.
pub(super) struct Watch {
    path: PathBuf,
    /// The absolute path, as in events.
    absolute: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// The device and inode of the watched folder: another one can be moved to its path.
    identity: Option<(u64, u64)>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
}

// === impl Watch ===

impl Watch {
    /// # Errors
    /// The system cannot create an inotify watch.
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
                // A full channel wakes the reader too. After an error events may be missing, so
                // everything is read.
                let event = event.unwrap_or_else(|_| Event::new(EventKind::Any));
                if is_relevant(&event, &folder) {
                    let _ = sender.try_send(event);
                }
            })?;
        if self.identity.is_some() {
            watcher.watch(&self.path, RecursiveMode::Recursive)?;
        }
        // The folder itself may be replaced by a rename or a changed symbolic link.
        if let Some(parent) = self.path.parent().filter(|parent| parent.is_dir()) {
            let _ = watcher.watch(parent, RecursiveMode::NonRecursive);
        }
        self.watcher = Some(watcher);
        Ok(())
    }

    /// Watches the folder again if it was replaced, and returns whether it was.
    pub(super) fn restart_if_replaced(&mut self) -> bool {
        let was_replaced = identity(&self.path) != self.identity;
        if was_replaced && let Err(error) = self.start() {
            tracing::warn!(path = %self.path.display(), %error, "failed to watch the folder; it is scanned periodically");
        }
        was_replaced
    }

    /// Waits until a burst of changes has settled, and returns the changed paths. Returns `None` at
    /// `end`, or if the changes may be anywhere.
    pub(super) async fn changed(&mut self, end: Instant) -> Option<BTreeSet<PathBuf>> {
        let first = timeout_at(end, self.events.recv()).await.ok()??;
        let deadline = Instant::now() + MAX_WAIT;
        let mut burst = Burst::default();
        burst.add(first, &self.absolute);
        loop {
            let quiet = if burst.writing.is_empty() {
                deadline.min(Instant::now() + QUIET)
            } else {
                deadline
            };
            match timeout_at(quiet, self.events.recv()).await {
                Ok(Some(event)) => burst.add(event, &self.absolute),
                Ok(None) | Err(_) => break,
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        // If the channel was full, events were lost.
        let is_complete = !burst.is_unknown && burst.events < MAX_EVENTS;
        let paths = burst
            .paths
            .iter()
            .filter_map(|path| Some(self.path.join(path.strip_prefix(&self.absolute).ok()?)));
        is_complete.then(|| paths.collect())
    }
}

/// Changes in quick succession.
#[derive(Default)]
struct Burst {
    /// Files that are being written: changed, but not yet closed.
    writing: BTreeSet<PathBuf>,
    paths: BTreeSet<PathBuf>,
    is_unknown: bool,
    events: usize,
}

// === impl Burst ===

impl Burst {
    fn add(&mut self, event: Event, folder: &Path) {
        self.events += 1;
        // Of the folder itself: another one may have been moved to its path.
        self.is_unknown |= event.need_rescan()
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
        self.paths.extend(event.paths);
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether an event may change the content of the folder: reads cause events too, and so do the
/// siblings of the folder.
fn is_relevant(event: &Event, folder: &Path) -> bool {
    if !event.paths.is_empty() && !event.paths.iter().any(|path| path.starts_with(folder)) {
        return false;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}
