//! What a running gateway knows: the snapshot, its problems, and how old all that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::problem::Problem;
use crate::snapshot::Snapshot;
use crate::unix_time::seconds;

/// Written by the control plane, read by workers (the snapshot) and by the admin listener (all of
/// it).
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
        self.heard.fetch_max(seconds(now), Ordering::Relaxed);
    }

    /// How old what is known may be; `None` before anything was heard.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Relaxed);
        (heard > 0).then(|| Duration::from_secs(seconds(now).saturating_sub(heard)))
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

    /// Hands over the snapshot that is known now and, forever, each that is published from then on:
    /// a task of the control plane. Of those that follow one another faster than they are taken
    /// only the last is handed over.
    pub async fn follow(&self, mut learn: impl FnMut(&Snapshot)) {
        let mut published = self.published();
        loop {
            learn(&self.snapshot.load_full());
            // The sender lives as long as `self`.
            let _ = published.changed().await;
        }
    }

    /// Changes each time a snapshot is published: for the control plane, which prepares things
    /// ahead of the request path.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<()> {
        self.published.subscribe()
    }
}
