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
        let mut watch = Self { path: path.to_owned(), watcher: None, identity: None, events, sender };
        watch.start().map_err(|error| SourceError::Watch { path: path.display().to_string(), error })?;
        Ok(watch)
    }

    fn start(&mut self) -> Result<(), notify::Error> {
        self.identity = identity(&self.path);
        let sender = self.sender.clone();
        let mut watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| {
            // A full channel wakes the reader too; an error means that something was missed, so all is read.
            let event = event.unwrap_or_else(|_| Event::new(EventKind::Any));
            if matters(&event) {
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

    /// Watches the folder that is there now, where that is another one than before.
    pub(super) fn renew(&mut self) {
        if identity(&self.path) != self.identity
            && let Err(error) = self.start()
        {
            tracing::warn!(path = %self.path.display(), %error, "the folder cannot be watched; it is looked at from time to time");
        }
    }

    /// Waits for a change and for its end, or until `interval` is over.
    pub(super) async fn changed(&mut self, interval: Duration) {
        let Ok(Some(first)) = timeout_at(Instant::now() + interval, self.events.recv()).await else { return };
        let deadline = Instant::now() + PATIENCE;
        let mut writing = BTreeSet::new();
        note(&mut writing, &first);
        loop {
            let quiet = if writing.is_empty() { deadline.min(Instant::now() + QUIET) } else { deadline };
            match timeout_at(quiet, self.events.recv()).await {
                Ok(Some(event)) => note(&mut writing, &event),
                Ok(None) | Err(_) => return,
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Whether something may be different after it; reading a file makes events too.
fn matters(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// Keeps account of the files that are being written: from the first change to the end of writing.
fn note(writing: &mut BTreeSet<PathBuf>, event: &Event) {
    match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) => writing.extend(event.paths.iter().cloned()),
        EventKind::Access(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
            event.paths.iter().for_each(|path| {
                writing.remove(path);
            });
        }
        _ => {}
    }
}
