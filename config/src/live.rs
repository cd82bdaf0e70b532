//! What a running gateway knows: the snapshot, its problems, and how old all that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::problem::Problem;
use crate::snapshot::Snapshot;

/// Written by the control plane, read by workers (the snapshot) and by the admin listener (all of it).
#[derive(Debug, Default)]
pub struct Live {
    /// The routing table.
    pub snapshot: ArcSwap<Snapshot>,
    /// What is wrong now.
    pub problems: ArcSwap<Vec<Problem>>,
    synced: AtomicBool,
    heard: AtomicU64,
    publications: AtomicU64,
    published: watch::Sender<()>,
}

// === impl Live ===

impl Live {
    /// Whether every kind of resource has been read in whole once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Says that every kind of resource has been read in whole once.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// Says that the source was heard of just now: what is known is as of `now`.
    pub fn heard(&self, now: SystemTime) {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.heard.fetch_max(seconds, Ordering::Relaxed);
    }

    /// How old what is known may be; `None` before anything was heard.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Relaxed);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        (heard > 0).then(|| Duration::from_secs(now.saturating_sub(heard)))
    }

    /// Swaps in a new snapshot and its problems.
    pub fn publish(&self, snapshot: Arc<Snapshot>, problems: Vec<Problem>) {
        self.problems.store(Arc::new(problems));
        self.snapshot.store(snapshot);
        self.publications.fetch_add(1, Ordering::Relaxed);
        self.published.send_replace(());
    }

    /// How many snapshots have been published.
    #[must_use]
    pub fn publications(&self) -> u64 {
        self.publications.load(Ordering::Relaxed)
    }

    /// Changes each time a snapshot is published: for the control plane, which prepares things ahead of the request path.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<()> {
        self.published.subscribe()
    }
}
